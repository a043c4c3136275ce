"""Results of a case's replicates become one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation import CaseResult
from orcheo_agentensor.evaluation.results import case_result, context_of, merged
from orcheo_agentensor.evaluators import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    TargetFailure,
)
from orcheo_agentensor.storage import RolloutRow
from orcheo_agentensor.usage import Usage


def result(**outcome: Any) -> CaseResult:
    return CaseResult(
        case_id="c",
        output=outcome.get("reason"),
        outcomes=(EvaluationResult(name="e", **outcome),),
        latency_ms=10.0 * (outcome.get("score") or 0.0),
        usage=Usage(rollouts=1),
    )


def test_results_and_contexts_of_a_run_are_whole_and_frozen() -> None:
    case = Case(id="c", inputs=1, expected_output=2, metadata={"m": 3})
    row = RolloutRow(
        key="k", case_id="c", candidate_hash="h", output=4, tape={"t": 5}, latency_ms=6.0,
        failure={"kind": "timeout", "reason": "late"}, empty_replies=7, cut_replies=8,
    )  # fmt: skip
    outcomes = (EvaluationResult(name="e", score=1.0),)
    made = case_result(case, row, outcomes, Usage(calls=9), replayed=True)
    assert made == CaseResult(
        case_id="c", output=4, outcomes=outcomes, latency_ms=6.0, usage=Usage(calls=9),
        target_failure=TargetFailure(kind="timeout", reason="late", attempts=1), tape={"t": 5},
        replayed=True, case=case, empty_replies=7, cut_replies=8,
    )  # fmt: skip
    context = context_of(case, row)
    assert context == EvaluatorContext(
        case_id="c", inputs=1, output=4, expected_output=2, metadata={"m": 3}, latency_ms=6.0,
        usage=row.usage, tape={"t": 5},
    )  # fmt: skip
    for one in (made, context):
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.case_id = "d"  # type: ignore[misc]


def test_replicates_merge_to_mean_majority_and_the_worst_reason() -> None:
    good = result(score=1.0, passed=True, reason="well", label="a")
    bad = result(score=0.25, passed=False, reason="ill", label="b")
    one = merged([good, bad, good], {})
    (outcome,) = one.outcomes
    assert outcome == EvaluationResult(name="e", score=0.75, passed=True, reason="ill", label="a")
    assert (one.output, one.latency_ms, one.usage.rollouts) == ("ill", 7.5, 3)
    (tie,) = merged([good, bad], {}).outcomes
    assert isinstance(tie, EvaluationResult)
    assert tie.passed is False
    (label,) = merged([result(label="a"), result(label="b"), result(label="b")], {}).outcomes
    assert label == EvaluationResult(name="e", label="b")
    assert merged([good], {}) is good


def test_one_failed_replicate_makes_the_case_failed() -> None:
    good = result(score=1.0)
    crashed = CaseResult(case_id="c", target_failure=TargetFailure(kind="timeout", reason="late"))
    one = merged([good, crashed, good], {})
    assert (one.ok, one.outcomes) == (False, ())
    assert one.target_failure == crashed.target_failure
    broke = EvaluatorFailure(name="e", kind="exception", reason="lost")
    unjudged = CaseResult(case_id="c", outcomes=(broke,))
    split = CaseResult(
        case_id="c",
        outcomes=(
            EvaluationResult(name="e.x", score=1.0),
            EvaluationResult(name="other", score=0.5),
        ),
    )
    both = merged([split, unjudged], {})
    assert both.outcomes == (EvaluationResult(name="other", score=0.5), broke)
    assert not both.ok
