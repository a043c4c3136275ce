"""The rules for JSON values, their canonical text and their hash.

Configs from outside, target outputs and everything stored pass the same rules, so that a value
that was accepted once can be stored in any database, sent to any client and read back unchanged.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import isfinite
from typing import Any, Literal, TypeAlias, get_args, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, model_validator

from orcheo_agentensor.errors import ConfigError

MAX_DEPTH = 32
"""Most containers inside each other."""

MAX_VALUES = 1_000_000
"""Most values in one JSON value: a few shared references can stand for very many."""

Trail: TypeAlias = tuple["Trail", str | int] | None
"""The keys that led to a place, the last one first; cheap to carry, written out on demand."""

MAX_INT = 2**63 - 1
MIN_INT = -(2**63)

_MANY = f"holds more than {MAX_VALUES:,} values"
_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
TOO_LARGE = frozenset({_MANY, _DEEP})
"""The rules whose breach means that a value must not be walked any further."""

_INT = "is an integer beyond 64 bits"
_FINITE = "is not a finite number"
_NUL = "holds a NUL character"
_SURROGATE = "holds a lone surrogate (text that is not Unicode)"
_KEY = "is a key that is not a text"
_TYPE = "is not a JSON value (object, array, text, finite number, true, false or null)"


_SECTIONS = re.compile(r"\n\n(?:Args|Returns|Raises|Example):\n")


def prose_only(schema: dict[str, Any]) -> None:
    """Leave the sections of a model's docstring (`Args`, `Example`, …) out of its JSON Schema."""
    if "description" in schema:
        schema["description"] = _SECTIONS.split(schema["description"])[0]


class StrictNumbers(BaseModel):
    """A model whose numbers are numbers: true is not 1, and false not 0.

    Models of this kind are many, and a process that evaluates needs few: pydantic builds each when
    it is first used.
    """

    model_config = ConfigDict(defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        numbers = _fields_of_numbers(cls)
        return {k: _without_booleans(v) if k in numbers else v for k, v in data.items()}


class _Boolean:
    """Stands for a boolean among numbers, and is none: pydantic would take it for 0 or 1."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _without_booleans(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_booleans(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_booleans(one) for one in value]
    return _Boolean(value) if isinstance(value, bool) else value


@cache
def _fields_of_numbers(model: type[BaseModel]) -> frozenset[str]:
    """The fields that take numbers, or numbers in a list or an object, and no booleans."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        kinds = set(_kinds(field.annotation))
        inner = any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)
        if kinds & {int, float} and not kinds & {bool, Any} and not inner:
            found |= {name, field.alias or name}
    return frozenset(found)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        inner = (annotation.__origin__,)
    elif get_origin(annotation) is Literal:
        inner = tuple(map(type, inner))
    if not inner:
        yield annotation
    for one in inner:
        yield from _kinds(one)


_CONTAINERS = (dict, list)


def check_json(value: Any, *, field: str) -> None:
    """Raise `ConfigError` unless `value` is JSON that survives storing and reading back.

    The rules: objects with text keys, arrays, texts without NUL or lone surrogates, finite numbers,
    integers within 64 bits, booleans and null; at most `MAX_DEPTH` containers inside each other.
    The error names the dotted path under `field` and the first rule broken; see `json_problems`
    for all of them.
    """
    if not all_json(value):
        path, found, rule = next(json_problems(value, field=field))
        raise ConfigError(field=path, value=found, rule=rule)


def all_json(*values: Any) -> bool:
    """Whether each of `values` is JSON by the rules of `check_json`; together they may hold
    `MAX_VALUES` values. Every case and every output passes here: level by level, without a call for
    each value inside.
    """
    level: list[Any] = list(values)
    left = MAX_VALUES
    for depth in itertools.count():
        inner: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is str:
                if (not value.isascii() or "\x00" in value) and _text_rule(value):
                    return False
            elif kind is dict or kind is list or isinstance(value, _CONTAINERS):
                left -= len(value)
                if left < 0 or depth == MAX_DEPTH:
                    return False
                if not isinstance(value, dict):
                    inner += value
                    continue
                for key in value:
                    if not isinstance(key, str):
                        return False
                    if (not key.isascii() or "\x00" in key) and _text_rule(key):
                        return False
                inner += value.values()
            elif kind is int:
                if not MIN_INT <= value <= MAX_INT:
                    return False
            elif value is not None and kind is not bool and _scalar_rule(value):
                return False
        if not inner:
            break
        level = inner
    return True


def json_problems(value: Any, *, field: str) -> Iterator[tuple[str, Any, str]]:
    """Every place in `value` that breaks a rule of `check_json`: (dotted path, value, rule)."""
    for trail, found, rule in _problems(value, None, 0, [MAX_VALUES]):
        yield dotted(field, trail), found, rule


def dotted(field: str, trail: Trail) -> str:
    """The dotted path of the place that `trail` leads to from `field`."""
    parts = []
    while trail is not None:
        trail, key = trail
        parts.append(str(key))
    return ".".join([field, *reversed(parts)])


_PLAIN = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_SORTED = _PLAIN | orjson.OPT_SORT_KEYS
_STRICT = _SORTED | orjson.OPT_STRICT_INTEGER
_FRACTION, _POWER = re.compile(r"\.(?<=[0-9]\.)[0-9]"), re.compile(r"e(?<=[0-9]e)[-+0-9]")
"""What no float is written without. Each begins with one certain character, which is found in a
fraction of the time that looking for a digit takes."""


def fast_json(value: Any, *, sort_keys: bool = False, checked: bool = False) -> str | None:
    """The text that the `json` module makes of `value`, without spaces, in a tenth of the time.

    None where that is not sure: a float may be spelled in another way, and a null may have been a
    NaN, unless `value` is `checked` to be JSON.
    """
    try:
        text = orjson.dumps(value, option=_SORTED if sort_keys else _PLAIN).decode()
    except TypeError:  # also for what only looks like JSON: subclasses, keys that are no texts
        return None
    if ("." in text and _FRACTION.search(text)) or _POWER.search(text):
        return None
    return text if checked or "null" not in text else None


def quick_text(value: Any) -> str | None:
    """The canonical text of a value which that text shows to be JSON by the rules of `check_json`.

    None where it takes a longer look: for what breaks a rule, and for floats, long values, and
    those with many containers.
    """
    try:
        raw = orjson.dumps(value, option=_STRICT)
    except TypeError:
        return None
    text = raw.decode()
    if (
        len(text) > MAX_VALUES
        or text.count("{") + text.count("[") > MAX_DEPTH
        or "\\u0000" in text
        or ("." in text and _FRACTION.search(text))
        or _POWER.search(text)
    ):
        return None
    return text if orjson.loads(raw) == value else None  # not of a tuple, a NaN or a UUID


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


def content_hash(value: Any, *, checked: bool = False) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`, which may be `checked` to be JSON."""
    text = fast_json(value, sort_keys=True, checked=checked) or canonical_json(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_ATOMS = frozenset({str, int, float, bool, type(None)})


def private_copy(value: Any) -> Any:
    """A deep copy that its receiver may change; fast for JSON values."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is not dict and kind is not list:
        return value if isinstance(value, str | int | float) else copy.deepcopy(value)
    copied: Any = value.copy()
    for key, item in copied.items() if kind is dict else enumerate(value):
        if type(item) not in _ATOMS:
            copied[key] = private_copy(item)
    return copied


def json_size(value: Any) -> int:
    """Bytes of `value` as compact UTF-8 JSON; `value` must have passed `check_json`."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _problems(
    value: Any, trail: Trail, depth: int, left: list[int]
) -> Iterator[tuple[Trail, Any, str]]:
    """`left` counts how many values may still be seen in this walk."""
    rule = _scalar_rule(value)
    if rule is not None:
        yield trail, value, rule
    if not isinstance(value, dict | list):
        return
    shown = f"<{type(value).__name__} of {len(value)}>"  # its repr may be of any size
    if depth == MAX_DEPTH:
        yield trail, shown, _DEEP
        return
    left[0] -= len(value)
    if left[0] < 0:
        yield trail, shown, _MANY
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(value, dict):
            rule = _text_rule(key) if isinstance(key, str) else _KEY
            if rule is not None:
                yield trail, key, rule if rule is _KEY else f"is a key that {rule}"
                continue
        yield from _problems(item, (trail, key), depth + 1, left)
        if left[0] < 0:
            return


def _scalar_rule(value: Any) -> str | None:
    if isinstance(value, int):  # bool too, and within
        return None if MIN_INT <= value <= MAX_INT else _INT
    if isinstance(value, float):
        return None if isfinite(value) else _FINITE
    if isinstance(value, str):
        return _text_rule(value)
    return None if value is None or isinstance(value, _CONTAINERS) else _TYPE


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
