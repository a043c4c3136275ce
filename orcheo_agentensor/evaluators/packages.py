"""The conventions of other packages: one class each, made as `dialects.py` says."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.context import (
    EvaluatorContext,
    Outcome,
    as_text,
)
from orcheo_agentensor.evaluators.dialects import (
    Adapter,
    FunctionDialect,
    Getter,
    ObjectDialect,
    Subject,
    as_dict,
    called_tools,
    is_async,
    made_by,
    node_runs,
    taped,
)
from orcheo_agentensor.evaluators.returns import (
    failure,
    field_of,
    holds_number,
    several,
    single,
    structured,
    wrong_shape,
)
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.evaluators.tool_calls import tool_calls
from orcheo_agentensor.json_values import private_copy
from orcheo_agentensor.media import text_of_blocks
from orcheo_agentensor.upstream import ragas_function


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


_INPUT = ("input", "user_input", "prompt", "question", "query")
_OUTPUT = ("output", "response", "answer", "statement", "text")
_EXPECTED = ("expected", "expected_output", "reference", "ground_truth")
_RETRIEVED = (
    "retrieval_context",
    "retrieved_contexts",
    "context",
    "contexts",
    "source",
    "documents",
    "docs",
)


def plain_text(value: Any) -> str:
    """A value as the text that packages for texts compare: a text, or that of an object with one
    field, of content blocks or of a state's last message; anything else as JSON."""
    if isinstance(value, dict):
        messages = value.get("messages")
        if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
            return plain_text(messages[-1].get("content"))
        if len(value) == 1:
            (only,) = value.values()
            value = only if isinstance(only, str) else value
    text = text_of_blocks(value)
    if text is None:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text


def case_by_name(ctx: EvaluatorContext) -> dict[str, Any]:
    """A case and its output under the names that packages use.

    The fields of metadata, inputs and output go by their own names. The names of an input, an
    output and an expected output mean the field of that name there, else the whole of it.
    """
    parts = [private_copy(part) for part in (ctx.metadata, ctx.inputs, ctx.output)]
    found: dict[str, Any] = {}
    for part in parts:
        found |= part if isinstance(part, dict) else {}
    wholes = (*parts[1:], private_copy(ctx.expected_output))
    for names, whole in zip((_INPUT, _OUTPUT, _EXPECTED), wholes, strict=True):
        for name in names:
            if isinstance(whole, dict) and name in whole:
                found[name] = whole[name]
            elif whole is not None:
                found[name] = plain_text(whole) if isinstance(whole, dict) else whole
    if (texts := retrieved(ctx)) is not None:
        for name in _RETRIEVED:
            found.setdefault(name, texts)
    return found


def _named_call(taken: Subject, function: Callable[..., Any]) -> Getter:
    """A call of `function` with the parts of a case that its signature names.

    Where a text is asked for, a value is given as its text. A case that lacks a required part is a
    failure that names it.
    """
    texts = {name for name, parameter in taken.named.items() if _is_annotated(parameter, _TEXT)}

    def call(ctx: EvaluatorContext) -> Any:
        there = case_by_name(ctx)
        lacking = [name for name in taken.required if name not in there]
        if lacking:
            reason = f"case {ctx.case_id}: {', '.join(lacking)} is missing"
            return failure("", "missing", f"{reason}; give it in metadata, inputs or output")
        given = {name: there[name] for name in taken.named if name in there}
        return function(
            **{name: _joined(item) if name in texts else item for name, item in given.items()}
        )

    return call


def _joined(value: Any) -> str:
    """A value as text, several texts one below the other."""
    several_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "\n".join(value) if several_texts else plain_text(value)


_TEXT = re.compile(r"(\w+\.)?(Optional\[)?str\]?( \| None)?")
_TEXTS = re.compile(r"(\w+\.)?[Ll]ist\[str\]")


def _is_annotated(parameter: inspect.Parameter | None, pattern: re.Pattern[str]) -> bool:
    found = "" if parameter is None else parameter.annotation
    text = found if isinstance(found, str) else inspect.formatannotation(found)
    return pattern.fullmatch(text) is not None


class DeepEval(ObjectDialect):
    """DeepEval metrics: `a_measure(test_case)` leaves score, reason and success on the object."""

    kind = "deepeval"
    form = "an object with a_measure(test_case)"
    methods = ("a_measure",)

    def bind(self, subject: Subject) -> Adapter:
        """Measure each case with a copy, because the metric keeps its result on itself."""
        parameters = Subject.of(subject.method("a_measure")).parameters or ()
        quiet = {"_show_indicator": False} if "_show_indicator" in parameters else {}
        spoken = made_by(subject.obj, "deepeval", "BaseConversationalMetric")
        test_case = self._conversation if spoken else self._test_case

        async def call(ctx: EvaluatorContext) -> Any:
            metric, case = copy.copy(subject.obj), test_case(ctx)
            try:
                await metric.a_measure(case, **quiet)
            except NotImplementedError:  # a metric of one's own that only blocks
                await run_in_thread(metric.measure, case)
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
    def _conversation(ctx: EvaluatorContext) -> Any:
        """The messages of the output as turns, or the input and the output as two."""
        messages = ctx.output.get("messages") if isinstance(ctx.output, dict) else None
        if not isinstance(messages, list):
            said = (("user", ctx.inputs), ("assistant", ctx.output))
            messages = [{"role": role, "content": plain_text(text)} for role, text in said]
        module: Any = import_module("deepeval.test_case")
        turns = [
            module.Turn(role=message["role"], content=plain_text(message["content"]))
            for message in messages
            if message["role"] in ("user", "assistant") and message.get("content")
        ]
        known = ("scenario", "expected_outcome", "chatbot_role", "user_description", "context")
        fields = {name: ctx.metadata[name] for name in known if name in ctx.metadata}
        return module.ConversationalTestCase(turns=turns, **fields)

    @staticmethod
    def _test_case(ctx: EvaluatorContext) -> Any:
        expected = ctx.expected_output
        fields: dict[str, Any] = {
            "input": plain_text(ctx.inputs),
            "actual_output": plain_text(ctx.output),
            "expected_output": None if expected is None else plain_text(expected),
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
        called = called_tools(ctx)
        for name, calls in (("tools_called", called), ("expected_tools", tool_calls(wanted))):
            fields[name] = [
                module.ToolCall(name=tool, input_parameters=arguments or None)
                for tool, arguments in calls
            ]
        return module.LLMTestCase(**fields)


def _output(entry: Mapping[str, Any]) -> Any:
    found = taped(entry["output"])
    return found if isinstance(found, dict | list) else None


def retrieved(ctx: EvaluatorContext) -> list[str] | None:
    """The texts of a rollout's retrieval: from metadata, inputs, the output or the tape."""
    runs = node_runs(ctx.tape)
    for place in (ctx.metadata, ctx.inputs, ctx.output, *(_output(entry) for entry in runs)):
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
        schema = getattr(getattr(subject.obj, "input_schema", None), "model_fields", {})
        texts = {name for name, field in schema.items() if field.annotation is str}

        def call(ctx: EvaluatorContext) -> Any:
            there = case_by_name(ctx)
            return method({n: _joined(v) if n in texts else v for n, v in there.items()})

        adapter = self.adapter(form, call, threaded=not is_async(method))
        lower = getattr(subject.obj, "direction", None) == "minimize"
        return replace(adapter, taped=True, lower_is_better=lower)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """`Score(name, score, label, explanation)`, or a list of them; one goes by `name`."""
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        return _named(name, value, _explained)


def _explained(name: str, value: Any) -> Outcome:
    score, label = field_of(value, "score"), field_of(value, "label")
    reason = field_of(value, "explanation")
    return single(name, label if score is None else score, reason=reason, label=label)


class Ragas(ObjectDialect):
    """Ragas metrics: of samples, of parts by name, and of functions that it has decorated."""

    kind = "ragas"
    form = "a Ragas metric: single_turn_ascore, multi_turn_ascore, or ascore(user_input, …)"
    methods = ("single_turn_ascore", "multi_turn_ascore", "ascore")

    def matches(self, subject: Subject) -> bool:
        owner = getattr(subject.function, "__self__", subject.obj)
        if made_by(owner, "ragas") or any(map(subject.method, self.methods[:2])):
            return True
        method = subject.method("ascore")
        known = {*_INPUT, *_OUTPUT, *_EXPECTED, *_RETRIEVED, "reference_contexts"}
        names = () if method is None else Subject.of(method).named
        return bool(names) and set(names) <= known

    def bind(self, subject: Subject) -> Adapter:
        metric, kind = subject.obj, type(subject.obj).__name__
        owner = getattr(subject.function, "__self__", metric)
        columns = getattr(metric, "required_columns", None) or {}
        wanted = str(columns)
        if (function := ragas_function(metric)) is not None:
            taken = Subject.of(function)

            call: Getter = lambda ctx: _named_call(taken, copy.copy(metric).score)(ctx)  # noqa: E731
            adapter = self.adapter(f"{subject.name}({', '.join(taken.named)})", call, threaded=True)
        elif method := subject.method("single_turn_ascore"):
            call = functools.partial(self._single_turn, method)
            adapter = self.adapter(f"{kind}.single_turn_ascore(sample)", call, threaded=False)
        elif method := subject.method("multi_turn_ascore"):
            call = functools.partial(self._multi_turn, method)
            adapter = self.adapter(f"{kind}.multi_turn_ascore(sample)", call, threaded=False)
        elif callable(variables := getattr(owner, "get_variables", None)):
            if metric is owner:
                self._refuse_without_model(subject)
            names = {name: inspect.Parameter(name, _BY_NAME) for name in variables()}
            taken = Subject(metric, names)
            form = f"{type(owner).__name__}.ascore({', '.join(names)})"
            adapter = self.adapter(form, _named_call(taken, metric), threaded=not is_async(metric))
        else:
            taken = Subject.of(metric.ascore)
            wanted = form = f"{kind}.ascore({', '.join(taken.named)})"
            said = taken.named.get("user_input")
            talk = said is not None and not _is_annotated(said, _TEXT)
            call = (self._talk if talk else _named_call)(taken, metric.ascore)
            adapter = self.adapter(form, call, threaded=False)
        return replace(adapter, taped="retrieved_contexts" in wanted)

    @staticmethod
    def _refuse_without_model(subject: Subject) -> None:
        raise EvaluatorRefused(
            f"{subject.name} of ragas takes its model with each call: give "
            "functools.partial(metric.ascore, llm=llm)",
            field="evaluators",
            value=subject.name,
            rule="must have its model",
        )

    def _single_turn(self, method: Callable[..., Any], ctx: EvaluatorContext) -> Any:
        try:
            sample = import_module("ragas.dataset_schema").SingleTurnSample
        except ImportError:
            return method(SimpleNamespace(**case_by_name(ctx)))
        return method(self._sample(sample, case_by_name(ctx)))

    @staticmethod
    def _sample(kind: Any, there: Mapping[str, Any]) -> Any:
        """A sample with what it has fields for, texts as such."""
        texts = ("user_input", "response", "reference")
        fields = {name: there[name] for name in kind.model_fields if name in there}
        return kind(**{n: plain_text(v) if n in texts else v for n, v in fields.items()})

    def _multi_turn(self, method: Callable[..., Any], ctx: EvaluatorContext) -> Any:
        sample = import_module("ragas.dataset_schema").MultiTurnSample
        there = self._turns(ctx)
        if isinstance(there.get("reference"), list | dict):
            del there["reference"]
        return method(sample(**{n: there[n] for n in sample.model_fields if n in there}))

    def _talk(self, taken: Subject, method: Callable[..., Any]) -> Getter:
        """A call of a metric of conversations by name."""
        return lambda ctx: method(**{n: v for n, v in self._turns(ctx).items() if n in taken.named})

    @staticmethod
    def _turns(ctx: EvaluatorContext) -> dict[str, Any]:
        """The parts of a case, with its messages and expected tool calls as ragas has them."""
        module: Any = import_module("ragas.messages")
        kinds = {"user": module.HumanMessage, "assistant": module.AIMessage}
        there, turns = case_by_name(ctx), []
        for message in ctx.output.get("messages", ()) if isinstance(ctx.output, dict) else ():
            text = plain_text(message.get("content") or "")
            calls = [
                module.ToolCall(name=name, args=arguments or {})
                for name, arguments in tool_calls(message.get("tool_calls") or [])
            ]
            if message["role"] == "tool":
                turns.append(module.ToolMessage(content=text))
            elif kind := kinds.get(message["role"]):
                turns.append(kind(content=text, **({"tool_calls": calls} if calls else {})))
        wanted = tool_calls(ctx.metadata.get("reference_tool_calls", ctx.expected_output))
        expected = [module.ToolCall(name=name, args=args or {}) for name, args in wanted]
        return there | {"user_input": turns, "reference_tool_calls": expected}

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A number, or a `MetricResult(value, reason)`, which has no value where it failed."""
        if not hasattr(value, "value"):
            return [single(name, value)]
        reason = getattr(value, "reason", None)
        if value.value is None and reason:
            return [failure(name, "exception", str(reason))]
        return [single(name, value.value, reason=reason)]


_BY_NAME = inspect.Parameter.KEYWORD_ONLY


class Opik(ObjectDialect):
    """Opik metrics: `score(output, …)` by name gives `ScoreResult`s."""

    kind = "opik"
    form = "an Opik metric: score(output, reference=…)"
    methods = ("score",)

    def matches(self, subject: Subject) -> bool:
        method = subject.method("score")
        if method is None or made_by(subject.obj, "opik"):
            return method is not None
        known = {*_INPUT, *_OUTPUT, *_EXPECTED, *_RETRIEVED}
        required = Subject.of(method).required
        return "output" in required and set(required) <= known

    def bind(self, subject: Subject) -> Adapter:
        method: Any = subject.method("score")
        taken = Subject.of(method)
        form = f"{type(subject.obj).__name__}.score({', '.join(taken.named)})"
        call = _named_call(taken, method)
        if whole := _is_annotated(taken.named.get("output"), _TEXTS):
            call = _corpus_call(taken, method)
        adapter = self.adapter(form, call, threaded=not is_async(method))
        return replace(adapter, whole=whole, taped="context" in taken.named)

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


def _corpus_call(taken: Subject, function: Callable[..., Any]) -> Getter:
    def call(contexts: Any) -> Any:
        there = [case_by_name(ctx) for ctx in contexts]
        names = [name for name in taken.named if all(name in one for one in there)]
        return function(**{name: [one[name] for one in there] for name in names})

    return call


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
        if lacking := sorted({"trace", "session"} & set(subject.required)):
            raise EvaluatorRefused(
                f"{subject.name} needs MLflow's {' and '.join(lacking)}, which is not recorded "
                "here; write a scorer of inputs, outputs and expectations, or a LangSmith function "
                "def f(run, example), which finds the nodes in run.child_runs",
                field="evaluators",
                value=subject.name,
                rule="must not need a trace",
            )
        if run is None or not made_by(subject.obj, "mlflow", "Scorer"):
            return super().bind(subject)
        taken = set(subject.named) & self.values.keys() or self.values.keys()

        def call(ctx: EvaluatorContext) -> Any:
            return run(**{name: self.values[name](ctx) for name in taken})

        form = f"{type(subject.obj).__name__}.run({', '.join(sorted(taken))})"
        return self.adapter(form, call, threaded=True)

    def outcomes(self, name: str, value: Any) -> list[Outcome]:
        """A scalar, `Feedback(name, value, rationale)` or a list; "yes" is 1.0."""
        if isinstance(found := getattr(value, "value", None), Mapping):
            return structured(name, {**found, "rationale": getattr(value, "rationale", None)})
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


class TruLens(ObjectDialect):
    """TruLens feedback functions, and the `Metric` or `Feedback` made of one."""

    kind = "trulens"
    form = "a TruLens feedback function, or a Metric of one: (prompt, response), (text), …"
    methods = ("imp",)

    def matches(self, subject: Subject) -> bool:
        owner = getattr(subject.function, "__self__", subject.obj)
        home = str(getattr(subject.function, "__module__", "")).partition(".")[0]
        return home == "trulens" or made_by(owner, "trulens")

    def bind(self, subject: Subject) -> Adapter:
        """Call by the names of the parameters; a Metric's selectors say what they are."""
        taken = Subject.of(getattr(subject.obj, "imp", None) or subject.obj)
        selectors = getattr(subject.obj, "selectors", None) or {}
        places = {name: self._place(selectors.get(name)) or name for name in taken.named}
        there = {places[name]: parameter for name, parameter in taken.named.items()}

        def function(**given: Any) -> Any:
            named = {name: given[place] for name, place in places.items() if place in given}
            return subject.obj(**named)

        form = f"{subject.name}({', '.join(taken.named)})"
        call = _named_call(Subject(function, there), function)
        adapter = self.adapter(form, call, threaded=not is_async(taken.obj))
        lower = getattr(subject.obj, "higher_is_better", True) is False
        return replace(adapter, taped=bool(there.keys() & set(_RETRIEVED)), lower_is_better=lower)

    @staticmethod
    def _place(selector: Any) -> str | None:
        """The part of a case that a selector stands for."""
        kind = getattr(getattr(selector, "span_type", None), "value", None)
        attribute = str(getattr(selector, "span_attribute", None) or "")
        if kind == "retrieval":
            return "context"
        last = attribute.rpartition(".")[2]
        return last if kind == "record_root" and last in ("input", "output") else None

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
