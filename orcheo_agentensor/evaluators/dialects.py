"""The conventions by which people write evaluators: one class each.

Those of LangSmith, pydantic-evals and our own are here, those of other packages in `packages.py`.
To add one, write a class (`ObjectDialect` for objects told by a method, `FunctionDialect` for
functions told by the names of their parameters) and list it in `binding.py`, where it is tried
in that order. A class says how an evaluator of its kind is recognised (`matches`), how it is called
with a context (`bind`) and how its answer is read (`read`).
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    Outcome,
    private_context,
)
from orcheo_agentensor.evaluators.returns import (
    Reader,
    own,
    read_fields,
    several,
    single,
    structured,
)
from orcheo_agentensor.evaluators.tool_calls import tool_calls
from orcheo_agentensor.json_values import private_copy
from orcheo_agentensor.tape import TARGET_NODE
from orcheo_agentensor.upstream import source_of

Getter = Callable[[Any], Any]
"""What an evaluator is given of an `EvaluatorContext`, or of the list of all of them."""

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Subject:
    """An object that may be an evaluator; `parameters` is None where it cannot be called."""

    obj: Any
    parameters: Mapping[str, inspect.Parameter] | None

    @classmethod
    def of(cls, obj: Any) -> Subject:
        """Look at `obj`; partials, methods and `__call__` are seen through."""
        if not callable(obj):
            return cls(obj, None)
        try:
            return cls(obj, inspect.signature(obj).parameters)
        except (TypeError, ValueError):
            return cls(obj, None)

    @cached_property
    def named(self) -> dict[str, inspect.Parameter]:
        """The parameters but `*args` and `**kwargs`."""
        parameters = (self.parameters or {}).items()
        return {name: found for name, found in parameters if found.kind not in _VARIADIC}

    @cached_property
    def required(self) -> list[str]:
        """The names of parameters without a default, in order."""
        return [name for name, p in self.named.items() if p.default is inspect.Parameter.empty]

    @cached_property
    def roles(self) -> dict[str, str]:
        """What each parameter stands for: its name, or what `Run` and `Example` annotations say."""
        return {name: _role(parameter) for name, parameter in self.named.items()}

    def lists(self, name: str) -> bool:
        """Whether a parameter is annotated as a list."""
        return _LIST.match(_annotation(self.named[name])) is not None

    @property
    def function(self) -> Any:
        """What is under partials and wrappers."""
        obj = self.obj
        while isinstance(obj, functools.partial):
            obj = obj.func
        return inspect.unwrap(obj) if callable(obj) else obj

    @property
    def name(self) -> str:
        """The name results go by unless another is given."""
        named = getattr(self.obj, "get_default_evaluation_name", None)
        if callable(named) and not inspect.isclass(self.obj):
            found = named()
        else:
            found = getattr(self.obj, "name", None)
        if not isinstance(found, str) or not found:
            found = getattr(self.function, "__name__", None) or type(self.function).__name__
            made = _FACTORY.match(getattr(self.function, "__qualname__", ""))
            found = made[1] if made else found
        return str(found).strip("<>").replace(".", "_")

    def method(self, name: str) -> Callable[..., Any] | None:
        """A method of that name; functions and classes have none."""
        if inspect.isroutine(self.obj) or inspect.isclass(self.obj):
            return None
        found = getattr(self.obj, name, None)
        return found if callable(found) else None


_FACTORY = re.compile(r"create_(?:async_)?(\w+?)(?:_evaluator)?\.<locals>\._?wrapped_evaluator")
"""How openevals and agentevals make their evaluators: all of one name."""

_LIST = re.compile(r"(typing\.|collections\.abc\.)?(list|List|Sequence)\b")


def _annotation(parameter: inspect.Parameter) -> str:
    """The annotation of a parameter as text, such as `list[langsmith.schemas.Run]`."""
    found = parameter.annotation
    return found if isinstance(found, str) else inspect.formatannotation(found)


def _role(parameter: inspect.Parameter) -> str:
    if parameter.annotation is inspect.Parameter.empty:
        return parameter.name
    text = _annotation(parameter)
    several = "s" if _LIST.match(text) else ""
    if re.search(r"\b(Run|RunTree)\b", text):
        return f"run{several}"
    return f"example{several}" if re.search(r"\bExample\b", text) else parameter.name


def made_by(obj: Any, package: str, kind: str | None = None) -> bool:
    """Whether an object is of a class (named `kind`) of a package, or derived from one."""
    return any(
        cls.__module__.partition(".")[0] == package and kind in (None, cls.__name__)
        for cls in type(obj).__mro__
    )


def is_async(function: Any) -> bool:
    """Whether calling `function` gives a coroutine; looks under partials and `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(call)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One evaluator made callable with a context.

    `call` gives the raw return value or an awaitable of it; `threaded` says that it blocks.
    `inline` is set instead for built-ins that neither block nor change their context. `whole` says
    that `call` takes the contexts of all cases, `taped` that it reads the tape, `lower_is_better`
    that its package says so of its score.
    """

    kind: str
    form: str
    read: Reader
    call: Getter
    threaded: bool
    inline: Callable[[EvaluatorContext], Outcome] | None = None
    whole: bool = False
    taped: bool = False
    lower_is_better: bool = False


class Dialect(ABC):
    """One convention. `kind` is its name in jobs, `form` what an error tells of it."""

    kind: ClassVar[str]
    form: ClassVar[str]

    @abstractmethod
    def matches(self, subject: Subject) -> bool:
        """Whether an evaluator is of this kind."""

    @abstractmethod
    def bind(self, subject: Subject) -> Adapter:
        """Make an evaluator of this kind callable; raises `EvaluatorRefused`."""

    def read(self, name: str, value: Any) -> list[Outcome]:
        """What an evaluator of this kind returned, as outcomes."""
        return own(name, value) or self.outcomes(name, value)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """As `read`, for all but our own result objects."""
        return read_fields(name, value)

    def adapter(self, form: str, call: Getter, *, threaded: bool) -> Adapter:
        """An adapter of this kind; `form` shows the user how the evaluator is called."""
        return Adapter(kind=self.kind, form=form, read=self.read, call=call, threaded=threaded)


def as_dict(value: Any, key: str) -> dict[str, Any]:
    """A dict as it is, `{}` for none, else `{key: value}`."""
    if isinstance(value, dict):
        return private_copy(value)  # type: ignore[no-any-return]
    return {} if value is None else {key: private_copy(value)}


_IDS = uuid.UUID("5b7a4f0e-3c1d-5e7a-9a55-0c6f6a3c2f11")


def _run(ctx: EvaluatorContext) -> Any:
    """The rollout as a LangSmith `Run`."""
    from langsmith.schemas import Run

    run_id = uuid.uuid5(_IDS, f"run:{ctx.case_id}")
    ended = datetime.now(UTC)
    started = ended - timedelta(milliseconds=ctx.latency_ms)
    return Run.model_construct(
        id=run_id,
        trace_id=run_id,
        name="target",
        run_type="chain",
        start_time=started,
        end_time=ended,
        inputs=as_dict(ctx.inputs, "input"),
        outputs=as_dict(ctx.output, "output"),
        extra={"metadata": private_copy(ctx.metadata)},
        reference_example_id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        prompt_tokens=ctx.usage.input_tokens,
        completion_tokens=ctx.usage.output_tokens,
        total_tokens=ctx.usage.tokens,
        dotted_order="",
        child_runs=None if ctx.tape is None else _child_runs(ctx.tape, run_id, started),
        tags=[],
        events=[],
        attachments=private_copy(ctx.metadata.get("attachments") or {}),
    )


def taped(text: Any) -> Any:
    """An input or output on a tape as the value it was, or as text where the tape cuts it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def node_runs(tape: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The node runs on a tape, enclosing ones first, in order."""
    runs = (entry for entry in (tape or _NO_RUNS)["runs"] if entry["node"] != TARGET_NODE)
    return sorted(runs, key=lambda entry: (len(entry["path"]), entry["step"]))


_NO_RUNS: Mapping[str, Any] = {"runs": ()}


def called_tools(ctx: EvaluatorContext) -> list[tuple[str, Any]]:
    """The tool calls in the output's messages, or else on the tape: names and arguments."""
    found: list[tuple[str, Any]] = []
    outputs = [ctx.output, *(taped(entry["output"]) for entry in (ctx.tape or _NO_RUNS)["runs"])]
    for n, output in enumerate(outputs):
        calls = [call for part in _objects_in(output) for call in tool_calls(part)]
        if calls and n == 0:
            return calls
        found += calls
    return found


def _objects_in(value: Any) -> list[Any]:
    """A state, or the messages or calls in a list; a text names no tool here."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]


def _source_of(cls: type) -> str:
    try:
        return source_of(cls)
    except (OSError, TypeError):
        return ""


def _child_runs(tape: Mapping[str, Any], root: uuid.UUID, started: datetime) -> list[Any]:
    """The steps of a rollout in order, as the runs below its LangSmith `Run`.

    Of a target on a server only its nodes are known.
    """
    from langsmith.schemas import Run

    if tape.get("steps"):
        return _step_runs(tape, root, started)
    made: dict[str, Any] = {}
    top: list[Any] = []
    for entry in node_runs(tape):
        around = made.get("|".join(entry["path"]))
        made[entry["id"]] = run = Run.model_construct(
            id=uuid.uuid5(root, entry["id"]),
            trace_id=root,
            start_time=started,
            parent_run_id=root if around is None else around.id,
            name=entry["node"],
            run_type="chain",
            inputs=as_dict(taped(entry["inputs"]), "input"),
            outputs=as_dict(taped(entry["output"]), "output"),
            child_runs=[],
        )
        (top if around is None else around.child_runs).append(run)
    return top


def _step_runs(tape: Mapping[str, Any], root: uuid.UUID, started: datetime) -> list[Any]:
    from langsmith.schemas import Run

    target: Any = Run
    top = target.model_construct(id=root, child_runs=[])
    made: list[Any] = []
    for number, step in enumerate(tape["steps"]):
        if tape["root"] and step["parent"] is None:
            made.append(top)  # the run of the target itself
            continue
        around = top if step["parent"] is None else made[step["parent"]]
        run = Run.model_construct(
            id=uuid.uuid5(root, str(number)),
            trace_id=root,
            start_time=started,
            end_time=started,
            parent_run_id=around.id,
            name=step["name"],
            run_type=step["type"],
            inputs=as_dict(taped(step["inputs"]), "input"),
            outputs=as_dict(taped(step["output"]), "output"),
            error=step.get("error"),
            child_runs=[],
            tags=[],
            events=[],
        )
        around.child_runs.append(run)
        made.append(run)
    found: list[Any] = top.child_runs
    return found


def _example(ctx: EvaluatorContext) -> Any:
    """The case as a LangSmith `Example`."""
    from langsmith.schemas import Example

    return Example.model_construct(
        id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        dataset_id=_IDS,
        inputs=as_dict(ctx.inputs, "input"),
        outputs=as_dict(ctx.expected_output, "output"),
        metadata={**private_copy(ctx.metadata), "case_id": ctx.case_id},
        attachments=private_copy(ctx.metadata.get("attachments") or {}),
        created_at=datetime.now(UTC),
    )


class ObjectDialect(Dialect):
    """A convention for objects: having one of `methods` is what tells it."""

    methods: ClassVar[tuple[str, ...]]

    def matches(self, subject: Subject) -> bool:
        return any(subject.method(name) for name in self.methods)


@dataclass(frozen=True, kw_only=True)
class PydanticContext(EvaluatorContext):
    """A context as pydantic-evals gives it: with a tree of spans, made of the tape."""

    @classmethod
    def of(cls, ctx: EvaluatorContext) -> PydanticContext:
        """A private copy of a context of ours."""
        private = private_context(ctx)
        return cls(**{field.name: getattr(private, field.name) for field in fields(private)})

    @property
    def span_tree(self) -> Any:
        """A span per node run, tool call (`execute_tool NAME`) and model call (`chat`).

        Node runs take no time here: the tape tells their order only.
        """
        from pydantic_evals.otel import SpanNode, SpanTree

        spans: list[Any] = []
        ids = {"": 1}

        def add(name: str, parent: str = "", key: str = "", **attributes: Any) -> None:
            at = datetime.fromtimestamp(len(spans) / 1000, UTC)
            number = ids.setdefault(key, len(ids) + 1) if key else len(ids) + len(spans) + 1_000
            around = None if name == TARGET_NODE else ids.get(parent, 1)
            spans.append(
                SpanNode(
                    name=name,
                    trace_id=1,
                    span_id=1 if around is None else number,
                    parent_span_id=around,
                    start_timestamp=at,
                    end_timestamp=at,
                    attributes=attributes,
                )
            )

        add(TARGET_NODE)
        for entry in node_runs(self.tape):
            around = "|".join(entry["path"])
            told = {"inputs": entry["inputs"], "output": entry["output"]}
            add(entry["node"], around, entry["id"], **{"langgraph.node": entry["node"], **told})
        for tool, arguments in called_tools(self):
            told = {"gen_ai.tool.name": tool, "gen_ai.operation.name": "execute_tool"}
            told["gen_ai.tool.call.arguments"] = json.dumps(arguments or {})
            add(f"execute_tool {tool}", **told)
        for _ in range(self.usage.calls):
            add("chat", **{"gen_ai.operation.name": "chat", "gen_ai.request.model": ""})
        return SpanTree(nodes_by_id={span.node_key: span for span in spans})


class PydanticReport(ObjectDialect):
    """Report evaluators of pydantic-evals, which score all cases together."""

    kind = "report_evaluator"
    form = "a pydantic-evals report evaluator: evaluate(ctx) with a report"
    methods = ("evaluate",)

    def matches(self, subject: Subject) -> bool:
        return made_by(subject.obj, "pydantic_evals", "ReportEvaluator")

    def bind(self, subject: Subject) -> Adapter:
        method: Any = subject.method("evaluate")
        form = f"{type(subject.obj).__name__}.evaluate(report)"
        adapter = self.adapter(
            form, lambda contexts: method(self._report(contexts)), threaded=not is_async(method)
        )
        return replace(adapter, whole=True)

    @staticmethod
    def _report(contexts: Sequence[EvaluatorContext]) -> Any:
        from pydantic_evals.evaluators import EvaluationResult as Result
        from pydantic_evals.evaluators import EvaluatorSpec, ReportEvaluatorContext
        from pydantic_evals.reporting import EvaluationReport, ReportCase

        def case(ctx: EvaluatorContext) -> Any:
            given: dict[str, dict[str, Any]] = {"scores": {}, "labels": {}, "assertions": {}}
            for one in ctx.outcomes:
                if not isinstance(one, EvaluationResult):
                    continue
                is_verdict = one.passed is not None and one.score in (0.0, 1.0, None)
                for kind, value in (
                    ("scores", one.score),
                    ("labels", one.label),
                    ("assertions", one.passed if is_verdict else None),
                ):
                    if value is not None:
                        spec = EvaluatorSpec(name=one.name, arguments=None)
                        given[kind][one.name] = Result(
                            name=one.name, value=value, reason=one.reason, source=spec
                        )
            private = private_context(ctx)
            return ReportCase(
                name=ctx.case_id,
                inputs=private.inputs,
                metadata=private.metadata or None,
                expected_output=private.expected_output,
                output=private.output,
                metrics=ctx.metrics,
                attributes={},
                task_duration=ctx.duration,
                total_duration=ctx.duration,
                **given,
            )

        report = EvaluationReport(name="evaluation", cases=[case(ctx) for ctx in contexts])
        return ReportEvaluatorContext(name="evaluation", report=report, experiment_metadata=None)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A scalar is a score, a confusion matrix the share on its diagonal, a table a label; what
        is only drawn is left out."""
        analyses = value if isinstance(value, list) else [value]
        read = [(one.title, self._one(f"{name}.{one.title}", one)) for one in analyses]
        kept = [(title, outcome) for title, outcome in read if outcome is not None]
        if len(kept) == 1:
            return [replace(kept[0][1], name=name)]
        return several(name, kept)

    @staticmethod
    def _one(name: str, value: Any) -> Outcome | None:
        if value.type == "scalar":
            return single(name, value.value, reason=value.description)
        if value.type == "confusion_matrix":
            right = sum(row[n] for n, row in enumerate(value.matrix))
            total = sum(map(sum, value.matrix))
            rows = zip(value.class_labels, value.matrix, strict=True)
            shown = json.dumps({"labels": value.class_labels, **dict(rows)}, ensure_ascii=False)
            return single(name, right / total if total else None, reason=shown)
        if value.type == "table":
            return EvaluationResult(name=name, label=json.dumps([value.columns, *value.rows]))
        return None


class PydanticEvals(ObjectDialect):
    """pydantic-evals: `evaluate(ctx)` or `evaluate_async(ctx)`; a mapping is several results."""

    kind = "evaluator"
    form = "an object with evaluate(ctx) or evaluate_async(ctx)"
    methods = ("evaluate", "evaluate_async")

    def bind(self, subject: Subject) -> Adapter:
        method = self._method(subject)
        taken = Subject.of(method)
        if taken.parameters is not None and (len(taken.required) > 1 or not taken.named):
            raise EvaluatorRefused(
                f"{subject.name}: {method.__name__}({', '.join(taken.named)}) must take one "
                "context; pass a function instead of the object for another form",
                field="evaluators",
                value=subject.name,
                rule="must have an evaluate(ctx)",
            )
        form = f"{type(subject.obj).__name__}.{method.__name__}(ctx)"
        own = made_by(subject.obj, "pydantic_evals")
        given = PydanticContext.of if own else private_context
        adapter = self.adapter(form, lambda ctx: method(given(ctx)), threaded=not is_async(method))
        return replace(adapter, taped=own and "span_tree" in _source_of(type(subject.obj)))

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A value or `EvaluationReason`, or a mapping of names to these."""
        if isinstance(value, Mapping):
            items = value.items()
            return several(name, [(key, self._one(f"{name}.{key}", item)) for key, item in items])
        return [self._one(name, value)]

    @staticmethod
    def _method(subject: Subject) -> Callable[..., Any]:
        """`evaluate`, or an `evaluate_async` of the class's own.

        The one inherited from pydantic-evals only calls `evaluate`, in the loop.
        """
        plain, native = subject.method("evaluate"), subject.method("evaluate_async")
        if plain is None:
            return native or subject.obj.evaluate
        home = str(getattr(native, "__module__", ""))
        if native is None or home.startswith("pydantic_evals.") or is_async(plain):
            return plain
        return native

    @staticmethod
    def _one(name: str, value: Any) -> Outcome:
        if isinstance(value, Outcome):
            return replace(value, name=name)
        reason = None
        if hasattr(value, "value") and hasattr(value, "reason"):
            value, reason = value.value, value.reason
        if isinstance(value, str) and value:  # a number in a text is a label there
            return EvaluationResult(name=name, reason=reason, label=value)
        return single(name, value, reason=reason)


class LangSmithRunEvaluator(ObjectDialect):
    """LangSmith's `RunEvaluator`: `evaluate_run(run, example)` or `aevaluate_run`."""

    kind = "run_evaluator"
    form = "an object with evaluate_run(run, example) or aevaluate_run(run, example)"
    methods = ("evaluate_run", "aevaluate_run")

    def bind(self, subject: Subject) -> Adapter:
        method: Any = self._method(subject)
        form = f"{type(subject.obj).__name__}.{getattr(method, '__name__', '')}(run, example)"
        adapter = self.adapter(
            form, lambda ctx: method(_run(ctx), _example(ctx)), threaded=not is_async(method)
        )
        return replace(adapter, taped=True)

    @staticmethod
    def _method(subject: Subject) -> Callable[..., Any] | None:
        """`evaluate_run`, or an `aevaluate_run` that is more than LangSmith's hop into a thread."""
        plain, native = subject.method("evaluate_run"), subject.method("aevaluate_run")
        if native is None or plain is None:
            return plain or native
        hops = str(getattr(native, "__qualname__", "")).startswith("RunEvaluator.")
        return plain if hops or getattr(subject.obj, "is_async", None) is False else native


class FunctionDialect(Dialect):
    """A convention for functions.

    `values` holds the parameter names it knows and what each is given; `telling` are those that
    must be there for it to be recognised. `positional` names the values that a function with
    parameter names of its own is given, in order.
    """

    values: ClassVar[Mapping[str, Getter]]
    telling: ClassVar[frozenset[str]] = frozenset()
    positional: ClassVar[tuple[str, ...]] = ()

    def matches(self, subject: Subject) -> bool:
        """Whether its telling names are there and no required name is unknown."""
        return self.telling <= subject.named.keys() and self.knows(subject)

    def knows(self, subject: Subject) -> bool:
        """Whether every required parameter has a known name, and at least one is taken."""
        known = self._known(subject)
        return bool(known) and set(subject.required) <= set(known)

    def bind(self, subject: Subject) -> Adapter:
        """Call by name where the names are known, else in order."""
        if not self.knows(subject):
            return self.bind_in_order(subject)
        known = self._known(subject)
        values = {name: self.values[subject.roles[name]] for name in known}
        return self._function(subject, call_by_name(subject, values), known)

    def bind_in_order(self, subject: Subject) -> Adapter:
        """Call with as many values as there are required parameters, in order."""
        count = len(subject.required)
        if not 1 <= count <= len(self.positional):
            raise EvaluatorRefused(
                f"{subject.name}: not of the kind {self.kind!r}: {self.form}",
                field="evaluators",
                value=subject.name,
                rule=f"must be {self.form}",
            )
        names = self.positional[:count]
        getters = [self.values[name] for name in names]

        def call(ctx: EvaluatorContext) -> Any:
            return subject.obj(*[getter(ctx) for getter in getters])

        return self._function(subject, call, names)

    def _known(self, subject: Subject) -> list[str]:
        return [name for name, role in subject.roles.items() if role in self.values]

    def _function(self, subject: Subject, call: Getter, names: Iterable[str]) -> Adapter:
        form = f"{subject.name}({', '.join(names)})"
        adapter = self.adapter(form, call, threaded=not is_async(subject.obj))
        reads_run = {subject.roles.get(name, name) for name in names} & {"run", "root_run", "runs"}
        return replace(adapter, taped=bool(reads_run))


def call_by_name(subject: Subject, values: Mapping[str, Getter]) -> Getter:
    """A function of the context that calls the subject with every value it has a name for."""
    positional: list[Getter] = []
    keywords: dict[str, Getter] = {}
    gap = False
    for name, parameter in subject.named.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            if name in values:
                keywords[name] = values[name]
        elif name in values and not gap:
            positional.append(values[name])
        else:
            gap = True

    def call(ctx: EvaluatorContext) -> Any:
        given = {name: getter(ctx) for name, getter in keywords.items()}
        return subject.obj(*[getter(ctx) for getter in positional], **given)

    return call


class ContextFunction(FunctionDialect):
    """Our own form: a function of an `EvaluatorContext`."""

    kind = "context"
    form = "a function of one `ctx` (an EvaluatorContext)"
    values: ClassVar = {"ctx": private_context, "context": private_context}
    positional = ("ctx",)

    def matches(self, subject: Subject) -> bool:
        """Whether the only parameter to fill is named or annotated as an evaluator's context."""
        filled = subject.required or list(subject.named)
        if len(filled) != 1:
            return False
        if filled[0] in self.values:
            return True
        annotation = subject.named[filled[0]].annotation
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        return "EvaluatorContext" in str(text)


class LangSmith(FunctionDialect):
    """LangSmith functions: a dict is one result, a list or `{"results": […]}` several."""

    kind = "langsmith"
    form = "a LangSmith function: any of inputs, outputs, reference_outputs, run, example"
    values: ClassVar = {
        "run": _run,
        "root_run": _run,
        "example": _example,
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: as_dict(ctx.output, "output"),
        "reference_outputs": lambda ctx: as_dict(ctx.expected_output, "output"),
        "attachments": lambda ctx: private_copy(ctx.metadata.get("attachments") or {}),
    }
    positional = ("run", "example")


def _of_each(name: str) -> Getter:
    value: Getter = LangSmith.values[name]
    return lambda contexts: [value(ctx) for ctx in contexts]


class LangSmithSummary(FunctionDialect):
    """LangSmith's summary evaluators, which score all cases together."""

    kind = "langsmith_summary"
    form = "a LangSmith summary evaluator: runs, examples, or lists of inputs, outputs, …"
    values: ClassVar = {
        "runs": _of_each("run"),
        "examples": _of_each("example"),
        **{name: _of_each(name) for name in ("inputs", "outputs", "reference_outputs")},
    }
    positional = ("runs", "examples")

    def matches(self, subject: Subject) -> bool:
        """Whether it takes `runs` or `examples`, by name or annotation, or lists of a case's parts.

        Raises `EvaluatorRefused` for one that compares several outputs for one case.
        """
        taken = set(subject.roles.values())
        lists = {role for name, role in subject.roles.items() if subject.lists(name)}
        listed = {"runs", "examples", *lists} & self.values.keys()
        if not taken & listed:
            return False
        single = sorted((taken & LangSmith.values.keys()) - listed)
        if single and taken & listed & {"runs", "outputs"}:
            raise EvaluatorRefused(
                f"{subject.name} compares several outputs for one case (one {', '.join(single)}): "
                "such an evaluator serves comparisons of runs; here each case has one output. "
                "To compare it with the expected output, use LLMJudge(pairwise=True)",
                field="evaluators",
                value=subject.name,
                rule="must score one output",
            )
        return self.knows(subject)

    def adapter(self, form: str, call: Getter, *, threaded: bool) -> Adapter:
        """An adapter for all cases together."""
        return replace(super().adapter(form, call, threaded=threaded), whole=True)


class OpenEvals(FunctionDialect):
    """openevals and agentevals: as LangSmith, with the values as they are.

    `**kwargs` (the variables of a judge's prompt) are filled from the case's metadata.
    """

    kind = "openevals"
    form = "an openevals or agentevals evaluator: (inputs, outputs, reference_outputs, **kwargs)"
    values: ClassVar = {
        **LangSmith.values,
        "outputs": lambda ctx: private_copy(ctx.output),
        "reference_outputs": lambda ctx: private_copy(ctx.expected_output),
    }

    def matches(self, subject: Subject) -> bool:
        home = str(getattr(subject.function, "__module__", "")).partition(".")[0]
        return home in ("openevals", "agentevals") and self.knows(subject)

    def bind(self, subject: Subject) -> Adapter:
        adapter = super().bind(subject)
        kinds = [parameter.kind for parameter in (subject.parameters or {}).values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return adapter

        def call(ctx: EvaluatorContext) -> Any:
            extra = {
                name: private_copy(value)
                for name, value in ctx.metadata.items()
                if name.isidentifier() and name not in subject.named
            }
            filled = Subject(functools.partial(subject.obj, **extra), subject.parameters)
            return call_by_name(filled, self.values)(ctx)

        return replace(adapter, call=call)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """As LangSmith, but a dict without `key` is raw structured output.

        Of that each bool and number is a metric, each text a label; its reasoning is their reason.
        """
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if not isinstance(value, Mapping) or "key" in value or "results" in value:
            return read_fields(name, value)
        return structured(name, value)
