"""What decides at the end of a training: the guardrail, the eligibility, and what a gain costs."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor.evaluation import CaseResult
from orcheo_agentensor.evaluators import TargetFailure
from orcheo_agentensor.training.decision import (
    Guardrail,
    LatencyGuardrail,
    deltas,
    eligibility,
    guardrail_breaches,
    latency_verdict,
    target_gain,
)
from orcheo_agentensor.usage import Usage


def summary(mean: float | None, *, p95: float = 10.0, failed: int = 0) -> dict[str, Any]:
    return {
        "evaluators": {"e": {"mean": mean}},
        "latency_ms": {"p50": 5.0, "p95": p95},
        "n_target_failed": failed,
        "n_evaluator_failed": 0,
        "coverage": 1.0,
    }


@pytest.mark.parametrize(
    ("before", "after", "broken"),
    [
        (0.50, 0.49, False),
        (0.50, 0.48, True),
        (0.0, -0.01, False),
        (0.0, -0.03, True),
        (-0.5, -0.51, False),
        (0.5, None, True),
        (None, None, False),
    ],
)
@pytest.mark.requirement("guardrail.regression")
def test_guardrail_is_two_percent_or_two_hundredths(
    before: float | None, after: float | None, broken: bool
) -> None:
    assert bool(breaches(summary(before), summary(after))) == broken


def breaches(
    before: dict[str, Any], after: dict[str, Any], guardrail: Any = None, **holdout: Any
) -> list[str]:
    measured = {"baseline": before, "best": after, **holdout}
    return guardrail_breaches(measured, Guardrail.model_validate(guardrail or {}))[0]


def timed(*latencies: float) -> list[CaseResult]:
    return [CaseResult(case_id=str(n), latency_ms=ms) for n, ms in enumerate(latencies)]


def latency(before: list[float], after: list[float], **rule: Any) -> dict[str, Any]:
    found = latency_verdict(timed(*before), timed(*after), LatencyGuardrail(**rule))
    return {"latency": found}


def test_guardrail_knows_failures() -> None:
    assert "failures" in breaches(summary(0.5), summary(0.9, failed=1))[0]


def test_the_ratio_of_means_is_a_field_of_the_job() -> None:
    worse = summary(0.5), summary(0.41)
    assert "below 0.4900" in breaches(*worse)[0]
    assert breaches(*worse, {"min_ratio": 0.8}) == []


@pytest.mark.requirement("guardrail.latency")
def test_a_latency_that_is_surely_above_its_ceiling_is_a_breach() -> None:
    steady, slow = [100.0 + n % 7 for n in range(60)], [300.0 + n % 11 for n in range(60)]
    both = summary(0.5), summary(0.9)
    assert "latency: p95 31" in breaches(*both, **latency(steady, slow))[0]
    allowed = {"p95_ratio": 3.0}
    assert breaches(*both, {"latency": allowed}, **latency(steady, slow, **allowed)) == []
    for off in ("off", False):
        assert breaches(*both, {"latency": off}, **latency(steady, slow)) == []


def test_one_slow_minute_decides_nothing_about_the_latency() -> None:
    steady = [100.0 + n % 7 for n in range(60)]
    stalled = [*steady[:-4], *[400.0] * 4]
    assert latency(steady, stalled)["latency"]["p95"] > 300
    assert breaches(summary(0.5), summary(0.9), **latency(steady, stalled)) == []


def test_a_few_cases_are_too_few_to_judge_the_latency() -> None:
    held = {"baseline": summary(0.5), "best": summary(0.9), **latency([10.0] * 12, [900.0] * 12)}
    found, undecided = guardrail_breaches(held)
    assert found == []
    assert "too few cases to judge (12 of 20)" in undecided[0]
    assert "p95 900 ms is above 62 ms" in undecided[0]


@pytest.mark.requirement("guardrail.latency")
def test_the_cost_of_a_case_can_be_bounded() -> None:
    both, rule = (summary(0.5), summary(0.9)), {"cost": {"ratio": 1.5}}
    for after, broken in ((0.015, False), (0.016, True), (None, True)):
        deltas_ = {"cost": {"baseline": 0.01, "best": after}}
        assert bool(breaches(*both, rule, deltas=deltas_)) == broken


def test_eligibility_names_what_decided() -> None:
    held = {
        "baseline": summary(0.5),
        "best": summary(0.9),
        "gain": 0.4,
        "p_value": 0.001,
        "n": 40,
        "ci95": [0.3, 0.5],
    }
    assert eligibility(changed=False, holdout=held, min_coverage=1.0)[0] == "kept"
    assert "unproved" in eligibility(changed=True, holdout=None, min_coverage=1.0)[1][0]
    assert eligibility(changed=True, holdout=held, min_coverage=1.0)[0] == "eligible"
    noise = {**held, "p_value": 0.05}
    status, reasons = eligibility(changed=True, holdout=noise, min_coverage=1.0)
    assert status == "kept"
    assert "not significant" in reasons[0]
    worse = {**held, "best": summary(0.1)}
    assert eligibility(changed=True, holdout=worse, min_coverage=1.0)[0] == "rejected"


@pytest.mark.parametrize(
    ("before", "after", "met"),
    [
        (0.5, 0.55, True),
        (0.5, 0.54, False),
        (0.0, 0.0, False),
        (0.0, 0.01, True),
        (-1.0, -1.05, False),
        (-1.0, -0.9, True),
        (None, 0.5, None),
    ],
)
@pytest.mark.requirement("guardrail.goal")
def test_the_goal_is_a_tenth_more_and_never_met_without_a_gain(
    before: float | None, after: float, met: bool | None
) -> None:
    assert target_gain(before, after)["met"] is met


def test_deltas_are_paired_and_say_what_is_not_known() -> None:
    def case(i: int, latency: float, cost: float | None, tokens: int) -> CaseResult:
        usage = Usage(calls=1, input_tokens=tokens, cost=cost)
        return CaseResult(case_id=str(i), latency_ms=latency, usage=usage)

    before = [case(i, 100.0 + i, 0.01, 10) for i in range(20)]
    after = [case(i, 150.0 + i + i % 3, 0.03, 30) for i in range(20)]
    after[0] = CaseResult(case_id="0", target_failure=TargetFailure(kind="timeout", reason="late"))
    found = deltas(before, after)
    latency, cost = found["latency_ms"], found["cost"]
    assert found["n"] == 19
    assert 50 <= latency["ci95"][0] <= latency["difference"] <= latency["ci95"][1] <= 52
    assert latency["best_p95"] - latency["baseline_p95"] == pytest.approx(51, abs=1)
    assert found["tokens"]["difference"] == 20
    assert cost["difference"] == pytest.approx(0.02)
    assert cost["ci95"] == pytest.approx([0.02, 0.02])
    unknown = deltas(before, [case(i, 1.0, None, 1) for i in range(20)])
    assert unknown["cost"] == {"baseline": None, "best": None, "difference": None, "ci95": None}
    nothing = deltas([], [])
    assert (nothing["n"], nothing["latency_ms"]["difference"]) == (0, None)
