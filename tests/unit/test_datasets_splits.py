"""Splits that are made: exact, seeded, stable."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.errors import DatasetError

THIRDS = {"train": 0.5, "validation": 0.2, "holdout": 0.3}

proportions = st.lists(st.integers(1, 20), min_size=1, max_size=4).map(
    lambda parts: {f"s{n}": part / sum(parts) for n, part in enumerate(parts)}
)


def cases(labels: list[int]) -> Dataset:
    return Dataset.from_cases(
        [
            {"id": f"c{n}", "inputs": n, "expected_output": {"queue": label}}
            for n, label in enumerate(labels)
        ]
    )


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    shares=proportions,
    seed=st.integers(0, 2**31),
)
def test_every_stratum_is_split_exactly_to_rounding(
    labels: list[int], shares: dict[str, float], seed: int
) -> None:
    dataset = cases(labels).with_splits(shares, seed=seed, stratify="expected_output.queue")
    total = sum(Fraction(repr(share)) for share in shares.values())
    for label, size in Counter(labels).items():
        members = [case for case in dataset if case.expected_output["queue"] == label]
        counts = Counter(case.split for case in members)
        for name, share in shares.items():
            exact = size * Fraction(repr(share)) / total
            assert floor(exact) <= counts[name] <= ceil(exact)
    for name, share in shares.items():
        exact = len(labels) * Fraction(repr(share)) / total
        assert abs(dataset.splits().get(name, 0) - exact) < len(shares)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_cases_and_proportions_makes_no_difference(
    labels: list[int], shuffler: object
) -> None:
    dataset = cases(labels)
    there = list(dataset.cases)
    shuffler.shuffle(there)  # type: ignore[attr-defined]
    one = dataset.with_splits(THIRDS, seed=1, stratify="expected_output")
    other = Dataset.from_cases(there).with_splits(
        dict(reversed(THIRDS.items())), seed=1, stratify="expected_output"
    )
    assert {case.id: case.split for case in one} == {case.id: case.split for case in other}


def test_small_strata_do_not_starve_a_split() -> None:
    dataset = cases(list(range(100))).with_splits(THIRDS, stratify="expected_output.queue")
    assert dataset.splits() == {"train": 50, "validation": 20, "holdout": 30}


@pytest.mark.requirement("dataset.version")
def test_a_seed_decides_and_another_decides_otherwise() -> None:
    dataset = cases([0] * 50)
    first = [case.split for case in dataset.with_splits(THIRDS, seed=1)]
    assert first == [case.split for case in dataset.with_splits(THIRDS, seed=1)]
    assert first != [case.split for case in dataset.with_splits(THIRDS, seed=2)]


def test_a_case_more_moves_few_others() -> None:
    before = {case.id: case.split for case in cases([0] * 200).with_splits(THIRDS)}
    after = {case.id: case.split for case in cases([0] * 201).with_splits(THIRDS)}
    assert sum(after[case] != split for case, split in before.items()) <= 2


def test_splits_made_are_part_of_the_version() -> None:
    dataset = cases([0] * 10)
    before = dataset.version
    assert dataset.with_splits(THIRDS).version != before
    assert dataset.with_splits(THIRDS).with_splits({"all": 1}).splits() == {"all": 10}


@pytest.mark.parametrize(
    ("shares", "stratify", "message"),
    [
        ({}, None, "must name at least one split"),
        ({"train": 0.5, "holdout": 0.4}, None, "must sum to 1"),
        ({"train": 1.5, "holdout": -0.5}, None, "must be a number from 0 to 1"),
        ({"train": True}, None, "must be a number from 0 to 1"),
        ({" ": 1}, None, "must be 1 to 64 printable characters"),
        (THIRDS, "queue", "must begin with inputs, expected_output or metadata"),
        (THIRDS, "metadata.language", "is not there in case 'c0'"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(
    shares: dict[str, float], stratify: str | None, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        cases([0, 1]).with_splits(shares, stratify=stratify)
