"""What an evaluator says, and what it means when it could not say anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

FailureKind: TypeAlias = Literal[
    "exception", "timeout", "not_finite", "wrong_shape", "not_json", "missing"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """One score of one evaluator on one case.

    `score` is a finite float; it is None only for a purely categorical result, which then has a
    `label` and takes part in label counts, never in a mean. `passed` defaults to None: the summary
    then counts a case as passed when its score is at least 1.0. `name` is set by the binding.
    """

    score: float | None = None
    passed: bool | None = None
    reason: str | None = None
    label: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"score must be a finite number, not {self.score!r}")
        if self.score is None and self.label is None:
            raise ValueError("an evaluation result needs a score or a label")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatorFailure:
    """The evaluator broke. Not a score: it is counted and reported, never averaged in."""

    name: str
    kind: FailureKind
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetFailure:
    """The target broke on a case. Evaluators are then not called at all."""

    kind: FailureKind
    reason: str
    attempts: int = 1


Outcome: TypeAlias = EvaluationResult | EvaluatorFailure


def failure_to_json(failure: EvaluatorFailure | TargetFailure) -> dict[str, Any]:
    """A failure as stored in the ledger and sent in events."""
    return {"kind": failure.kind, "reason": failure.reason}
