"""What the events of a run on a server tell: its output, what its model calls used, its tape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.tape import PromptSearch, Tape, brief
from orcheo_agentensor.usage import (
    TokenCounts,
    Usage,
    is_cut,
    one_call,
    provider_counts,
    reported_counts,
)

PAUSED = "the target paused with interrupt(); a target under evaluation must run to its end"

_CANCELLED = frozenset({"CancelledError", "UserInterrupt", "UserRollback"})
"""The errors by which a server reports a run that was cancelled there, mostly by a shutdown."""

_MODELS_RUN = ("lc_run--", "run--", "run-")
"""How the ids of messages begin that LangChain makes of the id of the model's run."""


@dataclass(eq=False)
class _ModelCall:
    """A model call, added up from the chunks of its answer."""

    counts: TokenCounts | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    own_id: str | None = None

    def add(self, counts: TokenCounts | None) -> None:
        if counts is not None:
            before = self.counts or TokenCounts()
            self.counts = TokenCounts(*map(sum, zip(before, counts, strict=True)))

    def usage(self) -> Usage:
        return one_call(self.counts or provider_counts(self.metadata), self.metadata)


@dataclass
class _NodesCalls:
    """The calls of one model in one run of a node, told apart by the runs of the model.

    A chunk has the id of the model's run, or one that the provider has given: some have both in
    one answer, and LangChain closes such an answer with an empty chunk that has the run's. An
    answer that is under way has at most one id of each kind.
    """

    calls: list[_ModelCall] = field(default_factory=list)
    _open: list[_ModelCall] = field(default_factory=list)
    _by_id: dict[str, _ModelCall] = field(default_factory=dict)
    _closes: bool = False

    def call(self, message: Mapping[str, Any]) -> _ModelCall:
        """The call that a message is the answer of, or a chunk of it."""
        name = str(message.get("id"))
        kind = "run" if name.startswith(_MODELS_RUN) else "own_id"
        is_chunk = message.get("type") == "AIMessageChunk"
        call = self._by_id.get(name)
        if call is None and is_chunk:
            call = next((one for one in self._open if getattr(one, kind) is None), None)
        if call is None:
            call = _ModelCall()
            self.calls.append(call)
            if is_chunk:
                self._open.append(call)
        if name not in self._by_id:
            self._by_id[name] = call
            setattr(call, kind, name)
        if message.get("chunk_position") == "last":
            self._closes = True
            if call in self._open:
                self._open.remove(call)
        return call

    def finished(self) -> list[_ModelCall]:
        """The calls, each once. Where answers are closed, what is left open under an id of the
        provider's are chunks of one of them: each has an id of its own."""
        stray = [one for one in self._open if self._closes and one.run is None]
        calls = [one for one in self.calls if one not in stray]
        if stray:
            calls[0] = replace(calls[0], metadata=dict(calls[0].metadata))
        for one in stray:
            calls[0].add(one.counts)
            calls[0].metadata |= one.metadata
        return calls


@dataclass
class RunEvents:
    """Reads the events of one run: its output, what its model calls used, and its tape.

    A server reports the input and result of a node as `tasks` events, finished model calls as
    `messages` and, where there is a `tape`, the messages that went into them as `events`. A node
    whose model call holds the text of one of `prompts` has read it. `ended` says that the server
    has told the end of the run, which not every server does; `unknown`, that events are lost, and
    with them what its model calls used.
    """

    prompts: Mapping[str, Any] = field(default_factory=dict)
    tape: Tape | None = None
    output: Any = None
    thread_id: str | None = None
    ended: bool = False
    unknown: bool = False
    _attempts: int = 1
    _calls: dict[tuple[str, str], _NodesCalls] = field(default_factory=dict)
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
                raise ConnectionError(f"the server has given the run up ({error_text(data)})")
            raise RunFailed(error_text(data))
        if kind == "end":
            self.ended = True
        if not isinstance(data, Mapping | list):
            return
        if kind == "metadata" and isinstance(data, Mapping) and data.get("attempt", 1) > 1:
            self._restart()
            self._attempts = int(data["attempt"])
        if kind == "values" and not path and isinstance(data, Mapping):
            if data.get("__interrupt__"):
                raise RunFailed(PAUSED)
            self.output = data
        elif kind == "messages" and isinstance(data, list) and len(data) == 2:
            self._message(*data)
        elif kind == "tasks" and isinstance(data, Mapping):
            self._task(tuple(path), data)
        elif kind == "events" and isinstance(data, Mapping):
            self._event(data)

    @property
    def usage(self) -> Usage:
        """What the model calls reported so far used.

        A server makes a run again whose worker has died: these executions are counted here, in
        addition to the one that was asked for.
        """
        more = [Usage(rollouts=self._attempts - 1)]
        if self.unknown:
            more.append(Usage(unreported_calls=1, cost=None))
        return Usage.total([*more, *(call.usage() for call in self._model_calls())])

    @property
    def cut_replies(self) -> int:
        """How many replies of models were cut off by their length."""
        return sum(is_cut(call.metadata) for call in self._model_calls())

    @property
    def is_cut(self) -> bool:
        """Whether the stream has ended in the middle of the run."""
        return bool(self._open) or self.output is None

    def begin_again(self) -> None:
        """Forget what was read: the events come again from the first one."""
        self._restart()
        self._attempts = 1
        self._calls.clear()

    def _restart(self) -> None:
        """The graph begins anew, with another worker of the server. What it used stays used."""
        self.output, self.ended = None, False
        for known in (self._open, self._steps, self._seen):
            known.clear()
        if self.tape is not None:
            self.tape.runs.clear()

    def _model_calls(self) -> list[_ModelCall]:
        return [call for calls in self._calls.values() for call in calls.finished()]

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
        place = str(metadata.get("langgraph_checkpoint_ns"))
        model = str(metadata.get("ls_model_name"))
        call = self._calls.setdefault((place, model), _NodesCalls()).call(message)
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


def error_text(data: Any) -> str:
    if isinstance(data, Mapping):
        kind, message = data.get("error"), data.get("message")
        return f"{kind}: {message}" if kind and message else str(kind or message or "failed")
    return str(data)
