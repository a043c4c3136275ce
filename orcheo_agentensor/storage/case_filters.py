"""Which stored rollouts are wanted, and in which order: conditions in SQL."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict, TypeVar

from sqlalchemy import ColumnElement, Select, case, exists, func, or_, select, true

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.storage.tables import cases, rollouts, runs, scores

SelectT = TypeVar("SelectT", bound=Select[Any])

_RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
TEST = r"^\s*[^<>=!]*[^<>=!\s]\s*(<=|>=|!=|<|>|=)\s*-?[0-9]{1,15}(\.[0-9]{1,15})?\s*$"
"""What a test of a score looks like."""
_PARTS = re.compile(r"([^<>=!]+)([<>=!]+)(.+)")


@dataclass(frozen=True, kw_only=True)
class ScoreTest:
    """What a score of an evaluator must be, as in `exact_match<0.5`."""

    evaluator: str
    relation: str
    value: float

    @classmethod
    def parse(cls, text: str, *, field: str = "--where") -> Self:
        """The test that a text stands for; raises `BadInput` for none."""
        found = _PARTS.fullmatch(text.strip())
        if found is None or not re.fullmatch(TEST, text):
            rule = f"must be EVALUATOR, one of {' '.join(_RELATIONS)}, and a number"
            raise BadInput(field=field, value=text, rule=rule)
        name, relation, value = (part.strip() for part in found.groups())
        return cls(evaluator=name, relation=relation, value=float(value))


class CaseFilters(TypedDict, total=False):
    """Which rollouts of a run are wanted.

    `evaluator` keeps only scores of that name. `failed` keeps rollouts that failed or where an
    evaluator failed (True), or only the others (False). `passed` keeps those that passed all of
    their evaluators, or only the others, failures among them. `where` keeps rollouts whose scores
    hold all of these tests. `split` keeps cases of that split, `min_score` and `max_score` rollouts
    with a score (of `evaluator`) in that range.
    """

    candidate_hash: str | None
    phase: str | None
    case_ids: Sequence[str] | None
    evaluator: str | None
    failed: bool | None
    passed: bool | None
    where: Sequence[ScoreTest]
    split: str | None
    min_score: float | None
    max_score: float | None


def filtered(query: SelectT, run_id: str, filters: CaseFilters) -> SelectT:
    """`query` over rollouts, of those of a run that are wanted."""
    query = query.where(rollouts.c.run_id == run_id)
    for name in ("candidate_hash", "phase"):
        if (value := filters.get(name)) is not None:
            query = query.where(rollouts.c[name] == value)
    if (case_ids := filters.get("case_ids")) is not None:
        query = query.where(rollouts.c.case_id.in_(case_ids))
    if (failed := filters.get("failed")) is not None:
        broken = or_(rollouts.c.failure.is_not(None), _scored(scores.c.failure.is_not(None)))
        query = query.where(broken if failed else ~broken)
    if (passed := filters.get("passed")) is not None:
        query = query.where(~missed() if passed else missed())
    if (split := filters.get("split")) is not None:
        query = query.where(rollouts.c.case_id.in_(_in_split(run_id, split)))
    for one in filters.get("where", ()):
        holds = _RELATIONS[one.relation](scores.c.score, one.value)
        query = query.where(_scored(scores.c.name == one.evaluator, holds))
    low, high = filters.get("min_score"), filters.get("max_score")
    if low is not None or high is not None:
        evaluator = filters.get("evaluator")
        in_range: list[ColumnElement[bool]] = [scores.c.score.is_not(None)]
        in_range += [] if evaluator is None else [scores.c.name == evaluator]
        in_range += [] if low is None else [scores.c.score >= low]
        in_range += [] if high is None else [scores.c.score <= high]
        query = query.where(_scored(*in_range))
    return query


def missed() -> ColumnElement[bool]:
    """Whether a rollout failed, or an evaluator of it failed or did not pass it."""
    not_passed = or_(
        scores.c.failure.is_not(None),
        scores.c.passed.is_(False),
        scores.c.passed.is_(None) & (scores.c.score < 1.0),
    )
    return or_(rollouts.c.failure.is_not(None), _scored(not_passed))


def worst_first(query: SelectT, run_id: str, weights: Mapping[str, float]) -> SelectT:
    """`query` over rollouts with what failed first, then by the weighted mean of the scores."""
    evaluator_of = [
        ((scores.c.name == name) | scores.c.name.startswith(f"{name}.", autoescape=True), weight)
        for name, weight in weights.items()
    ]
    weight = case(*evaluator_of, else_=1.0) if evaluator_of else func.abs(1.0)
    means = (
        select(
            scores.c.position,
            (func.sum(weight * scores.c.score) / func.nullif(func.sum(weight), 0.0)).label("mean"),
            func.max(case((scores.c.failure.is_not(None), 1), else_=0)).label("failed"),
        )
        .where(scores.c.run_id == run_id)
        .group_by(scores.c.position)
        .subquery()
    )
    broken = case((rollouts.c.failure.is_not(None), 2), else_=func.coalesce(means.c.failed, 0))
    return (
        query.outerjoin(means, means.c.position == rollouts.c.position)
        .order_by(None)
        .order_by(
            broken.desc(),
            func.coalesce(means.c.mean, 2.0),
            rollouts.c.case_id,
            rollouts.c.replicate,
            rollouts.c.key,
        )
    )


def _scored(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a rollout has a score of which all of this is true."""
    return exists().where(
        scores.c.run_id == rollouts.c.run_id,
        scores.c.position == rollouts.c.position,
        *(conditions or (true(),)),
    )


def _in_split(run_id: str, split: str) -> Select[Any]:
    return (
        select(cases.c.case_id)
        .join(
            runs,
            (runs.c.dataset_id == cases.c.dataset_id) & (runs.c.dataset_version == cases.c.version),
        )
        .where(runs.c.run_id == run_id, cases.c.split == split)
    )
