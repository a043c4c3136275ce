"""Measure two candidates against each other, block by block until the outcome is certain.

A comparison on all cases would come to the same; most of it would be spent after the outcome is
certain. The order and size of the blocks follow from the cases and the seed alone, so that a
resumed run measures the same ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation.results import CaseResult, settled
from orcheo_agentensor.optimizers import derive_seed
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.training.active import Training

EPSILON = 1e-12
GATE_BLOCK = 5
GUARDS = 3
VALIDATION_BLOCK = 8


def paired_objectives(
    parent: Sequence[CaseResult], child: Sequence[CaseResult], weights: Mapping[str, float]
) -> tuple[list[float], list[float]]:
    """The objectives of parent and child on the cases that were scored under both."""
    before, after = [], []
    parent, child = together(parent, child)
    for one, other in zip(parent, child, strict=True):
        left, right = one.objective(weights), other.objective(weights)
        if left is not None and right is not None:
            before.append(left)
            after.append(right)
    return before, after


def together(
    parent: Sequence[CaseResult], child: Sequence[CaseResult]
) -> tuple[list[CaseResult], list[CaseResult]]:
    """Both, with a text as a failure where its evaluator gives numbers for either."""
    found = settled([*parent, *child])
    return found[: len(parent)], found[len(parent) :]


def reasons_against(
    parent: Sequence[CaseResult],
    child: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    strictly: bool,
) -> list[str]:
    """Why `child` may not replace `parent`, both measured on the same cases; empty when it may.

    With `strictly` the child must be better, otherwise at least as good. A child that fails (or has
    no score) on more cases than its parent is refused whatever it scores on the others.
    """
    reasons = []
    parent, child = together(parent, child)
    failed_before = sum(result.objective(weights) is None for result in parent)
    failed_after = sum(result.objective(weights) is None for result in child)
    if failed_after > failed_before:
        reasons.append(f"fails on {failed_after} cases, its parent on {failed_before}")
    scores = paired_objectives(parent, child, weights)
    pairs, before, after = len(scores[0]), math.fsum(scores[0]), math.fsum(scores[1])
    if pairs == 0:
        # The parent may have failed on every case that the child now scores.
        if failed_after >= failed_before:
            reasons.append("no case was scored under both")
        return reasons
    enough = after > before + EPSILON if strictly else after >= before - EPSILON
    if not enough and not (strictly and failed_after < failed_before and after >= before - EPSILON):
        same = "no more: " if abs(after - before) <= EPSILON else ""
        reasons.append(
            f"scores {same}{after / pairs:.4f} where its parent scores {before / pairs:.4f}"
            f" on {pairs} cases"
        )
    return reasons


def foreseen(
    parent: Sequence[CaseResult],
    child: Sequence[CaseResult | None],
    *,
    weights: Mapping[str, float],
    strictly: bool,
) -> bool | None:
    """Whether the child will replace the parent, as far as the missing results cannot change it.

    `child` has None for a case that was not measured yet, and may end before its parent's results.
    Scores lie within [0, 1]. True is certain as long as the child fails on no missing case. None
    means that more has to be measured.
    """
    parent, measured = together(parent, [result for result in child if result is not None])
    known = iter(measured)
    child = [None if result is None else next(known) for result in child]
    child = [*child, *[None] * (len(parent) - len(child))]
    failed_before = sum(result.objective(weights) is None for result in parent)
    failed_after = sum(result.objective(weights) is None for result in measured)
    if failed_after > failed_before:
        return False
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a comparison ended: the `reasons` against the child, none when it has won.

    `before` and `after` are the results on the cases measured under both; `reached` are all of the
    child's, and `complete` tells whether these are on every case.
    """

    reasons: Sequence[str]
    before: Sequence[CaseResult]
    after: Sequence[CaseResult]
    reached: Sequence[CaseResult]
    complete: bool

    @property
    def won(self) -> bool:
        """Whether nothing speaks against the child."""
        return not self.reasons

    def means(self, weights: Mapping[str, float]) -> tuple[float | None, float | None]:
        """The mean objectives of parent and child over the cases scored under both."""
        before, after = paired_objectives(self.before, self.after, weights)
        return (fmean(before), fmean(after)) if before else (None, None)


async def gate(
    training: Training,
    cases: Sequence[Case],
    before: Sequence[CaseResult],
    child: Candidate,
    *,
    strictly: bool = True,
) -> Comparison:
    """Compare a child with its parent on the parent's minibatch, the parent's worst cases first.

    The comparison ends when it is decided, or when the child has gained on the cases that its
    parent failed and lost nothing on as many others (`GUARDS` at least): an accepted child is
    validated later. With `strictly` off, a child that is as good as its parent wins.
    """
    weights = training.weights
    order = _worst_first(before, weights)
    held = [before[index] for index in order]
    after: list[CaseResult] = []
    failing = sum(
        (score := one.objective(weights)) is None or score < 1.0 - EPSILON for one in held
    )
    enough = failing + max(GUARDS, failing)
    for start in range(0, len(order), GATE_BLOCK):
        block = [cases[index] for index in order[start : start + GATE_BLOCK]]
        after += await training.measure(block, child, phase="train")
        if foreseen(held, after, weights=weights, strictly=strictly) is not None:
            break
        tested = held[: len(after)]
        if len(after) >= enough and not reasons_against(
            tested, after, weights=weights, strictly=strictly
        ):
            held = tested
            break
    return _compared(held, after, weights=weights, strictly=strictly)


async def validate_against(
    training: Training,
    candidate: Candidate,
    rival: Candidate,
    *,
    rival_known: bool,
    strictly: bool,
) -> Comparison:
    """Measure a candidate on the validation cases for as long as it can beat its rival.

    Against a known rival, the cases that the rival does worst on come first: only there can the
    candidate gain, and without a gain there the comparison is over. A rival that was not measured
    yet (the baseline) is measured after the candidate, and no further than is needed.
    """
    weights, aside = training.weights, training.meter.aside
    cases = list(training.plan.validation)
    random.Random(derive_seed(training.run.job.seed, 0, "validation")).shuffle(cases)
    held: list[CaseResult] = []
    after: list[CaseResult] = []
    if rival_known:
        held = await training.measure(cases, rival, phase="validation", meter=aside)
        order = _worst_first(held, weights)
        held, cases = [held[index] for index in order], [cases[index] for index in order]
        for block in _blocks(cases):
            after += await training.measure(block, candidate, phase="validation")
            if foreseen(held, after, weights=weights, strictly=strictly) is False:
                break
    else:
        after = await training.measure(cases, candidate, phase="validation")
        for block in _blocks(cases):
            held += await training.measure(block, rival, phase="validation", meter=aside)
            if _beaten(held, after, weights=weights, strictly=strictly):
                both = after[: len(held)]
                return Comparison(reasons=(), before=held, after=both, reached=after, complete=True)
    return _compared(held, after, weights=weights, strictly=strictly)


def _blocks(cases: Sequence[Case]) -> Iterable[Sequence[Case]]:
    starts = range(0, len(cases), VALIDATION_BLOCK)
    return (cases[start : start + VALIDATION_BLOCK] for start in starts)


def _worst_first(results: Sequence[CaseResult], weights: Mapping[str, float]) -> list[int]:
    scores = [one.objective(weights) for one in results]
    ranks = [-math.inf if score is None else score for score in scores]
    return sorted(range(len(ranks)), key=ranks.__getitem__)


def _beaten(
    held: Sequence[CaseResult],
    reached: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    strictly: bool,
) -> bool:
    """Whether a rival measured on the first cases has lost even with 1.0 on all the others."""
    held, reached = together(held, reached)
    if any(not result.ok for result in (*held, *reached)):
        return False
    gains: list[float] = []
    for index, result in enumerate(reached):
        after = result.objective(weights)
        before = held[index].objective(weights) if index < len(held) else 1.0
        if after is None or before is None:
            return False
        gains.append(after - before)
    least = math.fsum(gains)
    return least > EPSILON if strictly else least >= -EPSILON


def _compared(
    held: Sequence[CaseResult],
    after: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    strictly: bool,
) -> Comparison:
    """The comparison of a child, measured on the first of its parent's cases, as it stands."""
    before, missing = held[: len(after)], len(held) - len(after)
    reasons: list[str] = []
    if foreseen(held, after, weights=weights, strictly=strictly) is not True:
        reasons = reasons_against(before, after, weights=weights, strictly=strictly)
        if not reasons and missing:
            reasons = [f"cannot gain on the other {missing} cases what it would need"]
    return Comparison(
        reasons=reasons, before=before, after=after, reached=after, complete=not missing
    )
