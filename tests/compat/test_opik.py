"""Opik's metrics, unmodified."""

from __future__ import annotations

from typing import Any

import pytest
from comparing import ANSWERS, CASES, EXPECTED, QUESTIONS, one_case, said, scores
from opik.evaluation import metrics
from opik.evaluation.metrics import base_metric, score_result
from simulated_judge import OpenAIShaped

from orcheo_agentensor import evaluate

compat = pytest.mark.compat


@pytest.mark.parametrize(
    "metric",
    [
        pytest.param(metrics.Equals(track=False), marks=compat("evaluators", "Opik", "Equals")),
        pytest.param(
            metrics.Contains(reference="a", track=False),
            marks=compat("evaluators", "Opik", "Contains"),
        ),
        pytest.param(
            metrics.RegexMatch("^[PR]", track=False),
            marks=compat("evaluators", "Opik", "RegexMatch"),
        ),
        pytest.param(metrics.IsJson(track=False), marks=compat("evaluators", "Opik", "IsJson")),
        pytest.param(
            metrics.LevenshteinRatio(track=False),
            marks=compat("evaluators", "Opik", "LevenshteinRatio"),
        ),
        pytest.param(
            metrics.SentenceBLEU(track=False), marks=compat("evaluators", "Opik", "SentenceBLEU")
        ),
        pytest.param(metrics.GLEU(track=False), marks=compat("evaluators", "Opik", "GLEU")),
        pytest.param(metrics.ChrF(track=False), marks=compat("evaluators", "Opik", "ChrF")),
        pytest.param(
            metrics.JSDivergence(track=False), marks=compat("evaluators", "Opik", "JSDivergence")
        ),
    ],
)
def test_heuristics_give_what_they_give_by_themselves(metric: Any) -> None:
    given = [{"output": ANSWERS[name], "reference": EXPECTED[name]} for name in QUESTIONS]
    if isinstance(metric, metrics.Contains):
        given = [{"output": one["output"]} for one in given]
        cases = [{"id": name, "inputs": {"question": name}} for name in QUESTIONS]
    else:
        cases = CASES
    theirs = [metric.score(**one).value for one in given]
    assert scores(metric, cases=cases) == pytest.approx(theirs)


@compat("evaluators", "Opik", "SpearmanRanking and others of lists")
def test_lists_are_compared_as_lists() -> None:
    ranked, wanted = ["a", "b", "c"], ["a", "c", "b"]
    metric = metrics.SpearmanRanking(track=False)
    theirs = metric.score(output=ranked, reference=wanted).value
    assert scores(metric, target=lambda inputs: ranked, cases=one_case(wanted)) == [theirs]


@compat("evaluators", "Opik", "CorpusBLEU: over all cases together")
def test_a_metric_of_a_corpus_scores_all_cases_together() -> None:
    metric = metrics.CorpusBLEU(track=False)
    texts = [
        f"the capital of {name.lower()} is {city.lower()} indeed" for name, city in ANSWERS.items()
    ]
    wanted = [
        f"the capital of {name.lower()} is {city.lower()} indeed" for name, city in EXPECTED.items()
    ]
    cases = [{"inputs": {"n": n}, "expected_output": text} for n, text in enumerate(wanted)]
    report = evaluate(
        lambda inputs: texts[inputs["n"]], dataset=cases, evaluators=["exact_match", metric]
    )
    theirs = metric.score(output=texts, reference=wanted).value
    told = report.summary["summary_evaluators"][metric.name]
    assert (told["score"], told["n"]) == (pytest.approx(theirs), 3)
    assert 0.0 < theirs < 1.0


class SameFirst(base_metric.BaseMetric):
    """A metric of one's own, by the dataset's own names."""

    def score(self, question: str, output: str, **ignored: Any) -> Any:
        first = score_result.ScoreResult(
            name="first", value=float(question[0] == output[0]), reason="r"
        )
        return [first, score_result.ScoreResult(name="length", value=len(output) / 10)]


class Failing(base_metric.BaseMetric):
    """A metric that says that it failed."""

    def score(self, output: str, **ignored: Any) -> Any:
        return score_result.ScoreResult(name="f", value=0.0, scoring_failed=True, reason="no model")


class Needy(base_metric.BaseMetric):
    """A metric that needs what the cases lack."""

    def score(self, output: str, rubric: str) -> Any:
        raise AssertionError("is not called")


@compat(
    "evaluators", "Opik", "a BaseMetric of one's own, by the dataset's names, with several results"
)
def test_a_metric_of_ones_own_gets_the_cases_fields_by_name() -> None:
    (found, *_) = said(SameFirst("mine", track=False))
    assert [(one.name, one.score, one.reason) for one in found] == [
        ("mine.first", 0.0, "r"),
        ("mine.length", 0.5, None),
    ]
    ((failed,), *_) = said(Failing("failing", track=False))
    assert (failed.kind, failed.reason) == ("exception", "no model")
    ((failed,), *_) = said(Needy("needy", track=False))
    assert (failed.kind, failed.name) == ("missing", "needy")
    assert "rubric is missing" in failed.reason


@compat("evaluators", "Opik", "judges: AnswerRelevance, Hallucination, GEval and the like")
def test_judges_are_asked(judge_server: OpenAIShaped) -> None:
    judge_server.text = '{"score": 0.25, "reason": ["it does not say"]}'
    judge_server.score = 0.25
    for kind in (metrics.Hallucination, metrics.AnswerRelevance):
        judge = kind(
            model="openai/gpt-4o",
            track=False,
            **({"require_context": False} if kind is metrics.AnswerRelevance else {}),
        )
        (found,) = scores(judge, cases=CASES[:1])
        assert found == 0.25
