"""`"module:attribute"` strings from jobs, loaded only from modules the operator allows."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from orcheo_agentensor.errors import EntrypointNotAllowed, EntrypointNotFound
from orcheo_agentensor.settings import Settings

OWN_MODULES = ("orcheo_agentensor.demo",)
"""Always allowed: the bundled demo."""

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_FORM = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}")


def is_entrypoint(value: object) -> bool:
    """Whether `value` has the form `"module.sub:attribute"`, in public identifiers."""
    return isinstance(value, str) and _FORM.fullmatch(value) is not None


def load_entrypoint(spec: str, *, settings: Settings, what: str = "entry point") -> object:
    """The object that `spec` ("module.sub:attribute") names.

    The module must be one of `settings.allowed_modules`, or under one; that is checked before
    anything is imported. Private names, modules themselves and what the module merely imported
    from the standard library are refused. `what` says in messages what was being loaded.

    Raises `EntrypointNotAllowed`, or `EntrypointNotFound` where an allowed module cannot be
    imported or lacks the attribute.
    """
    if not is_entrypoint(spec):
        raise EntrypointNotAllowed(
            f"{what} {spec!r} is not of the form 'module:attribute' in public names",
            field=what,
            value=spec,
            rule="must be 'module:attribute' in public names",
        )
    module_name, _, attribute = spec.partition(":")
    allowed = (*settings.allowed_modules, *OWN_MODULES)
    if not _is_under(module_name, allowed):
        raise _not_allowed(spec, what, settings)
    module = _import(module_name, spec, what)
    if attribute not in vars(module) and not hasattr(module, attribute):
        raise EntrypointNotFound(
            f"{what} {spec!r} was not found: module {module_name!r} has no {attribute!r}",
            field=what,
            value=spec,
            rule="must exist",
        )
    found: object = getattr(module, attribute)
    if isinstance(found, ModuleType):
        raise EntrypointNotAllowed(
            f"{what} {spec!r} is a module; name something defined in it",
            field=what,
            value=spec,
            rule="must not be a module",
        )
    origin = _standard_library_origin(found)
    if origin is not None and not _is_under(origin, allowed):
        raise EntrypointNotAllowed(
            f"{what} {spec!r} comes from the standard library ({origin}); "
            f"define a function of your own in {module_name}",
            field=what,
            value=spec,
            rule="must not come from the standard library",
        )
    return found


def _is_under(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed)


def _not_allowed(spec: str, what: str, settings: Settings) -> EntrypointNotAllowed:
    allowed = ", ".join(settings.allowed_modules) or "any allowed module (none is set)"
    return EntrypointNotAllowed(
        f"{spec!r} is not under {allowed}; add its module to AGENTENSOR_ALLOWED_MODULES",
        field=what,
        value=spec,
        rule=f"is not under {allowed}; add its module to AGENTENSOR_ALLOWED_MODULES",
    )


def _import(module_name: str, spec: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing runs the user's own code
        reason = f"{type(error).__name__}: {error}"
    raise EntrypointNotFound(
        f"{what} {spec!r} was not found: {module_name!r} cannot be imported ({reason})",
        field=what,
        value=spec,
        rule="must be importable",
    )


def _standard_library_origin(found: object) -> str | None:
    if not (inspect.isroutine(found) or inspect.isclass(found)):
        return None
    origin = getattr(found, "__module__", None)
    if not isinstance(origin, str) or origin.partition(".")[0] not in sys.stdlib_module_names:
        return None
    return origin


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
