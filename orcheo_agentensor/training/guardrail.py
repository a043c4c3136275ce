"""May the best version be promoted? The decision, with every reason for and against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.statistics import PairedDifference, paired_difference

ALPHA = 0.05
KEEP_SHARE = 0.98
KEEP_ABSOLUTE = 0.02
LATENCY_SHARE = 1.25
LATENCY_MS = 50.0
TARGET_GAIN = 1.10

DecisionStatus: TypeAlias = Literal["promoted", "kept", "rejected", "awaiting_approval"]


def paired_objectives(
    baseline: Sequence[CaseResult], best: Sequence[CaseResult], weights: Mapping[str, float]
) -> tuple[list[float], list[float]]:
    """The objectives of both on the cases that both have scored completely."""
    before, after = [], []
    for one, other in zip(baseline, best, strict=True):
        left, right = one.objective(weights), other.objective(weights)
        if left is not None and right is not None:
            before.append(left)
            after.append(right)
    return before, after


def compare_holdout(
    baseline: Sequence[CaseResult],
    best: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    seed: int,
) -> PairedDifference:
    """The gain on held-out cases, paired, with its interval."""
    before, after = paired_objectives(baseline, best, weights)
    return paired_difference(before, after, seed=seed)


def guardrail_breaches(baseline: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    """What forbids a promotion, given both holdout summaries; empty when nothing does.

    Each evaluator's mean must be at least 0.98 of the baseline's (at most 0.02 below it where the
    baseline is not positive), p95 latency at most 1.25 x the baseline's + 50 ms, and the best may
    not fail on more cases than the baseline.
    """
    breaches = []
    for name, entry in baseline["evaluators"].items():
        before = entry["mean"]
        after = best["evaluators"].get(name, {}).get("mean")
        if before is None:
            continue
        floor = before * KEEP_SHARE if before > 0 else before - KEEP_ABSOLUTE
        if after is None:
            breaches.append(f"{name}: has no holdout score, the baseline has {before:.4f}")
        elif after < floor - 1e-12:
            breaches.append(f"{name}: {after:.4f} on holdout is below {floor:.4f} (-2 % guardrail)")
    p95, p95_before = best["latency_ms"]["p95"], baseline["latency_ms"]["p95"]
    if p95 is not None and p95_before is not None:
        ceiling = LATENCY_SHARE * p95_before + LATENCY_MS
        if p95 > ceiling:
            breaches.append(f"latency: p95 {p95:.0f} ms is above {ceiling:.0f} ms")
    failed = [s["n_target_failed"] + s["n_evaluator_failed"] for s in (baseline, best)]
    if failed[1] > failed[0]:
        breaches.append(f"failures: {failed[1]} holdout cases, the baseline has {failed[0]}")
    return breaches


def verdict(
    *,
    changed: bool,
    holdout: Mapping[str, Any] | None,
    min_coverage: float,
) -> tuple[Literal["eligible", "kept", "rejected"], list[str]]:
    """Whether the best version is eligible for promotion, and why (not).

    `holdout` has `baseline` and `best` (summaries) and the paired `gain`, `ci95`, `p_value`.
    """
    if not changed:
        return "kept", ["no candidate was better than the baseline on validation"]
    if holdout is None:
        return "kept", ["the dataset has no holdout split: the gain is unproved"]
    breaches = guardrail_breaches(holdout["baseline"], holdout["best"])
    before, coverage = holdout["baseline"]["coverage"], holdout["best"]["coverage"]
    if coverage < min_coverage:
        breaches.append(f"coverage: {coverage:.3f} of the holdout is below {min_coverage:.3f}")
    if breaches:
        return "rejected", breaches
    if before < min_coverage:
        return "kept", [
            f"the baseline could be scored on {before:.3f} of the holdout only, which is below"
            f" {min_coverage:.3f}: the gain is unproved"
        ]
    if holdout["p_value"] >= ALPHA or holdout["gain"] <= 0:
        return "kept", [
            f"the holdout gain of {holdout['gain']:+.4f} is not significant"
            f" (p = {holdout['p_value']:.4f}, alpha = {ALPHA:g})"
        ]
    return "eligible", [
        f"holdout gain {holdout['gain']:+.4f} on {holdout['n']} cases"
        f" (p = {holdout['p_value']:.4f})",
        "every evaluator and the p95 latency are within the guardrail",
    ]


def target_gain(baseline: float | None, best: float | None) -> dict[str, Any]:
    """Whether the training mean rose by the ten percent aimed for; from zero, whether it rose."""
    if baseline is None or best is None:
        return {"met": None, "reason": "not measured"}
    wanted = baseline + (TARGET_GAIN - 1) * abs(baseline)
    met = best > baseline and best >= wanted - 1e-12
    return {"met": met, "baseline": baseline, "best": best, "wanted": wanted}
