"""Two candidates measured against each other on the same cases, block by block until decided."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation.results import CaseResult, weight_of
from orcheo_agentensor.evaluation.runner import Meter
from orcheo_agentensor.optimizers import derive_seed
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.training.active import Training

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


# A test on all cases would say the same; most of it is spent after the outcome is certain. The
# order and size of the blocks follow from the cases and the seed alone, so that a resumed run
# measures the same ones.


GATE_BLOCK = 5
GUARDS = 3
VALIDATION_BLOCK = 8


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a contest ended: `reasons` against the child (none: it has won), and what was measured.

    `before` and `after` are the results on the cases measured under both; `reached` are all of the
    child's, and `complete` tells that these are on every case.
    """

    reasons: tuple[str, ...]
    before: tuple[CaseResult, ...]
    after: tuple[CaseResult, ...]
    reached: tuple[CaseResult, ...]
    complete: bool

    @property
    def won(self) -> bool:
        """Whether nothing speaks against the child."""
        return not self.reasons

    def means(self, weights: dict[str, float]) -> tuple[float | None, float | None]:
        """The mean objectives of parent and child over the cases scored under both."""
        before, after, n = paired_sums(self.before, self.after, weights)
        return (before / n, after / n) if n else (None, None)


async def gate(
    training: Training,
    cases: Sequence[Case],
    before: Sequence[CaseResult],
    child: Candidate,
    *,
    full: float,
    phase: str = "train",
) -> Comparison:
    """Test a child on the cases its parent was measured on; worst ones of the parent first.

    It ends when it is decided, or when the child has gained on the cases that its parent failed
    and lost nothing on as many others (`GUARDS` at least): an accepted child is validated later.
    `full` is the score that nothing can beat.
    """
    order = _worst_first(training, before)
    held = [before[index] for index in order]
    after: list[CaseResult] = []
    weights = training.weights
    failing = sum(
        (score := one.objective(weights)) is None or score < full - EPSILON for one in held
    )
    enough = failing + max(GUARDS, failing)
    for start in range(0, len(order), GATE_BLOCK):
        block = [cases[index] for index in order[start : start + GATE_BLOCK]]
        after += await training.measure(block, child, phase=phase)
        if _outlook(held, after, weights=weights, strictly=True, full=full) is not None:
            break
        tested = held[: len(after)]
        if len(after) >= enough and not reasons_against(
            tested, after, weights=weights, strictly=True
        ):
            return _verdict(training, tested, after, strictly=True, full=full)
    return _verdict(training, held, after, strictly=True, full=full)


async def validate_against(
    training: Training,
    candidate: Candidate,
    rival: Candidate,
    *,
    rival_known: bool,
    strictly: bool,
    full: float,
    meter: Meter | None = None,
) -> Comparison:
    """Measure a candidate on the validation cases for as long as it can beat its rival.

    Against a known rival, the cases that the rival does worst on come first: they are the ones a
    candidate can gain on, and without a gain there the contest is over. A rival that was not
    measured yet (the baseline) is measured after the candidate, and no further than is needed.
    """
    cases = list(training.plan.validation)
    random.Random(derive_seed(training.run.job.seed, 0, "validation")).shuffle(cases)
    weights = training.weights
    if rival_known:
        held = await training.measure(cases, rival, phase="validation", meter=training.meter.aside)
        order = _worst_first(training, held)
        held = [held[index] for index in order]
        cases = [cases[index] for index in order]
        after: list[CaseResult] = []
        for start in range(0, len(cases), VALIDATION_BLOCK):
            block = cases[start : start + VALIDATION_BLOCK]
            after += await training.measure(block, candidate, phase="validation", meter=meter)
            if _outlook(held, after, weights=weights, strictly=strictly, full=full) is False:
                break
        return _verdict(training, held, after, strictly=strictly, full=full)
    reached = await training.measure(cases, candidate, phase="validation", meter=meter)
    held = []
    for start in range(0, len(cases), VALIDATION_BLOCK):
        block = cases[start : start + VALIDATION_BLOCK]
        held += await training.measure(block, rival, phase="validation", meter=training.meter.aside)
        if full <= 1.0 and _rival_beaten(held, reached, weights=weights, strictly=strictly):
            return Comparison(
                reasons=(),
                before=tuple(held),
                after=tuple(reached[: len(held)]),
                reached=tuple(reached),
                complete=True,
            )
    return _verdict(training, held, reached, strictly=strictly, full=full)


def _outlook(
    held: Sequence[CaseResult],
    after: Sequence[CaseResult],
    *,
    weights: dict[str, float],
    strictly: bool,
    full: float,
) -> bool | None:
    """What is `foreseen` of a child that was measured on the first of its parent's cases."""
    missing = [None] * (len(held) - len(after))
    return foreseen(held, [*after, *missing], weights=weights, strictly=strictly, full=full)


def _rival_beaten(
    held: Sequence[CaseResult],
    reached: Sequence[CaseResult],
    *,
    weights: dict[str, float],
    strictly: bool,
) -> bool:
    """Whether the rival cannot catch up on the cases it was not measured on."""
    if any(not result.ok for result in (*held, *reached)) or outside((*held, *reached), weights):
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


def _worst_first(training: Training, results: Sequence[CaseResult]) -> list[int]:
    def rank(index: int) -> float:
        score = results[index].objective(training.weights)
        return -math.inf if score is None else score

    return sorted(range(len(results)), key=rank)


def _verdict(
    training: Training,
    held: Sequence[CaseResult],
    after: Sequence[CaseResult],
    *,
    strictly: bool,
    full: float,
) -> Comparison:
    before = held[: len(after)]
    missing = len(held) - len(after)
    weights = training.weights
    reasons: list[str] = []
    if _outlook(held, after, weights=weights, strictly=strictly, full=full) is not True:
        reasons = reasons_against(before, after, weights=weights, strictly=strictly)
        if not reasons and missing:
            reasons = [f"cannot gain on the other {missing} cases what it would need"]
    return Comparison(
        reasons=tuple(reasons),
        before=tuple(before),
        after=tuple(after),
        reached=tuple(after),
        complete=not missing,
    )
