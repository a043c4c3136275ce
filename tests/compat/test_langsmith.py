"""LangSmith's evaluators, against `langsmith.evaluate` on the same data, without its server."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from comparing import ANSWERS, CASES, answer, said, scores
from langsmith.evaluation import (
    EvaluationResult,
    EvaluationResults,
    RunEvaluator,
    StringEvaluator,
    run_evaluator,
)
from langsmith.evaluation import evaluate as langsmith_evaluate
from langsmith.evaluation.evaluator import comparison_evaluator
from langsmith.schemas import Example, Run

from orcheo_agentensor import BadInput, evaluate

compat = pytest.mark.compat

EXAMPLES = [
    Example(
        id=uuid.uuid5(uuid.NAMESPACE_OID, case["id"]),
        dataset_id=uuid.uuid4(),
        inputs=case["inputs"],
        outputs={"output": case["expected_output"]},
        created_at=datetime.now(UTC),
    )
    for case in CASES
]


def theirs(*evaluators: Any, summary: Any = ()) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `langsmith.evaluate` gives: the results of each example, and the summary."""
    found = langsmith_evaluate(
        lambda inputs: {"output": ANSWERS[inputs["question"]]},
        data=EXAMPLES,
        evaluators=list(evaluators),
        summary_evaluators=list(summary),
        upload_results=False,
    )
    rows = {row["example"].id: row["evaluation_results"]["results"] for row in found}
    each = [{one.key: one for one in rows[example.id]} for example in EXAMPLES]
    whole = {one.key: one for one in getattr(found, "_summary_results", {}).get("results", [])}
    return each, whole


def by_names(outputs: dict[str, Any], reference_outputs: dict[str, Any]) -> bool:
    return outputs == reference_outputs


def by_run(run: Run, example: Example) -> dict[str, Any]:
    same = run.outputs == example.outputs
    return {"key": "same", "score": float(same), "comment": "compared"}


@run_evaluator
def decorated(run: Any, example: Any) -> dict[str, Any]:
    return {"key": "decorated", "score": 0.5 * (run.outputs == example.outputs)}


class Lengths(RunEvaluator):
    """An evaluator as a class."""

    def evaluate_run(
        self, run: Run, example: Any = None, evaluator_run_id: Any = None
    ) -> EvaluationResult:
        return EvaluationResult(key="length", score=len(run.outputs["output"]) / 10, comment="l")


def results(outputs: dict[str, Any]) -> Any:
    return {"results": [{"key": "a", "score": 1}, {"key": "b", "score": len(outputs["output"])}]}


@pytest.mark.parametrize(
    ("evaluator", "prefix"),
    [
        pytest.param(
            by_names,
            "",
            marks=compat(
                "evaluators", "LangSmith", "functions of inputs, outputs, reference_outputs"
            ),
        ),
        pytest.param(
            by_run,
            "",
            marks=compat(
                "evaluators", "LangSmith", "functions of (run, example), by name or annotation"
            ),
        ),
        pytest.param(decorated, "", marks=compat("evaluators", "LangSmith", "@run_evaluator")),
        pytest.param(
            Lengths(), "", marks=compat("evaluators", "LangSmith", "RunEvaluator classes")
        ),
        pytest.param(
            results,
            "results.",
            marks=compat(
                "evaluators", "LangSmith", 'several results: a list or {"results": [...]}'
            ),
        ),
    ],
)
def test_evaluators_give_what_langsmith_says_they_give(evaluator: Any, prefix: str) -> None:
    each, _whole = theirs(evaluator)
    for outcomes, told in zip(said(evaluator), each, strict=True):
        ours = {one.name: (one.score, one.reason) for one in outcomes}
        assert ours == {
            f"{prefix}{key}": (float(one.score), one.comment) for key, one in told.items()
        }


@run_evaluator
async def native(run: Any, example: Any) -> EvaluationResults:
    return {"results": [EvaluationResult(key="a", score=1), EvaluationResult(key="b", value="x")]}


def test_an_async_evaluator_with_a_label() -> None:
    ((a, b), *_) = said(native)
    assert (a.score, b.score, b.label) == (1.0, None, "x")


@compat(
    "evaluators",
    "LangSmith",
    "StringEvaluator",
    works_with="the input_key, prediction_key and answer_key that the case has",
)
def test_a_string_evaluator() -> None:
    graded = StringEvaluator(
        input_key="question",
        evaluation_name="exact",
        grading_function=lambda i, o, r: {"score": float(o == r)},
    )
    each, _whole = theirs(graded)
    assert scores(graded) == [told["exact"].score for told in each]
    assert said(graded)[0][0].name == "exact"


def accuracy(
    outputs: list[dict[str, Any]], reference_outputs: list[dict[str, Any]]
) -> dict[str, Any]:
    right = sum(one == other for one, other in zip(outputs, reference_outputs, strict=True))
    return {"key": "accuracy", "score": right / len(outputs)}


def of_runs(runs: list[Run], examples: list[Example]) -> dict[str, Any]:
    pairs = zip(runs, examples, strict=True)
    right = sum(run.outputs == example.outputs for run, example in pairs)
    return {"key": "of_runs", "score": right / len(runs)}


@compat(
    "evaluators",
    "LangSmith",
    "summary evaluators, by lists or by runs and examples: over all cases",
)
def test_summary_evaluators_score_all_cases_together() -> None:
    _each, whole = theirs(by_names, summary=[accuracy, of_runs])
    report = evaluate(answer, dataset=CASES, evaluators=[by_names, accuracy, of_runs])
    told = report.summary["summary_evaluators"]
    assert {name: entry["score"] for name, entry in told.items()} == {
        name: one.score for name, one in whole.items()
    }
    assert told["accuracy"]["score"] == pytest.approx(2 / 3)


@compat(
    "evaluators",
    "LangSmith",
    "comparative evaluators",
    refused="`LLMJudge(pairwise=True)`, or compare two runs",
)
def test_comparative_evaluators_are_refused() -> None:
    def preferred(inputs: dict[str, Any], outputs: list[dict[str, Any]]) -> list[float]:
        return [0.0, 1.0]

    @comparison_evaluator
    def compared(runs: Any, example: Any) -> dict[str, Any]:
        return {"key": "preferred", "scores": {}}

    for one in (preferred, compared):
        with pytest.raises(BadInput, match=r"LLMJudge\(pairwise=True\)"):
            said(one)
