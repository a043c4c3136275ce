"""The tape: which node read which prompt, and what it took in and gave out, in one rollout.

`get_prompt` is how a node or function reads a prompt, and the read is put on the tape when one is
being recorded. Node inputs and outputs come from LangGraph's own callbacks, so an unmodified graph
is taped as well. Nothing here runs in a plain evaluation: a rollout is taped only inside
`record_tape()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from orcheo_agentensor.errors import PromptNotFound
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.tensor import TextTensor, as_tensor

MAX_TEXT = 2_000
MAX_NODE_RUNS = 200
TARGET_NODE = "target"


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
    run depends on.
    """

    runs: dict[str, NodeRun] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def run(self, id: str, *, node: str, step: int, path: tuple[str, ...]) -> NodeRun | None:
        """The node run with this id, made when new; None once the tape is full."""
        found = self.runs.get(id)
        if found is None and len(self.runs) < MAX_NODE_RUNS:
            found = self.runs[id] = NodeRun(id=id, node=node, step=step, path=path)
        return found

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
        """As stored with the rollout."""
        return {
            "runs": [run.to_json() for run in self.runs.values()],
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


def brief(value: Any) -> str:
    """Any node input or output as text of at most `MAX_TEXT` characters, without its secrets."""
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(redact(value), default=_plain, ensure_ascii=False)
    shown: str = redact(text)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return {"role": value.type, "content": value.content}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return repr(value)


def _is_node_run(tags: Iterable[str] | None) -> bool:
    return any(tag.startswith("graph:step:") for tag in tags or ())


class TapeRecorder(BaseCallbackHandler):
    """Writes LangGraph's node starts and ends onto a tape."""

    run_inline = True

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._open: dict[Any, NodeRun] = {}

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: Any = None, **kwargs: Any
    ) -> None:
        """A node began."""
        if not _is_node_run(kwargs.get("tags")):
            return
        run = _node_run(self.tape, kwargs.get("metadata"))
        if run is not None:
            run.inputs = brief(inputs)
            self._open[run_id] = run

    def on_chain_end(self, outputs: Any, *, run_id: Any = None, **kwargs: Any) -> None:
        """A node returned."""
        run = self._open.pop(run_id, None)
        if run is not None:
            run.output = brief(outputs)


def _node_run(tape: Tape, metadata: Mapping[str, Any] | None) -> NodeRun | None:
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


_tape: ContextVar[Tape | None] = ContextVar("agentensor_tape", default=None)
_handler: ContextVar[TapeRecorder | None] = ContextVar("agentensor_tape_handler", default=None)
register_configure_hook(_handler, inheritable=True)


@contextmanager
def record_tape(edges: Iterable[tuple[str, str]] = ()) -> Iterator[Tape]:
    """Tape the rollout that runs inside the block."""
    tape = Tape(edges=list(edges))
    token, handler_token = _tape.set(tape), _handler.set(TapeRecorder(tape))
    try:
        yield tape
    finally:
        _handler.reset(handler_token)
        _tape.reset(token)


def record_prompt_read(name: str, config: RunnableConfig | None = None) -> None:
    """Put on the tape that the current node has read prompt `name`; nothing without a tape."""
    tape = _tape.get()
    if tape is None:
        return
    config = config or var_child_runnable_config.get()
    run = _node_run(tape, (config or {}).get("metadata"))
    if run is not None and name not in run.prompts:
        run.prompts.append(name)


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
