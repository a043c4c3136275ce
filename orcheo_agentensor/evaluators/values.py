"""Copies and parts of JSON values."""

from __future__ import annotations

from typing import Any, Final

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.json_values import private_copy

MISSING: Final = object()
"""What `pick` gives where a path leads nowhere."""


def private_context(ctx: EvaluatorContext) -> EvaluatorContext:
    """A context whose values an evaluator may change without anyone else noticing."""
    return EvaluatorContext(  # not `replace`, which takes four times as long
        case_id=ctx.case_id,
        inputs=private_copy(ctx.inputs),
        output=private_copy(ctx.output),
        expected_output=private_copy(ctx.expected_output),
        metadata=private_copy(ctx.metadata),
        latency_ms=ctx.latency_ms,
        usage=ctx.usage,
        tape=private_copy(ctx.tape),
    )


def split_path(path: str) -> tuple[str, ...]:
    """`"messages.-1.content"` as its keys."""
    return tuple(path.split("."))


def pick(value: Any, keys: tuple[str, ...]) -> Any:
    """The part of a JSON value at `keys` (list indexes may be negative), or `MISSING`."""
    for key in keys:
        if isinstance(value, dict):
            if key not in value:
                return MISSING
            value = value[key]
        elif isinstance(value, list):
            try:
                value = value[int(key)]
            except (ValueError, IndexError):
                return MISSING
        else:
            return MISSING
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: `1` equals `1.0`, but `true` does not equal `1`."""
    if left != right:
        return False
    if isinstance(left, dict):
        return all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    return (left is True or left is False) == (right is True or right is False)
