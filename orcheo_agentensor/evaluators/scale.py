"""Scores on a scale of their own, brought to 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, TypeAlias

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.result import EvaluationResult, Outcome
from orcheo_agentensor.evaluators.returns import Reader, failure

Scale: TypeAlias = tuple[float, float]
"""The worst score and the best."""


def read_scale(scale: Any) -> Scale:
    """`scale` as two numbers. Raises `EvaluatorRefused`."""
    sound = isinstance(scale, Sequence) and len(scale) == 2 and all(map(_is_number, scale))
    if not sound or scale[0] == scale[1]:
        raise EvaluatorRefused(
            field="scale", value=scale, rule="must be two different numbers, the worst score first"
        )
    return float(scale[0]), float(scale[1])


def on_scale(read: Reader, scale: Scale) -> Reader:
    """A reader that brings what `read` finds to 0..1; a score outside the scale is a failure."""
    worst, best = scale

    def scaled(outcome: Outcome) -> Outcome:
        if not isinstance(outcome, EvaluationResult) or outcome.score is None:
            return outcome
        if not min(scale) <= outcome.score <= max(scale):
            told = f"gave {outcome.score:g}, outside its scale of {worst:g} to {best:g}"
            return failure(outcome.name, "wrong_shape", told)
        return replace(outcome, score=(outcome.score - worst) / (best - worst))

    return lambda name, value: [scaled(outcome) for outcome in read(name, value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
