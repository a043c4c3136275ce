"""The conventions of other packages: one class each, made as `dialects.py` says."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

from orcheo_agentensor.evaluators.builtin import tool_calls
from orcheo_agentensor.evaluators.context import EvaluatorContext, Outcome, as_text
from orcheo_agentensor.evaluators.dialects import (
    Adapter,
    FunctionDialect,
    Getter,
    ObjectDialect,
    Subject,
    as_dict,
    call_by_name,
    is_async,
    made_by,
    taped,
)
from orcheo_agentensor.evaluators.returns import (
    failure,
    field_of,
    holds_number,
    several,
    single,
    wrong_shape,
)
from orcheo_agentensor.json_values import private_copy


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


class Mlflow(FunctionDialect):
    """MLflow scorers, told by their class, or by `expectations`, a name that only they have."""

    kind = "mlflow"
    form = "an MLflow Scorer, or a function of any of inputs, outputs, expectations"
    values: ClassVar = {
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: private_copy(ctx.output),
        "expectations": lambda ctx: as_dict(ctx.expected_output, "expected_response"),
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
    expected = as_dict(ctx.expected_output, "output")
    return AttributeDict(as_dict(ctx.inputs, "input") | expected)


def _dspy_prediction(ctx: EvaluatorContext) -> AttributeDict:
    return AttributeDict(as_dict(ctx.output, "output"))


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
