"""A target that is an assistant on LangGraph servers, and what its runs stream back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from langchain_core.runnables import RunnableConfig
from pydantic import Field

from orcheo_agentensor.errors import (
    REFUSED,
    BadInput,
    RunFailed,
    TargetRefused,
    TargetUnavailable,
    status_of,
)
from orcheo_agentensor.json_values import content_hash, json_problems
from orcheo_agentensor.media import with_media_at_hand
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import current_tape
from orcheo_agentensor.targets.local import as_root_run
from orcheo_agentensor.targets.output import pick, with_plain_messages
from orcheo_agentensor.targets.remote_run import RemoteRun
from orcheo_agentensor.targets.run_events import RunEvents
from orcheo_agentensor.targets.servers import (
    Assistant,
    AssistantAddress,
    Server,
    find_assistant,
    queued_events,
    refusals,
    takes_many,
)
from orcheo_agentensor.upstream import own_runs_are_in_memory
from orcheo_agentensor.usage import add_usage

log = logging.getLogger(__name__)

MODES = ["values", "tasks", "messages-tuple"]
TAPED_MODES = [*MODES, "events"]

_FIRST_PROBE = 0.2
_LAST_PROBE = 2.0


class RemoteTargetSpec(AssistantAddress):
    """What a job says of a remote target."""

    output: str | None = Field(
        default=None, min_length=1, description="A dotted path into the output."
    )


@dataclass(frozen=True, kw_only=True)
class RemoteTarget:
    """An assistant on one or more LangGraph servers. `connect` it before it runs.

    Each case is a run there on a thread of its own, which is deleted after it, on the server with
    the fewest of ours in flight. A run that is no longer wanted (timeout, cancellation) is
    cancelled on its server.
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
                await self._follow(server, payload, events)
        finally:
            add_usage(events.usage, cut=events.cut_replies)
            events.finish()  # a failed rollout has a tape too
        output = with_plain_messages(events.output)
        return output if self.output is None else pick(output, self.output)

    async def came_back(self, *, lost: bool) -> bool:
        loop = asyncio.get_running_loop()
        since = max(server.away_since or loop.time() for server in self.servers)
        ends, pause, waited = since + self.settings.http_patience, _FIRST_PROBE, False
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
        }
        return {key: value for key, value in payload.items() if value is not None}

    async def _follow(self, server: Server, payload: dict[str, Any], events: RunEvents) -> None:
        import httpx

        others = [other for other in self.servers if other is not server]
        run = RemoteRun(
            [one.client(self.address, self.settings) for one in (server, *others)],
            events,
            patience=self.settings.http_patience,
            resumable=server.url is not None or not own_runs_are_in_memory(),
            shows=_fields_of(server.assistant.schemas.get("output_schema") or {}),
            thread=server.thread,
        )
        try:
            await run.follow(
                payload,
                assistant=self.address.assistant,
                url=server.url,
                over=None if server.url is not None else self._queued(server),
            )
        except RunFailed:
            server.remove(run.thread_id)
            raise
        except BaseException as error:
            if isinstance(error, TargetRefused) or status_of(error) in REFUSED:
                raise  # there is no run
            if isinstance(error, httpx.TransportError):
                server.away, server.away_since = True, run.answered_at
            await run.abandon()
            raise
        server.remove(run.thread_id)
        server.away, server.away_since = False, None

    def _queued(self, server: Server) -> Callable[[AsyncGenerator[Any]], AsyncGenerator[Any]]:
        return lambda parts: queued_events(parts, server, patience=self.settings.http_patience)

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
                    return Server(url, found, prunes=await takes_many(client))
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


def _fields_of(schema: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(schema.get("properties") or ())


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
