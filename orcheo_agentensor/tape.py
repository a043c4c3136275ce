"""The tape: which node read which prompt, and what it took in and gave out, in one rollout.

`get_prompt` is how a node or function reads a prompt, and the read is put on the tape when one is
being recorded. Node inputs and outputs come from LangGraph's own callbacks, and so do the messages
of model calls, in which the prompts of an unmodified graph are found. Nothing here runs in a plain
evaluation: a rollout is taped only inside `record_tape()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from orcheo_agentensor.errors import PromptNotFound
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.tape_search import PromptSearch, message_texts
from orcheo_agentensor.tensor import TextTensor, as_tensor

MAX_TEXT = 2_000
"""Most characters kept of one input or output."""

MAX_NODE_RUNS = 200
"""Most node runs with an entry of their own."""

MAX_SHARED = 100
"""Most entries shared by further runs of one node; one more is for all nodes after that."""

MAX_TAPE_TEXT = 200_000
"""Most characters of inputs and outputs on one tape."""

TARGET_NODE = "target"
OTHER_NODES = "other nodes"
ENTRY = "__start__"  # LangGraph writes the inputs as a node of this name, which is none of theirs


@dataclass
class NodeRun:
    """One execution of one node: `step` is LangGraph's superstep, `path` the enclosing runs."""

    id: str
    node: str
    step: int
    path: tuple[str, ...] = ()
    prompts: list[str] = field(default_factory=list)
    inputs: str = ""
    output: str = ""

    def read(self, name: str) -> None:
        """Note a prompt that was read."""
        if name not in self.prompts:
            self.prompts.append(name)

    def to_json(self) -> dict[str, Any]:
        """As stored with the rollout."""
        return {
            "id": self.id,
            "node": self.node,
            "step": self.step,
            "path": list(self.path),
            "prompts": self.prompts,
            "inputs": self.inputs,
            "output": self.output,
        }


@dataclass
class Tape:
    """The node runs of one rollout in order of their start, bounded in number and size.

    `edges` are the target graph's static edges, `(from, to)`; they tell which earlier run a node
    run depends on. Past `MAX_NODE_RUNS` entries, further runs of one node share an entry, so that
    what they read is not lost; past `MAX_SHARED` of those, all that follow share a last one.
    """

    runs: dict[str, NodeRun] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def run(self, id: str, *, node: str, step: int, path: tuple[str, ...]) -> NodeRun:
        """The entry of the node run with this id, made when new."""
        with self._lock:
            found = self.runs.get(id)
            if found is None and len(self.runs) >= MAX_NODE_RUNS:
                return self._shared(node, step, tuple(f"{name}:*" for name in _names(path)))
            if found is None:
                found = self.runs[id] = NodeRun(id=id, node=node, step=step, path=path)
            return found

    def _shared(self, node: str, step: int, path: tuple[str, ...]) -> NodeRun:
        id = "|".join((*path, f"{node}:*"))
        found = self.runs.get(id)
        if found is None and len(self.runs) >= MAX_NODE_RUNS + MAX_SHARED:
            id, node, path = OTHER_NODES, OTHER_NODES, ()
            found = self.runs.get(id)
        if found is None:
            found = self.runs[id] = NodeRun(id=id, node=node, step=step, path=path)
        found.step = max(found.step, step)
        return found

    def enclosing(self, run: NodeRun) -> NodeRun | None:
        """The nearest run around `run`: of the node that holds, or calls, the nested graph."""
        for length in range(len(run.path), 0, -1):
            path = run.path[:length]
            found = self.runs.get("|".join(path))
            if found is None and path[-1].endswith(":*"):  # any run of that node will do
                names = _names(path)
                for other in reversed(self.runs.values()):
                    if _names((*other.path, other.node)) == names:
                        return other
            if found is not None:
                return found
        return None

    def parents(self, run: NodeRun) -> list[NodeRun]:
        """The runs whose output `run` took in: the latest ones of its static predecessors.

        Where none of these has run (a `Command` jumped), and inside a nested graph, whose edges
        are not known, the runs of the step before.
        """
        earlier = [r for r in self.runs.values() if r.path == run.path and r.step < run.step]
        edges = () if run.path else self.edges
        sources = {source for source, target in edges if target == run.node}
        near = [r for r in earlier if r.node in sources]
        if not near:
            last = max((r.step for r in earlier), default=0)
            return [r for r in earlier if r.step == last]
        latest: dict[str, int] = {}
        for candidate in near:
            latest[candidate.node] = max(latest.get(candidate.node, -1), candidate.step)
        return [r for r in near if r.step == latest[r.node]]

    def to_json(self) -> dict[str, Any]:
        """As stored with the rollout: at most `MAX_TAPE_TEXT` characters of inputs and outputs."""
        runs = list(self.runs.values())
        longest = MAX_TEXT
        if sum(len(run.inputs) + len(run.output) for run in runs) > MAX_TAPE_TEXT:
            longest = MAX_TAPE_TEXT // (2 * len(runs))
        return {
            "runs": [
                {
                    **run.to_json(),
                    "inputs": _cut(run.inputs, longest),
                    "output": _cut(run.output, longest),
                }
                for run in runs
            ],
            "edges": [list(edge) for edge in self.edges],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tape:
        """The inverse of `to_json`."""
        runs = [
            NodeRun(**{**entry, "path": tuple(entry.get("path", ()))})
            for entry in data.get("runs", ())
        ]
        return cls(
            runs={run.id: run for run in runs},
            edges=[(source, target) for source, target in data.get("edges", ())],
        )


def _names(path: Iterable[str]) -> tuple[str, ...]:
    """The nodes on a path of runs."""
    return tuple(part.split(":")[0] for part in path)


def brief(value: Any) -> str:
    """Any node input or output as text of at most `MAX_TEXT` characters, without its secrets."""
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(redact(value), default=_plain, ensure_ascii=False)
    return _cut(redact(text), MAX_TEXT)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return {"role": value.type, "content": value.content}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return repr(value)


def _is_node_run(tags: Iterable[str] | None) -> bool:
    return any(tag.startswith("graph:step:") for tag in tags or ())


class TapeRecorder(BaseCallbackHandler):
    """Writes LangGraph's node starts and ends onto a tape, and the prompts in model calls."""

    run_inline = True

    def __init__(self, tape: Tape, prompts: Mapping[str, Any]) -> None:
        self.tape = tape
        self._search = PromptSearch(prompts)
        self._bound = {name for name, value in prompts.items() if bind_of(value) is not None}
        self._by_name: set[str] = set()
        self._open: dict[Any, NodeRun] = {}

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: Any = None, **kwargs: Any
    ) -> None:
        """A node began."""
        metadata = kwargs.get("metadata") or {}
        if not _is_node_run(kwargs.get("tags")) or metadata.get("langgraph_node") == ENTRY:
            return
        run = self._open[run_id] = _node_run(self.tape, metadata)
        if not run.inputs:
            run.inputs = brief(inputs)

    def on_chain_end(self, outputs: Any, *, run_id: Any = None, **kwargs: Any) -> None:
        """A node returned."""
        run = self._open.pop(run_id, None)
        if run is not None and not run.output:
            run.output = brief(outputs)

    def on_chain_error(self, error: BaseException, *, run_id: Any = None, **kwargs: Any) -> None:
        """A node failed."""
        run = self._open.pop(run_id, None)
        if run is not None and not run.output:
            run.output = _cut(redact(repr(error)), MAX_TEXT)

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """A node called a chat model."""
        for call in messages:
            self._model_called(message_texts(call), kwargs.get("metadata"))

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        """A node called a model that takes text."""
        self._model_called(prompts, kwargs.get("metadata"))

    def _model_called(self, texts: Iterable[str], metadata: Mapping[str, Any] | None) -> None:
        for names in self._search.groups(texts):
            run = _node_run(self.tape, metadata)
            if not any(name in run.prompts for name in names):
                for name in names:
                    # Who reads a prompt by its name is known; that it travels on is no new read.
                    if name in self._bound or name not in self._by_name:
                        run.read(name)

    def read_by_name(self, name: str, metadata: Mapping[str, Any] | None) -> None:
        """A node read a prompt itself."""
        self._by_name.add(name)
        _node_run(self.tape, metadata).read(name)


def bind_of(prompt: Any) -> str | None:
    """The place that a prompt, a tensor or its JSON form, binds to."""
    if isinstance(prompt, TextTensor):
        return prompt.bind
    return prompt.get("bind") if isinstance(prompt, Mapping) else None


def _node_run(tape: Tape, metadata: Mapping[str, Any] | None) -> NodeRun:
    metadata = metadata or {}
    namespace = str(metadata.get("langgraph_checkpoint_ns") or "")
    if not namespace:
        return tape.run(TARGET_NODE, node=TARGET_NODE, step=0, path=())
    parts = tuple(namespace.split("|"))
    return tape.run(
        namespace,
        node=str(metadata.get("langgraph_node", parts[-1].split(":")[0])),
        step=int(metadata.get("langgraph_step", 0)),
        path=parts[:-1],
    )


_handler: ContextVar[TapeRecorder | None] = ContextVar("agentensor_tape_handler", default=None)
register_configure_hook(_handler, inheritable=True)


@contextmanager
def record_tape(
    edges: Iterable[tuple[str, str]] = (), *, prompts: Mapping[str, Any] | None = None
) -> Iterator[Tape]:
    """Tape the rollout that runs inside the block.

    `prompts`, those of the run, are looked for in the messages of model calls.
    """
    tape = Tape(edges=list(edges))
    token = _handler.set(TapeRecorder(tape, prompts or {}))
    try:
        yield tape
    finally:
        _handler.reset(token)


def is_taping() -> bool:
    """Whether the current rollout is being taped."""
    return _handler.get() is not None


def current_tape() -> Tape | None:
    """The tape that is being recorded, for what runs elsewhere and reports its nodes."""
    recorder = _handler.get()
    return None if recorder is None else recorder.tape


def record_prompt_read(name: str, config: RunnableConfig | None = None) -> None:
    """Put on the tape that the current node has read prompt `name`; nothing without a tape."""
    recorder = _handler.get()
    if recorder is not None:
        config = config or var_child_runnable_config.get()
        recorder.read_by_name(name, (config or {}).get("metadata"))


def record_target_run(inputs: Any, output: Any) -> None:
    """Put on the tape what a target that is no graph took in and gave out, if it read a prompt."""
    recorder = _handler.get()
    run = None if recorder is None else recorder.tape.runs.get(TARGET_NODE)
    if run is not None:
        run.inputs, run.output = brief(inputs), brief(output)


def prompts_in(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The prompts that travel in a runnable config (`configurable.prompts`)."""
    configurable = (config or {}).get("configurable") or {}
    return cast("Mapping[str, Any]", configurable.get("prompts") or {})


def get_prompt(
    name: str,
    config: RunnableConfig | None = None,
    *,
    default: str | TextTensor | None = None,
) -> str:
    """The current text of prompt `name`, for use inside a node or a target function.

    `config` may be left out wherever LangGraph (or a run of ours) is the caller. `default` is the
    text used when the run brings no such prompt, so that a workflow also runs bare.

    Raises `PromptNotFound`, naming the prompts there are, when there is neither.
    """
    source = config if config is not None else var_child_runnable_config.get()
    prompts = prompts_in(source)
    value = prompts.get(name, default)
    if value is None:
        there = ", ".join(sorted(prompts)) or "none"
        raise PromptNotFound(
            f"prompt {name!r} is not in config.prompts (there: {there}); "
            f"pass it as prompts={{{name!r}: ...}} or give get_prompt a default",
            field=f"config.prompts.{name}",
            rule="must exist",
        )
    record_prompt_read(name, source)
    return as_tensor(value, field=f"config.prompts.{name}").text
