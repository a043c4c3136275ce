"""What a remote run streams: its output, the tokens it used, and its tape.

A server reports a node's input and result as `tasks` events, finished model calls as `messages`
and, where a rollout is taped, the messages that went into them as `events`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.metering import price
from orcheo_agentensor.tape import Tape, brief
from orcheo_agentensor.tape_search import PromptSearch
from orcheo_agentensor.usage import NOTHING, Usage

MODES = ["values", "tasks", "messages-tuple"]
TAPED_MODES = [*MODES, "events"]
_GIVEN_UP = frozenset({"CancelledError", "UserInterrupt", "UserRollback"})
"""What a server says of a run that it, or somebody there, has cancelled: a shutdown, mostly."""


@dataclass
class _Call:
    """A model call: its usage is spread over the chunks of its answer."""

    input_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None
    simulated: bool = False

    def usage(self) -> Usage:
        cost: float | None = 0.0
        if not self.simulated:
            tokens = self.input_tokens, self.output_tokens
            cost = price(self.model, *tokens) if self.model else None
        return Usage(
            calls=1, input_tokens=self.input_tokens, output_tokens=self.output_tokens, cost=cost
        )


@dataclass
class Heard:
    """Takes in a run's events; with a `tape`, its node runs are written there.

    `prompts` are those that the run was given: whoever's model call holds the text of one has read
    it.
    """

    prompts: Mapping[str, Any] = field(default_factory=dict)
    tape: Tape | None = None
    output: Any = None
    thread_id: str | None = None
    _calls: dict[str, _Call] = field(default_factory=dict)
    _open: dict[str, str] = field(default_factory=dict)
    _steps: dict[tuple[str, ...], tuple[int, bool]] = field(default_factory=dict)
    _seen: dict[str, set[str]] = field(default_factory=dict)

    def take(self, event: str, data: Any) -> None:
        """One event; raises `RunFailed` where it says that the run has failed or paused.

        Raises `ConnectionError` where the server has given the run up, which says nothing of it.
        """
        kind, *path = event.split("|")
        if kind == "error":
            if isinstance(data, Mapping) and data.get("error") in _GIVEN_UP:
                raise ConnectionError(f"the server has given the run up ({_told(data)})")
            raise RunFailed(_told(data))
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
        """What the model calls heard of took."""
        return sum((call.usage() for call in self._calls.values()), NOTHING)

    @property
    def is_cut(self) -> bool:
        """Whether the stream has ended in the middle of the run."""
        return bool(self._open) or self.output is None

    def finish(self) -> None:
        """Write the reads onto the tape; to be called once the run has ended.

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
        """A chunk of a model's answer, or all of it."""
        if not isinstance(message, Mapping) or not isinstance(metadata, Mapping):
            return
        if "ls_model_type" not in metadata:  # put into the state by hand
            return
        call = self._calls.setdefault(str(message.get("id")), _Call())
        used = message.get("usage_metadata") or {}
        call.input_tokens += int(used.get("input_tokens") or 0)
        call.output_tokens += int(used.get("output_tokens") or 0)
        answer = message.get("response_metadata") or {}
        call.simulated = call.simulated or bool(answer.get("simulated"))
        name = answer.get("model_name") or answer.get("model") or metadata.get("ls_model_name")
        call.model = str(name) if name else call.model

    def _task(self, path: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """A node run began or ended."""
        place = "|".join([*path, f"{data.get('name')}:{data.get('id')}"])
        step, ended = self._steps.get(path, (0, True))
        if "input" in data:
            self._open[place] = ""
            # The runs of a step are told of together, before any of them ends.
            self._steps[path] = (step + 1 if ended else step, False)
            if self.tape is not None:
                name = str(data.get("name"))
                run = self.tape.run(place, node=name, step=self._steps[path][0], path=path)
                run.inputs = run.inputs or brief(data["input"])
            return
        self._open.pop(place, None)
        self._steps[path] = (step, True)
        ended_run = None if self.tape is None else self.tape.runs.get(place)
        if ended_run is not None:
            ended_run.output = brief(data.get("error") or data.get("result"))

    def _event(self, data: Mapping[str, Any]) -> None:
        """A model call began: whose prompts does it hold?"""
        if data.get("event") not in ("on_chat_model_start", "on_llm_start"):
            return
        place = str((data.get("metadata") or {}).get("langgraph_checkpoint_ns") or "")
        texts = _texts((data.get("data") or {}).get("input"))
        seen = self._seen.setdefault(place, set())
        for names in PromptSearch(self.prompts).groups(texts):
            seen.update(names)


def _texts(value: Any) -> list[str]:
    """The texts that the caller has put into a call: of every message but those of a model."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for entry in value for text in _texts(entry)]
    if not isinstance(value, Mapping) or value.get("type") in ("ai", "AIMessageChunk"):
        return []
    for key in ("messages", "prompts", "content"):
        if key in value:
            inner = value[key]
            if key == "content" and isinstance(inner, list):
                return ["\n".join(text for block in inner for text in _block(block))]
            return _texts(inner)
    return []


def _block(block: Any) -> list[str]:
    text = block.get("text") if isinstance(block, Mapping) else block
    return [text] if isinstance(text, str) else []


def _told(data: Any) -> str:
    if isinstance(data, Mapping):
        kind, message = data.get("error"), data.get("message")
        return f"{kind}: {message}" if kind and message else str(kind or message or "failed")
    return str(data)


__all__ = ["MODES", "TAPED_MODES", "Heard"]
