from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orcheo_agentensor.evaluation.statistics import describe, paired_difference, percentile

scores = st.floats(0, 1, allow_nan=False)


@given(st.lists(scores, min_size=2, max_size=40))
def test_interval_holds_the_mean_and_the_error_is_the_textbook_one(values: list[float]) -> None:
    found = describe(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.se == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))
    assert found.ci95 is not None
    assert found.ci95[0] - 1e-9 <= found.mean <= found.ci95[1] + 1e-9


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=60))
def test_interval_of_a_share_stays_between_zero_and_one_and_never_collapses(
    values: list[float],
) -> None:
    low, high = describe(values).ci95 or (0.0, 0.0)
    assert -1e-12 <= low < high <= 1 + 1e-12


@given(st.integers(0, 40), st.integers(2, 40))
def test_intervals_are_those_of_scipy_stats(passed: int, n: int) -> None:
    shares = [1.0] * min(passed, n) + [0.0] * max(0, n - passed)
    wilson = stats.binomtest(min(passed, n), n).proportion_ci(method="wilson")
    assert describe(shares).ci95 == pytest.approx((wilson.low, wilson.high))
    spread = [share * 0.5 for share in shares] + [0.25]
    expected = stats.t.interval(
        0.95, n, loc=statistics.fmean(spread), scale=statistics.stdev(spread) / math.sqrt(n + 1)
    )
    if statistics.stdev(spread):
        assert describe(spread).ci95 == pytest.approx(expected)


def test_one_value_has_a_mean_and_no_interval() -> None:
    found = describe([0.5])
    assert (found.mean, found.se, found.ci95) == (0.5, None, None)


@given(st.lists(scores, min_size=1, max_size=50), st.floats(0, 1))
def test_percentile_is_within_the_sample_and_rises_with_its_share(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found is not None
    assert min(values) <= found <= max(values)
    assert found <= (percentile(values, 1.0) or 0.0)


def test_percentile_of_nothing_is_unknown() -> None:
    assert percentile([], 0.5) is None


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12))
def test_no_difference_is_never_significant(values: list[float]) -> None:
    found = paired_difference(values, values, seed=0)
    assert (found.gain, found.p_value) == (0.0, 1.0)


def test_paired_test_gives_the_exact_permutation_value_for_few_cases() -> None:
    # Eight gains of one: only the all-plus and the all-minus pattern are as extreme.
    found = paired_difference([0.0] * 8, [1.0] * 8, seed=0)
    assert found.p_value == pytest.approx(2 / 2**8)
    assert found.gain == 1.0


def test_the_same_seed_gives_the_same_answer_and_sides_mirror() -> None:
    before = [0.0, 1.0] * 20
    after = [1.0, 1.0] * 18 + [0.0, 1.0, 0.0, 0.0]
    one = paired_difference(before, after, seed=3)
    assert one == paired_difference(before, after, seed=3)
    other = paired_difference(after, before, seed=3)
    assert other.gain == pytest.approx(-one.gain)
    assert other.p_value == pytest.approx(one.p_value, abs=0.02)


def test_null_runs_are_rarely_significant() -> None:
    import random

    coin = random.Random(7)
    hits = 0
    for trial in range(100):
        before = [float(coin.random() < 0.6) for _ in range(40)]
        after = [float(coin.random() < 0.6) for _ in range(40)]
        hits += paired_difference(before, after, seed=trial).p_value < 0.05
    assert hits / 100 <= 0.09


def test_many_pairs_are_not_resampled_and_give_what_resampling_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = random.Random(4)
    before = [draws.random() for _ in range(800)]
    after = [min(1.0, one + draws.uniform(-0.3, 0.34)) for one in before]
    drawn = paired_difference(before, after, seed=1)
    monkeypatch.setattr("orcheo_agentensor.evaluation.statistics.MANY", 500)
    counted = paired_difference(before, after, seed=1)
    assert (counted.n, counted.gain) == (drawn.n, drawn.gain)
    assert counted.p_value == pytest.approx(drawn.p_value, abs=0.01)
    assert counted.ci95 == pytest.approx(drawn.ci95, abs=0.001)
    monkeypatch.undo()
    many = paired_difference(before * 250, after * 250, seed=1)  # would take 16 GB to resample
    assert many.gain == pytest.approx(drawn.gain)
    assert many.ci95 is not None
    assert many.ci95[0] < many.gain < many.ci95[1]
    assert many.p_value < 0.0001
