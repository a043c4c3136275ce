"""What counts as a JSON value here, its canonical text and its hash.

Configs from outside, target outputs and everything stored pass the same rules, so that a value
that was accepted once can be stored in any database, sent to any client and read back unchanged.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from math import isfinite
from typing import Any, TypeAlias

from orcheo_agentensor.errors import ConfigError

MAX_DEPTH = 32
"""Most containers inside each other."""

MAX_VALUES = 1_000_000
"""Most values in one JSON value: stops what a few shared references can blow up to."""

Trail: TypeAlias = tuple["Trail", str | int] | None
"""The keys that led to a place, the last one first; cheap to carry, written out on demand."""

MAX_INT = 2**63 - 1
MIN_INT = -(2**63)

_MANY = f"holds more than {MAX_VALUES:,} values"
_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
TOO_LARGE = frozenset({_MANY, _DEEP})
"""The rules whose breach means that a value should not be walked any further."""

_INT = "is an integer beyond 64 bits"
_FINITE = "is not a finite number"
_NUL = "holds a NUL character"
_SURROGATE = "holds a lone surrogate (text that is not Unicode)"
_KEY = "is a key that is not a text"
_TYPE = "is not a JSON value (object, array, text, finite number, true, false or null)"


class _Budget:
    """Counts the values seen in one walk."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_VALUES


def check_json(value: Any, *, field: str) -> None:
    """Raise `ConfigError` unless `value` is JSON that survives storing and reading back.

    The rules: objects with text keys, arrays, texts without NUL or lone surrogates, finite numbers,
    integers within 64 bits, booleans and null; at most `MAX_DEPTH` containers inside each other.
    The error names the dotted path under `field` and the first rule broken; see `json_problems`
    for all of them.
    """
    if _accepts(value, 0, _Budget()):
        return
    path, found, rule = next(json_problems(value, field=field))
    raise ConfigError(field=path, value=found, rule=rule)


def json_problems(value: Any, *, field: str) -> Iterator[tuple[str, Any, str]]:
    """Every place in `value` that breaks a rule of `check_json`: (dotted path, value, rule)."""
    for trail, found, rule in _problems(value, None, 0, _Budget()):
        yield dotted(field, trail), found, rule


def dotted(field: str, trail: Trail) -> str:
    """The dotted path of the place that `trail` leads to from `field`."""
    parts = []
    while trail is not None:
        trail, key = trail
        parts.append(str(key))
    return ".".join([field, *reversed(parts)])


_canonical = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: keys sorted, no spaces, equal numbers written alike.

    For hashing and comparing. `1.0` is written `1`, as databases that keep numbers rather than
    their spelling give it back.
    """
    text = _canonical(value)
    if ".0" in text or "e+" in text:  # nothing else can be a whole number written as a float
        return _canonical(_plain_numbers(value))
    return text


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


_ATOMS = (str, int, float, bool, type(None))


def private_copy(value: Any) -> Any:
    """A deep copy, for somebody who may change it; fast for JSON values."""
    if isinstance(value, _ATOMS):
        return value
    if type(value) is dict:
        return {key: private_copy(item) for key, item in value.items()}
    if type(value) is list:
        return [private_copy(item) for item in value]
    return copy.deepcopy(value)


def json_size(value: Any) -> int:
    """Bytes of `value` as compact UTF-8 JSON; `value` must have passed `check_json`."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _accepts(value: Any, depth: int, budget: _Budget) -> bool:
    """The fast path: only yes or no. Agrees with `_problems`."""
    if value is None or value is True or value is False:
        return True
    if isinstance(value, str):
        return _text_rule(value) is None
    if isinstance(value, int):
        return MIN_INT <= value <= MAX_INT
    if isinstance(value, float):
        return isfinite(value)
    if depth == MAX_DEPTH or not isinstance(value, dict | list):
        return False
    budget.left -= len(value)
    if budget.left < 0:
        return False
    depth += 1
    if isinstance(value, list):
        return all(_accepts(item, depth, budget) for item in value)
    for key, item in value.items():
        if not isinstance(key, str) or _text_rule(key) or not _accepts(item, depth, budget):
            return False
    return True


def _problems(
    value: Any, trail: Trail, depth: int, budget: _Budget
) -> Iterator[tuple[Trail, Any, str]]:
    rule = _scalar_rule(value)
    if rule is not None:
        yield trail, value, rule
    if not isinstance(value, dict | list):
        return
    shown = f"<{type(value).__name__} of {len(value)}>"  # its repr may be of any size
    if depth == MAX_DEPTH:
        yield trail, shown, _DEEP
        return
    budget.left -= len(value)
    if budget.left < 0:
        yield trail, shown, _MANY
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(value, dict):
            rule = _text_rule(key) if isinstance(key, str) else _KEY
            if rule is not None:
                yield trail, key, rule if rule is _KEY else f"is a key that {rule}"
                continue
        yield from _problems(item, (trail, key), depth + 1, budget)
        if budget.left < 0:
            return


def _scalar_rule(value: Any) -> str | None:
    if isinstance(value, str):
        return _text_rule(value)
    if isinstance(value, int):  # bool too, and within
        return None if MIN_INT <= value <= MAX_INT else _INT
    if isinstance(value, float):
        return None if isfinite(value) else _FINITE
    return None if value is None or isinstance(value, dict | list) else _TYPE


def _text_rule(text: str) -> str | None:
    if "\x00" in text:
        return _NUL
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return _SURROGATE
    return None


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(item) for item in value]
    if isinstance(value, float) and isfinite(value) and value.is_integer():
        return int(value)
    return value
