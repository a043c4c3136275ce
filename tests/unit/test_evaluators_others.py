"""Evaluators of other packages by their own protocol, and what decides how a function is taken."""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from langsmith.schemas import Example, Run
from pydantic import BaseModel

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators import EvaluatorContext, bind_evaluator, bind_evaluators
from orcheo_agentensor.settings import Settings

CTX = EvaluatorContext(
    case_id="c",
    inputs={"question": "Capital of France?"},
    output={"answer": "Paris"},
    expected_output="Paris",
    metadata={"retrieved_contexts": ["Paris is the capital."], "context": "Paris is it."},
)


async def outcomes(evaluator: Any, ctx: EvaluatorContext = CTX) -> list[Any]:
    found, _usage = await bind_evaluator(evaluator, name="e").score(ctx)
    return found


def class_of(package: str, name: str, **body: Any) -> Any:
    """A class as a package defines it."""
    return type(name, (), {"__module__": f"{package}.inner", **body})


# --- annotations decide ---------------------------------------------------------------------------


async def test_run_and_example_annotations_decide_whatever_the_names_and_order() -> None:
    def f(a: Example, b: Run) -> bool:
        return b.outputs == {"answer": "Paris"} and a.outputs == {"output": "Paris"}

    def texts(a: Example | None, b: langsmith.schemas.Run) -> bool:  # noqa: F821
        return b.outputs == {"answer": "Paris"} and a is not None

    assert [(await outcomes(one))[0].score for one in (f, texts)] == [1.0, 1.0]
    assert bind_evaluator(f).binding.startswith("langsmith: f(a, b)")


def lists(outputs: list[dict], reference_outputs: list[dict]) -> float:  # type: ignore[type-arg]
    return 0.5


def annotated(r: list[Run], e: list[Example]) -> float:
    return 0.5


@pytest.mark.parametrize("form", [lists, annotated, lambda runs, examples: 0.5])
def test_lists_make_a_summary_evaluator(form: Callable[..., Any]) -> None:
    bound = bind_evaluator(form)
    assert bound.binding.startswith("langsmith_summary: ")
    assert bound.adapter.whole
    assert not bind_evaluator(lists, kind="langsmith").adapter.whole


def pairwise(inputs: dict, outputs: list[dict]) -> list[float]:  # type: ignore[type-arg]
    return [0.0, 1.0]


@pytest.mark.parametrize("form", [pairwise, lambda runs, example: [0, 1]])
def test_pairwise_forms_are_refused_with_the_reason(form: Callable[..., Any]) -> None:
    with pytest.raises(EvaluatorRefused, match="compares several outputs for one case"):
        bind_evaluator(form)


def ratio(s1, s2, *, processor=None):  # type: ignore[no-untyped-def]
    return 1.0


def accuracy(y_true, y_pred):  # type: ignore[no-untyped-def]
    return 1.0


@pytest.mark.parametrize(
    ("helper", "wrapper"),
    [
        (ratio, "ratio(outputs['output'], reference_outputs['output'])"),
        (accuracy, "accuracy(reference_outputs['output'], outputs['output'])"),
    ],
)
def test_helpers_of_two_values_are_refused_with_the_wrapper(helper: Any, wrapper: str) -> None:
    with pytest.raises(EvaluatorRefused) as refused:
        bind_evaluator(helper)
    assert f"lambda outputs, reference_outputs: {wrapper}" in refused.value.message


def test_an_evaluator_that_compares_is_refused_with_what_to_write() -> None:
    comparing = class_of("anything", "Comparison", compare_runs=lambda self, runs, example: {})()
    with pytest.raises(EvaluatorRefused, match=r"use LLMJudge\(pairwise=True\)"):
        bind_evaluator(comparing)


def test_a_scorer_that_needs_a_trace_is_refused_with_what_to_write() -> None:
    def call(self: Any, *, trace: Any) -> float:
        return 0.0

    scorer = class_of("mlflow", "Scorer", run=lambda self, **given: 0.0, __call__=call)()
    with pytest.raises(EvaluatorRefused, match="write a scorer of inputs, outputs"):
        bind_evaluator(scorer)


def test_where_less_is_better_the_scale_has_to_be_given() -> None:
    def evaluate(self: Any, eval_input: dict[str, Any]) -> list[Any]:
        return [SimpleNamespace(name="toxicity", score=0.25, label=None, explanation=None)]

    toxic = class_of("phoenix", "Toxicity", evaluate=evaluate, direction="minimize")()
    with pytest.raises(EvaluatorRefused, match=r"bind_evaluator\(Toxicity, scale=\(1, 0\)\)"):
        bind_evaluator(toxic)
    assert bind_evaluator(toxic, scale=(1, 0)).name == "Toxicity"


# --- names ----------------------------------------------------------------------------------------


def judge(feedback_key: str) -> Callable[..., Any]:
    """As openevals makes its judges."""

    def _run_evaluator(**result: Any) -> Any:
        return {"key": result["feedback_key"], "score": 1.0}

    def _wrapped_evaluator(*, inputs: Any = None, outputs: Any = None, **kwargs: Any) -> Any:
        return _run_evaluator(feedback_key=f"{feedback_key}_match")

    _wrapped_evaluator.__module__ = "openevals.llm"
    return _wrapped_evaluator


def keyed(outputs: Any) -> Any:
    return {"key": "tone", "score": 1.0, "comment": max(["a"], key=len)}


async def test_names_are_the_returned_keys_and_duplicates_are_numbered() -> None:
    given = [judge("a"), judge("b"), judge("a"), lambda ctx: 1.0, lambda ctx: 0.0, keyed]
    bound = bind_evaluators([*given, "exact_match", "exact_match"], settings=Settings())
    assert [one.name for one in bound] == [
        "a_match",
        "b_match",
        "a_match_2",
        "lambda",
        "lambda_2",
        "tone",
        "exact_match",
        "exact_match_2",
    ]
    assert len({one.fingerprint for one in bound}) == len(bound)
    for one in bound:
        found, _usage = await one.score(CTX)
        assert [outcome.name for outcome in found] == [one.name]


def test_two_of_one_given_name_are_still_refused() -> None:
    spec = {"type": "exact_match", "name": "same"}
    with pytest.raises(EvaluatorRefused, match=r"evaluators\.1: the name 'same' is taken"):
        bind_evaluators([spec, spec], settings=Settings())


# --- packages -------------------------------------------------------------------------------------


async def test_an_mlflow_scorer_is_told_by_its_class() -> None:
    def run(self: Any, *, inputs: Any = None, outputs: Any = None, **more: Any) -> Any:
        assert (outputs, more) == ({"answer": "Paris"}, {})
        return SimpleNamespace(value="yes", rationale="right", error=None, name="x")

    def call(self: Any, *, inputs: Any = None, outputs: Any = None) -> Any:
        raise AssertionError("run is called")

    scorer = class_of("mlflow", "Scorer", run=run, __call__=call)()
    (found,) = await outcomes(scorer)
    assert (found.score, found.passed, found.reason) == (1.0, True, "right")
    assert bind_evaluator(scorer).binding.startswith("mlflow: Scorer.run(inputs, outputs)")


async def test_a_phoenix_evaluator_gets_one_mapping() -> None:
    class Judges:
        def evaluate(self, eval_input: dict[str, Any], input_mapping: Any = None) -> list[Any]:
            assert eval_input["question"] == "Capital of France?"
            assert eval_input["output"] == "Paris"
            assert eval_input["expected"] == "Paris"
            return [SimpleNamespace(name="right", score=1.0, label="yes", explanation="it is")]

    (found,) = await outcomes(Judges())
    assert (found.name, found.score, found.label, found.reason) == ("e", 1.0, "yes", "it is")


async def test_ragas_metrics_of_both_kinds() -> None:
    class Legacy:
        async def single_turn_ascore(self, sample: Any, callbacks: Any = None) -> float:
            assert sample.reference == "Paris"
            assert sample.retrieved_contexts == ["Paris is the capital."]
            return 0.75

    class Collected:
        def score(self, **kwargs: Any) -> Any:
            raise AssertionError("ascore is awaited")

        async def ascore(self, response: str, retrieved_contexts: list[str]) -> Any:
            assert response == "Paris"
            return SimpleNamespace(value=0.25, reason="thin")

    assert [(await outcomes(one()))[0].score for one in (Legacy, Collected)] == [0.75, 0.25]
    assert bind_evaluator(Collected()).adapter.taped


async def test_an_opik_metric_is_scored_by_name() -> None:
    class Metric:
        name = "contains"

        def score(self, output: str, reference: str | None = None, **ignored: Any) -> Any:
            return SimpleNamespace(
                value=float(str(reference) in output),
                name=self.name,
                reason="r",
                scoring_failed=False,
            )

    (found,) = await outcomes(Metric())
    assert (found.score, found.reason) == (1.0, "r")
    assert bind_evaluator(Metric()).name == "contains"


async def test_trulens_functions_and_the_metric_of_one() -> None:
    def relevance(self: Any, prompt: str, response: str) -> Any:
        return 0.5, {"reason": "so-so"}

    provider = class_of("trulens", "Provider", relevance=relevance)()
    (found,) = await outcomes(provider.relevance)
    assert (found.score, found.reason) == (0.5, '{"reason": "so-so"}')
    metric = class_of("trulens", "Metric", __call__=lambda self, **given: self.imp(**given))()
    metric.imp = provider.relevance
    assert (await outcomes(metric))[0].score == 0.5


async def test_a_deepeval_metric_gets_tools_and_retrieved_texts() -> None:
    class Metric:
        _required_params = (SimpleNamespace(value="tools_called"),)
        score, reason, success = None, None, None

        async def a_measure(self, test_case: Any) -> None:
            assert [tool.name for tool in test_case.tools_called] == ["search"]
            assert test_case.tools_called[0].input_parameters == {"q": "x"}
            assert [tool.name for tool in test_case.expected_tools] == ["search", "open"]
            assert test_case.retrieval_context == ["Paris is the capital."]
            self.score = 0.5

    ctx = EvaluatorContext(
        case_id="c",
        inputs="q",
        output={
            "messages": [
                {"role": "assistant", "tool_calls": [{"name": "search", "args": {"q": "x"}}]}
            ],
            "documents": [{"page_content": "Paris is the capital."}],
        },
        metadata={"expected_tools": ["search", "open"]},
    )
    (found,) = await outcomes(Metric(), ctx)
    assert found.score == 0.5, found
    assert bind_evaluator(Metric()).adapter.taped


class Level(enum.Enum):
    HIGH = 1.0


class Graded(BaseModel):
    level: Level
    polite: bool
    tone: str
    reasoning: str = "because"


class Scored(BaseModel):
    score: float
    reasoning: str = "because"


async def test_pydantic_results_are_a_score_or_a_metric_per_field() -> None:
    graded = Graded(level=Level.HIGH, polite=False, tone="warm")
    found = await outcomes(lambda outputs: graded)
    assert [(one.name, one.score, one.reason) for one in found] == [
        ("e.level", 1.0, "because"),
        ("e.polite", 0.0, "because"),
        ("e.tone", None, "because"),
    ]
    (one,) = await outcomes(lambda outputs: Scored(score=0.5))
    assert (one.score, one.reason) == (0.5, "because")
