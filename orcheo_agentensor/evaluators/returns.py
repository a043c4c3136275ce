"""Reading what an evaluator returned: one value, several, or our own result objects.

What is particular to one convention stands with it in `dialects.py` or `packages.py`. The kind of
the evaluator decides how its answer is read, never the answer's shape: `{"score": 1, "comment":
"c"}` is one result from a LangSmith function and two from a pydantic-evals evaluator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, TypeAlias

from pydantic import BaseModel

from orcheo_agentensor.errors import shorten
from orcheo_agentensor.evaluators.context import (
    LARGEST_SCORE,
    EvaluationResult,
    EvaluatorFailure,
    FailureKind,
    NotApplicable,
    Outcome,
)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)

Reader: TypeAlias = Callable[[str, Any], list[Outcome]]
"""(evaluator name, what it returned) -> outcomes."""


def failure(name: str, kind: FailureKind, reason: str) -> EvaluatorFailure:
    """An `EvaluatorFailure`, positionally."""
    return EvaluatorFailure(name=name, kind=kind, reason=reason)


def wrong_shape(name: str, value: Any, rule: str) -> EvaluatorFailure:
    """The failure of a return value that the evaluator's kind does not know."""
    return failure(name, "wrong_shape", f"returned {shorten(value)}: {rule}")


def single(
    name: str,
    value: Any,
    *,
    reason: Any = None,
    passed: bool | None = None,
    label: Any = None,
) -> Outcome:
    """One outcome from a bool, a number or a text; anything else is a failure.

    None, or an empty collection, says that the evaluator does not apply. A text is a label, and a
    score as well where it is a number.
    """
    reason = None if reason is None else str(reason)
    label = None if label is None else str(label)
    if hasattr(value, "item") and not isinstance(value, str | Mapping):
        value = _unboxed(value)
    if isinstance(value, Enum):
        value = value.value
    if value is None or (isinstance(value, Mapping | list | tuple) and not value):
        return NotApplicable(name=name, reason=reason)
    if isinstance(value, bool):
        passed = value if passed is None else passed
    if isinstance(value, str):
        if not value:
            return wrong_shape(name, value, "a label must not be empty")
        label = value if label is None else label
        if not holds_number(value):
            return EvaluationResult(name=name, passed=passed, reason=reason, label=label)
    elif not hasattr(value, "__float__"):
        return wrong_shape(name, value, "expected a bool, a number or a label")
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        return wrong_shape(name, value, f"not a number ({error})")
    if not math.isfinite(score):
        return failure(name, "not_finite", f"gave the score {score}, which is not finite")
    if abs(score) > LARGEST_SCORE:
        return wrong_shape(name, value, "a score beyond 1e100 cannot be averaged")
    return EvaluationResult(name=name, score=score, passed=passed, reason=reason, label=label)


def holds_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    return _NUMBER.fullmatch(text.strip()) is not None


def several(name: str, outcomes: Iterable[tuple[Any, Outcome]]) -> list[Outcome]:
    """Outcomes by metric name, none for an evaluator that does not apply; a failure of the whole
    where a name is lacking or used twice."""
    found: dict[str, Outcome] = {}
    for metric, outcome in outcomes:
        if not isinstance(metric, str) or not metric:
            return [wrong_shape(name, metric, "each of several results needs a name (`key`)")]
        if metric in found:
            return [failure(name, "wrong_shape", f"returned two results named {metric!r}")]
        found[metric] = outcome
    return list(found.values()) or [NotApplicable(name=name)]


def own(name: str, value: Any) -> list[Outcome] | None:
    """Our own result objects, which every kind may return; None for anything else."""
    if isinstance(value, Outcome):
        return [replace(value, name=name)]
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(isinstance(item, Outcome) for item in value):
        return None
    return several(
        name,
        [(i.name, replace(i, name=name if i.name == name else f"{name}.{i.name}")) for i in value],
    )


def field_of(value: Any, key: str) -> Any:
    """A key of a mapping or an attribute of an object; None where there is none."""
    return value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)


def read_result(name: str, value: Any) -> list[Outcome]:
    """Our own result objects, or what LangSmith's functions return."""
    return own(name, value) or read_fields(name, value)


def read_fields(name: str, value: Any) -> list[Outcome]:
    """LangSmith's reading, and that of plain functions: a dict is one result, a list several."""
    if isinstance(value, Mapping) and "results" in value:
        value = value["results"]
    elif hasattr(value, "results") and not isinstance(value, Mapping):
        value = value.results
    if isinstance(value, BaseModel) and _fields(value) is None:
        return structured(name, value.model_dump())
    if not isinstance(value, list | tuple):
        return [_one(name, value)]
    fields = [_fields(item) for item in value]
    if any(item is None for item in fields):
        return [wrong_shape(name, value, "each of several results must be a dict with a `key`")]
    keys = [item.get("key") or item.get("name") for item in fields if item is not None]
    # One that goes by its key, or begins with it as openevals' `json_match:field`, has it once.
    keys = [k.removeprefix(f"{name}:") if isinstance(k, str) else k for k in keys]
    pairs = zip(keys, value, strict=True)
    return several(
        name, [(k, _one(name if k == name else f"{name}.{k}", item)) for k, item in pairs]
    )


_REASONS = ("reason", "comment", "reasoning", "explanation", "rationale")


def structured(name: str, value: Mapping[str, Any]) -> list[Outcome]:
    """Structured output: each bool and number is a metric, each text a label; its reasoning is
    their reason."""
    reason = next((value[key] for key in _REASONS if isinstance(value.get(key), str)), None)
    metrics = {
        key: item
        for key, item in value.items()
        if key not in _REASONS and isinstance(item, bool | int | float | str | Enum)
    }
    return several(
        name, [(k, single(f"{name}.{k}", item, reason=reason)) for k, item in metrics.items()]
    )


def _one(name: str, value: Any) -> Outcome:
    fields = _fields(value)
    if fields is None:
        return single(name, value)
    if not fields:
        return NotApplicable(name=name)
    if not {"score", "value", "label", *_REASONS} & fields.keys():
        return wrong_shape(
            name, value, "expected `score`, `value` or `label`; return a list for several metrics"
        )
    passed = fields.get("passed")
    if not isinstance(passed, bool | None):
        return wrong_shape(name, value, "`passed` must be true or false")
    score, other, label = fields.get("score"), fields.get("value"), fields.get("label")
    if score is None:
        score, other = other, None
    if score is None:
        score, label = label, None
    if label is None and isinstance(other, str) and other:
        label = other
    reason = next((fields[key] for key in _REASONS if fields.get(key)), None)
    return single(name, score, reason=reason, passed=passed, label=label)


_FIELDS = ("key", "name", "score", "value", *_REASONS, "passed", "label")


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The result fields of a dict or a result object; None for a plain value."""
    if isinstance(value, Mapping):
        return value
    if hasattr(value, "score") or (hasattr(value, "value") and hasattr(value, "reason")):
        return {key: getattr(value, key) for key in _FIELDS if hasattr(value, key)}
    return None


def _unboxed(value: Any) -> Any:
    """The Python number in a zero-dimensional array or a NumPy scalar."""
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError):
        return value
