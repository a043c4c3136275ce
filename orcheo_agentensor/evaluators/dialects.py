"""The conventions by which people write evaluators: one class each.

To add one, write a class (`ObjectDialect` for objects told by a method, `FunctionDialect` for
functions told by the names of their parameters) and list it in `detection.py`, where it is tried
in that order. A class says how an evaluator of its kind is recognised (`matches`), how it is called
with a context (`bind`) and how its answer is read (`read`).
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

from pydantic import BaseModel

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.builtin import tool_calls
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    Outcome,
    as_text,
    private_context,
)
from orcheo_agentensor.evaluators.returns import (
    Reader,
    failure,
    field_of,
    holds_number,
    own,
    read_fields,
    several,
    single,
    structured,
    wrong_shape,
)
from orcheo_agentensor.json_values import private_copy
from orcheo_agentensor.tape import TARGET_NODE

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
        return str(found).strip("<>").replace(".", "_")

    def method(self, name: str) -> Callable[..., Any] | None:
        """A method of that name; functions and classes have none."""
        if inspect.isroutine(self.obj) or inspect.isclass(self.obj):
            return None
        found = getattr(self.obj, name, None)
        return found if callable(found) else None


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
    that `call` takes the contexts of all cases, `taped` that it reads the tape.
    """

    kind: str
    form: str
    read: Reader
    call: Getter
    threaded: bool
    inline: Callable[[EvaluatorContext], Outcome] | None = None
    whole: bool = False
    taped: bool = False


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


def _named(name: str, value: Any, one: Callable[[str, Any], Outcome]) -> list[Outcome]:
    """One result, or a list of results that carry their names."""
    if not isinstance(value, list | tuple):
        return [one(name, value)]
    named = ((field_of(item, "name"), item) for item in value)
    return several(name, [(key, one(f"{name}.{key}", item)) for key, item in named])


def _score(name: str, value: Any) -> Outcome:
    """A Braintrust or autoevals `Score`, as an object or a dict, or a number."""
    if isinstance(value, str) and not holds_number(value):
        return wrong_shape(name, value, "expected a number or a Score")
    if not isinstance(value, Mapping) and not hasattr(value, "score"):
        return single(name, value)
    if (error := field_of(value, "error")) is not None:
        return failure(name, "exception", str(error))
    metadata = field_of(value, "metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    reason = metadata.get("rationale") or metadata.get("reason")
    return single(name, field_of(value, "score"), reason=reason)


def _as_dict(value: Any, key: str) -> dict[str, Any]:
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
        inputs=_as_dict(ctx.inputs, "input"),
        outputs=_as_dict(ctx.output, "output"),
        extra={"metadata": private_copy(ctx.metadata)},
        reference_example_id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        prompt_tokens=ctx.usage.input_tokens,
        completion_tokens=ctx.usage.output_tokens,
        total_tokens=ctx.usage.tokens,
        dotted_order="",
        child_runs=None if ctx.tape is None else _child_runs(ctx.tape, run_id, started),
        tags=[],
        events=[],
    )


def taped(text: Any) -> Any:
    """An input or output on a tape as the value it was, or as text where the tape cuts it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _child_runs(tape: Mapping[str, Any], root: uuid.UUID, started: datetime) -> list[Any]:
    """The node runs of a rollout in order, as the runs below its LangSmith `Run`."""
    from langsmith.schemas import Run

    made: dict[str, Any] = {}
    top: list[Any] = []
    for entry in sorted(tape["runs"], key=lambda entry: (len(entry["path"]), entry["step"])):
        if entry["node"] == TARGET_NODE:
            continue
        around = made.get("|".join(entry["path"]))
        made[entry["id"]] = run = Run.model_construct(
            id=uuid.uuid5(root, entry["id"]),
            trace_id=root,
            start_time=started,
            parent_run_id=root if around is None else around.id,
            name=entry["node"],
            run_type="chain",
            inputs=_as_dict(taped(entry["inputs"]), "input"),
            outputs=_as_dict(taped(entry["output"]), "output"),
            child_runs=[],
        )
        (top if around is None else around.child_runs).append(run)
    return top


def _example(ctx: EvaluatorContext) -> Any:
    """The case as a LangSmith `Example`."""
    from langsmith.schemas import Example

    return Example.model_construct(
        id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        dataset_id=_IDS,
        inputs=_as_dict(ctx.inputs, "input"),
        outputs=_as_dict(ctx.expected_output, "output"),
        metadata={**private_copy(ctx.metadata), "case_id": ctx.case_id},
        created_at=datetime.now(UTC),
    )


class ObjectDialect(Dialect):
    """A convention for objects: having one of `methods` is what tells it."""

    methods: ClassVar[tuple[str, ...]]

    def matches(self, subject: Subject) -> bool:
        return any(subject.method(name) for name in self.methods)


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
        return self.adapter(
            form, lambda ctx: method(private_context(ctx)), threaded=not is_async(method)
        )

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


class DeepEval(ObjectDialect):
    """DeepEval metrics: `a_measure(test_case)` leaves score, reason and success on the object."""

    kind = "deepeval"
    form = "an object with a_measure(test_case)"
    methods = ("a_measure",)

    def bind(self, subject: Subject) -> Adapter:
        """Measure each case with a copy, because the metric keeps its result on itself."""
        parameters = Subject.of(subject.method("a_measure")).parameters or ()
        quiet = {"_show_indicator": False} if "_show_indicator" in parameters else {}

        async def call(ctx: EvaluatorContext) -> Any:
            metric = copy.copy(subject.obj)
            await metric.a_measure(self._test_case(ctx), **quiet)
            return metric

        form = f"{type(subject.obj).__name__}.a_measure(test_case)"
        needed = {str(getattr(p, "value", p)) for p in self._required(subject.obj)}
        reads = not needed.isdisjoint(("tools_called", "retrieval_context"))
        return replace(self.adapter(form, call, threaded=False), taped=reads)

    @staticmethod
    def _required(metric: Any) -> Iterable[Any]:
        found = getattr(metric, "_required_params", ())
        return found if isinstance(found, list | tuple) else ()

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        score, error = field_of(value, "score"), field_of(value, "error")
        if error and score is None:
            return [failure(name, "exception", str(error))]
        passed = field_of(value, "success")
        passed = passed if isinstance(passed, bool) else None
        return [single(name, score, reason=field_of(value, "reason"), passed=passed)]

    @staticmethod
    def _test_case(ctx: EvaluatorContext) -> Any:
        expected = ctx.expected_output
        fields: dict[str, Any] = {
            "input": as_text(ctx.inputs),
            "actual_output": as_text(ctx.output),
            "expected_output": None if expected is None else as_text(expected),
            "context": private_copy(ctx.metadata.get("context")),
            "retrieval_context": retrieved(ctx),
        }
        try:
            module: Any = import_module("deepeval.test_case")
        except ImportError:
            types = {"LLMTestCase": SimpleNamespace, "ToolCall": SimpleNamespace}
            module = SimpleNamespace(**types)
        wanted = ctx.metadata.get("expected_tools")
        if wanted is None and isinstance(expected, list | dict):
            wanted = expected
        called = list(tool_calls(ctx.output)) or [
            call for entry in (ctx.tape or _NO_RUNS)["runs"] for call in tool_calls(_output(entry))
        ]
        for name, calls in (("tools_called", called), ("expected_tools", tool_calls(wanted))):
            fields[name] = [
                module.ToolCall(name=tool, input_parameters=arguments or None)
                for tool, arguments in calls
            ]
        return module.LLMTestCase(**fields)


_NO_RUNS: Mapping[str, Any] = {"runs": ()}
_RETRIEVED = ("retrieval_context", "retrieved_contexts", "context", "contexts", "documents", "docs")


def _output(entry: Mapping[str, Any]) -> Any:
    found = taped(entry["output"])
    return found if isinstance(found, dict | list) else None


def retrieved(ctx: EvaluatorContext) -> list[str] | None:
    """The texts that a rollout has retrieved: from the case's metadata, the output or the tape."""
    runs = (ctx.tape or _NO_RUNS)["runs"]
    for place in (ctx.metadata, ctx.output, *(_output(entry) for entry in runs)):
        for key in _RETRIEVED if isinstance(place, Mapping) else ():
            found = place.get(key)
            if found and isinstance(found, str | list):
                return [_document(item) for item in ([found] if isinstance(found, str) else found)]
    return None


def _document(item: Any) -> str:
    text = item.get("page_content", item.get("text")) if isinstance(item, Mapping) else item
    return as_text(item if text is None else text)


class Phoenix(ObjectDialect):
    """Arize Phoenix evaluators: `evaluate(eval_input)` gives a list of `Score`s."""

    kind = "phoenix"
    form = "a Phoenix evaluator: evaluate(eval_input)"
    methods = ("evaluate",)

    def matches(self, subject: Subject) -> bool:
        method = subject.method("evaluate")
        return method is not None and "eval_input" in Subject.of(method).named

    def bind(self, subject: Subject) -> Adapter:
        method: Any = subject.method("evaluate")
        form = f"{type(subject.obj).__name__}.evaluate(eval_input)"
        return self.adapter(
            form, lambda ctx: method(_flat_case(ctx)), threaded=not is_async(method)
        )

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """`Score(name, score, label, explanation)`, or a list of them; one goes by `name`."""
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        return _named(name, value, _explained)


def _explained(name: str, value: Any) -> Outcome:
    score, label = field_of(value, "score"), field_of(value, "label")
    reason = field_of(value, "explanation")
    return single(name, label if score is None else score, reason=reason, label=label)


def _flat_case(ctx: EvaluatorContext) -> dict[str, Any]:
    """A case and its output as one mapping, under the names that evaluators use for them."""
    inputs, output = private_copy(ctx.inputs), private_copy(ctx.output)
    expected = private_copy(ctx.expected_output)
    found = {**private_copy(ctx.metadata), **(inputs if isinstance(inputs, dict) else {})}
    found |= output if isinstance(output, dict) else {}
    found |= {"input": as_text(inputs), "output": as_text(output)}
    if expected is not None:
        found |= dict.fromkeys(("expected", "reference"), as_text(expected))
    return found


class Ragas(ObjectDialect):
    """Ragas metrics: `single_turn_ascore(sample)`, or `ascore` with the parts by name."""

    kind = "ragas"
    form = "a Ragas metric: single_turn_ascore(sample), or ascore(user_input, response, …)"
    methods = ("single_turn_ascore", "ascore")
    values: ClassVar[Mapping[str, Getter]] = {
        "user_input": lambda ctx: as_text(ctx.inputs),
        "response": lambda ctx: as_text(ctx.output),
        "reference": lambda ctx: (
            None if ctx.expected_output is None else as_text(ctx.expected_output)
        ),
        "retrieved_contexts": retrieved,
        "reference_contexts": lambda ctx: private_copy(ctx.metadata.get("reference_contexts")),
    }

    def matches(self, subject: Subject) -> bool:
        if subject.method("single_turn_ascore") is not None:
            return True
        method = subject.method("ascore")
        names = () if method is None else Subject.of(method).named
        return bool(names) and set(names) <= self.values.keys()

    def bind(self, subject: Subject) -> Adapter:
        if (method := subject.method("single_turn_ascore")) is None:
            taken = Subject.of(subject.obj.ascore)
            call = call_by_name(taken, self.values)
            form = f"{type(subject.obj).__name__}.ascore({', '.join(taken.named)})"
        else:
            call = functools.partial(self._single_turn, method)
            form = f"{type(subject.obj).__name__}.single_turn_ascore(sample)"
        reads = "retrieved_contexts" in form or "retrieved_contexts" in str(
            getattr(subject.obj, "required_columns", "")
        )
        return replace(self.adapter(form, call, threaded=False), taped=reads)

    def _single_turn(self, method: Callable[..., Any], ctx: EvaluatorContext) -> Any:
        try:
            sample = import_module("ragas.dataset_schema").SingleTurnSample
        except ImportError:
            sample = SimpleNamespace
        return method(sample(**{name: getter(ctx) for name, getter in self.values.items()}))

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A number, or a `MetricResult(value, reason)`."""
        if not hasattr(value, "value"):
            return [single(name, value)]
        return [single(name, value.value, reason=getattr(value, "reason", None))]


class Opik(ObjectDialect):
    """Opik metrics: `score(output, …)` by name gives `ScoreResult`s."""

    kind = "opik"
    form = "an Opik metric: score(output, reference=…)"
    methods = ("score",)
    values: ClassVar[Mapping[str, Getter]] = {
        "input": lambda ctx: as_text(ctx.inputs),
        "output": lambda ctx: as_text(ctx.output),
        **dict.fromkeys(("reference", "expected_output", "expected"), Ragas.values["reference"]),
        "context": retrieved,
    }

    def matches(self, subject: Subject) -> bool:
        method = subject.method("score")
        required = [] if method is None else Subject.of(method).required
        return "output" in required and set(required) <= self.values.keys()

    def bind(self, subject: Subject) -> Adapter:
        taken = Subject.of(subject.obj.score)
        names = [name for name in taken.named if name in self.values]
        form = f"{type(subject.obj).__name__}.score({', '.join(names)})"
        call = call_by_name(taken, self.values)
        adapter = self.adapter(form, call, threaded=not is_async(subject.obj.score))
        return replace(adapter, taped="context" in names)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """`ScoreResult(value, name, reason, scoring_failed)`, or a list of them."""
        return _named(name, value, self._one)

    @staticmethod
    def _one(name: str, value: Any) -> Outcome:
        if getattr(value, "scoring_failed", False):
            return failure(name, "exception", str(value.reason))
        if not hasattr(value, "value"):
            return single(name, value)
        return single(name, value.value, reason=getattr(value, "reason", None))


class Autoevals(ObjectDialect):
    """autoevals scorers: `eval(output, expected, input=…)`, read as Braintrust functions are."""

    kind = "autoevals"
    form = "an object with eval(output, expected, input=…) or eval_async"
    methods = ("eval_async", "eval")

    def bind(self, subject: Subject) -> Adapter:
        """Call `eval` in a thread: `eval_async` may run blocking code in the loop."""
        method = subject.method("eval") or subject.obj.eval_async

        def call(ctx: EvaluatorContext) -> Any:
            extra = {
                key: private_copy(value)
                for key, value in ctx.metadata.items()
                if key not in ("self", "output", "expected")
            }
            extra["input"] = private_copy(ctx.inputs)
            return method(private_copy(ctx.output), private_copy(ctx.expected_output), **extra)

        form = f"{type(subject.obj).__name__}.eval(output, expected, input=…)"
        return self.adapter(form, call, threaded=True)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """`Score(name, score, metadata)`, a number, None, or a list of them."""
        return _named(name, value, _score)


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
        "outputs": lambda ctx: _as_dict(ctx.output, "output"),
        "reference_outputs": lambda ctx: _as_dict(ctx.expected_output, "output"),
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


class Mlflow(FunctionDialect):
    """MLflow scorers, told by their class, or by `expectations`, a name that only they have."""

    kind = "mlflow"
    form = "an MLflow Scorer, or a function of any of inputs, outputs, expectations"
    values: ClassVar = {
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: private_copy(ctx.output),
        "expectations": lambda ctx: _as_dict(ctx.expected_output, "expected_response"),
    }
    telling = frozenset({"expectations"})

    def matches(self, subject: Subject) -> bool:
        return made_by(subject.obj, "mlflow", "Scorer") or super().matches(subject)

    def bind(self, subject: Subject) -> Adapter:
        run = subject.method("run")
        if run is None or not made_by(subject.obj, "mlflow", "Scorer"):
            return super().bind(subject)
        taken = set(subject.named) & self.values.keys() or self.values.keys()

        def call(ctx: EvaluatorContext) -> Any:
            return run(**{name: self.values[name](ctx) for name in taken})

        form = f"{type(subject.obj).__name__}.run({', '.join(sorted(taken))})"
        return self.adapter(form, call, threaded=True)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A scalar, `Feedback(name, value, rationale)` or a list; "yes" is 1.0."""
        return _named(name, value, self._one)

    @staticmethod
    def _one(name: str, value: Any) -> Outcome:
        reason = None
        if hasattr(value, "value") and hasattr(value, "rationale"):
            if (error := getattr(value, "error", None)) is not None:
                return failure(name, "exception", str(error))
            value, reason = value.value, value.rationale
        if isinstance(value, str) and value.lower() in ("yes", "no"):
            return single(name, value.lower() == "yes", reason=reason, label=value)
        return single(name, value, reason=reason)


class Braintrust(FunctionDialect):
    """Braintrust functions, told by `output` in the singular."""

    kind = "braintrust"
    form = "a Braintrust function: output with any of input, expected, metadata"
    values: ClassVar = {
        "output": lambda ctx: private_copy(ctx.output),
        "expected": lambda ctx: private_copy(ctx.expected_output),
        "input": lambda ctx: private_copy(ctx.inputs),
        "metadata": lambda ctx: private_copy(ctx.metadata),
    }
    telling = frozenset({"output"})
    positional = ("output", "expected")

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """`Score(name, score, metadata)`, a number, None, or a list of them."""
        return _named(name, value, _score)


class TruLens(FunctionDialect):
    """TruLens feedback functions, and the `Metric` or `Feedback` made of one."""

    kind = "trulens"
    form = "a TruLens feedback function, or a Metric of one: (prompt, response), (text), …"
    values: ClassVar = {
        **dict.fromkeys(("prompt", "question", "query"), Ragas.values["user_input"]),
        **dict.fromkeys(("response", "statement", "text", "output"), Ragas.values["response"]),
        **dict.fromkeys(("context", "source"), lambda ctx: "\n".join(retrieved(ctx) or []) or None),
        **dict.fromkeys(("ground_truth", "expected"), Ragas.values["reference"]),
    }
    positional = ("prompt", "response")

    def matches(self, subject: Subject) -> bool:
        owner = getattr(subject.function, "__self__", subject.obj)
        home = str(getattr(subject.function, "__module__", "")).partition(".")[0]
        return home == "trulens" or made_by(owner, "trulens")

    def bind(self, subject: Subject) -> Adapter:
        inner = getattr(subject.obj, "imp", None)
        adapter = super().bind(Subject.of(inner) if callable(inner) else subject)
        return replace(adapter, taped="context" in adapter.form or "source" in adapter.form)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A number, or one with its reasons in a dict."""
        reasons = None
        if isinstance(value, tuple) and len(value) == 2:
            value, reasons = value
        return [single(name, value, reason=None if reasons is None else as_text(reasons))]


class AttributeDict(dict[str, Any]):
    """A dict whose keys are attributes too, as DSPy's examples and predictions are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no field {name!r}; there are: {', '.join(self)}") from None


def _dspy_example(ctx: EvaluatorContext) -> AttributeDict:
    """Inputs and expected output side by side; the expected one wins."""
    expected = _as_dict(ctx.expected_output, "output")
    return AttributeDict(_as_dict(ctx.inputs, "input") | expected)


def _dspy_prediction(ctx: EvaluatorContext) -> AttributeDict:
    return AttributeDict(_as_dict(ctx.output, "output"))


class Dspy(FunctionDialect):
    """DSPy metrics: an example and a prediction, whose keys are attributes too."""

    kind = "dspy"
    form = "a DSPy metric: (example, pred, trace=None)"
    values: ClassVar = {
        "example": _dspy_example,
        "gold": _dspy_example,
        "pred": _dspy_prediction,
        "prediction": _dspy_prediction,
        "trace": lambda ctx: None,
        "pred_name": lambda ctx: None,
        "pred_trace": lambda ctx: None,
    }
    positional = ("example", "pred", "trace", "pred_name", "pred_trace")

    def matches(self, subject: Subject) -> bool:
        names = subject.named.keys()
        both = names & {"example", "gold"} and names & {"pred", "prediction"}
        return bool(both) and self.knows(subject)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A scalar, or an object or dict with `score` and `feedback`."""
        known = "score" in value if isinstance(value, Mapping) else hasattr(value, "score")
        if not known:
            return [single(name, value)]
        return [single(name, field_of(value, "score"), reason=field_of(value, "feedback"))]


def _promptfoo_context(ctx: EvaluatorContext) -> dict[str, Any]:
    variables = private_copy(ctx.inputs)
    if not isinstance(variables, dict):
        variables = {"input": variables}
    if ctx.expected_output is not None:
        variables.setdefault("expected", private_copy(ctx.expected_output))
    metadata = private_copy(ctx.metadata)
    return {
        "prompt": None,
        "vars": variables,
        "test": {"vars": variables, "metadata": metadata, "description": ctx.case_id},
        "config": {},
        "metadata": metadata,
    }


class Promptfoo(FunctionDialect):
    """promptfoo's Python assertions."""

    kind = "promptfoo"
    form = "a promptfoo assertion: (output, context)"
    values: ClassVar = {
        "output": lambda ctx: private_copy(ctx.output),
        "context": _promptfoo_context,
    }
    telling = frozenset({"output", "context"})
    positional = ("output", "context")

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A bool, a number or `{pass, score, reason, namedScores}`."""
        if isinstance(value, str) and not holds_number(value):
            return [wrong_shape(name, value, "expected a bool, a number or {pass, score, reason}")]
        if not isinstance(value, Mapping):
            return [single(name, value)]
        passed = value.get("pass", value.get("pass_"))
        if not isinstance(passed, bool | None):
            return [wrong_shape(name, value, "`pass` must be true or false")]
        whole = single(name, value.get("score", passed), reason=value.get("reason"), passed=passed)
        parts = value.get("namedScores", value.get("named_scores")) or {}
        return [whole, *(single(f"{name}.{key}", score) for key, score in parts.items())]
