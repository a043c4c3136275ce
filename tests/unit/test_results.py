"""Results of a case's replicates become one."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.evaluation import CaseResult
from orcheo_agentensor.evaluation.results import merged
from orcheo_agentensor.evaluators import EvaluationResult, EvaluatorFailure, TargetFailure
from orcheo_agentensor.usage import Usage


def result(**outcome: Any) -> CaseResult:
    return CaseResult(
        case_id="c",
        output=outcome.get("reason"),
        outcomes=(EvaluationResult(name="e", **outcome),),
        latency_ms=10.0 * (outcome.get("score") or 0.0),
        usage=Usage(rollouts=1),
    )


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
