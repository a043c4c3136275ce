"""Places that prompts bind to: which there are, which exclude each other, and putting a text there.

A place is `configurable.<path>` or `context.<path>`, with a dotted path of keys. It knows nothing
of prompts but their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, replace
from typing import Any, TypeAlias

from pydantic import BaseModel

from orcheo_agentensor.errors import ConfigError

Path: TypeAlias = tuple[str, ...]

CONFIGURABLE, CONTEXT = "configurable", "context"

_MOST_KEYS = 16
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = frozenset({"agentensor", "prompts", "thread_id"})
_RESERVED_STARTS = ("checkpoint_", "langgraph_")
_FORM = (
    "must be 'configurable.<path>' or 'context.<path>', such as 'configurable.system_prompt', "
    f"with at most {_MOST_KEYS} keys of letters, digits, '_' and '-'"
)


def bind_problem(bind: str) -> str | None:
    """The rule that `bind` breaks as the name of a place; None for a good one."""
    root, *path = bind.split(".")
    if root not in (CONFIGURABLE, CONTEXT) or not 1 <= len(path) <= _MOST_KEYS:
        return _FORM
    if not all(_KEY.fullmatch(key) for key in path):
        return _FORM
    reserved = path[0] in _RESERVED or path[0].startswith(_RESERVED_STARTS)
    if reserved or any(key == "lc" or key.startswith("__") for key in path):
        return "is a reserved place: the runtime keeps it for itself"
    return None


def path_in(bind: object, root: str) -> Path | None:
    """The path of a place under `root` ("configurable" or "context"); None for any other."""
    if not isinstance(bind, str) or not bind.startswith(f"{root}."):
        return None
    return tuple(bind.split(".")[1:])


def overlaps(binds: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """Pairs of prompt names that bind to the same place, or the second inside the first."""
    taken = sorted((bind, name) for name, bind in binds.items() if bind is not None)
    for index, (bind, name) in enumerate(taken):
        for other, inner in taken[index + 1 :]:
            if other == bind or other.startswith(f"{bind}."):
                yield name, inner


def overlap_rule(binds: Mapping[str, str | None], outer: str, inner: str) -> str:
    """What to say of two prompts from `overlaps`; said of `inner`."""
    if binds[outer] == binds[inner]:
        return f"is where prompt {outer!r} binds as well: two prompts cannot bind to one place"
    return f"lies inside {binds[outer]!r}, where prompt {outer!r} binds"


def put(holder: Any, path: Path, text: str, *, field: str) -> Any:
    """A copy of `holder` with `text` at `path`; what lies beside it stays.

    `holder` is None, a mapping, a dataclass or a pydantic model, and so is everything on the way.
    Raises `ConfigError` naming `field` where something else is in the way.
    """
    if not path:
        return text
    key, rest = path[0], path[1:]
    if holder is None or isinstance(holder, Mapping):
        return {**(holder or {}), key: put((holder or {}).get(key), rest, text, field=field)}
    if isinstance(holder, BaseModel) and key in type(holder).model_fields:
        below = put(getattr(holder, key), rest, text, field=field)
        return holder.model_copy(update={key: below})
    if is_dataclass(holder) and not isinstance(holder, type) and hasattr(holder, key):
        return replace(holder, **{key: put(getattr(holder, key), rest, text, field=field)})
    kind = type(holder).__name__
    raise ConfigError(
        field=field,
        value=".".join(path),
        rule=f"leads into a value of type {kind}, which has no place for {key!r}",
    )
