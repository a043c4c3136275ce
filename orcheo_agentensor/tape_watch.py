"""Noticing that a node reads a place where a prompt binds, whatever it then does with the text.

What a rollout hands out is watched while it is being taped: a mapping, dataclass or pydantic model
that behaves as the plain one, and puts the read of a bound key or field on the tape. Copies of it
are plain again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel

from orcheo_agentensor.places import path_in
from orcheo_agentensor.tape import bind_of, record_prompt_read

Tree: TypeAlias = "dict[str, str | Tree]"
"""Keys to the name of the prompt that binds there, or to the tree below."""


def bound_tree(prompts: Mapping[str, Any], root: str) -> Tree:
    """Where in `root` ("configurable" or "context") which of `prompts` binds."""
    tree: Tree = {}
    for name, prompt in prompts.items():
        path = path_in(bind_of(prompt), root)
        if path is None:
            continue
        at: Any = tree
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = name
    return tree


def watched(value: Any, tree: Tree) -> Any:
    """`value`, made to record reads of the places in `tree`; what cannot be watched as it is."""
    if not tree:
        return value
    below = {key: sub for key, sub in tree.items() if isinstance(sub, dict)}
    names = tuple(sorted((key, name) for key, name in tree.items() if isinstance(name, str)))
    if type(value) in (dict, _WatchedDict):
        items = {key: watched(item, below.get(key, {})) for key, item in value.items()}
        return _WatchedDict(items, dict(names))
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        clone = copy.copy(value)
        for key, sub in below.items():
            object.__setattr__(clone, key, watched(getattr(value, key), sub))
        object.__setattr__(clone, "__class__", _watched_class(type(value), names))
        return clone
    return value


def watched_config(config: RunnableConfig, tree: Tree) -> RunnableConfig:
    """`config` with a watched `configurable`."""
    return {**config, "configurable": watched(dict(config.get("configurable") or {}), tree)}


class _WatchedDict(dict[str, Any]):
    """Records reads by key. Unpacking and `items()` are no reads: the runtime does both."""

    __slots__ = ("_names",)

    def __init__(self, items: Mapping[str, Any], names: Mapping[str, str]) -> None:
        super().__init__(items)
        self._names = names

    def _read(self, key: Any) -> None:
        name = self._names.get(key)
        if name is not None:
            record_prompt_read(name)

    def __getitem__(self, key: str) -> Any:
        self._read(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self._read(key)
        return super().pop(key, *default)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)


@lru_cache(maxsize=256)
def _watched_class(kind: type, names: Iterable[tuple[str, str]]) -> type:
    """A subclass of `kind` of the same layout, whose instances record reads of the fields named."""
    prompts = dict(names)
    base: Any = kind

    def read(self: Any, key: str) -> Any:
        name = prompts.get(key)
        if name is not None:
            record_prompt_read(name)
        return base.__getattribute__(self, key)

    def reduce(self: Any, protocol: Any) -> Any:
        made, arguments, *rest = base.__reduce_ex__(self, protocol)
        return made, tuple(kind if a is found else a for a in arguments), *rest

    body = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__getattribute__": read,
        "__reduce_ex__": reduce,
    }
    found: type = type(kind)(kind.__name__, (kind,), body)
    return found
