"""`"module:attribute"` strings from jobs, loaded only from modules the operator allows."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from orcheo_agentensor.errors import BadInput, EntrypointNotAllowed, EntrypointNotFound
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

    def refused(kind: type[BadInput], why: str, rule: str) -> BadInput:
        return kind(f"{what} {spec!r} {why}", field=what, value=spec, rule=rule)

    if not is_entrypoint(spec):
        form = "'module:attribute' in public names"
        raise refused(EntrypointNotAllowed, f"is not of the form {form}", f"must be {form}")
    module_name, _, attribute = spec.partition(":")
    allowed = (*settings.allowed_modules, *OWN_MODULES)
    if not _is_under(module_name, allowed):
        shown = ", ".join(settings.allowed_modules) or "any allowed module (none is set)"
        rule = f"is not under {shown}; add its module to AGENTENSOR_ALLOWED_MODULES"
        raise EntrypointNotAllowed(f"{spec!r} {rule}", field=what, value=spec, rule=rule)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing runs the user's own code
        why = f"was not found: {module_name!r} cannot be imported ({type(error).__name__}: {error})"
        raise refused(EntrypointNotFound, why, "must be importable") from None
    if not hasattr(module, attribute):
        why = f"was not found: module {module_name!r} has no {attribute!r}"
        raise refused(EntrypointNotFound, why, "must exist")
    found: object = getattr(module, attribute)
    if isinstance(found, ModuleType):
        why = "is a module; name something defined in it"
        raise refused(EntrypointNotAllowed, why, "must not be a module")
    origin = _standard_library_origin(found)
    if origin is not None and not _is_under(origin, allowed):
        why = (
            f"comes from the standard library ({origin}); "
            f"define a function of your own in {module_name}"
        )
        raise refused(EntrypointNotAllowed, why, "must not come from the standard library")
    return found


def _is_under(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed)


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
