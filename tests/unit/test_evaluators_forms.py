"""Every form of evaluator that people already have, unmodified, and how its return is read."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from langsmith.evaluation import EvaluationResult as LangSmithResult
from langsmith.evaluation import RunEvaluator, run_evaluator

from orcheo_agentensor.evaluators import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    NotApplicable,
    Outcome,
    bind_evaluator,
)
from orcheo_agentensor.usage import Usage

CTX = EvaluatorContext(
    case_id="case-1",
    inputs={"question": "1+1"},
    output={"answer": "2"},
    expected_output={"answer": "2"},
    metadata={"language": "en"},
    latency_ms=250.0,
    usage=Usage(calls=1, input_tokens=10, output_tokens=5),
)
TEXTS = EvaluatorContext(case_id="case-2", inputs="1+1", output="2", expected_output="3")


async def outcomes(
    evaluator: Any, ctx: EvaluatorContext = CTX, kind: str | None = None
) -> list[Outcome]:
    found, _ = await bind_evaluator(evaluator, name="e", kind=kind).score(ctx)
    return found


async def outcome(
    evaluator: Any, ctx: EvaluatorContext = CTX, kind: str | None = None
) -> EvaluationResult:
    (found,) = await outcomes(evaluator, ctx, kind)
    assert isinstance(found, EvaluationResult), found
    return found


def returning(value: Any) -> dict[str, Callable[..., Any]]:
    """A function of each dialect that returns `value`."""
    return {
        "context": lambda ctx: value,
        "langsmith": lambda outputs: value,
        "mlflow": lambda outputs, expectations: value,
        "braintrust": lambda output, expected: value,
        "dspy": lambda example, pred, trace=None: value,
        "promptfoo": lambda output, context: value,
    }


# --- LangSmith -----------------------------------------------------------------------------------


@pytest.mark.requirement("evaluation.forms")
async def test_a_langsmith_function_takes_its_arguments_by_name_in_any_order() -> None:
    def correct(reference_outputs: dict[str, Any], outputs: dict[str, Any], k: int = 3) -> bool:
        return outputs == reference_outputs and k == 3

    def everything(attachments: Any, inputs: Any, example: Any, run: Any) -> bool:
        assert attachments == {}
        assert inputs == run.inputs == example.inputs == {"question": "1+1"}
        assert run.outputs == example.outputs == {"answer": "2"}
        assert example.metadata["language"] == "en"
        assert (run.end_time - run.start_time).total_seconds() == 0.25
        assert (run.total_tokens, run.run_type) == (15, "chain")
        return True

    assert (await outcome(correct)).score == 1.0
    assert (await outcome(everything)).passed is True


async def test_a_parameter_with_a_default_is_not_fed_by_position() -> None:
    def evaluator(k: int = 3, outputs: Any = None) -> float:
        assert outputs == {"answer": "2"}
        return float(k)

    assert (await outcome(evaluator)).score == 3.0


async def test_values_that_are_no_dict_are_wrapped_as_langsmith_does() -> None:
    def evaluator(inputs: Any, outputs: Any, reference_outputs: Any) -> bool:
        return (inputs, outputs, reference_outputs) == ("1+1", {"output": "2"}, {"output": "3"})

    assert (await outcome(evaluator, TEXTS)).score == 1.0
    nothing = EvaluatorContext(case_id="x", inputs="q", output=None)
    assert (await outcome(lambda outputs, reference_outputs: not outputs, nothing)).score == 1.0


async def test_two_unknown_names_are_a_run_and_an_example_where_the_kind_is_told() -> None:
    assert (await outcome(lambda r, e: r.outputs == e.outputs, kind="langsmith")).score == 1.0
    assert (await outcome(lambda root_run, example: root_run.outputs == example.outputs)).passed


async def test_partials_methods_and_callable_objects_are_seen_through() -> None:
    class Scorer:
        def method(self, outputs: Any) -> float:
            return 0.25

        async def __call__(self, outputs: Any) -> float:
            return 0.75

    def scaled(outputs: Any, factor: float) -> float:
        return factor

    def positional(outputs: Any, /, inputs: Any) -> bool:
        return outputs == {"answer": "2"} and inputs == {"question": "1+1"}

    assert (await outcome(Scorer().method)).score == 0.25
    assert (await outcome(Scorer())).score == 0.75
    assert (await outcome(functools.partial(scaled, factor=0.5))).score == 0.5
    assert (await outcome(positional)).score == 1.0


async def test_run_evaluator_objects_are_called_with_a_run_and_an_example() -> None:
    class Blocking(RunEvaluator):
        def evaluate_run(self, run: Any, example: Any = None, evaluator_run_id: Any = None) -> Any:
            return LangSmithResult(key="k", score=run.outputs == example.outputs, comment="why")

    class Native(RunEvaluator):
        def evaluate_run(self, run: Any, example: Any = None, evaluator_run_id: Any = None) -> Any:
            raise AssertionError("the async one is there")

        async def aevaluate_run(self, run: Any, example: Any = None, evaluator_run_id: Any = None):  # type: ignore[no-untyped-def]
            return {"results": [LangSmithResult(key="k", score=0.5)]}

    @run_evaluator
    def decorated(run: Any, example: Any) -> Any:
        return {"score": 0.25}

    found = await outcome(Blocking())
    assert (found.score, found.reason) == (1.0, "why")
    assert (await outcome(Native())).name == "e.k"
    assert (await outcome(decorated)).score == 0.25


@pytest.mark.parametrize("dialect", ["langsmith", "context"])
async def test_a_dict_is_one_result_of_a_function(dialect: str) -> None:
    async def read(value: Any) -> EvaluationResult:
        return await outcome(returning(value)[dialect])

    one = await read({"key": "k", "score": 0.5, "comment": "so-so"})
    assert (one.name, one.score, one.reason, one.passed) == ("e", 0.5, "so-so", None)
    two = await read({"score": True, "reason": "fine", "label": "good"})
    assert (two.score, two.passed, two.label, two.reason) == (1.0, True, "good", "fine")
    three = await read({"value": "blue", "comment": "c"})
    assert (three.score, three.label, three.reason) == (None, "blue", "c")
    assert (await read({"score": 0.4, "passed": True})).passed is True
    assert (await read({"score": 1, "value": "A"})).label == "A"


@pytest.mark.parametrize("dialect", ["langsmith", "context"])
async def test_several_results_are_a_list_or_under_results(dialect: str) -> None:
    results = [{"key": "a", "score": 1}, {"key": "b", "value": "x"}]
    for value in (results, {"results": results}, SimpleNamespace(results=results)):
        found = await outcomes(returning(value)[dialect])
        assert [one.name for one in found] == ["e.a", "e.b"]
    for broken in ([{"score": 1}], [1, 2], [{"key": "a", "score": 1}] * 2):
        (found_one,) = await outcomes(returning(broken)[dialect])
        assert isinstance(found_one, EvaluatorFailure)
        assert (found_one.name, found_one.kind) == ("e", "wrong_shape")


@pytest.mark.requirement("evaluation.forms")
async def test_an_openevals_evaluator_gets_values_as_they_are_and_metadata_as_variables() -> None:
    def judge(*, inputs: Any = None, outputs: Any, reference_outputs: Any = None, **kwargs: Any):  # type: ignore[no-untyped-def]
        assert (outputs, reference_outputs) == ("2", "3")
        return {"key": "k", "score": kwargs == {"context": "c"}, "comment": "r", "metadata": None}

    judge.__module__ = "openevals.llm"
    ctx = EvaluatorContext(
        case_id="x",
        inputs="q",
        output="2",
        expected_output="3",
        metadata={"context": "c", "inputs": "not this one", "not a name": 1},
    )
    assert (await outcome(judge, ctx)).score == 1.0
    assert "openevals" in bind_evaluator(judge).binding


async def test_raw_structured_output_of_openevals_is_a_metric_per_field() -> None:
    raw = {"reasoning": "because", "tone": 0.5, "polite": True, "class": "ok", "more": [1]}
    found = await outcomes(lambda outputs: raw, kind="openevals")
    assert [(one.name, getattr(one, "score", None)) for one in found] == [
        ("e.tone", 0.5),
        ("e.polite", 1.0),
        ("e.class", None),
    ]
    assert {one.reason for one in found} == {"because"}


# --- contexts and pydantic-evals -----------------------------------------------------------------


async def test_a_function_of_a_context_is_told_by_name_or_annotation() -> None:
    async def annotated(anything: EvaluatorContext, strict: bool = True) -> bool:
        return anything.output == anything.expected_output and strict

    assert (await outcome(annotated)).score == 1.0
    assert (await outcome(lambda context: context.case_id == "case-1")).score == 1.0
    assert (await outcome(lambda whatever: whatever.duration, kind="context")).score == 0.25


@dataclass
class Reason:
    """As pydantic-evals' `EvaluationReason`."""

    value: Any
    reason: str | None = None


class Evaluates:
    """As a pydantic-evals evaluator."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def evaluate(self, ctx: Any) -> Any:
        return self.value

    def get_default_evaluation_name(self) -> str:
        return "Custom"


async def test_a_mapping_is_several_results_of_a_pydantic_evals_evaluator() -> None:
    found = await outcomes(Evaluates({"score": 1, "comment": "c", "ok": Reason(True, "why")}))
    assert [(one.name, getattr(one, "score", 0)) for one in found] == [
        ("e.score", 1.0),
        ("e.comment", None),
        ("e.ok", 1.0),
    ]
    assert bind_evaluator(Evaluates(1)).name == "Custom"
    one = await outcome(Evaluates(Reason(0.5, "half")))
    assert (one.score, one.reason) == (0.5, "half")


@pytest.mark.parametrize(
    ("value", "kind"),
    [([1], "wrong_shape"), ((1,), "wrong_shape"), (float("nan"), "not_finite")],
)
async def test_what_pydantic_evals_refuses_is_a_failure(value: Any, kind: str) -> None:
    (found,) = await outcomes(Evaluates(value))
    assert isinstance(found, EvaluatorFailure)
    assert found.kind == kind


async def test_a_number_in_a_text_is_a_label_of_a_pydantic_evals_evaluator() -> None:
    one = await outcome(Evaluates("3"))
    assert (one.score, one.label) == (None, "3")


async def test_an_async_evaluate_or_one_of_its_own_is_awaited() -> None:
    class Async:
        async def evaluate(self, ctx: Any) -> float:
            return ctx.metrics["input_tokens"] / 10

    class OnlyAsync:
        async def evaluate_async(self, ctx: Any) -> str:
            return ctx.name

    assert (await outcome(Async())).score == 1.0
    assert (await outcome(OnlyAsync())).label == "case-1"


# --- the others ----------------------------------------------------------------------------------


async def test_an_mlflow_scorer_gets_expectations() -> None:
    @dataclass
    class Feedback:
        value: Any
        rationale: str | None = None
        name: str = "feedback"

    def scorer(*, inputs: Any = None, outputs: Any = None, expectations: Any = None) -> Any:
        if expectations == {"expected_response": "3"}:
            return [Feedback("no", "differs", "a"), Feedback(0.5, None, "b")]
        return Feedback("yes" if outputs == expectations else "no", "same")

    one = await outcome(scorer)
    assert (one.score, one.passed, one.label, one.reason) == (1.0, True, "yes", "same")
    found = await outcomes(scorer, TEXTS)
    assert [(o.name, getattr(o, "score", None)) for o in found] == [("e.a", 0.0), ("e.b", 0.5)]


async def test_a_braintrust_function_and_an_autoevals_scorer_get_output_and_expected() -> None:
    def score(name: str, value: float | None, **metadata: Any) -> SimpleNamespace:
        return SimpleNamespace(name=name, score=value, metadata=metadata, error=None)

    class Scorer:
        def eval(self, output: Any, expected: Any = None, **kwargs: Any) -> Any:
            assert kwargs == {"language": "en", "input": {"question": "1+1"}}
            return score("Scorer", float(output == expected), rationale="equal")

        async def eval_async(self, output: Any, expected: Any = None, **kwargs: Any) -> Any:
            raise AssertionError("eval is run in a thread")

    class Skips:
        async def eval_async(self, output: Any, expected: Any = None, **kwargs: Any) -> Any:
            return score("Skips", None)

    one = await outcome(Scorer())
    assert (one.score, one.reason) == (1.0, "equal")
    (skipped,) = await outcomes(Skips())
    assert isinstance(skipped, NotApplicable)
    assert (await outcome(lambda input, output, expected=None: output == expected)).score == 1.0
    listed = await outcomes(lambda output: [score("a", 1), {"name": "b", "score": 0}])
    assert [one.name for one in listed] == ["e.a", "e.b"]


async def test_a_dspy_metric_reads_fields_as_attributes() -> None:
    def metric(gold: Any, pred: Any, trace: Any, pred_name: Any = None) -> Any:
        assert (trace, gold.question) == (None, "1+1")
        return {"score": gold.answer == pred.answer, "feedback": "matches"}

    one = await outcome(metric)
    assert (one.score, one.reason) == (1.0, "matches")
    (failed,) = await outcomes(lambda example, pred: pred.nothing)
    assert isinstance(failed, EvaluatorFailure)
    assert failed.reason == "AttributeError: no field 'nothing'; there are: answer"


async def test_a_promptfoo_assertion_gets_variables_and_gives_named_scores() -> None:
    def get_assert(output: Any, context: dict[str, Any]) -> Any:
        assert context["vars"] == {"question": "1+1", "expected": {"answer": "2"}}
        return {"pass": False, "score": 0.5, "reason": "r", "namedScores": {"tone": 0.25}}

    whole, tone = await outcomes(get_assert)
    assert whole == EvaluationResult(name="e", score=0.5, passed=False, reason="r")
    assert tone == EvaluationResult(name="e.tone", score=0.25)
    assert (await outcome(lambda output, context: {"pass": True})).score == 1.0


async def test_a_deepeval_metric_is_measured_on_a_copy() -> None:
    class Metric:
        score: float | None = None
        reason: str | None = None
        success: bool | None = None

        async def a_measure(self, test_case: Any, _show_indicator: bool = True) -> float:
            assert not _show_indicator
            assert test_case.actual_output == "2"
            self.score, self.reason, self.success = 0.5, "meh", True
            return self.score

    metric = Metric()
    one = await outcome(metric)
    assert (one.score, one.reason, one.passed) == (0.5, "meh", True)
    assert metric.score is None


# --- values, in every form -----------------------------------------------------------------------


class Scalar:
    """As a NumPy scalar or a zero-dimensional tensor."""

    def __init__(self, value: Any) -> None:
        self.value_ = value

    def item(self) -> Any:
        return self.value_


@pytest.mark.parametrize("dialect", list(returning(None)))
async def test_bools_and_numbers_are_scores_in_every_form(dialect: str) -> None:
    for value, score, passed in [
        (True, 1.0, True),
        (False, 0.0, False),
        (2, 2.0, None),
        (Decimal("0.5"), 0.5, None),
        (Scalar(True), 1.0, True),
        (Scalar(0.5), 0.5, None),
    ]:
        found = await outcome(returning(value)[dialect])
        assert (found.score, found.passed) == (score, passed)


@pytest.mark.parametrize("dialect", list(returning(None)))
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), "not_finite"),
        (float("-inf"), "not_finite"),
        (10**400, "wrong_shape"),
        (1e308, "wrong_shape"),
        ("NaN", "not_finite"),
        (object(), "wrong_shape"),
        ("", "wrong_shape"),
    ],
)
async def test_what_is_no_score_is_a_failure_in_every_form(
    dialect: str, value: Any, kind: str
) -> None:
    (found,) = await outcomes(returning(value)[dialect])
    assert isinstance(found, EvaluatorFailure)
    assert (found.name, found.kind) == ("e", kind)


@pytest.mark.parametrize("dialect", list(returning(None)))
async def test_our_own_results_are_taken_in_every_form(dialect: str) -> None:
    result = EvaluationResult(score=0.5, reason="r", name="m")
    assert (await outcome(returning(result)[dialect])).name == "e"
    assert (await outcome(returning([result])[dialect])).name == "e.m"


@pytest.mark.parametrize("dialect", [*returning(None), "evaluator"])
@pytest.mark.parametrize("value", [None, [], {}])
async def test_nothing_is_not_applicable_in_every_form(dialect: str, value: Any) -> None:
    made = Evaluates(value) if dialect == "evaluator" else returning(value)[dialect]
    (found,) = await outcomes(made)
    assert found == NotApplicable(name="e")


@pytest.mark.parametrize("value", [{"score": None}, {"results": []}, [{"key": "k", "score": None}]])
async def test_no_score_is_not_applicable_to_a_langsmith_function(value: Any) -> None:
    (found,) = await outcomes(lambda outputs: value)
    assert isinstance(found, NotApplicable)


class Grade(enum.Enum):
    GOOD = 0.75
    NAMED = "good"


@pytest.mark.parametrize("dialect", list(returning(None)))
async def test_an_enum_is_its_value(dialect: str) -> None:
    assert (await outcome(returning(Grade.GOOD)[dialect])).score == 0.75
    if dialect not in ("braintrust", "promptfoo"):  # which take no labels
        assert (await outcome(returning(Grade.NAMED)[dialect])).label == "good"


@pytest.mark.parametrize("value", ["0.25", {"score": "0.25"}, {"value": " 0.25"}])
async def test_a_number_in_a_text_is_a_score(value: Any) -> None:
    assert (await outcome(lambda outputs: value)).score == 0.25


@pytest.mark.parametrize("value", [{"accuracy": 1.0}, {"passed": True}])
async def test_a_dict_without_a_score_is_a_failure(value: dict[str, Any]) -> None:
    (found,) = await outcomes(lambda outputs: value)
    assert isinstance(found, EvaluatorFailure)
