"""What the built-in evaluators share."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.errors import shorten
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import EvaluationResult, EvaluatorFailure
from orcheo_agentensor.evaluators.values import MISSING, pick, split_path
from orcheo_agentensor.settings import Settings


class Builtin(BaseModel):
    """A built-in evaluator. Its parameters are its fields; it never changes its context."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    type_name: ClassVar[str] = ""
    """The name job files use."""

    in_process_only: ClassVar[frozenset[str]] = frozenset()
    """Parameters that a job file may not set."""

    name: str = Field(default="", description="What results go by; the type when left out")

    def model_post_init(self, context: Any, /) -> None:
        """Name it after its type unless told otherwise."""
        if not self.name:
            object.__setattr__(self, "name", self.type_name)

    def changed(self, **fields: Any) -> Self:
        """A new one that differs in `fields`."""
        now = {key: getattr(self, key) for key in type(self).model_fields}
        return type(self)(**{**now, **fields})

    def with_settings(self, settings: Settings) -> Builtin:
        """This evaluator, completed by what the operator has set."""
        return self

    def passes(self) -> EvaluationResult:
        """A full score; the same object each time."""
        return self._full

    def falls_short(self, reason: str, score: float = 0.0) -> EvaluationResult:
        """A score below 1 and why."""
        return EvaluationResult(name=self.name, score=score, passed=False, reason=reason)

    def lacks(self, ctx: EvaluatorContext, what: str) -> EvaluatorFailure:
        """The failure of a case without what this evaluator needs."""
        return EvaluatorFailure(
            name=self.name, kind="missing", reason=f"case {ctx.case_id}: {what} is missing"
        )

    @cached_property
    def _full(self) -> EvaluationResult:
        return EvaluationResult(name=self.name, score=1.0, passed=True)


class OfOutput(Builtin):
    """A built-in that looks at the output, or at the part of it at `field`."""

    field: str | None = Field(
        default=None, description="Dotted path into the output, such as messages.-1.content"
    )

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return split_path(self.field) if self.field else ()

    def part(self, ctx: EvaluatorContext) -> Any:
        """The part to look at, or `MISSING`."""
        return pick(ctx.output, self._keys) if self._keys else ctx.output

    def no_such_field(self) -> EvaluationResult:
        """The score of an output that lacks `field`."""
        return self.falls_short(f"the output has no {self.field}")


class Comparing(OfOutput):
    """A built-in that compares the output with the expected output.

    `field` is taken from both; an expected output that is not an object or a list is compared as it
    is. `expected_field` names another place in the expected output.
    """

    expected_field: str | None = Field(
        default=None, description="Dotted path into the expected output; `field` when left out"
    )

    @cached_property
    def _expected_keys(self) -> tuple[str, ...]:
        path = self.expected_field if self.expected_field is not None else self.field
        return split_path(path) if path else ()

    def expected(self, ctx: EvaluatorContext) -> Any:
        """What to compare with, or `MISSING`."""
        value = ctx.expected_output
        if value is None:
            return MISSING
        if self._expected_keys and isinstance(value, dict | list):
            return pick(value, self._expected_keys)
        return value

    def no_expected(self, ctx: EvaluatorContext) -> EvaluatorFailure:
        """The failure of a case without an expected output."""
        keys = ("expected_output", *self._expected_keys) if ctx.expected_output else ()
        return self.lacks(ctx, ".".join(keys) or "expected_output")


def differs(expected: Any, found: Any) -> str:
    """The reason of a mismatch."""
    if found is MISSING:
        return f"expected {shorten(expected)}, got nothing"
    return f"expected {shorten(expected)}, got {shorten(found)}"
