"""`{{references}}` in the fields of workflow nodes.

A reference is `{{path}}`, with a dotted path of names and list indexes from the scope:
`{{config.prompts.tone}}`, `{{inputs.question}}`, `{{results.search.0.title}}`,
`{{messages.-1.content}}`. Anything else between double braces is plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable
from pydantic import BaseModel

from orcheo_agentensor.errors import ConfigError, TemplateError
from orcheo_agentensor.prompts import TENSORS, ContentTensor, TextTensor, as_tensor

OnRead: TypeAlias = Callable[[str, TextTensor], None]

_PART = r"-?[A-Za-z0-9_][A-Za-z0-9_-]*"
_REFERENCE = re.compile(rf"\{{\{{\s*([A-Za-z_][A-Za-z0-9_-]*(?:\.{_PART})*)\s*\}}\}}")
_INDEX = re.compile(r"-?\d+")
_PROMPTS = ["config", "prompts"]
_MOST_LISTED = 20
_MISSING = object()


def interpolate(value: Any, scope: Mapping[str, Any], *, on_read: OnRead | None = None) -> Any:
    """`value` with its references replaced from `scope`.

    Texts, mappings, lists, tuples and the fields of pydantic models are walked; a `TextTensor` and
    a `Runnable` (a model, a tool) are left as they are. A text that is one reference becomes the
    value it refers to (a prompt becomes its `TextTensor`); in longer text a prompt renders its
    text, a text itself, and anything else its JSON. It is one pass: what was put in is not looked
    at again. Steps go through mapping keys (a key that holds dots included), list indexes and
    declared model fields, never through attributes.

    `on_read(name, tensor)` is called for every read of a prompt under `config.prompts`.

    Raises `TemplateError` for a reference that leads nowhere; it lists what exists where the path
    ends.
    """
    if isinstance(value, str):
        return _interpolate_text(value, scope, on_read)
    if isinstance(value, TextTensor | Runnable):
        return value
    if isinstance(value, BaseModel):
        changed = {}
        for name in type(value).model_fields:
            old = getattr(value, name)
            new = interpolate(old, scope, on_read=on_read)
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, Mapping):
        items = {key: interpolate(item, scope, on_read=on_read) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if isinstance(value, list | tuple):
        parts = [interpolate(item, scope, on_read=on_read) for item in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def _interpolate_text(text: str, scope: Mapping[str, Any], on_read: OnRead | None) -> Any:
    if "{{" not in text:
        return text
    whole = _REFERENCE.fullmatch(text)
    if whole is not None:
        return _resolve(whole[1], scope, on_read)
    return _REFERENCE.sub(lambda match: _render(_resolve(match[1], scope, on_read)), text)


def _resolve(path: str, scope: Mapping[str, Any], on_read: OnRead | None) -> Any:
    """The value at `path`, having told `on_read` of the prompts it holds."""
    current: Any = scope
    taken: list[str] = []
    left = path.split(".")
    prompt: TextTensor | None = None
    while left:
        found, count = _step(current, left)
        if found is _MISSING:
            raise _missing(path, taken, left[0], current)
        taken.append(".".join(left[:count]))
        left = left[count:]
        current = _tensor_or_same(found, taken)
        if len(taken) == 3 and taken[:2] == _PROMPTS and isinstance(current, TextTensor):
            prompt = current
    if on_read is not None:
        for name, tensor in _prompts_read(current, taken, prompt):
            on_read(name, tensor)
    return current


def _step(current: Any, left: Sequence[str]) -> tuple[Any, int]:
    """One step from `current`: what it leads to, and how many parts of the path it took."""
    if isinstance(current, Mapping):
        for count in range(len(left), 0, -1):
            key = ".".join(left[:count])
            if key in current:
                return current[key], count
        return _MISSING, 1
    part = left[0]
    if isinstance(current, ContentTensor) and part == "blocks":
        return current.content, 1  # with their media
    if isinstance(current, BaseModel):
        known = part in type(current).model_fields
        return (getattr(current, part) if known else _MISSING), 1
    if isinstance(current, list | tuple) and _INDEX.fullmatch(part):
        index = int(part)
        return (current[index] if -len(current) <= index < len(current) else _MISSING), 1
    return _MISSING, 1


def _tensor_or_same(value: Any, taken: Sequence[str]) -> Any:
    """A prompt in JSON form, or as plain text under `config.prompts`, as its tensor."""
    in_json = isinstance(value, Mapping) and value.get("type") in TENSORS
    in_text = isinstance(value, str) and len(taken) == 3 and list(taken[:2]) == _PROMPTS
    if in_json or in_text:
        try:
            return as_tensor(value, field=".".join(taken))
        except ConfigError as error:
            raise TemplateError(error.message, field=error.field, rule=error.rule) from None
    return value


def _prompts_read(
    found: Any, taken: Sequence[str], prompt: TextTensor | None
) -> Iterator[tuple[str, TextTensor]]:
    if prompt is not None:
        if len(taken) == 3 or taken[3] == "text":
            yield taken[2], prompt
        return
    if taken == _PROMPTS[:1] and isinstance(found, Mapping):
        found = found.get("prompts")
    elif taken != _PROMPTS:
        return
    if isinstance(found, Mapping):
        for name, value in found.items():
            tensor = _tensor_or_same(value, [*_PROMPTS, str(name)])
            if isinstance(tensor, TextTensor):
                yield name, tensor


def _render(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, TextTensor):
        return value.text
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, TextTensor):
        return value.text
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _missing(path: str, taken: Sequence[str], part: str, at: Any) -> TemplateError:
    where = ".".join(taken) or "the scope"
    exists = _listed(at)
    return TemplateError(
        f"{{{{{path}}}}} leads nowhere: there is no {part!r} in {where}, which has {exists}",
        field=path,
        value=part,
        rule=f"must be one of what {where} has: {exists}",
    )


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        names = [str(key) for key in value]
    elif isinstance(value, BaseModel):
        names = list(type(value).model_fields)
    elif isinstance(value, list | tuple):
        return f"{len(value)} items, counted from 0" if value else "no items"
    else:
        return f"no parts (it is a {type(value).__name__})"
    shown = ", ".join(names[:_MOST_LISTED]) or "nothing"
    return shown if len(names) <= _MOST_LISTED else f"{shown} and {len(names) - _MOST_LISTED} more"
