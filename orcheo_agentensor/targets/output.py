"""The JSON form of what a target returns.

Evaluators, the ledger and a replay after a resume all see this one form, so a live rollout and a
stored one cannot be scored differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.json_values import (
    MAX_DEPTH,
    MAX_INT,
    MAX_VALUES,
    all_json,
    check_json,
    json_size,
)
from orcheo_agentensor.kinds import is_message
from orcheo_agentensor.media import text_of_blocks
from orcheo_agentensor.usage import is_empty

_ROLES = {"human": "user", "ai": "assistant"}
_OTHERS = ("name", "tool_calls", "tool_call_id")


def _message(
    kind: str, content: Any, *, name: Any, tool_calls: Any, tool_call_id: Any
) -> dict[str, Any]:
    """A message in the role/content form that evaluators are written for: content is text, with the
    blocks it was given in as `content_blocks`."""
    message: dict[str, Any] = {"role": _ROLES.get(kind, kind), "content": content}
    if (text := text_of_blocks(content)) is not None:
        message |= {"content": text, "content_blocks": content}
    if name:
        message["name"] = name
    if tool_calls:
        message["tool_calls"] = [
            {key: call.get(key) for key in ("id", "name", "args")} for call in tool_calls
        ]
    if tool_call_id:
        message["tool_call_id"] = tool_call_id
    return message


def with_plain_messages(value: Any) -> Any:
    """A server's JSON with its messages in the same form as those of a local target."""
    if isinstance(value, list):
        return [with_plain_messages(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    if {"type", "content", "additional_kwargs"} <= value.keys():
        others = {key: value.get(key) for key in _OTHERS}
        return _message(value["type"], value["content"], **others)
    return {key: with_plain_messages(entry) for key, entry in value.items()}


_ATOMS = frozenset({str, int, float, bool, type(None)})


def _convert(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        converted = {}
        for key, entry in value.items():
            name = key if isinstance(key, str) else str(key)
            converted[name] = entry if type(entry) in _ATOMS else _convert(entry)
        return converted
    if isinstance(value, str):
        return str.__str__(value)  # whatever its class makes of it
    if isinstance(value, int | float):
        return value
    if is_message(value):
        others = {key: getattr(value, key, None) for key in _OTHERS}
        return _message(value.type, value.content, **others)
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else str(key): _convert(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_convert(entry) for entry in value]
    return to_jsonable_python(value)


_SMALL = 32 * 1024
"""Characters and values that are converted on the event loop: well under a millisecond."""


def is_plain(value: Any) -> bool:
    """Whether a value is JSON as it is, by a look at each part: a short text, a number, a constant,
    or an object of a few of these, as most outputs are. What is not may be JSON all the same."""
    if type(value) is not dict:
        return _is_plain_atom(value)
    if len(value) >= 32:
        return False
    for key, one in value.items():
        if type(key) is not str or not key.isascii() or "\x00" in key:
            return False
        if type(one) is int and -MAX_INT <= one <= MAX_INT:
            continue  # without a call for each
        if not _is_plain_atom(one):
            return False
    return True


def _is_plain_atom(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return len(value) <= 1000 and value.isascii() and "\x00" not in value
    if kind is int:
        return bool(-MAX_INT <= value <= MAX_INT)
    if kind is float:
        return math.isfinite(value)
    return value is None or kind is bool


class OutputTooLarge(BadInput):
    """A target's output is larger than `limits.max_output_bytes`."""


def is_large(value: Any) -> bool:
    """Whether work on a value may hold up the event loop. Raises `BadInput` as `_weight` does."""
    kind = type(value)
    if kind in _ATOMS:
        return kind is str and len(value) > _SMALL
    if kind is dict and len(value) < 32:  # most outputs: not a microsecond
        for one in value.values():
            if type(one) not in _ATOMS or (type(one) is str and len(one) > 1000):
                break
        else:
            return False
    return _weight(value, enough=_SMALL) > _SMALL


def _weight(value: Any, *, enough: float) -> int:
    """Bytes that the JSON of `value` has at least; once it is more than `enough` it is not counted
    on. Raises `BadInput` for what holds itself, is too deep, or has more than `MAX_VALUES`."""
    size, seen, level = 0, 0, [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for one in level:
            kind = type(one)
            if kind is str or kind is bytes:
                size += len(one) + 2
            elif kind in _ATOMS:
                size += 1
            elif size + len(parts := _parts(one)) > enough:
                return size + len(parts)
            elif seen + len(parts) > MAX_VALUES:
                raise BadInput(
                    f"output: it holds more than {MAX_VALUES:,} values, or itself; return JSON "
                    "values, or name the part to keep with target.output"
                )
            else:
                size += 2
                seen += len(parts)
                inner += parts
                if kind is dict or (kind is not list and isinstance(parts, Mapping)):
                    inner += parts.values()
        if not inner or size > enough:
            return size
        level = inner
    raise BadInput(
        f"output: it is nested deeper than {MAX_DEPTH} levels, or holds itself; "
        "return JSON values, or name the part to keep with target.output"
    )


def _parts(value: Any) -> Any:
    """What a value holds, as far as its JSON is made of it: something with a length."""
    if isinstance(value, dict | list | tuple | set | frozenset | Mapping):
        return value
    if is_message(value):
        return [value.content, getattr(value, "tool_calls", None)]
    fields: Any = getattr(type(value), "__dataclass_fields__", None)
    if fields is None:
        fields = getattr(type(value), "__pydantic_fields__", ())
    return [getattr(value, name, None) for name in fields]


def to_capped_output(value: Any, most: int) -> Any:
    """`to_json_output` of what is large, for a thread. Raises `OutputTooLarge` where the JSON has
    more bytes than `most`."""
    size = _weight(value, enough=math.inf)
    if size <= most:
        converted = to_json_output(value)
        size = json_size(converted)
        if size <= most:
            return converted
    raise OutputTooLarge(
        f"output: it has at least {size:,} bytes as JSON, and limits.max_output_bytes is "
        f"{most:,}; name the part to keep with target.output, or raise the limit"
    )


def to_json_output(value: Any) -> Any:
    """`value` as JSON: messages, pydantic models, dataclasses, tuples and dates are converted.

    Raises `BadInput` naming the place when something in it has no JSON form (a live object, NaN,
    a NUL character).
    """
    try:
        converted = value if type(value) in _ATOMS else _convert(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"output: {error}; return JSON values, or name the part to keep with target.output"
        ) from None
    if not all_json(converted):
        check_json(converted, field="output")
    return converted


def is_empty_output(value: Any) -> bool:
    """Whether an output says nothing: no text, or messages of which the last is an empty answer."""
    if isinstance(value, dict) and (messages := value.get("messages")):
        last = messages[-1] if isinstance(messages, list) else None
        if not isinstance(last, dict) or last.get("role") != "assistant":
            return False
        return not last.get("tool_calls") and is_empty(last.get("content_blocks", last["content"]))
    return value is None or (isinstance(value, str) and not value.strip())


def pick(value: Any, path: str) -> Any:
    """The part of a JSON value at a dotted path, e.g. `messages.-1.content`.

    Raises `BadInput` naming what is there instead.
    """
    here = value
    for part in path.split("."):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.lstrip("-").isdigit() and _holds(here, int(part)):
            here = here[int(part)]
        else:
            there = ", ".join(map(str, here)) if isinstance(here, Mapping) else type(here).__name__
            raise BadInput(
                f"target.output: {path!r} is not in the output at {part!r} (there: {there})",
                field="target.output",
                value=path,
                rule="must lead to a value of the output",
            )
    return here


def _holds(items: list[Any], index: int) -> bool:
    return -len(items) <= index < len(items)
