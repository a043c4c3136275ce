"""Seeded, stratified splits that change little when cases are added."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor, isclose
from typing import Any

from orcheo_agentensor.datasets.case import MAX_SPLIT, Case, check_name
from orcheo_agentensor.errors import DatasetError
from orcheo_agentensor.json_values import canonical_json


def assign_splits(
    cases: Sequence[Case],
    proportions: Mapping[str, float],
    *,
    seed: int = 0,
    stratify: str | None = None,
) -> list[str]:
    """The split name of each case, in the order of `cases`.

    Depends on neither the order of the cases nor that of `proportions`. In every stratum a split
    gets its exact share rounded down or up; the odd seats go to the splits furthest behind so far,
    so the totals keep close to the proportions however small the strata are.
    """
    shares = _exact_shares(proportions)
    strata: dict[str, list[int]] = defaultdict(list)
    for n, case in enumerate(cases):
        strata[_stratum(case, stratify)].append(n)
    names = [""] * len(cases)
    behind = dict.fromkeys(shares, Fraction(0))
    for key in sorted(strata):
        members = sorted(strata[key], key=lambda n: _draw(seed, cases[n].id))
        seats = _seats(len(members), shares, behind)
        place = 0
        for name, count in seats.items():
            for n in members[place : place + count]:
                names[n] = name
            place += count
    return names


def _seats(
    size: int, shares: Mapping[str, Fraction], behind: dict[str, Fraction]
) -> dict[str, int]:
    """Seats per split in a stratum of `size`; `behind` is brought up to date."""
    due = {name: size * share for name, share in shares.items()}
    seats = {name: floor(exact) for name, exact in due.items()}
    for name, exact in due.items():
        behind[name] += exact - seats[name]
    odd = [name for name in shares if due[name] != seats[name]]
    odd.sort(key=lambda name: (-behind[name], name))
    for name in odd[: size - sum(seats.values())]:
        seats[name] += 1
        behind[name] -= 1
    return seats


def _exact_shares(proportions: Mapping[str, float]) -> dict[str, Fraction]:
    if not proportions:
        raise DatasetError(field="splits", value={}, rule="must name at least one split")
    for name, share in proportions.items():
        check_name("splits", name, MAX_SPLIT)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise DatasetError(
                field=f"splits.{name}", value=share, rule="must be a number from 0 to 1"
            )
    if not isclose(sum(proportions.values()), 1.0, abs_tol=1e-6):
        raise DatasetError(field="splits", value=dict(proportions), rule="must sum to 1")
    exact = {name: Fraction(repr(proportions[name])) for name in sorted(proportions)}
    total = sum(exact.values())
    return {name: share / total for name, share in exact.items()}


def _stratum(case: Case, path: str | None) -> str:
    if path is None:
        return ""
    head, _, rest = path.partition(".")
    if head not in ("inputs", "expected_output", "metadata"):
        raise DatasetError(
            field="stratify",
            value=path,
            rule="must begin with inputs, expected_output or metadata",
        )
    value: Any = getattr(case, head)
    for key in rest.split(".") if rest else ():
        if not isinstance(value, dict) or key not in value:
            raise DatasetError(
                field="stratify", value=path, rule=f"is not there in case {case.id!r}"
            )
        value = value[key]
    return canonical_json(value)


def _draw(seed: int, case_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{case_id}".encode()).digest()
