"""When a child replaces its parent: paired, on the same cases, and never by failing more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from orcheo_agentensor.evaluation.results import CaseResult, weight_of

EPSILON = 1e-12


def paired_sums(
    parent: Sequence[CaseResult], child: Sequence[CaseResult], weights: Mapping[str, float]
) -> tuple[float, float, int]:
    """Sums of the objectives of parent and child over the cases that both have, and their count."""
    pairs = [
        (before, after)
        for one, other in zip(parent, child, strict=True)
        if (before := one.objective(weights)) is not None
        and (after := other.objective(weights)) is not None
    ]
    return (
        math.fsum(before for before, _ in pairs),
        math.fsum(after for _, after in pairs),
        len(pairs),
    )


def reasons_against(
    parent: Sequence[CaseResult],
    child: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    strictly: bool,
) -> list[str]:
    """Why `child` may not replace `parent`, both measured on the same cases; empty when it may.

    With `strictly` the child must be better, otherwise at least as good. A child that fails on
    more cases than its parent is refused whatever it scores on the others.
    """
    reasons = []
    failed_before = sum(not result.ok for result in parent)
    failed_after = sum(not result.ok for result in child)
    if failed_after > failed_before:
        reasons.append(f"fails on {failed_after} cases, its parent on {failed_before}")
    before, after, pairs = paired_sums(parent, child, weights)
    if pairs == 0:
        # The parent may have crashed on every case that the child now scores.
        if failed_after >= failed_before:
            reasons.append("no case was scored under both")
        return reasons
    enough = after > before + EPSILON if strictly else after >= before - EPSILON
    if not enough and not (strictly and failed_after < failed_before and after >= before - EPSILON):
        reasons.append(
            f"scores {after / pairs:.4f} where its parent scores {before / pairs:.4f}"
            f" on {pairs} cases"
        )
    return reasons


def outside(results: Iterable[CaseResult], weights: Mapping[str, float]) -> bool:
    """Whether a score that counts lies outside [0, 1]."""
    return any(
        not 0.0 <= score <= 1.0 and weight_of(name, weights) > 0
        for result in results
        for name, score in result.scores.items()
    )


def foreseen(
    parent: Sequence[CaseResult],
    child: Sequence[CaseResult | None],
    *,
    weights: Mapping[str, float],
    strictly: bool,
    full: float = 1.0,
) -> bool | None:
    """Whether the child will replace the parent, as far as the missing results cannot change it.

    `child` has None for cases that were not measured yet. True and False are certain as long as
    scores lie within [0, 1] (and, for True, as long as the child breaks on no missing case); None
    means that more has to be measured, always so once a score outside was seen, here or before
    (`full` is infinite).
    """
    measured = [result for result in child if result is not None]
    failed_before = sum(not result.ok for result in parent)
    failed_after = sum(result is not None and not result.ok for result in child)
    if failed_after > failed_before:
        return False
    if full > 1.0 or outside((*parent, *measured), weights):
        return None
    low: list[float] = []
    high: list[float] = []
    for one, other in zip(parent, child, strict=True):
        before = one.objective(weights)
        after = None if other is None else other.objective(weights)
        if before is None:
            continue
        if other is None:
            low.append(-before)
            high.append(1.0 - before)
        elif after is not None:
            low.append(after - before)
            high.append(after - before)
    least, most = math.fsum(low), math.fsum(high)
    if least > EPSILON or (not strictly and least >= -EPSILON and low):
        return True
    if most < -EPSILON or (strictly and most <= EPSILON and not failed_before):
        return False
    return None
