"""Built-ins for plain values and texts."""

from __future__ import annotations

import json
import math
import re
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from orcheo_agentensor.evaluators.builtin.base import Builtin, Comparing, OfOutput, differs
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import EvaluationResult, Outcome
from orcheo_agentensor.evaluators.values import MISSING, pick, same

_WORD = re.compile(r"\w+|[^\w\s]")
_BY_CHARACTER = 300
_MOST_WORDS = 2_000


class ExactMatch(Comparing):
    """1 when the output equals the expected output, else 0.

    When both are objects, keys that only the output has are ignored: a graph's state holds more
    than its answer. `1` equals `1.0`; `true` does not equal `1`.
    """

    type_name: ClassVar[str] = "exact_match"

    ignore_case: bool = Field(default=False, description="Compare texts without case")

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        expected = self.expected(ctx)
        if expected is MISSING:
            return self.no_expected(ctx)
        found = self.part(ctx)
        if expected and isinstance(expected, dict) and isinstance(found, dict):
            for key, value in expected.items():
                if key not in found or not self._equal(value, found[key]):
                    return self.falls_short(f"{key}: {differs(value, pick(found, (key,)))}")
            return self.passes()
        if found is not MISSING and self._equal(expected, found):
            return self.passes()
        return self.falls_short(differs(expected, found))

    def _equal(self, expected: Any, found: Any) -> bool:
        if self.ignore_case and isinstance(expected, str) and isinstance(found, str):
            return expected.casefold() == found.casefold()
        return same(expected, found)


class Contains(Comparing):
    """The share of the wanted texts that the output contains; passed when all are there.

    Looks for `value`, or for the expected output (a text or a list of texts). An output that is not
    text is searched as JSON.
    """

    type_name: ClassVar[str] = "contains"

    value: str | list[str] | None = Field(default=None, description="Text or texts to look for")
    ignore_case: bool = Field(default=False, description="Compare without case")

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        wanted = self.value if self.value is not None else self.expected(ctx)
        if wanted is MISSING or wanted == []:
            return self.no_expected(ctx)
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        texts = [as_text(item) for item in (wanted if isinstance(wanted, list) else [wanted])]
        text = self._folded(as_text(found))
        lacking = [item for item in texts if self._folded(item) not in text]
        if not lacking:
            return self.passes()
        reason = f"does not contain {', '.join(map(repr, lacking))}"
        return self.falls_short(reason, (len(texts) - len(lacking)) / len(texts))

    def _folded(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


class Regex(OfOutput):
    """1 when the pattern is found in the output (or matches all of it, with `full`), else 0."""

    type_name: ClassVar[str] = "regex"

    pattern: str = Field(description="A Python regular expression")
    full: bool = Field(default=False, description="Match the whole text")
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return pattern

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        text = as_text(found)
        match = self._compiled.fullmatch(text) if self.full else self._compiled.search(text)
        return self.passes() if match else self.falls_short(f"does not match {self.pattern!r}")


class NumericTolerance(Comparing):
    """1 when the output is a number close enough to the expected one, else 0.

    Numbers written as text count. Close is `|a - b| <= max(rel_tol * max(|a|, |b|), abs_tol)`.
    """

    type_name: ClassVar[str] = "numeric_tolerance"

    abs_tol: float = Field(default=0.0, ge=0)
    rel_tol: float = Field(default=0.0, ge=0)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        expected = self.expected(ctx)
        if expected is MISSING:
            return self.no_expected(ctx)
        target = _number(expected)
        if target is None:
            return self.lacks(ctx, "a number as expected output")
        found = self.part(ctx)
        number = _number(found)
        if number is None:
            return self.falls_short(f"{differs(expected, found)}, which is not a number")
        if math.isclose(number, target, rel_tol=self.rel_tol, abs_tol=self.abs_tol):
            return self.passes()
        return self.falls_short(differs(expected, found))


class StringSimilarity(Comparing):
    """How alike output and expected output are as texts, from 0 to 1 (`difflib` ratio).

    Texts up to 300 characters are compared by character, longer ones by word (their first 2,000).
    """

    type_name: ClassVar[str] = "string_similarity"

    threshold: float | None = Field(default=None, ge=0, le=1, description="Passed from this on")

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        expected = self.expected(ctx)
        if expected is MISSING:
            return self.no_expected(ctx)
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        score = _similarity(as_text(expected), as_text(found))
        passed = score >= (1.0 if self.threshold is None else self.threshold)
        reason = None if passed else differs(expected, found)
        return EvaluationResult(name=self.name, score=score, passed=passed, reason=reason)


class Length(OfOutput):
    """1 when the output's length lies within the bounds, else 0."""

    type_name: ClassVar[str] = "length"

    at_least: int | None = Field(default=None, ge=0)
    at_most: int | None = Field(default=None, ge=0)
    unit: Literal["characters", "words"] = "characters"

    @model_validator(mode="after")
    def _bounded(self) -> Length:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        return self

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        text = as_text(found)
        length = len(text) if self.unit == "characters" else len(text.split())
        if self.at_least is not None and length < self.at_least:
            return self.falls_short(f"{length} {self.unit}, at least {self.at_least} wanted")
        if self.at_most is not None and length > self.at_most:
            return self.falls_short(f"{length} {self.unit}, at most {self.at_most} wanted")
        return self.passes()


class Latency(Builtin):
    """1 when the target took at most `max_ms` milliseconds, else 0.

    The target's own time counts, without queueing, backing off and evaluators.
    """

    type_name: ClassVar[str] = "latency"

    max_ms: float = Field(gt=0)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        if ctx.latency_ms <= self.max_ms:
            return self.passes()
        return self.falls_short(f"took {ctx.latency_ms:.0f} ms, at most {self.max_ms:g} wanted")


def as_text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _similarity(left: str, right: str) -> float:
    if left == right:
        return 1.0
    if max(len(left), len(right)) <= _BY_CHARACTER:
        return SequenceMatcher(None, left, right, autojunk=False).ratio()
    words = (_WORD.findall(left)[:_MOST_WORDS], _WORD.findall(right)[:_MOST_WORDS])
    return SequenceMatcher(None, *words, autojunk=False).ratio()
