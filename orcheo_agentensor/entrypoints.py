"""`"module:attribute"` strings from jobs, loaded only from modules the operator allows."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from orcheo_agentensor.errors import BadInput, EntrypointNotAllowed, EntrypointNotFound
from orcheo_agentensor.settings import Settings

OWN_MODULES = ("orcheo_agentensor.demo",)
"""Always allowed: the bundled demo."""

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_FORM = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}")
_PATH_FORM = re.compile(rf"([^:\0]+\.py):({_NAME})")


def is_entrypoint(value: object) -> bool:
    """Whether `value` has the form `"module.sub:attribute"` or `"./path/file.py:attribute"`."""
    return isinstance(value, str) and any(form.fullmatch(value) for form in (_FORM, _PATH_FORM))


def chat_model(name: str, **options: Any) -> Any:
    """The chat model of a name such as "openai:gpt-5-mini", for calls that this package repeats.

    The retries of its client, which would multiply ours, are switched off. Raises as LangChain's
    `init_chat_model` does.
    """
    from langchain.chat_models import init_chat_model

    model = init_chat_model(name, **options)
    if "max_retries" in type(model).model_fields:
        return init_chat_model(name, max_retries=0, **options)
    return model


def load_entrypoint(spec: str, *, settings: Settings, what: str = "entry point") -> object:
    """The object that `spec` ("module.sub:attribute", or "./path/file.py:attribute") names.

    A path, as `langgraph.json` has it, stands for the module that its file is, seen from the
    working directory or from a folder that Python imports from. The module must be one of
    `settings.allowed_modules`, or under one; that is checked before anything is imported. Private
    names, modules themselves and what the module merely imported from the standard library are
    refused. `what` says in messages what was being loaded.

    Raises `EntrypointNotAllowed`, or `EntrypointNotFound` where an allowed module cannot be
    imported or lacks the attribute.
    """

    def refused(kind: type[BadInput], why: str, rule: str) -> BadInput:
        return kind(f"{what} {spec!r} {why}", field=what, value=spec, rule=rule)

    if not is_entrypoint(spec):
        form = "'module:attribute' in public names"
        raise refused(EntrypointNotAllowed, f"is not of the form {form}", f"must be {form}")
    module_name, _, attribute = spec.rpartition(":")
    allowed = (*settings.allowed_modules, *OWN_MODULES)
    file: Path | None = None
    if _PATH_FORM.fullmatch(spec):
        file, names = _modules_of(Path(module_name))
        if not names:
            raise refused(
                EntrypointNotFound, f"was not found: there is no file {module_name!r}", "must exist"
            )
        module_name = next((name for name in names if _is_under(name, allowed)), names[0])
    if not _is_under(module_name, allowed):
        shown = ", ".join(settings.allowed_modules) or "any allowed module (none is set)"
        rule = f"is not under {shown}; add its module to AGENTENSOR_ALLOWED_MODULES"
        raise EntrypointNotAllowed(f"{spec!r} {rule}", field=what, value=spec, rule=rule)
    try:
        module = _imported(module_name, file)
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


def _modules_of(path: Path) -> tuple[Path | None, list[str]]:
    """The file at `path`, and the names that it has as a module, the shortest first."""
    roots = [Path.cwd(), *map(Path, sys.path)]
    files = [file for root in roots if (file := (root / path).resolve()).is_file()]
    if not files:
        return None, []
    inside = {root.resolve() for root in roots if files[0].is_relative_to(root.resolve())}
    names = [".".join(files[0].relative_to(root).with_suffix("").parts) for root in inside]
    public = [name for name in names if _FORM.fullmatch(f"{name}:x")]
    return files[0], sorted(public, key=len)


def _imported(name: str, file: Path | None) -> ModuleType:
    """The module of this name; that in `file`, where Python does not find it by its name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None or error.name is None or not _is_under(name, (error.name,)):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{file} cannot be loaded", name=name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


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
