"""What an evaluator is, as a hash: scores are kept under it and made anew when it changes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Mapping
from tokenize import TokenError
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from orcheo_agentensor.json_values import content_hash

_DEEPEST = 5
_DEEPEST_STATE = 2


def fingerprint(subject: Any, **facts: Any) -> str:
    """SHA-256 over `facts` and what can be known of `subject`.

    For functions: where they are defined, their source (or code), defaults and the values they
    close over; for objects: their class, its source and their own attributes. What a function
    calls elsewhere is not looked at.
    """
    return content_hash({"facts": _stable(facts, 0), "subject": _stable(subject, 0)})


def _stable(value: Any, depth: int) -> Any:
    """A JSON value that is the same in every process for an equal `value`."""
    if value is None or isinstance(value, bool | int | str):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return repr(value)
    if depth > _DEEPEST:
        return _type_name(value)
    depth += 1
    if isinstance(value, Mapping):
        return {str(key): _stable(item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item, depth) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(content_hash(_stable(item, depth)) for item in value)
    if isinstance(value, functools.partial):
        parts = [value.func, list(value.args), value.keywords]
        return {"partial": [_stable(part, depth) for part in parts]}
    if inspect.ismethod(value):
        return {"method": value.__name__, "of": _stable(value.__self__, depth)}
    if inspect.isfunction(value):
        return _function(value, depth)
    if inspect.isclass(value):
        return {"class": qualified_name(value), "source": _class_source(value)}
    if inspect.ismodule(value):
        return {"module": value.__name__}
    if hasattr(value, "_llm_type"):
        return {"model": _type_name(value), "name": _model_name(value)}
    facts = {"type": _type_name(value), "source": _class_source(type(value))}
    return facts if depth > _DEEPEST_STATE else {**facts, "state": _state(value, depth)}


def _function(function: Any, depth: int) -> dict[str, Any]:
    closed = []
    for cell in function.__closure__ or ():
        try:
            closed.append(_stable(cell.cell_contents, depth))
        except ValueError:  # an empty cell: a function that refers to itself
            closed.append(None)
    return {
        "function": qualified_name(function),
        "source": _source(function),
        "defaults": _stable(list(function.__defaults__ or ()), depth),
        "keyword_defaults": _stable(function.__kwdefaults__ or {}, depth),
        "closure": closed,
    }


def _state(value: Any, depth: int) -> Any:
    """The public attributes of an object."""
    try:
        attributes = vars(value)
    except TypeError:
        return None
    return _stable({k: v for k, v in attributes.items() if not k.startswith("_")}, depth)


def _model_name(model: Any) -> str | None:
    """The name a chat model goes by at its provider."""
    names = (getattr(model, key, None) for key in ("model_name", "model", "deployment_name"))
    return next((name for name in names if isinstance(name, str)), None)


_sources: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def _class_source(cls: type) -> str:
    """Kept, because a class is found by parsing its whole module."""
    if cls not in _sources:
        _sources[cls] = _source(cls)
    return _sources[cls]


def _source(thing: Any) -> str:
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError, SyntaxError, TokenError):  # no file, or no Python at that line
        code = getattr(thing, "__code__", None)
        text = _code(code) if isinstance(code, CodeType) else ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _code(code: CodeType) -> str:
    consts = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def _type_name(value: Any) -> str:
    return qualified_name(type(value))


def qualified_name(defined: Any) -> str:
    """Module and name of a function or class, by which it is found again."""
    return f"{lasting_module(defined)}.{defined.__qualname__}"


def lasting_module(defined: Any) -> str:
    """The module that `defined` is found again in, if any.

    A script that is run under a passing name, as Orcheo runs its workflows, does not stay among
    the modules, and would be another one each time.
    """
    module = getattr(defined, "__module__", None)
    return module if module in sys.modules else ""
