"""The conventions of other packages: how each calls an evaluator, and reads what it returns."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.builtin import private_context
from orcheo_agentensor.evaluators.context import EvaluatorContext, Outcome
from orcheo_agentensor.evaluators.returns import (
    Reader,
    failure,
    read_feedback,
    read_grading,
    read_mapping,
    read_raw_fields,
    read_result,
    read_scored,
    read_scores,
    single,
)
from orcheo_agentensor.json_values import private_copy

Getter = Callable[[EvaluatorContext], Any]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Subject:
    """An object offered as an evaluator; `parameters` is None where it cannot be called."""

    obj: Any
    parameters: Mapping[str, inspect.Parameter] | None

    @classmethod
    def of(cls, obj: Any) -> Subject:
        """Look at `obj`; partials, methods and `__call__` are seen through."""
        if not callable(obj):
            return cls(obj, None)
        try:
            signature = inspect.signature(obj)
        except (TypeError, ValueError):
            return cls(obj, None)
        return cls(obj, signature.parameters)

    @property
    def named(self) -> dict[str, inspect.Parameter]:
        """Every parameter that is not `*args` or `**kwargs`."""
        return {
            name: parameter
            for name, parameter in (self.parameters or {}).items()
            if parameter.kind not in _VARIADIC
        }

    @property
    def required(self) -> list[str]:
        """The names of parameters without a default, in order."""
        return [name for name, p in self.named.items() if p.default is inspect.Parameter.empty]

    @property
    def extra(self) -> bool:
        """Whether there is a `**kwargs`."""
        kinds = [p.kind for p in (self.parameters or {}).values()]
        return inspect.Parameter.VAR_KEYWORD in kinds

    @property
    def module(self) -> str:
        """The module that the function underneath comes from."""
        return str(getattr(self.function, "__module__", "") or "")

    @property
    def function(self) -> Any:
        """What is under partials and wrappers."""
        obj = self.obj
        while isinstance(obj, functools.partial):
            obj = obj.func
        return inspect.unwrap(obj) if callable(obj) else obj

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""
        return is_async(self.obj)

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


def is_async(function: Any) -> bool:
    """Whether calling `function` gives a coroutine; looks under partials and `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(call)


def call_by_name(subject: Subject, getters: Mapping[str, Getter]) -> Callable[..., Any]:
    """A function of the context that calls the subject with every value it has a name for."""
    positional: list[Getter] = []
    keywords: dict[str, Getter] = {}
    gap = False
    for name, parameter in subject.named.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            if name in getters:
                keywords[name] = getters[name]
        elif name in getters and not gap:
            positional.append(getters[name])
        else:
            gap = True

    def call(ctx: EvaluatorContext) -> Any:
        values = {name: getter(ctx) for name, getter in keywords.items()}
        return subject.obj(*[getter(ctx) for getter in positional], **values)

    return call


def call_in_order(subject: Subject, getters: list[Getter]) -> Callable[..., Any]:
    """A function of the context that calls the subject with these values, positionally."""

    def call(ctx: EvaluatorContext) -> Any:
        return subject.obj(*[getter(ctx) for getter in getters])

    return call


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One evaluator made callable with a context.

    `call` gives the raw return value or an awaitable of it; `threaded` says that it blocks.
    `inline` is set instead for built-ins that neither block nor change their context.
    """

    kind: str
    form: str
    read: Reader
    call: Callable[[EvaluatorContext], Any]
    threaded: bool
    inline: Callable[[EvaluatorContext], Outcome] | None = None


@dataclass(frozen=True, kw_only=True)
class FunctionDialect:
    """A convention for functions: parameter names with their values, and a reader.

    `positional` gives the names in order for functions that use names of their own.
    """

    kind: str
    form: str
    getters: Mapping[str, Getter]
    read: Reader
    positional: tuple[str, ...] = ()

    def knows(self, subject: Subject) -> bool:
        """Whether every required parameter has a known name, and at least one is taken."""
        taken = [name for name in subject.named if name in self.getters]
        return bool(taken) and all(name in self.getters for name in subject.required)

    def bind(self, subject: Subject) -> Adapter:
        """By name where the names are known, else by position."""
        if self.knows(subject):
            names = [name for name in subject.named if name in self.getters]
            return self.adapter(subject, call_by_name(subject, self.getters), names)
        return self.bind_positional(subject)

    def bind_positional(self, subject: Subject) -> Adapter:
        """By position, for as many parameters as are required."""
        required = len(subject.required)
        if not 1 <= required <= len(self.positional):
            raise EvaluatorRefused(
                f"{subject.name}: not of the kind {self.kind!r}: {self.form}",
                field="evaluators",
                value=subject.name,
                rule=f"must be {self.form}",
            )
        names = self.positional[:required]
        getters = [self.getters[name] for name in names]
        return self.adapter(subject, call_in_order(subject, getters), names)

    def adapter(
        self,
        subject: Subject,
        call: Callable[[EvaluatorContext], Any],
        names: list[str] | tuple[str, ...],
    ) -> Adapter:
        """An adapter of this dialect around `call`; `names` are shown to the user."""
        return Adapter(
            kind=self.kind,
            form=f"{subject.name}({', '.join(names)})",
            read=self.read,
            call=call,
            threaded=not subject.is_async,
        )


BRAINTRUST = FunctionDialect(
    kind="braintrust",
    form="a Braintrust function: output with any of input, expected, metadata",
    getters={
        "output": lambda ctx: private_copy(ctx.output),
        "expected": lambda ctx: private_copy(ctx.expected_output),
        "input": lambda ctx: private_copy(ctx.inputs),
        "metadata": lambda ctx: private_copy(ctx.metadata),
    },
    positional=("output", "expected"),
    read=read_scores,
)


def is_braintrust(subject: Subject) -> bool:
    """Whether it takes `output`, in the singular."""
    return "output" in subject.named and BRAINTRUST.knows(subject)


def bind_autoevals(subject: Subject) -> Adapter:
    """A scorer object. Its `eval` runs in a thread: `eval_async` may run blocking code inline."""
    plain, native = subject.method("eval"), subject.method("eval_async")

    def call(ctx: EvaluatorContext) -> Any:
        method = plain or native
        output = private_copy(ctx.output)
        expected = private_copy(ctx.expected_output)
        extra = {key: private_copy(value) for key, value in ctx.metadata.items()}
        for taken in ("self", "output", "expected"):
            extra.pop(taken, None)
        extra["input"] = private_copy(ctx.inputs)
        return method(output, expected, **extra)  # type: ignore[misc]

    return Adapter(
        kind="autoevals",
        form=f"{type(subject.obj).__name__}.eval(output, expected, input=…)",
        read=read_scores,
        call=call,
        threaded=True,
    )


CONTEXT = FunctionDialect(
    kind="context",
    form="a function of one `ctx` (an EvaluatorContext)",
    getters={"ctx": private_context, "context": private_context},
    positional=("ctx",),
    read=read_result,
)


def takes_context(subject: Subject) -> bool:
    """Whether the only parameter to fill is named or annotated as an evaluator's context."""
    required = subject.required
    if len(required) > 1:
        return False
    named = list(subject.named.values())
    if not required and len(named) != 1:
        return False
    parameter = subject.named[required[0]] if required else named[0]
    if parameter.name in CONTEXT.getters:
        return True
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return "EvaluatorContext" in str(text)


def bind_context(subject: Subject) -> Adapter:
    """A function of the context, whatever its parameter is called."""
    name = (subject.required or list(subject.named))[0] if subject.named else ""
    if name in CONTEXT.getters:
        return CONTEXT.bind(subject)
    return CONTEXT.bind_positional(subject)


def bind_evaluate(subject: Subject) -> Adapter:
    """An object with `evaluate(ctx)` or `evaluate_async(ctx)`, sync or async."""
    method = _evaluate_method(subject)
    inner = Subject.of(method)
    if inner.parameters is not None and (len(inner.required) > 1 or not inner.named):
        raise EvaluatorRefused(
            f"{subject.name}: {method.__name__}({', '.join(inner.named)}) must take one context; "
            "pass a function instead of the object for another form",
            field="evaluators",
            value=subject.name,
            rule="must have an evaluate(ctx)",
        )

    def call(ctx: EvaluatorContext) -> Any:
        return method(private_context(ctx))

    return Adapter(
        kind="evaluator",
        form=f"{type(subject.obj).__name__}.{method.__name__}(ctx)",
        read=read_mapping,
        call=call,
        threaded=not is_async(method),
    )


def _evaluate_method(subject: Subject) -> Callable[..., Any]:
    """`evaluate`, or an `evaluate_async` of the class's own.

    The one inherited from pydantic-evals only calls `evaluate`, in the loop.
    """
    plain, native = subject.method("evaluate"), subject.method("evaluate_async")
    if plain is None or (native is not None and not _inherited(native) and not is_async(plain)):
        return native or subject.obj.evaluate
    return plain


def _inherited(method: Callable[..., Any]) -> bool:
    return str(getattr(method, "__module__", "")).startswith("pydantic_evals.")


def bind_deepeval(subject: Subject) -> Adapter:
    """A metric object. It keeps its result on itself, so each call measures with a copy."""
    quiet = _takes_indicator(subject.method("a_measure"))

    async def call(ctx: EvaluatorContext) -> Any:
        metric = copy.copy(subject.obj)
        await metric.a_measure(_test_case(ctx), **quiet)
        return metric

    return Adapter(
        kind="deepeval",
        form=f"{type(subject.obj).__name__}.a_measure(test_case)",
        read=_read,
        call=call,
        threaded=False,
    )


def _read(name: str, metric: Any) -> list[Outcome]:
    error = getattr(metric, "error", None)
    if error and getattr(metric, "score", None) is None:
        return [failure(name, "exception", str(error))]
    passed = getattr(metric, "success", None)
    return [
        single(
            name,
            getattr(metric, "score", None),
            reason=getattr(metric, "reason", None),
            passed=passed if isinstance(passed, bool) else None,
        )
    ]


def _test_case(ctx: EvaluatorContext) -> Any:
    fields: dict[str, Any] = {
        "input": _text(ctx.inputs),
        "actual_output": _text(ctx.output),
        "expected_output": None if ctx.expected_output is None else _text(ctx.expected_output),
        "context": private_copy(ctx.metadata.get("context")),
        "retrieval_context": private_copy(ctx.metadata.get("retrieval_context")),
    }
    try:
        made: Any = import_module("deepeval.test_case").LLMTestCase(**fields)
    except ImportError:
        return SimpleNamespace(**fields)
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _takes_indicator(method: Any) -> dict[str, bool]:
    try:
        names = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return {}
    return {"_show_indicator": False} if "_show_indicator" in names else {}


class Record(dict[str, Any]):
    """A dict whose keys are attributes too, as DSPy's examples and predictions are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no field {name!r}; there are: {', '.join(self)}") from None


def _record(value: Any, key: str) -> Record:
    if isinstance(value, dict):
        return Record(private_copy(value))
    return Record() if value is None else Record({key: private_copy(value)})


def _example(ctx: EvaluatorContext) -> Record:
    """Inputs and expected output side by side; the expected one wins."""
    return Record(_record(ctx.inputs, "input") | _record(ctx.expected_output, "output"))


def _pred(ctx: EvaluatorContext) -> Record:
    return _record(ctx.output, "output")


DSPY = FunctionDialect(
    kind="dspy",
    form="a DSPy metric: (example, pred, trace=None)",
    getters={
        "example": _example,
        "gold": _example,
        "pred": _pred,
        "prediction": _pred,
        "trace": lambda ctx: None,
        "pred_name": lambda ctx: None,
        "pred_trace": lambda ctx: None,
    },
    positional=("example", "pred", "trace", "pred_name", "pred_trace"),
    read=read_scored,
)


def is_dspy(subject: Subject) -> bool:
    """Whether it takes an example and a prediction."""
    names = subject.named.keys()
    both = names & {"example", "gold"} and names & {"pred", "prediction"}
    return bool(both) and DSPY.knows(subject)


_IDS = uuid.UUID("5b7a4f0e-3c1d-5e7a-9a55-0c6f6a3c2f11")


def as_dict(value: Any, key: str = "output") -> dict[str, Any]:
    """LangSmith's form of a value: a dict as it is, `{}` for none, else `{key: value}`."""
    if isinstance(value, dict):
        return private_copy(value)  # type: ignore[no-any-return]
    return {} if value is None else {key: private_copy(value)}


def make_run(ctx: EvaluatorContext) -> Any:
    """The rollout as a LangSmith `Run`."""
    from langsmith.schemas import Run

    run_id = uuid.uuid5(_IDS, f"run:{ctx.case_id}")
    ended = datetime.now(UTC)
    return Run.model_construct(
        id=run_id,
        trace_id=run_id,
        name="target",
        run_type="chain",
        start_time=ended - timedelta(milliseconds=ctx.latency_ms),
        end_time=ended,
        inputs=as_dict(ctx.inputs, "input"),
        outputs=as_dict(ctx.output),
        extra={"metadata": private_copy(ctx.metadata)},
        reference_example_id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        prompt_tokens=ctx.usage.input_tokens,
        completion_tokens=ctx.usage.output_tokens,
        total_tokens=ctx.usage.tokens,
        dotted_order="",
        child_runs=[],
        tags=[],
        events=[],
    )


def make_example(ctx: EvaluatorContext) -> Any:
    """The case as a LangSmith `Example`."""
    from langsmith.schemas import Example

    return Example.model_construct(
        id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        dataset_id=_IDS,
        inputs=as_dict(ctx.inputs, "input"),
        outputs=as_dict(ctx.expected_output),
        metadata={**private_copy(ctx.metadata), "case_id": ctx.case_id},
        created_at=datetime.now(UTC),
    )


LANGSMITH = FunctionDialect(
    kind="langsmith",
    form="a LangSmith function: any of inputs, outputs, reference_outputs, run, example",
    getters={
        "run": make_run,
        "example": make_example,
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: as_dict(ctx.output),
        "reference_outputs": lambda ctx: as_dict(ctx.expected_output),
        "attachments": lambda ctx: {},
    },
    positional=("run", "example"),
    read=read_result,
)

OPENEVALS = FunctionDialect(
    kind="openevals",
    form="an openevals or agentevals evaluator: (inputs, outputs, reference_outputs, **kwargs)",
    getters={
        **LANGSMITH.getters,
        "outputs": lambda ctx: private_copy(ctx.output),
        "reference_outputs": lambda ctx: private_copy(ctx.expected_output),
    },
    read=read_raw_fields,
)


def is_openevals(subject: Subject) -> bool:
    """Whether it was made by openevals or agentevals."""
    home = subject.module.partition(".")[0]
    return home in ("openevals", "agentevals") and OPENEVALS.knows(subject)


def bind_openevals(subject: Subject) -> Adapter:
    """As LangSmith, with the values as they are and `**kwargs` filled from the case's metadata."""
    adapter = OPENEVALS.bind(subject)
    if not subject.extra:
        return adapter
    from dataclasses import replace

    def call(ctx: EvaluatorContext) -> Any:
        extra: dict[str, Getter] = {
            name: _constant(private_copy(value))
            for name, value in ctx.metadata.items()
            if name.isidentifier() and name not in subject.named
        }
        bound = Subject(_with_keywords(subject.obj, extra, ctx), subject.parameters)
        return call_by_name(bound, OPENEVALS.getters)(ctx)

    return replace(adapter, call=call)


def _constant(value: Any) -> Getter:
    return lambda ctx: value


def _with_keywords(
    function: Callable[..., Any], extra: dict[str, Getter], ctx: EvaluatorContext
) -> Callable[..., Any]:
    values = {name: getter(ctx) for name, getter in extra.items()}
    return lambda *args, **kwargs: function(*args, **{**values, **kwargs})


def bind_run_evaluator(subject: Subject) -> Adapter:
    """An object with `evaluate_run(run, example)` or `aevaluate_run`."""
    plain, native = subject.method("evaluate_run"), subject.method("aevaluate_run")
    method = native if plain is None or _natively_async(subject, native) else plain

    def call(ctx: EvaluatorContext) -> Any:
        return method(make_run(ctx), make_example(ctx))  # type: ignore[misc]

    return Adapter(
        kind="run_evaluator",
        form=f"{type(subject.obj).__name__}.{getattr(method, '__name__', '')}(run, example)",
        read=read_result,
        call=call,
        threaded=not is_async(method),
    )


def _natively_async(subject: Subject, native: Callable[..., Any] | None) -> bool:
    """Whether `aevaluate_run` is more than LangSmith's own hop into a thread pool."""
    if native is None or getattr(subject.obj, "is_async", None) is False:
        return False
    return not str(getattr(native, "__qualname__", "")).startswith("RunEvaluator.")


def _expectations(ctx: EvaluatorContext) -> dict[str, Any]:
    expected = private_copy(ctx.expected_output)
    if isinstance(expected, dict):
        return expected
    return {} if expected is None else {"expected_response": expected}


MLFLOW = FunctionDialect(
    kind="mlflow",
    form="an MLflow scorer: any of inputs, outputs, expectations",
    getters={
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: private_copy(ctx.output),
        "expectations": _expectations,
    },
    read=read_feedback,
)


def is_mlflow(subject: Subject) -> bool:
    """Whether it takes `expectations`, which only MLflow scorers do."""
    return "expectations" in subject.named and MLFLOW.knows(subject)


def _context(ctx: EvaluatorContext) -> dict[str, Any]:
    inputs = private_copy(ctx.inputs)
    variables = inputs if isinstance(inputs, dict) else {"input": inputs}
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


PROMPTFOO = FunctionDialect(
    kind="promptfoo",
    form="a promptfoo assertion: (output, context)",
    getters={"output": lambda ctx: private_copy(ctx.output), "context": _context},
    positional=("output", "context"),
    read=read_grading,
)


def is_promptfoo(subject: Subject) -> bool:
    """Whether it takes `output` and `context`."""
    return subject.named.keys() >= {"output", "context"} and PROMPTFOO.knows(subject)
