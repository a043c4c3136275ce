"""Reading what evaluators return. Each kind of evaluator has its own reader.

The kind decides, never the shape: `{"score": 1, "comment": "c"}` is one result from a LangSmith
function and two from a pydantic-evals evaluator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from orcheo_agentensor.errors import shorten
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorFailure,
    FailureKind,
    Outcome,
)

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
    """One outcome from a bool, a number or a text (a label); anything else is a failure."""
    reason = None if reason is None else str(reason)
    label = None if label is None else str(label)
    if hasattr(value, "item") and not isinstance(value, str | Mapping):
        value = _unboxed(value)
    if value is None:
        return failure(name, "missing", reason or "gave no score for this case")
    if isinstance(value, bool):
        passed = value if passed is None else passed
    if isinstance(value, str):
        if not value:
            return wrong_shape(name, value, "a label must not be empty")
        return EvaluationResult(name=name, passed=passed, reason=reason, label=value)
    if not hasattr(value, "__float__"):
        return wrong_shape(name, value, "expected a bool, a number or a label")
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        return wrong_shape(name, value, f"not a number ({error})")
    if not math.isfinite(score):
        return failure(name, "not_finite", f"gave the score {score}, which is not finite")
    return EvaluationResult(name=name, score=score, passed=passed, reason=reason, label=label)


def own(name: str, value: Any) -> list[Outcome] | None:
    """Our own result objects, which every kind may return; None for anything else."""
    if isinstance(value, EvaluationResult | EvaluatorFailure):
        return [replace(value, name=name)]
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(isinstance(item, EvaluationResult | EvaluatorFailure) for item in value):
        return None
    return several(name, [(i.name, replace(i, name=f"{name}.{i.name}")) for i in value])


def several(name: str, outcomes: Iterable[tuple[Any, Outcome]]) -> list[Outcome]:
    """Outcomes by metric name; a failure of the whole where a name is lacking or used twice."""
    found: dict[str, Outcome] = {}
    for metric, outcome in outcomes:
        if not isinstance(metric, str) or not metric:
            return [wrong_shape(name, metric, "each of several results needs a name (`key`)")]
        if metric in found:
            return [failure(name, "wrong_shape", f"returned two results named {metric!r}")]
        found[metric] = outcome
    if not found:
        return [failure(name, "missing", "gave no result for this case")]
    return list(found.values())


def read_result(name: str, value: Any) -> list[Outcome]:
    """LangSmith functions, and plain ones of a context: a dict is one result, a list several."""
    if (ours := own(name, value)) is not None:
        return ours
    if isinstance(value, Mapping) and "results" in value:
        value = value["results"]
    elif hasattr(value, "results") and not isinstance(value, Mapping):
        value = value.results
    if not isinstance(value, list | tuple):
        return [_one(name, value)]
    fields = [_fields(item) for item in value]
    if any(item is None for item in fields):
        return [wrong_shape(name, value, "each of several results must be a dict with a `key`")]
    keys = [item.get("key") or item.get("name") for item in fields if item is not None]
    return several(
        name, [(key, _one(f"{name}.{key}", item)) for key, item in zip(keys, value, strict=True)]
    )


def read_mapping(name: str, value: Any) -> list[Outcome]:
    """pydantic-evals evaluators: a mapping holds several results, each a value or with a reason."""
    if (ours := own(name, value)) is not None:
        return ours
    if isinstance(value, Mapping):
        return several(name, [(key, _reasoned(f"{name}.{key}", v)) for key, v in value.items()])
    return [_reasoned(name, value)]


def read_raw_fields(name: str, value: Any) -> list[Outcome]:
    """openevals evaluators: as LangSmith, but a dict without `key` is raw structured output.

    Of that each bool and number is a metric, each text a label; its reasoning is their reason.
    """
    if not isinstance(value, Mapping) or "key" in value or "results" in value:
        return read_result(name, value)
    told = ("reasoning", "reason", "comment")
    reason = next((value[key] for key in told if isinstance(value.get(key), str)), None)
    return several(
        name,
        [
            (key, single(f"{name}.{key}", item, reason=reason))
            for key, item in value.items()
            if key not in told and isinstance(item, bool | int | float | str)
        ],
    )


def read_scores(name: str, value: Any) -> list[Outcome]:
    """autoevals and Braintrust scorers: a number, None, `Score(name, score, metadata)` or a list"""
    if (ours := own(name, value)) is not None:
        return ours
    if isinstance(value, list | tuple):
        named = ((_get(item, "name"), item) for item in value)
        return several(name, [(key, _score(f"{name}.{key}", item)) for key, item in named])
    return [_score(name, value)]


def read_feedback(name: str, value: Any) -> list[Outcome]:
    """MLflow scorers: a scalar, `Feedback(name, value, rationale)` or a list; "yes" is 1.0."""
    if (ours := own(name, value)) is not None:
        return ours
    if isinstance(value, list | tuple):
        named = ((_get(item, "name"), item) for item in value)
        return several(name, [(key, _feedback(f"{name}.{key}", item)) for key, item in named])
    return [_feedback(name, value)]


def read_scored(name: str, value: Any) -> list[Outcome]:
    """DSPy metrics: a scalar, or an object or dict with `score` and `feedback`."""
    if (ours := own(name, value)) is not None:
        return ours
    score = _get(value, "score")
    if score is None:
        return [single(name, value)]
    return [single(name, score, reason=_get(value, "feedback"))]


def read_grading(name: str, value: Any) -> list[Outcome]:
    """promptfoo assertions: bool, number or `{pass, score, reason, namedScores}`."""
    if (ours := own(name, value)) is not None:
        return ours
    if not isinstance(value, Mapping):
        if isinstance(value, str):
            return [wrong_shape(name, value, "expected a bool, a number or {pass, score, reason}")]
        return [single(name, value)]
    passed = value.get("pass", value.get("pass_"))
    if not isinstance(passed, bool | None):
        return [wrong_shape(name, value, "`pass` must be true or false")]
    whole = single(name, value.get("score", passed), reason=value.get("reason"), passed=passed)
    parts = value.get("namedScores", value.get("named_scores")) or {}
    return [whole, *(single(f"{name}.{key}", score) for key, score in parts.items())]


def _one(name: str, value: Any) -> Outcome:
    fields = _fields(value)
    if fields is None:
        return single(name, value)
    score, other = fields.get("score"), fields.get("value")
    label = fields.get("label")
    reason = fields.get("reason") or fields.get("comment")
    if not {"score", "value", "label", "comment", "reason"} & fields.keys():
        return wrong_shape(
            name, value, "expected `score`, `value` or `label`; return a list for several metrics"
        )
    passed = fields.get("passed")
    if not isinstance(passed, bool | None):
        return wrong_shape(name, value, "`passed` must be true or false")
    if score is None:
        score, other = other, None
    if score is None:
        score, label = label, None
    if label is None and isinstance(other, str) and other:
        label = other
    return single(name, score, reason=reason, passed=passed, label=label)


_FIELDS = ("key", "name", "score", "value", "comment", "reason", "passed", "label")


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The result fields of a dict or a result object; None for a plain value."""
    if isinstance(value, Mapping):
        return value
    if hasattr(value, "score") or (hasattr(value, "value") and hasattr(value, "reason")):
        return {key: getattr(value, key) for key in _FIELDS if hasattr(value, key)}
    return None


def _reasoned(name: str, value: Any) -> Outcome:
    if isinstance(value, EvaluationResult | EvaluatorFailure):
        return replace(value, name=name)
    if value is None or isinstance(value, Mapping | list | tuple):
        return wrong_shape(name, value, "expected a bool, a number, a label or EvaluationReason")
    if hasattr(value, "value") and hasattr(value, "reason"):
        return single(name, value.value, reason=value.reason)
    return single(name, value)


def _score(name: str, value: Any) -> Outcome:
    if isinstance(value, str):
        return wrong_shape(name, value, "expected a number or a Score")
    if not isinstance(value, Mapping) and not hasattr(value, "score"):
        return single(name, value)
    if (error := _get(value, "error")) is not None:
        return failure(name, "exception", str(error))
    metadata = _get(value, "metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    reason = metadata.get("rationale") or metadata.get("reason")
    return single(name, _get(value, "score"), reason=reason)


def _feedback(name: str, value: Any) -> Outcome:
    reason = None
    if hasattr(value, "value") and hasattr(value, "rationale"):
        if (error := getattr(value, "error", None)) is not None:
            return failure(name, "exception", str(error))
        value, reason = value.value, value.rationale
    if isinstance(value, str) and value.lower() in ("yes", "no"):
        yes = value.lower() == "yes"
        return single(name, yes, reason=reason, label=value)
    return single(name, value, reason=reason)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)


def _unboxed(value: Any) -> Any:
    """The Python number in a zero-dimensional array or a NumPy scalar."""
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError):
        return value
