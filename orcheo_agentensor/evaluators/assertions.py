"""`Assertions`: what cases assert of their own outputs, in the form of promptfoo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from math import fsum
from typing import Any, ClassVar

from pydantic import Field, field_validator

from orcheo_agentensor.datasets.assertions import (
    ASSERT,
    RUBRIC,
    SET,
    THRESHOLD,
    Assertion,
    kind_of,
    problem_of,
    wanted_in,
)
from orcheo_agentensor.errors import EvaluatorRefused, shorten
from orcheo_agentensor.evaluators.builtin import MISSING, OfOutput, same
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    NotApplicable,
    Outcome,
    as_text,
)
from orcheo_agentensor.evaluators.json_checks import JsonSchema, parsed
from orcheo_agentensor.evaluators.judge import LLMJudge
from orcheo_agentensor.evaluators.patterns import linear_pattern
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.settings import Settings

_GOOD_RUBRIC = 0.5
_NEAR = 5
_MOST_TRIES = 200


class _Broken(Exception):
    """An assertion could not be decided."""

    def __init__(self, failure: EvaluatorFailure) -> None:
        self.failure = failure


class Assertions(OfOutput):
    """What a case asserts of its output in `metadata.assert`: the weighted share that holds.

    Assertions have the form of promptfoo: `equals`, `contains`, `icontains`, `contains-all`,
    `contains-any`, `starts-with`, `regex`, `is-json`, `contains-json` (both with a schema),
    `levenshtein`, `latency`, `cost`, `llm-rubric`, `assert-set`, and each with `not-` before it. A
    case passes where all hold, or from its `metadata.assert_threshold` on. The reason names those
    that do not hold. A case that asserts nothing is not applicable. A rubric is scored by a model,
    and holds from its `threshold` on, 0.5 where it has none.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> asserts = [{"type": "icontains", "value": "sorry"}, {"type": "not-regex", "value": "!"}]
        >>> report = evaluate(
        ...     lambda inputs: "Sorry!",
        ...     dataset=[{"inputs": "?", "metadata": {"assert": asserts}}],
        ...     evaluators=["assertions"],
        ... )
        >>> report.cases[0].scores, report.cases[0].reasons
        ({'assertions': 0.5}, {'assertions': "not-regex '!': it does"})
    """

    type_name: ClassVar[str] = "assertions"

    always: list[dict[str, Any]] = Field(
        default_factory=list, alias=ASSERT, description="What every case asserts, before its own"
    )
    model: Any = Field(
        default=None,
        description="The judge of rubrics: a name such as openai:gpt-5-mini, or a chat model; "
        "AGENTENSOR_MODEL if none",
    )

    @field_validator("always")
    @classmethod
    def _can_be_scored(cls, assertions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for one in assertions:
            if (problem := problem_of(one)) is not None:
                raise ValueError(f"{one.get('type', 'an assertion')} {problem}")
        return assertions

    def with_settings(self, settings: Settings) -> Assertions:
        """With the operator's model where it has none."""
        return self if self.model is not None else self.changed(model=settings.model)

    def require_model(self, metadata: Iterable[Mapping[str, Any]]) -> None:
        """Raise `EvaluatorRefused` where cases with this metadata assert something of a rubric, and
        there is no model that judges it. Blocks."""
        held = (one.get(ASSERT) for one in metadata)
        asserted = (entry for one in held if isinstance(one, list) for entry in one)
        if not any(map(_has_rubric, chain(self.always, asserted))):
            return
        if self.model is None:
            raise EvaluatorRefused(
                f"{self.name}: the cases assert something of a rubric ({RUBRIC}), and there is no "
                "model to judge it; give this evaluator a model, or set AGENTENSOR_MODEL",
                field="model",
                value=None,
                rule="must name a chat model",
            )
        LLMJudge(rubric=RUBRIC, model=self.model).require_model()

    @property
    def compares(self) -> bool:
        return True

    async def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Decide every assertion; rubrics are asked about at once."""
        own = ctx.metadata.get(ASSERT) or []
        if not isinstance(own, list):
            reason = f"metadata.{ASSERT}: {shorten(own)} must be a list of assertions"
            return EvaluatorFailure(name=self.name, kind="wrong_shape", reason=reason)
        asserts = [*self.always, *own]
        if not asserts:
            return NotApplicable(name=self.name, reason="the case asserts nothing")
        for one in asserts:
            if (problem := problem_of(one)) is not None:
                named = one.get("type") if isinstance(one, Mapping) else one
                reason = f"metadata.{ASSERT}: {shorten(named)} {problem}"
                return EvaluatorFailure(name=self.name, kind="wrong_shape", reason=reason)
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        try:
            score, passed, reasons = await self._all(asserts, found, ctx)
        except _Broken as broken:
            return broken.failure
        if score is None:
            return NotApplicable(name=self.name, reason="every assertion has the weight 0")
        least = ctx.metadata.get(THRESHOLD)
        if isinstance(least, int | float):
            passed = score >= least
        return EvaluationResult(
            name=self.name, score=score, passed=passed, reason="\n".join(reasons) or None
        )

    async def _all(
        self, asserts: list[Assertion], found: Any, ctx: EvaluatorContext
    ) -> tuple[float | None, bool, list[str]]:
        """The weighted mean, whether all that count hold, and why those do not that do not."""
        results = await asyncio.gather(*(self._one(one, found, ctx) for one in asserts))
        weights = [float(one.get("weight", 1)) for one in asserts]
        counted = [*zip(asserts, results, weights, strict=True)]
        reasons = [f"{_told(a)}: {why}" for a, (_, good, why), w in counted if w and not good]
        passed = all(good for _, (_, good, _), weight in counted if weight)
        total = fsum(weights)
        score = fsum(w * s for _, (s, _, _), w in counted) / total if total else None
        return score, passed, reasons

    async def _one(
        self, one: Assertion, found: Any, ctx: EvaluatorContext
    ) -> tuple[float, bool, str]:
        kind, negated = kind_of(one)
        if kind == RUBRIC:
            score, passed, why = await self._rubric(one, ctx)
        elif kind == SET:
            inner, passed, reasons = await self._all(one[ASSERT], found, ctx)
            score, why = inner or 0.0, "; ".join(reasons)
            if one.get("threshold") is not None:
                passed = score >= one["threshold"]
        else:
            problem = self._problem(kind, one, found, ctx)
            score, passed, why = float(problem is None), problem is None, problem or ""
        if not negated:
            return score, passed, why
        return float(not passed), not passed, "it does" if passed else ""

    async def _rubric(self, one: Assertion, ctx: EvaluatorContext) -> tuple[float, bool, str]:
        self.require_model(({ASSERT: [one]},))  # where no job has asked before
        judge = LLMJudge(
            name=self.name,
            rubric=one["value"],
            model=self.model,
            threshold=one.get("threshold", _GOOD_RUBRIC),
        )
        given = await judge.evaluate(ctx)
        if not isinstance(given, EvaluationResult) or given.score is None:
            raise _Broken(given)
        return given.score, bool(given.passed), given.reason or f"scored {given.score:g}"

    def _problem(self, kind: str, one: Assertion, found: Any, ctx: EvaluatorContext) -> str | None:
        """What keeps an assertion from holding; None where it holds."""
        value: Any = one.get("value")
        threshold: Any = one.get("threshold")
        if kind == "latency":
            return None if ctx.latency_ms <= threshold else f"took {ctx.latency_ms:.0f} ms"
        if kind == "cost":
            cost = ctx.usage.cost
            if cost is None:
                raise _Broken(self.lacks(ctx, "the cost of the rollout"))
            return None if cost <= threshold else f"cost {cost:g}"
        if kind in ("is-json", "contains-json"):
            return _json_problem(found, value, anywhere=kind == "contains-json")
        text = as_text(found)
        if kind == "equals":
            equal = _equals(value, found, text)
            return None if equal else f"got {shorten(found)}"
        if kind == "levenshtein":
            most = int(_NEAR if threshold is None else threshold)
            near = _is_near(text, as_text(value), most)
            return None if near else f"more than {most} edits away: {shorten(found)}"
        if kind == "regex":
            return None if linear_pattern(str(value)).matches(text) else "does not match"
        if kind == "starts-with":
            return None if text.startswith(as_text(value)) else f"got {shorten(found)}"
        wanted = wanted_in(value) if "-" in kind else [as_text(value)]
        if kind.startswith("i"):
            text, folded = text.casefold(), [entry.casefold() for entry in wanted]
        else:
            folded = wanted
        lacking = [entry for entry, part in zip(wanted, folded, strict=True) if part not in text]
        enough = len(lacking) < len(wanted) if kind.endswith("-any") else not lacking
        return None if enough else f"does not contain {', '.join(map(repr, lacking))}"


def _has_rubric(one: Any) -> bool:
    if not isinstance(one, Mapping):
        return False
    inner = one.get(ASSERT)
    inside = isinstance(inner, list) and any(map(_has_rubric, inner))
    return inside or kind_of(one)[0] == RUBRIC


def _told(one: Assertion) -> str:
    name = one.get("metric") or one["type"]
    return f"{name} {shorten(one['value'])}" if one.get("value") is not None else str(name)


def _equals(value: Any, found: Any, text: str) -> bool:
    """Equality as promptfoo has it: of JSON where an object is wanted, else of texts."""
    if not isinstance(value, dict | list):
        return text == as_text(value)
    held, problem = parsed(found)
    return not problem and same(value, held)


def _json_problem(found: Any, schema: Any, *, anywhere: bool) -> str | None:
    values, problem = [], "holds no JSON"
    if anywhere and isinstance(found, str):
        values = [*_json_in(found)]
    else:
        value, problem = parsed(found)
        values = [] if problem else [value]
    if not values or schema is None:
        return None if values else problem
    check = _schema(canonical_json(schema))
    told: str | None = None
    for value in values:
        ctx = EvaluatorContext(case_id="", inputs=None, output=value)
        outcome = check.evaluate(ctx)
        if isinstance(outcome, EvaluationResult) and outcome.passed:
            return None
        told = told or getattr(outcome, "reason", None)
    return told


def _json_in(text: str) -> Iterator[Any]:
    """The objects and lists of JSON that stand in a text."""
    decoder, at = json.JSONDecoder(), 0
    for _ in range(_MOST_TRIES):
        begins = [found for mark in "{[" if (found := text.find(mark, at)) >= 0]
        if not begins:
            return
        at = min(begins)
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield value


@lru_cache(maxsize=256)
def _schema(schema: str) -> JsonSchema:
    return JsonSchema(schema=json.loads(schema)).for_job()


def _is_near(one: str, other: str, most: int) -> bool:
    """Whether so many edits of single characters make one text of the other (Levenshtein).

    For each number of edits it is followed how far they lead on each diagonal of the table of
    distances (Ukkonen, 1985), so that the time depends on the limit and hardly on the texts.
    """
    goal = len(other) - len(one)
    reached = {0: _alike(one, other, 0, 0)}
    for edits in range(most + 1):
        if reached.get(goal, -1) == len(one):
            return True
        before, reached, left = reached, {}, most - edits - 1
        for d in range(max(-edits - 1, goal - left), min(edits + 1, goal + left) + 1):
            at = max(before.get(d, -2) + 1, before.get(d - 1, -1), before.get(d + 1, -2) + 1)
            at = min(at, len(one), len(other) - d)
            if at >= max(0, -d):
                reached[d] = at + _alike(one, other, at, at + d)
    return False


def _alike(one: str, other: str, i: int, j: int) -> int:
    """How many characters are the same from these places on: by slices, as single ones are slow."""
    found, size, most = 0, 1, min(len(one) - i, len(other) - j)
    grows = True
    while size:
        end = found + size
        if end <= most and one[i + found : i + end] == other[j + found : j + end]:
            found = end
        else:
            grows = False
        size = 2 * size if grows else size // 2
    return found
