"""Means, intervals and paired tests. Everything here may import scipy, so call it off the loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
_NORMAL = 1.959963984540054  # the quantile of a normal distribution for that interval
PERMUTATIONS = 9_999
MANY = 5_000
"""Above so many values the normal distribution takes the place of resampling, whose results it
then gives: resampling 100,000 would take gigabytes and minutes."""
_AT_ONCE = 2_000_000  # resampled values in memory


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean with its standard error and 95 % interval; `se` and the interval need two values."""

    mean: float
    se: float | None
    ci95: tuple[float, float] | None


def describe(values: Sequence[float]) -> Mean:
    """Mean, standard error and interval of a non-empty sample.

    Values that are all 0 or 1 get the Wilson score interval (Wilson, 1927), which stays inside
    [0, 1] and does not collapse when all agree; others get Student's t interval.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Mean(mean=mean, se=None, ci95=None)
    squares = math.fsum((value - mean) ** 2 for value in values)
    se = math.sqrt(squares / (n - 1) / n)
    if set(values) <= {0.0, 1.0}:
        return Mean(mean=mean, se=se, ci95=_wilson(mean, n, _NORMAL))
    # Only where it is needed: with numpy it takes a good part of a short run to import. (And
    # scipy.stats would bring the same quantiles at four times the import time.)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * se
    return Mean(mean=mean, se=se, ci95=(mean - half, mean + half))


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The `share` quantile by linear interpolation; None of an empty sample."""
    if not values:
        return None
    ordered = sorted(values)
    position = (len(ordered) - 1) * share
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def mean_interval(differences: Sequence[float], *, seed: int) -> tuple[float, float] | None:
    """The bootstrap (BCa) 95 % interval of a mean difference, of `MANY` values Student's t; the
    point itself where all are equal, None below two values."""
    import numpy as np
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    if values.size < 2:
        return None
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # equal, but for how they were computed
        return float(values.mean()), float(values.mean())
    if values.size > MANY:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, values.size - 1) * stats.sem(values)
        return float(values.mean() - half), float(values.mean() + half)
    interval = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=PERMUTATIONS,
        method="BCa",
        batch=_AT_ONCE // values.size,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The gain of one config over another on the same cases.

    `p_value` is two-sided, from a sign-flip permutation test; `ci95` is the bootstrap (BCa)
    interval of the mean difference, or the point itself where all differences are equal.
    """

    n: int
    gain: float
    ci95: tuple[float, float] | None
    p_value: float


def paired_difference(
    baseline: Sequence[float], best: Sequence[float], *, seed: int
) -> PairedDifference:
    """Compare paired scores; `baseline[i]` and `best[i]` belong to the same case.

    Under the null hypothesis the sign of each difference is a coin flip (Fisher's permutation
    test). All 2^n sign patterns are tried when they are few, otherwise `PERMUTATIONS` random ones
    drawn from `seed`; of `MANY` differences their sum is compared with the normal distribution.
    """
    import numpy as np
    from scipy import stats

    differences = np.asarray(best, dtype=float) - np.asarray(baseline, dtype=float)
    n = int(differences.size)
    if n == 0:
        return PairedDifference(n=0, gain=0.0, ci95=None, p_value=1.0)
    gain = math.fsum(differences.tolist()) / n
    if not differences.any():
        return PairedDifference(n=n, gain=0.0, ci95=(0.0, 0.0), p_value=1.0)
    if n < 2:
        return PairedDifference(n=n, gain=gain, ci95=None, p_value=1.0)
    moved = differences[differences != 0.0]
    if moved.size == 1:
        p_value = 1.0
    elif moved.size > MANY:
        p_value = math.erfc(abs(moved.sum()) / math.sqrt(2 * np.square(moved).sum()))
    else:
        test = stats.permutation_test(
            (moved,),
            lambda sample, axis: np.mean(sample, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=PERMUTATIONS,
            batch=_AT_ONCE // moved.size,
            rng=np.random.default_rng(seed),
        )
        p_value = float(test.pvalue)
    interval = mean_interval(differences.tolist(), seed=seed)
    return PairedDifference(n=n, gain=gain, ci95=interval, p_value=p_value)


def p95_excess(
    baseline: Sequence[float], best: Sequence[float], *, ratio: float, slack: float, seed: int
) -> float:
    """How likely chance alone puts the p95 of `best` above `ratio` x the baseline's + `slack`.

    The one-sided p value of a paired bootstrap (Efron and Tibshirani, 1993): cases are drawn
    again, both sides of a case together, and the share of draws without an excess is counted.
    """
    import numpy as np

    sides = np.asarray([baseline, best], dtype=float)
    n = sides.shape[1]
    rng = np.random.default_rng(seed)
    within, draws, rows = 0, PERMUTATIONS, max(1, 1_000_000 // n)
    for start in range(0, draws, rows):  # in parts, so that many cases take no more memory
        drawn = rng.integers(0, n, size=(min(rows, draws - start), n))
        before, after = (np.percentile(side[drawn], 95, axis=1) for side in sides)
        within += int((after <= ratio * before + slack).sum())
    return (within + 1) / (draws + 1)
