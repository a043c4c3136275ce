"""The tape of a rollout: which node read which prompt, and what it took in and gave out.

`get_prompt` is how a node or function reads a prompt; the read goes onto the tape when one is being
recorded. Node inputs and outputs come from LangGraph's own callbacks, and so do the messages of
model calls, in which the prompts of an unmodified graph are found. What is bound to a place in the
config or context is watched while a rollout is taped. A rollout is taped only inside
`record_tape()`: in a plain evaluation those until every prompt has been read, to tell of others.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property, lru_cache
from string import Formatter
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from langchain_core.callbacks import BaseCallbackHandler
from pydantic import BaseModel

from orcheo_agentensor.errors import PromptNotFound
from orcheo_agentensor.kinds import is_message
from orcheo_agentensor.media import label_media
from orcheo_agentensor.prompts import (
    CONFIGURABLE,
    PromptText,
    TextTensor,
    constant_in,
    is_content,
    part_in,
    path_in,
    prompt_text,
)
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.upstream import register_handler, var_child_runnable_config

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig

MIN_LITERAL = 8
"""Fewest characters of the longest literal piece of a prompt that is searched for inside text."""

_FIELD = r"[A-Za-z_0-9][\w.\[\]-]*"
_PLACEHOLDER = re.compile(
    rf"\{{\{{\s*{_FIELD}\s*\}}\}}|\{{(?:{_FIELD})?(?:![rsa])?(?::[^{{}}]*)?\}}"
)
_FORMAT_FIELD = re.compile(rf"(?:{_FIELD})?")
_FOUND = "\x00"

Pieces: TypeAlias = tuple[str, ...]


class PromptSearch:
    """Searches the messages of model calls for the trainable prompts of one run.

    A prompt is found where its text stands in a message, or where its literal pieces do, in order:
    the graph may have filled in its `{x}` and `{{x}}`, and trimmed white space at the ends. A text
    with hardly any letters of its own counts only as a whole message, or a whole line.

    Longer prompts go first, and what they cover is not searched again: a prompt that is a part of
    another is found only where it stands by itself. Prompts with equal texts cannot be told apart.
    """

    def __init__(self, prompts: Mapping[str, Any]) -> None:
        named: dict[str, list[str]] = {}
        for name, value in prompts.items():
            text = _searched_text(value)
            if text and text.strip():
                named.setdefault(text.strip(), []).append(name)
        self._prompts = sorted(named.items(), key=lambda item: len(item[0]), reverse=True)

    def groups(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """For each text that stands in `texts`, the names of the prompts that have it."""
        left = list(texts)
        for text, names in self._prompts:
            rests = [blank_out(text, searched) for searched in left]
            if any(rest is not None for rest in rests):
                left = [old if new is None else new for old, new in zip(left, rests, strict=True)]
                yield names


def message_texts(messages: Iterable[BaseMessage]) -> Iterator[str]:
    """The texts that were put into a model call: of every message but those of a model."""
    for message in messages:
        if message.type != "ai":
            content = message.content
            blocks = content if isinstance(content, list) else [content]
            texts = [block if isinstance(block, str) else block.get("text") for block in blocks]
            yield "\n".join(text for text in texts if isinstance(text, str))


def tool_texts(tools: Any) -> list[str]:
    """What a model is told of its tools and their arguments, in the form of any provider."""
    waiting, found = [tools], list[str]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            found += [part["description"]] if isinstance(part.get("description"), str) else []
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
    return found


def blank_out(prompt: str, text: str) -> str | None:
    """`text` without `prompt`, wherever it stands in it; None where it does not."""
    blanked = (_blanked(pieces, text) for pieces in _forms(prompt))
    return next((rest for rest in blanked if rest is not None), None)


def _searched_text(value: Any) -> str | None:
    """The text of a prompt that is trainable, or that is bound to a part of the graph: nothing but
    what a model is sent tells that such a part was read."""
    if isinstance(value, str):
        return value
    if is_content(value):  # which is read by its name alone
        return None
    searched = part_in(bind_of(value)) is not None
    if isinstance(value, TextTensor):
        return value.text if searched or value.requires_grad else None
    if isinstance(value, Mapping) and (searched or value.get("requires_grad", True)):
        return text if isinstance(text := value.get("text"), str) else None
    return None


@lru_cache(maxsize=1024)
def _forms(prompt: str) -> tuple[Pieces, ...]:
    """The ways a prompt may stand in a message: as it is, filled in, filled in by `str.format`."""
    forms = [(prompt,), _trimmed(_PLACEHOLDER.split(prompt))]
    try:
        parsed = list(Formatter().parse(prompt))
    except ValueError:  # braces that are no template of this kind
        parsed = []
    if all(field is None or _FORMAT_FIELD.fullmatch(field) for _, field, _, _ in parsed):
        literals = [""]
        for literal, field, _, _ in parsed:
            literals[-1] += literal
            if field is not None:
                literals.append("")
        forms.append(_trimmed(literals))
    return tuple(dict.fromkeys(form for form in forms if form))


def _trimmed(literals: Sequence[str]) -> Pieces:
    """Literal pieces, without white space at the ends of the whole; () where nothing is left."""
    if not any(literal.strip() for literal in literals):
        return ()
    first, *rest = literals
    pieces = [first.lstrip(), *rest]
    pieces[-1] = pieces[-1].rstrip()
    return tuple(pieces)


def _blanked(pieces: Pieces, text: str) -> str | None:
    if max(map(len, pieces)) < MIN_LITERAL:
        return _blanked_line(pieces, text)
    if len(pieces) == 1:
        return text.replace(pieces[0], _FOUND) if pieces[0] in text else None
    rest, start = text, 0
    while (spans := _in_order(pieces, rest, start)) is not None:
        # What was filled in stays: it may hold the text of another prompt.
        for begin, end in reversed(spans):
            rest = rest[:begin] + _FOUND + rest[end:]
        start = spans[0][0] + 1
    return None if rest is text else rest


def _in_order(pieces: Pieces, text: str, start: int) -> list[tuple[int, int]] | None:
    """The first spans at which the pieces stand in order; None where they do not."""
    spans = []
    for piece in pieces:
        found = text.find(piece, start)
        if found < 0:
            return None
        start = found + len(piece)
        if piece:
            spans.append((found, start))
    return spans


def _blanked_line(pieces: Pieces, text: str) -> str | None:
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    if pattern.fullmatch(text.strip()):
        return _FOUND
    lines = text.split("\n")
    kept = [line for line in lines if not pattern.fullmatch(line.strip())]
    return None if len(kept) == len(lines) else "\n".join(kept)


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
ENTRY = "__start__"  # LangGraph's own node, which writes the inputs


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
    turn: int | None = None
    """Of a conversation, the user's turn that it answered."""
    missed: list[str] = field(default_factory=list)
    """The prompts of the run that `get_prompt` did not find here, and gave the default for."""

    def read(self, name: str) -> None:
        """Note a prompt that was read."""
        if name not in self.prompts:
            self.prompts.append(name)

    def to_json(self, longest: int) -> dict[str, Any]:
        """As stored with the rollout, with texts of at most `longest` characters."""
        return {
            "id": self.id,
            "node": self.node,
            "step": self.step,
            "path": list(self.path),
            "prompts": self.prompts,
            "inputs": _cut(self.inputs, longest),
            "output": _cut(self.output, longest),
            **({"turn": self.turn} if self.turn is not None else {}),
            **({"missed": self.missed} if self.missed else {}),
        }


MAX_STEPS = 300
"""Most steps kept of a rollout; what a further one calls hangs on the step around it."""

MAX_STEP_TEXT = 20_000
"""Most characters kept of one input or output of a step."""


def _is_hidden(kwargs: Mapping[str, Any]) -> bool:
    return "langsmith:hidden" in (kwargs.get("tags") or ())


class Steps:
    """Everything that a rollout ran, as LangSmith traces it: chains, models, tools, retrievers.

    Each step has its `type`, and the number of the one around it as its `parent`. A target that is
    itself a runnable is the first step, the `root` of the others.
    """

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.has_root = False
        self._around: dict[Any, int | None] = {}  # for what a run calls
        self._open: dict[Any, int] = {}
        self._lock = Lock()

    def begin(self, kind: str, name: Any, inputs: Any, kwargs: Mapping[str, Any]) -> None:
        """A step began; one that LangGraph hides is left out, and what it calls is not."""
        run_id, parent = kwargs.get("run_id"), self._around.get(kwargs.get("parent_run_id"))
        shown = brief(inputs, MAX_STEP_TEXT)
        with self._lock:
            self._around[run_id] = parent
            if len(self.found) < MAX_STEPS and name != ENTRY and not _is_hidden(kwargs):
                self._around[run_id] = self._open[run_id] = len(self.found)
                step = {"type": kind, "name": str(name or "Unnamed"), "parent": parent}
                self.found.append({**step, "inputs": shown, "output": ""})

    def end(self, output: Any, kwargs: Mapping[str, Any], *, key: str = "output") -> None:
        """A step returned, or failed."""
        number = self._open.pop(kwargs.get("run_id"), None)
        if number is not None:
            self.found[number][key] = brief(output, MAX_STEP_TEXT)

    def to_json(self) -> dict[str, Any]:
        """As stored with the tape."""
        return {"steps": self.found, "root": self.has_root}


@dataclass
class Tape:
    """The node runs of one rollout in order of their start, bounded in number and size.

    `edges` are the target graph's static edges, `(from, to)`; they tell which earlier run a node
    run depends on. Past `MAX_NODE_RUNS` entries, further runs of one node share an entry, so that
    what they read is not lost; past `MAX_SHARED` of those, all that follow share a last one.
    """

    runs: dict[str, NodeRun] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    steps: Steps | None = None
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def run(self, id: str, *, node: str, step: int, path: tuple[str, ...]) -> NodeRun:
        """The entry of the node run with this id, made when new."""
        with self._lock:
            is_shared = id not in self.runs and len(self.runs) >= MAX_NODE_RUNS
            if is_shared:
                path = tuple(f"{name}:*" for name in _names(path))
                id = "|".join((*path, f"{node}:*"))
                if id not in self.runs and len(self.runs) >= MAX_NODE_RUNS + MAX_SHARED:
                    id, node, path = OTHER_NODES, OTHER_NODES, ()
            found = self.runs.get(id)
            if found is None:
                found = NodeRun(id=id, node=node, step=step, path=path, turn=_turn.get())
                self.runs[id] = found
            if is_shared:
                found.step = max(found.step, step)
            return found

    def enclosing(self, run: NodeRun) -> NodeRun | None:
        """The nearest run around `run`: of the node that holds, or calls, the nested graph."""
        for length in range(len(run.path), 0, -1):
            path = run.path[:length]
            found = self.runs.get("|".join(path))
            if found is None and path[-1].endswith(":*"):  # any run of that node will do
                runs = reversed(self.runs.values())
                alike = (r for r in runs if _names((*r.path, r.node)) == _names(path))
                found = next(alike, None)
            if found is not None:
                return found
        return None

    def parents(self, run: NodeRun) -> list[NodeRun]:
        """The runs that gave `run` its input: the latest ones of its static predecessors.

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
            "runs": [run.to_json(longest) for run in runs],
            "edges": [list(edge) for edge in self.edges],
            **(self.steps.to_json() if self.steps is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tape:
        """The inverse of `to_json`."""
        runs = {
            entry["id"]: NodeRun(**{**entry, "path": tuple(entry.get("path", ()))})
            for entry in data.get("runs", ())
        }
        return cls(runs=runs, edges=[tuple(edge) for edge in data.get("edges", ())])


def _names(path: Iterable[str]) -> tuple[str, ...]:
    """The nodes on a path of runs."""
    return tuple(part.split(":")[0] for part in path)


def brief(value: Any, longest: int = MAX_TEXT) -> str:
    """Any node input or output as text of at most `longest` characters, without its secrets."""
    if not isinstance(value, str):
        value = _ENCODER.encode(redact(value))
    return _cut(redact(label_media(value)), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _plain(value: Any) -> Any:
    if is_message(value):
        calls = getattr(value, "tool_calls", None)
        more = (
            {"tool_calls": [{"name": c["name"], "args": c["args"]} for c in calls]} if calls else {}
        )
        return {"role": value.type, "content": value.content, **more}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return repr(value)


_ENCODER = json.JSONEncoder(default=_plain, ensure_ascii=False)


class TapeRecorder(BaseCallbackHandler):
    """Writes LangGraph's node starts and ends onto a tape, and the prompts in model calls."""

    run_inline = True

    def __init__(self, tape: Tape, prompts: Mapping[str, Any]) -> None:
        self.tape = tape
        self.names = frozenset(prompts)
        self._prompts = prompts
        self._by_name: set[str] = set()
        self._open: dict[Any, NodeRun] = {}

    @cached_property
    def _search(self) -> PromptSearch:  # which costs more than all else where no model is called
        return PromptSearch(self._prompts)

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: Any = None, **kwargs: Any
    ) -> None:
        """A chain began, and perhaps a node."""
        if self.tape.steps is not None:
            kind = kwargs.get("run_type") or "chain"
            self._begin(kind, serialized, inputs, {**kwargs, "run_id": run_id})
        metadata = kwargs.get("metadata") or {}
        is_node = any(tag.startswith("graph:step:") for tag in kwargs.get("tags") or ())
        if not is_node or metadata.get("langgraph_node") == ENTRY:
            return
        run = self._open[run_id] = _node_run(self.tape, metadata)
        if not run.inputs:
            run.inputs = brief(inputs)

    def on_chain_end(self, outputs: Any, *, run_id: Any = None, **kwargs: Any) -> None:
        """A chain returned."""
        self._end(outputs, run_id=run_id)
        run = self._open.pop(run_id, None)
        if run is not None and not run.output:
            run.output = brief(outputs)

    def on_chain_error(self, error: BaseException, *, run_id: Any = None, **kwargs: Any) -> None:
        """A chain failed."""
        self._failed(error, run_id=run_id)
        run = self._open.pop(run_id, None)
        if run is not None and not run.output:
            run.output = brief(repr(error))

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """A chat model is called."""
        if self.tape.steps is not None:
            from langchain_core.load import dumpd

            dumped = {"messages": [[dumpd(message) for message in call] for call in messages]}
            self._begin("llm", serialized, dumped, kwargs)
        told = tool_texts((kwargs.get("invocation_params") or {}).get("tools"))
        for call in messages:
            self._model_called([*message_texts(call), *told], kwargs.get("metadata"))

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        """A model that takes text is called."""
        self._begin("llm", serialized, {"prompts": prompts}, kwargs)
        self._model_called(prompts, kwargs.get("metadata"))

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """A model answered."""
        if self.tape.steps is not None:
            self._end(_generations(response), **kwargs)

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, **kwargs: Any) -> None:
        """A tool is called."""
        self._begin("tool", serialized, {"input": input_str}, kwargs)

    def on_retriever_start(self, serialized: dict[str, Any], query: str, **kwargs: Any) -> None:
        """A retriever is asked."""
        self._begin("retriever", serialized, {"query": query}, kwargs)

    def on_tool_end(self, output: Any, **kwargs: Any) -> None:
        """A tool returned."""
        self._end({"output": output}, **kwargs)

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        """A retriever found something, or nothing."""
        self._end({"documents": list(documents)}, **kwargs)

    def _failed(self, error: BaseException, **kwargs: Any) -> None:
        if self.tape.steps is not None:
            self.tape.steps.end(repr(error), kwargs, key="error")

    on_llm_error = on_tool_error = on_retriever_error = _failed

    def _begin(self, kind: str, serialized: Any, inputs: Any, kwargs: Mapping[str, Any]) -> None:
        if self.tape.steps is not None:
            name = kwargs.get("name") or (serialized or {}).get("name")
            self.tape.steps.begin(kind, name, inputs, kwargs)

    def _end(self, output: Any, **kwargs: Any) -> None:
        if self.tape.steps is not None:
            self.tape.steps.end(output, kwargs)

    def _model_called(self, texts: Iterable[str], metadata: Mapping[str, Any] | None) -> None:
        for names in self._search.groups(texts):
            run = _node_run(self.tape, metadata)
            if set(names).isdisjoint(run.prompts):
                for name in names:
                    # A prompt that was read by its name is no new read where its text turns up.
                    if name not in self._by_name or bind_of(self._prompts[name]) is not None:
                        run.read(name)

    def read_by_name(self, name: str, metadata: Mapping[str, Any] | None) -> None:
        """A node read a prompt itself."""
        self._by_name.add(name)
        _node_run(self.tape, metadata).read(name)

    def missed(self, name: str, metadata: Mapping[str, Any] | None) -> None:
        """A node took the default of a prompt that the run has brought."""
        run = _node_run(self.tape, metadata)
        run.missed = [*run.missed, name] if name not in run.missed else run.missed


def _generations(response: LLMResult) -> dict[str, Any]:
    """A reply as LangSmith shows it."""
    from langchain_core.load import dumpd

    shown: dict[str, Any] = response.model_dump(mode="json", exclude={"generations", "run"})
    shown["generations"] = [
        [
            {"text": one.text, "message": dumpd(one.message)}
            if hasattr(one, "message")
            else {"text": one.text}
            for one in several
        ]
        for several in response.generations
    ]
    return shown


def bind_of(prompt: Any) -> str | None:
    """The place that a prompt, a tensor or its JSON form, binds to."""
    if isinstance(prompt, TextTensor):
        return prompt.bind
    return prompt.get("bind") if isinstance(prompt, Mapping) else None


def _node_run(tape: Tape, metadata: Mapping[str, Any] | None) -> NodeRun:
    metadata = metadata or {}
    namespace = str(metadata.get("langgraph_checkpoint_ns") or "")
    if not namespace:
        return tape.run(_target_id(), node=TARGET_NODE, step=_turn.get() or 0, path=())
    parts = tuple(namespace.split("|"))
    return tape.run(
        namespace,
        node=str(metadata.get("langgraph_node", parts[-1].split(":")[0])),
        step=int(metadata.get("langgraph_step", 0)),
        path=parts[:-1],
    )


def _target_id() -> str:
    return TARGET_NODE if (turn := _turn.get()) is None else f"{TARGET_NODE}@{turn}"


_turn: ContextVar[int | None] = ContextVar("agentensor_turn", default=None)


@contextmanager
def in_turn(number: int) -> Iterator[None]:
    """Tell that what runs inside answers this turn of a conversation."""
    token = _turn.set(number)
    try:
        yield
    finally:
        _turn.reset(token)


@contextmanager
def not_taping() -> Iterator[None]:
    """Leave what runs inside off the tape: it is not the target's."""
    token = _handler.set(None)
    try:
        yield
    finally:
        _handler.reset(token)


_handler: ContextVar[TapeRecorder | None] = ContextVar("agentensor_tape_handler", default=None)
register_handler(_handler)


@contextmanager
def record_tape(
    edges: Iterable[tuple[str, str]] = (),
    *,
    prompts: Mapping[str, Any] | None = None,
    steps: bool = False,
) -> Iterator[Tape]:
    """Tape the rollout that runs inside the block, and all of its `steps` where asked.

    `prompts`, those of the run, are looked for in the messages of model calls.
    """
    tape = Tape(edges=list(edges), steps=Steps() if steps else None)
    token = _handler.set(TapeRecorder(tape, prompts or {}))
    try:
        yield tape
    finally:
        _handler.reset(token)


def is_taping() -> bool:
    """Whether the current rollout is being taped."""
    return _handler.get() is not None


def current_tape() -> Tape | None:
    """The tape that is being recorded, for a target on another machine that reports its nodes."""
    return None if (recorder := _handler.get()) is None else recorder.tape


def record_root() -> None:
    """Tell that the target is a runnable, whose own run is the first of its steps."""
    recorder = _handler.get()
    if recorder is not None and recorder.tape.steps is not None:
        recorder.tape.steps.has_root = True


def record_prompt_read(name: str, config: RunnableConfig | None = None) -> None:
    """Put on the tape, if there is one, that the current node has read prompt `name`."""
    recorder = _handler.get()
    if recorder is not None:
        config = config or var_child_runnable_config.get()
        recorder.read_by_name(name, (config or {}).get("metadata"))


def record_target_run(inputs: Any, output: Any) -> None:
    """Put on the tape the input and output of a target that is no graph, if it read a prompt."""
    recorder = _handler.get()
    run = None if recorder is None else recorder.tape.runs.get(_target_id())
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
) -> PromptText:
    """The current text of prompt `name`, for use inside a node or a target function.

    Args:
        name: The prompt's name.
        config: The run's config; may be left out wherever LangGraph, or a run of ours, is the
            caller.
        default: The text where the run brings no such prompt, so that a workflow also runs bare.

    Returns:
        The text; its `.content` is what a message takes, with the images of a `ContentTensor`.

    Raises:
        PromptNotFound: There is neither; the message names the prompts that there are.

    Example:
        >>> from orcheo_agentensor import evaluate, get_prompt
        >>> report = evaluate(
        ...     lambda inputs: f"{get_prompt('tone')} {inputs}",
        ...     dataset=[{"inputs": "Ada", "expected_output": "Hello Ada"}],
        ...     evaluators=["exact_match"],
        ...     prompts={"tone": "Hello"},
        ... )
        >>> report.objective
        1.0
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
    recorder = _handler.get()
    if recorder is not None and name in recorder.names and name not in prompts:
        recorder.missed(name, (source or {}).get("metadata"))
    else:
        record_prompt_read(name, source)
    return prompt_text(value, field=f"config.prompts.{name}")


Tree: TypeAlias = "dict[str, str | Tree]"
"""Keys, each with the name of the prompt that binds there or the tree below."""


def bound_tree(prompts: Mapping[str, Any], root: str) -> Tree:
    """The keys under `root` ("configurable" or "context") to which `prompts` bind."""
    tree: Tree = {}
    for name, prompt in prompts.items():
        if path := path_in(bind_of(prompt), root):
            at: Any = tree
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = name
    return tree


def prompt_tree(prompts: Mapping[str, Any]) -> Tree:
    """The keys under `configurable` by which `prompts` are read: by name, and where they bind."""
    by_name: Tree = {name: name for name in prompts}
    return {**bound_tree(prompts, CONFIGURABLE), "prompts": by_name} if prompts else {}


def prompt_reads(names: Iterable[str], tapes: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Whether any node run on these tapes, in their JSON form, read each prompt."""
    read = {name for tape in tapes for run in tape.get("runs", ()) for name in run["prompts"]}
    return {name: name in read for name in sorted(names)}


def reads_only(tape: Mapping[str, Any]) -> dict[str, Any]:
    """A tape in its JSON form with what was read alone: without inputs and outputs."""
    runs = [{**run, "inputs": "", "output": ""} for run in tape["runs"]]
    return {"runs": [run for run in runs if run["prompts"] or run.get("missed")], "edges": []}


def unread_warning(
    name: str, tapes: Iterable[Mapping[str, Any]], *, bind: str | None, places: Iterable[str]
) -> str:
    """A sentence on a prompt that no node read: what it means, and what to do."""
    runs = (run for tape in tapes for run in tape.get("runs", ()))
    nodes = sorted({run["node"] for run in runs if name in run.get("missed", ())})
    if nodes:
        todo = (
            f"{', '.join(nodes)} asked for it in a config without the run's prompts and got the "
            "default: hand the node's own config on to what it calls"
        )
    elif constant_in(bind) or part_in(bind):
        todo = "add a case that comes by what reads it, or leave the prompt out"
    else:
        offered = ", ".join(places)
        todo = f"read it by get_prompt({name!r}), or bind it to a place that the target reads" + (
            f"; it offers: {offered}" if offered else ""
        )
    where = f" (bound to {bind})" if bind else ""
    return f"no node read the prompt {name!r}{where}, so its text changes nothing: {todo}"


def watched(value: Any, tree: Tree) -> Any:
    """A copy of `value` that puts reads of the keys and fields in `tree` on the tape.

    A mapping, dataclass or pydantic model behaves as the plain one, and copies of it are plain
    again; any other value is returned as it is.
    """
    if not tree:
        return value
    below = {key: sub for key, sub in tree.items() if isinstance(sub, dict)}
    names = tuple(sorted((key, name) for key, name in tree.items() if isinstance(name, str)))
    if type(value) in (dict, _WatchedDict):
        items = {key: watched(item, below.get(key, {})) for key, item in value.items()}
        return _WatchedDict(items, dict(names))
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        clone = copy.copy(value)
        for key, sub in below.items():
            object.__setattr__(clone, key, watched(getattr(value, key), sub))
        object.__setattr__(clone, "__class__", _watched_class(type(value), names))
        return clone
    return value


def watched_config(config: RunnableConfig, tree: Tree) -> RunnableConfig:
    """`config` with a watched `configurable`."""
    return {**config, "configurable": watched(dict(config.get("configurable") or {}), tree)}


class _WatchedDict(dict[str, Any]):
    """Puts reads by key on the tape, but not unpacking and `items()`: the runtime does both."""

    __slots__ = ("_names",)

    def __init__(self, items: Mapping[str, Any], names: Mapping[str, str]) -> None:
        super().__init__(items)
        self._names = names

    def _read(self, key: Any) -> None:
        name = self._names.get(key)
        if name is not None:
            record_prompt_read(name)

    def __getitem__(self, key: str) -> Any:
        self._read(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self._read(key)
        return super().pop(key, *default)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)


@lru_cache(maxsize=256)
def _watched_class(kind: type, names: Iterable[tuple[str, str]]) -> type:
    """A subclass of `kind` with the same layout that puts reads of the fields named on tape."""
    prompts = dict(names)
    base: Any = kind

    def read(self: Any, key: str) -> Any:
        name = prompts.get(key)
        if name is not None:
            record_prompt_read(name)
        return base.__getattribute__(self, key)

    def reduce(self: Any, protocol: Any) -> Any:
        made, arguments, *rest = base.__reduce_ex__(self, protocol)
        return made, tuple(kind if a is found else a for a in arguments), *rest

    body = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__getattribute__": read,
        "__reduce_ex__": reduce,
    }
    found: type = type(kind)(kind.__name__, (kind,), body)
    return found
