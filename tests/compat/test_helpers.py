"""Helpers of two values, as scikit-learn and RapidFuzz have them, and the numbers of statistics."""

from __future__ import annotations

from typing import Any

import pytest
import rapidfuzz
from comparing import ANSWERS, CASES, EXPECTED, QUESTIONS, scores
from scipy import stats
from sklearn import metrics

from orcheo_agentensor import BadInput, Case, evaluate
from orcheo_agentensor.evaluators import LLMJudge, bind_evaluator, calibrate
from orcheo_agentensor.testing import RuleChatModel

compat = pytest.mark.compat


@compat(
    "evaluators",
    "scikit-learn, RapidFuzz",
    "helpers such as accuracy_score(y_true, y_pred), fuzz.ratio(s1, s2)",
    refused="the wrapper that the error shows: `lambda outputs, reference_outputs: …`",
)
def test_a_helper_of_two_values_is_refused_with_a_wrapper_that_works() -> None:
    for helper in (metrics.accuracy_score, metrics.f1_score, rapidfuzz.fuzz.ratio):
        with pytest.raises(BadInput, match="write `lambda outputs, reference_outputs") as refused:
            scores(helper)
        source = str(refused.value).split("write `")[1].split("`")[0]
        assert source.startswith("lambda")
    ratio = eval(source, {"ratio": rapidfuzz.fuzz.ratio})  # noqa: S307 - what the error says to write
    assert scores(bind_evaluator(ratio, scale=(0, 100))) == pytest.approx(
        [rapidfuzz.fuzz.ratio(ANSWERS[n], EXPECTED[n]) / 100 for n in QUESTIONS]
    )


@compat("evaluators", "scikit-learn", "a summary evaluator around one of its metrics")
def test_a_metric_of_scikit_learn_over_all_cases() -> None:
    def f1(outputs: list[dict[str, Any]], reference_outputs: list[dict[str, Any]]) -> float:
        told = [one["output"] for one in outputs]
        wanted = [one["output"] for one in reference_outputs]
        return float(metrics.f1_score(wanted, told, average="macro"))

    report = evaluate(
        lambda inputs: ANSWERS[inputs["question"]], dataset=CASES, evaluators=["exact_match", f1]
    )
    expected = metrics.f1_score(list(EXPECTED.values()), list(ANSWERS.values()), average="macro")
    assert report.summary["summary_evaluators"]["f1"]["score"] == pytest.approx(expected)


def test_a_mean_and_its_interval_are_scipys() -> None:
    values = [0.1, 0.4, 0.35, 0.9, 0.6, 0.75, 0.2, 0.55]
    cases = [{"inputs": {"n": n}} for n in range(len(values))]
    report = evaluate(
        lambda inputs: values[inputs["n"]], dataset=cases, evaluators=[lambda ctx: ctx.output]
    )
    (told,) = report.summary["evaluators"].values()
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=stats.tmean(values), scale=stats.sem(values)
    )
    assert told["mean"] == pytest.approx(stats.tmean(values))
    assert told["se"] == pytest.approx(stats.sem(values))
    assert told["ci95"] == pytest.approx([low, high])


async def test_a_calibration_agrees_with_scikit_learn() -> None:
    human = [True, True, False, False, True, False, True, True, False, True]
    judged = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    cases = [
        Case(id=f"c{n}", inputs={"n": n}, metadata={"output": str(n), "label": label})
        for n, label in enumerate(human)
    ]

    def grade(messages: Any) -> dict[str, Any]:
        n = next(n for n in range(10) if f'"n": {n}}}' in messages[-1].content)
        return {"reasoning": "r", "score": judged[n]}

    judge = bind_evaluator(LLMJudge(rubric="right", model=RuleChatModel(rule=grade)))
    found = await calibrate(judge, cases)
    told = [score >= 1.0 for score in judged]
    assert found["agreement"] == pytest.approx(metrics.accuracy_score(human, told))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(human, told))
    matrix = metrics.confusion_matrix(human, told, labels=[False, True])
    ours = [[found["confusion"][a].get(b, 0) for b in ("fail", "pass")] for a in ("fail", "pass")]
    assert ours == matrix.tolist()
