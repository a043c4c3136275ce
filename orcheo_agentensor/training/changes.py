"""What changed from one JSON object to the next, so that a step stores no more than that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What to `apply` to `before` to get `after`: keys to `drop`, values to `set`, and changes
    `inside` of objects that both have. Lists are values; numbers that are equal are the same."""
    found: dict[str, Any] = {}
    if gone := [key for key in before if key not in after]:
        found["drop"] = gone
    for key, value in after.items():
        if key in before:
            old = before[key]
            if old == value:
                continue
            if isinstance(old, dict) and isinstance(value, dict):
                found.setdefault("inside", {})[key] = changes(old, value)
                continue
        found.setdefault("set", {})[key] = value
    return found


def apply(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The object after a change; `before` stays as it is."""
    after = {key: value for key, value in before.items() if key not in change.get("drop", ())}
    after.update(change.get("set", {}))
    for key, inner in change.get("inside", {}).items():
        after[key] = apply(after[key], inner)
    return after
