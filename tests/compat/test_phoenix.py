"""Arize Phoenix evaluators, unmodified."""

from __future__ import annotations

from typing import Any

import pytest
from comparing import ANSWERS, CASES, CONTEXT, EXPECTED, QUESTIONS, one_case, said, scores
from phoenix.evals import LLM, Score, bind_evaluator, create_classifier, create_evaluator
from phoenix.evals.metrics import (
    FaithfulnessEvaluator,
    MatchesRegex,
    PrecisionRecallFScore,
    exact_match,
)
from simulated_judge import REASON, OpenAIShaped

from orcheo_agentensor import BadInput
from orcheo_agentensor import bind_evaluator as bound

compat = pytest.mark.compat


@create_evaluator(name="same_first", kind="code")
def same_first(question: str, output: str) -> Score:
    return Score(score=float(question[0] == output[0]), label="l", explanation="first letters")


@pytest.mark.parametrize(
    "evaluator",
    [
        pytest.param(exact_match, marks=compat("evaluators", "Phoenix", "exact_match")),
        pytest.param(
            MatchesRegex(pattern="^[PR]"), marks=compat("evaluators", "Phoenix", "MatchesRegex")
        ),
        pytest.param(same_first, marks=compat("evaluators", "Phoenix", "@create_evaluator")),
        pytest.param(
            bind_evaluator(exact_match, {"output": "output", "expected": "reference"}),
            marks=compat("evaluators", "Phoenix", "an evaluator bound to an input mapping"),
        ),
    ],
)
def test_evaluators_give_what_they_give_by_themselves(evaluator: Any) -> None:
    for name, (found,) in zip(QUESTIONS, said(evaluator), strict=True):
        given = {
            "question": name,
            "output": ANSWERS[name],
            "expected": EXPECTED[name],
            "reference": EXPECTED[name],
        }
        (theirs,) = evaluator.evaluate(given)
        assert (found.name, found.score, found.reason) == (
            evaluator.name,
            theirs.score,
            theirs.explanation,
        )


@compat("evaluators", "Phoenix", "PrecisionRecallFScore: a metric for each of its scores")
def test_several_scores_are_several_metrics() -> None:
    labels = {"output": ["a", "b", "a"], "expected": ["a", "b", "b"]}
    theirs = {score.name: score.score for score in PrecisionRecallFScore().evaluate(labels)}
    (found,) = said(
        PrecisionRecallFScore(),
        target=lambda inputs: labels["output"],
        cases=one_case(labels["expected"]),
    )
    assert {one.name.partition(".")[2]: one.score for one in found} == theirs
    assert len(theirs) == 3


@compat(
    "evaluators",
    "Phoenix",
    "judges: FaithfulnessEvaluator and the like, create_classifier",
    works_with="the retrieved texts in metadata, the output or a node's output",
)
def test_judges_classify(judge_server: OpenAIShaped) -> None:
    llm = LLM(provider="openai", model="gpt-4o", base_url=judge_server.url, api_key="nobody")
    judge = create_classifier(
        name="right",
        llm=llm,
        prompt_template="{input} {output}",
        choices={"wrong": 0.0, "right": 1.0},
    )
    for one in (judge, FaithfulnessEvaluator(llm=llm)):
        given = {"input": "France", "output": "Paris", "context": CONTEXT["France"][0]}
        (theirs,) = one.evaluate(given)
        ((found,),) = said(one, cases=CASES[:1])
        assert (found.score, found.label, found.reason) == (theirs.score, theirs.label, REASON)
        assert (
            judge_server.requests[-1]["messages"] == judge_server.requests[-2]["messages"]
            or one is not judge
        )


@compat("evaluators", "Phoenix", "evaluators with direction=minimize", works_with="`scale: [1, 0]`")
def test_where_less_is_better_the_scale_is_asked_for() -> None:
    @create_evaluator(name="toxicity", direction="minimize")
    def toxicity(output: str) -> float:
        return len(output) / 10

    with pytest.raises(BadInput, match=r"bind_evaluator\(toxicity, scale=\(1, 0\)\)"):
        said(toxicity)
    assert scores(bound(toxicity, scale=(1, 0))) == pytest.approx([0.5, 0.6, 0.4])
