"""Names that a package gives out, each imported when it is first used: importing the package itself
costs little, and its modules may import each other whatever the package lists."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazily(package: str, where: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package; `where` says which of its modules has which names."""
    module_of = {name: module for module, names in where.items() for name in names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(_loaded(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find


def _loaded(module: str) -> ModuleType:
    """Import a module, and collect no garbage meanwhile: what more than a thousand modules make
    stays, and looking through it again and again takes a sixth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        if collecting:
            gc.enable()
