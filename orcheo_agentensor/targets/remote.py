"""A target that is an assistant on LangGraph servers, and what its runs stream back."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from typing import Any
from urllib.parse import urlsplit

from langchain_core.runnables import RunnableConfig
from pydantic import Field

from orcheo_agentensor.errors import BadInput, RunFailed, TargetRefused, TargetUnavailable
from orcheo_agentensor.json_values import content_hash, json_problems
from orcheo_agentensor.media import with_media_at_hand
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import PromptSearch, Tape, brief, current_tape
from orcheo_agentensor.targets.local import as_root_run
from orcheo_agentensor.targets.output import pick, with_plain_messages
from orcheo_agentensor.targets.servers import (
    ATTEMPT,
    Assistant,
    AssistantAddress,
    Server,
    abandon,
    find_assistant,
    queued_events,
    refusals,
)
from orcheo_agentensor.usage import (
    TokenCounts,
    Usage,
    add_usage,
    is_cut,
    one_call,
    provider_counts,
    reported_counts,
)

log = logging.getLogger(__name__)

MODES = ["values", "tasks", "messages-tuple"]
TAPED_MODES = [*MODES, "events"]
_CANCELLED = frozenset({"CancelledError", "UserInterrupt", "UserRollback"})
"""The errors by which a server reports a run that was cancelled there, mostly by a shutdown."""

_FIRST_PROBE = 0.2
_LAST_PROBE = 2.0


@dataclass
class _ModelCall:
    """A model call, added up from the chunks of its answer."""

    counts: TokenCounts | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def add(self, counts: TokenCounts | None) -> None:
        if counts is not None:
            before = self.counts or TokenCounts()
            self.counts = TokenCounts(*map(sum, zip(before, counts, strict=True)))

    def usage(self) -> Usage:
        return one_call(self.counts or provider_counts(self.metadata), self.metadata)


@dataclass
class RunEvents:
    """Reads the events of one run: its output, what its model calls used, and its tape.

    A server reports the input and result of a node as `tasks` events, finished model calls as
    `messages` and, where there is a `tape`, the messages that went into them as `events`. A node
    whose model call holds the text of one of `prompts` has read it.
    """

    prompts: Mapping[str, Any] = field(default_factory=dict)
    tape: Tape | None = None
    output: Any = None
    thread_id: str | None = None
    _calls: dict[str, _ModelCall] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)
    _steps: dict[tuple[str, ...], tuple[int, bool]] = field(default_factory=dict)
    _seen: dict[str, set[str]] = field(default_factory=dict)

    def take(self, event: str, data: Any) -> None:
        """Read one event; raises `RunFailed` where it says that the run has failed or paused.

        Raises `ConnectionError` where the server has cancelled the run, which says nothing of it.
        """
        kind, *path = event.split("|")
        if kind == "error":
            if isinstance(data, Mapping) and data.get("error") in _CANCELLED:
                raise ConnectionError(f"the server has given the run up ({_error_text(data)})")
            raise RunFailed(_error_text(data))
        if not isinstance(data, Mapping | list):
            return
        if kind == "values" and not path and isinstance(data, Mapping):
            if data.get("__interrupt__"):
                raise RunFailed(
                    "the target paused with interrupt(); a target under evaluation must run to "
                    "its end"
                )
            self.output = data
        elif kind == "messages" and isinstance(data, list) and len(data) == 2:
            self._message(*data)
        elif kind == "tasks" and isinstance(data, Mapping):
            self._task(tuple(path), data)
        elif kind == "events" and isinstance(data, Mapping):
            self._event(data)

    @property
    def usage(self) -> Usage:
        """What the model calls reported so far used."""
        return Usage.total(call.usage() for call in self._calls.values())

    @property
    def cut_replies(self) -> int:
        """How many replies of models were cut off by their length."""
        return sum(is_cut(call.metadata) for call in self._calls.values())

    @property
    def is_cut(self) -> bool:
        """Whether the stream has ended in the middle of the run."""
        return bool(self._open) or self.output is None

    def finish(self) -> None:
        """Write onto the tape which node read which prompt; call it once the run has ended.

        A prompt was read by the node runs whose model calls hold its text. Where no call of the
        rollout holds any prompt, the calls do not show what is read: then every node run without
        a visible call, or every one where all have some, may have read every prompt.
        """
        if self.tape is None:
            return
        runs = self.tape.runs
        if any(self._seen.values()):
            for place in self._seen.keys() & runs.keys():
                for name in sorted(self._seen[place]):
                    runs[place].read(name)
            return
        enclosing = {"|".join(run.path) for run in runs.values()}
        leaves = [run for run in runs.values() if run.id not in enclosing]
        for run in [run for run in leaves if run.id not in self._seen] or leaves:
            for name in sorted(self.prompts):
                run.read(name)

    def _message(self, message: Any, metadata: Any) -> None:
        """Add a chunk of a model's answer, or a whole answer."""
        if not isinstance(message, Mapping) or not isinstance(metadata, Mapping):
            return
        if "ls_model_type" not in metadata:  # put into the state by hand
            return
        call = self._calls.setdefault(str(message.get("id")), _ModelCall())
        used = message.get("usage_metadata")
        call.add(reported_counts(used) if used else None)
        call.metadata.setdefault("model", metadata.get("ls_model_name"))
        call.metadata |= message.get("response_metadata") or {}

    def _task(self, path: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """Note that a node run began or ended."""
        place = "|".join([*path, f"{data.get('name')}:{data.get('id')}"])
        step, ended = self._steps.get(path, (0, True))
        if "input" in data:
            self._open.add(place)
            # The server reports the runs of a step together, before any of them ends.
            self._steps[path] = (step + 1 if ended else step, False)
            if self.tape is not None:
                name = str(data.get("name"))
                run = self.tape.run(place, node=name, step=self._steps[path][0], path=path)
                run.inputs = run.inputs or brief(data["input"])
            return
        self._open.discard(place)
        self._steps[path] = (step, True)
        if self.tape is not None and place in self.tape.runs:
            self.tape.runs[place].output = brief(data.get("error") or data.get("result"))

    def _event(self, data: Mapping[str, Any]) -> None:
        """Note the prompts that a model call holds as it begins."""
        if data.get("event") not in ("on_chat_model_start", "on_llm_start"):
            return
        place = str((data.get("metadata") or {}).get("langgraph_checkpoint_ns") or "")
        texts = _texts((data.get("data") or {}).get("input"))
        seen = self._seen.setdefault(place, set())
        for names in PromptSearch(self.prompts).groups(texts):
            seen.update(names)


def _texts(value: Any) -> list[str]:
    """The texts that were put into a model call: of every message but those of a model."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for entry in value for text in _texts(entry)]
    if not isinstance(value, Mapping) or value.get("type") in ("ai", "AIMessageChunk"):
        return []
    for key in ("messages", "prompts"):
        if key in value:
            return _texts(value[key])
    content = value.get("content")
    if not isinstance(content, list):
        return _texts(content)
    blocks = [block.get("text") if isinstance(block, Mapping) else block for block in content]
    return ["\n".join(text for text in blocks if isinstance(text, str))]


def _error_text(data: Any) -> str:
    if isinstance(data, Mapping):
        kind, message = data.get("error"), data.get("message")
        return f"{kind}: {message}" if kind and message else str(kind or message or "failed")
    return str(data)


class RemoteTargetSpec(AssistantAddress):
    """What a job says of a remote target."""

    output: str | None = Field(
        default=None, min_length=1, description="A dotted path into the output."
    )


@dataclass(frozen=True, kw_only=True)
class RemoteTarget:
    """An assistant on one or more LangGraph servers. `connect` it before it runs.

    Each case is a stateless run there, on the server with the fewest of ours in flight. A run that
    is no longer wanted (timeout, cancellation) is cancelled on its server.
    """

    address: AssistantAddress
    settings: Settings
    output: str | None = None
    servers: tuple[Server, ...] = ()
    fingerprint: str = ""
    edges: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, spec: Mapping[str, Any], *, settings: Settings) -> RemoteTarget:
        """From a job's `{"url", "assistant", "api_key_env", "prompts_in", "output"}`.

        Raises `BadInput` for what is wrong with it, and for hosts that are not allowed.
        """
        parsed = RemoteTargetSpec.parse(spec)
        parsed.require_allowed(settings)
        return cls(address=parsed, settings=settings, output=parsed.output)

    @property
    def name(self) -> str:
        """The assistant, as the job names it."""
        return self.address.assistant

    async def connect(self, config: RunnableConfig) -> RemoteTarget:
        """Find the assistant on every server that answers.

        The fingerprint takes in what the assistant is set to, so that an updated one is another
        target; what the run's own config replaces does not count. Raises `TargetRefused` for an
        assistant that is not there, `TargetUnavailable` where no server answers.
        """
        found = await asyncio.gather(*(self._find(url) for url in self.address.urls))
        servers = [server for server in found if isinstance(server, Server)]
        if not servers:
            raise TargetUnavailable(f"{self._where()}: {found[0]}")
        for server, url in zip(found, self.address.urls, strict=True):
            if not isinstance(server, Server):
                log.warning("%s does not answer, the run goes on without it: %s", url, server)
        described = [self._described(server.assistant, config) for server in servers]
        if any(other != described[0] for other in described):
            raise BadInput(
                field="target.assistant",
                value=self.address.assistant,
                rule="must be the same graph with the same settings on every server",
            )
        return replace(
            self,
            servers=tuple(servers),
            edges=servers[0].assistant.edges,
            fingerprint=content_hash(
                [
                    sorted(urlsplit(url).netloc if url else "" for url in self.address.urls),
                    self.address.assistant,
                    described[0],
                    self.output,
                ]
            ),
        )

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """One run on one server; raises `RunFailed` with what the server says went wrong."""
        return await as_root_run(self._run_there, self.name, inputs, config)

    async def _run_there(self, inputs: Any, config: RunnableConfig) -> Any:
        server = min(self.servers, key=lambda one: (one.away, one.in_flight, one.started))
        given = config.get("configurable") or {}
        configurable = {
            key: value for key, value in given.items() if not any(json_problems(value, field=key))
        }
        prompts = with_media_at_hand(configurable.pop("prompts", None) or {})
        events = RunEvents(prompts=prompts, tape=current_tape())
        payload = self._payload(server.assistant, inputs, config, configurable, prompts)
        payload["stream_mode"] = MODES if events.tape is None else TAPED_MODES
        try:
            with server.serving():
                await self._stream(server, payload, events)
        finally:
            add_usage(events.usage, cut=events.cut_replies)
            events.finish()  # a failed rollout has a tape too
        output = with_plain_messages(events.output)
        return output if self.output is None else pick(output, self.output)

    async def came_back(self, *, lost: bool) -> bool:
        loop = asyncio.get_running_loop()
        ends, pause, waited = loop.time() + self.settings.http_patience, _FIRST_PROBE, False
        while not any(await asyncio.gather(*(self._probe(server) for server in self.servers))):
            waited = True
            if loop.time() >= ends:
                raise TargetUnavailable(
                    f"{self._where()} has not answered for {self.settings.http_patience:g} s; what "
                    "is recorded is kept, and the run goes on there when it is resumed"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PROBE)
        return lost or waited

    async def disconnect(self) -> None:
        for server in self.servers:
            await server.disconnect()

    def _payload(
        self,
        assistant: Assistant,
        inputs: Any,
        config: RunnableConfig,
        configurable: Mapping[str, Any],
        prompts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The request of a run."""
        values = dict(configurable)
        theirs = assistant.values.get("prompts")
        if isinstance(theirs, Mapping) and prompts:  # which those of the run would replace all
            values["prompts"] = dict(theirs)
        placed = assistant.placement(self.address.prompts_in).put(prompts, values)
        sent = {key: config[key] for key in ("tags", "recursion_limit") if config.get(key)}
        if "configurable" in placed:
            sent["configurable"] = placed["configurable"]
        payload = {
            "assistant_id": assistant.id,
            "input": inputs,
            "config": sent,
            "context": placed.get("context"),
            "metadata": config.get("metadata"),
            "stream_subgraphs": True,
            "on_disconnect": "cancel",
            "on_completion": "delete",
        }
        return {key: value for key, value in payload.items() if value is not None}

    async def _stream(self, server: Server, payload: dict[str, Any], events: RunEvents) -> None:
        import httpx

        client = server.client(self.address, self.settings)
        attempt = uuid.uuid4().hex
        payload["metadata"] = {**(payload.get("metadata") or {}), ATTEMPT: attempt}

        def on_response(response: httpx.Response) -> None:
            # By this header the SDK would join the run again, which a lost connection cancels.
            response.headers.pop("location", None)

        try:
            with refusals(server.url, self.address.assistant):
                parts: Any = client.http.stream(
                    "/runs/stream", "POST", json=payload, on_response=on_response
                )
                async with aclosing(parts):
                    intact = _intact(parts)
                    if server.url is None:
                        patience = self.settings.http_patience
                        intact = queued_events(intact, server, patience=patience)
                    async with aclosing(intact):
                        async for part in intact:
                            events.take(part.event, part.data)
                if events.is_cut:
                    raise ConnectionError("the server closed the stream before the run had ended")
        except (RunFailed, TargetRefused, httpx.HTTPStatusError):
            raise  # there is no run, or it has ended
        except BaseException as error:
            server.away = server.away or isinstance(error, httpx.TransportError)
            await abandon(client, attempt)
            raise
        server.away = False

    async def _probe(self, server: Server) -> bool:
        """Whether a server answers."""
        import httpx

        client = server.client(self.address, self.settings)
        try:
            async with asyncio.timeout(self.settings.http_timeout):
                answer = await client.http.client.get("/ok")
            server.away = answer.status_code >= 500
        except (httpx.TransportError, TimeoutError):
            server.away = True
        return not server.away

    async def _find(self, url: str | None) -> Server | Exception:
        """The assistant on one server, or why the server gives no answer."""
        import httpx

        async with self.address.client(url, settings=self.settings, streams=False) as client:
            try:
                with refusals(url, self.address.assistant):
                    found = await find_assistant(client, self.address.assistant, own=url is None)
                    return Server(url, found)
            except httpx.HTTPError as error:
                return error

    def _described(self, assistant: Assistant, config: RunnableConfig) -> dict[str, Any]:
        """The graph and settings of the assistant that the config of the run does not replace."""
        placement = assistant.placement(self.address.prompts_in)
        given = dict(config.get("configurable") or {})
        prompts = given.pop("prompts", None) or {}
        values = {key: value for key, value in assistant.values.items() if key not in given}
        for name, prompt in prompts.items():
            values = _without(values, placement.path(name, prompt))
        settings = {k: v for k, v in assistant.settings.items() if not config.get(k)}
        return {"graph": assistant.graph_id, "values": values, "config": settings}

    def _where(self) -> str:
        urls = ", ".join(url or "this server" for url in self.address.urls)
        return f"target {self.address.assistant!r} at {urls}"


async def _intact(parts: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """`parts`; raises `ConnectionError` where one of them is not JSON."""
    try:
        async for part in parts:
            yield part
    except JSONDecodeError as error:
        raise ConnectionError(f"the stream of the run is broken: {error}") from None


def _without(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `values` that lacks what `path` leads to."""
    copy = dict(values)
    head, *rest = path
    if not rest:
        copy.pop(head, None)
    elif isinstance(copy.get(head), Mapping):
        copy[head] = _without(copy[head], tuple(rest))
        if not copy[head]:
            del copy[head]
    return copy
