"""MLflow's scorers, unmodified."""

from __future__ import annotations

from typing import Any

import pytest
from comparing import CASES, said, scores
from mlflow.entities import Feedback
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import (
    Correctness,
    Guidelines,
    RelevanceToQuery,
    RetrievalGroundedness,
    Scorer,
    scorer,
)
from simulated_judge import REASON, OpenAIShaped

from orcheo_agentensor import BadInput

compat = pytest.mark.compat


@scorer
def exact(outputs: Any, expectations: Any) -> bool:
    return bool(outputs == expectations["expected_response"])


@scorer(name="several")
def several(inputs: Any, outputs: Any) -> list[Feedback]:
    return [
        Feedback(name="long", value=len(outputs) / 10, rationale="why"),
        Feedback(name="ok", value="yes"),
    ]


@scorer
def by_part(outputs: Any) -> Feedback:
    return Feedback(value={"length": len(outputs) / 10, "polite": True}, rationale="why")


class Longer(Scorer):
    """A scorer as a class."""

    name: str = "longer"
    least: int = 5

    def __call__(self, *, outputs: str) -> Feedback:
        return Feedback(value=len(outputs) >= self.least, rationale=f"{len(outputs)} characters")


@compat("evaluators", "MLflow", "@scorer of inputs, outputs, expectations")
def test_a_scorer_gives_what_it_gives_by_itself() -> None:
    theirs = [
        exact(
            outputs={"Italy": "Roma"}.get(case["id"], case["expected_output"]),
            expectations={"expected_response": case["expected_output"]},
        )
        for case in CASES
    ]
    assert scores(exact) == [float(one) for one in theirs]


@compat("evaluators", "MLflow", "a Scorer as a class")
def test_a_scorer_as_a_class() -> None:
    assert [(one.name, one.score, one.reason) for (one,) in said(Longer())] == [
        ("longer", 1.0, "5 characters"),
        ("longer", 0.0, "4 characters"),
        ("longer", 1.0, "6 characters"),
    ]


@compat("evaluators", "MLflow", "several Feedbacks, and a Feedback with a dict")
def test_each_feedback_and_each_part_is_a_metric() -> None:
    ((long, ok), *_) = said(several)
    assert (long.name, long.score, long.reason) == ("several.long", 0.5, "why")
    assert (ok.name, ok.score, ok.label) == ("several.ok", 1.0, "yes")
    ((length, polite), *_) = said(by_part)
    assert (length.name, length.score, polite.name, polite.score) == (
        "by_part.length",
        0.5,
        "by_part.polite",
        1.0,
    )
    assert length.reason == polite.reason == "why"


@compat("evaluators", "MLflow", "judges: Correctness, Guidelines, RelevanceToQuery, make_judge")
def test_judges_are_asked_and_yes_is_one(judge_server: OpenAIShaped) -> None:
    for verdict, score in (("yes", 1.0), ("no", 0.0)):
        judge_server.score = score
        for judge in (
            Correctness(model="openai:/gpt-4o"),
            Guidelines(model="openai:/gpt-4o", name="polite", guidelines="Be polite."),
            RelevanceToQuery(model="openai:/gpt-4o"),
            make_judge(
                name="made", instructions="{{ inputs }} {{ outputs }}", model="openai:/gpt-4o"
            ),
        ):
            judge_server.requests.clear()
            ((found,),) = said(judge, cases=CASES[:1])
            assert (found.score, found.label, found.reason) == (score, verdict, REASON), judge
            assert len(judge_server.requests) == 1


@scorer
def spans(trace: Any) -> int:
    return len(trace.data.spans)


@compat(
    "evaluators",
    "MLflow",
    "scorers that need a trace or a session, such as RetrievalGroundedness",
    refused="a scorer of inputs, outputs and expectations, or a LangSmith `def f(run, example)`",
)
@pytest.mark.parametrize("needy", [spans, RetrievalGroundedness()])
def test_a_scorer_that_needs_a_trace_is_refused_with_what_to_write(needy: Any) -> None:
    with pytest.raises(BadInput, match="finds the nodes in run"):
        said(needy)
