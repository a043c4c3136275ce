"""`"module:attribute"` strings from jobs, loaded only from modules the operator allows."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from orcheo_agentensor.errors import BadInput, EntrypointNotAllowed, EntrypointNotFound
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.upstream import parsed

_DEMO = "orcheo_agentensor.demo"
OWN_NAMES = (
    f"{_DEMO}.workflow:create_support_triage",
    f"{_DEMO}.evaluators:queue_accuracy",
    f"{_DEMO}.evaluators:reply_policy",
    f"{_DEMO}.proposer:LexicalProposer",
    f"{_DEMO}.proposer:MemorisingProposer",
    f"{_DEMO}.proposer:ParaphraseProposer",
)
"""Always allowed: what the bundled demo is made of, and nothing else of its modules."""

_KINDS = {
    "target": ("ainvoke", "invoke", "compile", "run"),
    "evaluator": ("evaluate", "evaluate_async", "evaluate_run", "a_measure", "eval_async"),
    "proposer": ("propose",),
}
"""The methods, one of which makes a class or an object what it is wanted as."""

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


def load_entrypoint(spec: str, *, settings: Settings, what: str) -> object:
    """The object that `spec` ("module.sub:attribute", or "./path/file.py:attribute") names.

    A path, as `langgraph.json` has it, stands for the module that its file is, seen from the
    working directory or from a folder that Python imports from. The module must be one of
    `settings.allowed_modules`, or under one, or the whole name one of them, or the file must lie in
    one of `settings.allowed_folders`, links followed; that is checked before anything is imported.
    Private names, modules themselves, what the module merely imported from one that is not allowed,
    and classes that are not `what` is wanted are refused. `what` is "target", "evaluator",
    "proposer" or "prompt": a text of a module, which may have a private name.

    Raises `EntrypointNotAllowed`, or `EntrypointNotFound` where an allowed module cannot be
    imported or lacks the attribute.
    """

    def refused(kind: type[BadInput], why: str, rule: str) -> BadInput:
        return kind(f"{what} {spec!r} {why}", field=what, value=spec, rule=rule)

    shape = spec.replace(":_", ":") if what == "prompt" else spec
    if not is_entrypoint(shape):
        form = "'module:attribute' in public names"
        raise refused(EntrypointNotAllowed, f"is not of the form {form}", f"must be {form}")
    module_name, _, attribute = spec.rpartition(":")
    allowed = (*settings.allowed_modules, *OWN_NAMES)
    file: Path | None = None
    in_folder = False
    if _PATH_FORM.fullmatch(shape):
        file, names = _modules_of(Path(module_name))
        if file is None:
            raise refused(
                EntrypointNotFound, f"was not found: there is no file {module_name!r}", "must exist"
            )
        usable = (name for name in names if _is_allowed(name, attribute, allowed))
        in_folder = _is_inside(file, settings.allowed_folders)
        module_name = next(usable, names[0] if names else _plain_name(file))
    if not in_folder and not _is_allowed(module_name, attribute, allowed):
        shown = ", ".join(settings.allowed_modules) or "any allowed module (none is set)"
        rule = f"is not under {shown}; add its module to AGENTENSOR_ALLOWED_MODULES"
        if file is not None:
            rule += ", or its folder to AGENTENSOR_ALLOWED_FOLDERS"
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
    modules = {module_name, *(entry for entry in allowed if ":" not in entry)}
    for origin in [*_origins(found, what), *_imported_from(module, attribute, found)]:
        made_in = getattr(sys.modules.get(origin), "__file__", None)
        inside = made_in is not None and _is_inside(Path(made_in), settings.allowed_folders)
        if not _is_under(origin, modules) and not inside:
            why = (
                f"comes from {origin}, which is not allowed; "
                f"define a function of your own in {module_name}"
            )
            raise refused(EntrypointNotAllowed, why, "must be defined in an allowed module")
    if inspect.isclass(found) and (what == "target" or not _is_kind(found, what)):
        why = f"is a class that is no {what}; name an object, a function or a class that is one"
        raise refused(EntrypointNotAllowed, why, f"must be a {what}")
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


def _is_inside(file: Path, folders: Iterable[Path]) -> bool:
    """Whether a file, links followed, is one of these folders' own: not of an environment in it, or
    hidden there."""
    file = file.resolve()
    for folder in (folder.resolve() for folder in folders):
        parts = file.relative_to(folder).parts if file.is_relative_to(folder) else (".",)
        if not any(part.startswith(".") or part in _NOT_OWN for part in parts):
            return True
    return False


_NOT_OWN = ("site-packages", "dist-packages", "node_modules", "__pycache__")


def _plain_name(file: Path) -> str:
    """A name for the module in a file that Python would not find: the same wherever it lies."""
    return re.sub(r"\W", "_", file.stem)


def _imported(name: str, file: Path | None) -> ModuleType:
    """The module of this name; that in `file`, where Python finds none by its name or another."""
    try:
        module = importlib.import_module(name)
        found = getattr(module, "__file__", None)
        if file is None or (found is not None and Path(found).resolve() == file):
            return module
        name = f"{name}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
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


def _is_under(module: str, allowed: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed)


def _is_allowed(module: str, attribute: str, allowed: Collection[str]) -> bool:
    return f"{module}:{attribute}" in allowed or _is_under(module, allowed)


def _is_kind(defined: type, what: str) -> bool:
    """Whether a class says that it is a target, an evaluator or a proposer; one that can be called
    on a rollout is an evaluator too."""
    own = {name for base in defined.__mro__[:-1] for name in vars(base)}
    return not own.isdisjoint(_KINDS[what]) or (what == "evaluator" and "__call__" in own)


def _origins(found: Any, what: str) -> Iterator[str]:
    """The modules in which what runs when `found` is called was defined.

    Looks inside partial functions, bound methods and wrappers. An object of another library's
    class counts as made where it stands, such as a graph or a scorer with parameters of its own, if
    that class is what is wanted; so does a function made by a call.
    """
    inner = getattr(found, "__wrapped__", None)
    if isinstance(found, functools.partial | functools.partialmethod):
        yield from _origins(found.func, what)
    elif inner is not None and callable(inner):
        yield from _origins(inner, what)
    elif inspect.isclass(found):
        yield found.__module__
    elif inspect.isroutine(found):
        owner = getattr(found, "__self__", None)
        if owner is not None and not isinstance(owner, ModuleType):
            yield (owner if inspect.isclass(owner) else type(owner)).__module__
        elif "<locals>" not in getattr(found, "__qualname__", ""):
            yield str(getattr(found, "__module__", None) or type(found).__module__)
    else:
        held = [getattr(found, name, None) for name in ("func", "afunc")]
        if code := [one for one in held if inspect.isroutine(one)]:  # RunnableLambda, a task
            for one in code:
                yield from _origins(one, what)
        elif callable(found) and not _is_kind(type(found), what):
            yield type(found).__module__


def _imported_from(module: ModuleType, attribute: str, found: object) -> Iterator[str]:
    """The modules from which an object that does not say where it was made was imported by name."""
    if inspect.isclass(found) or (
        inspect.isroutine(found) and "<locals>" not in getattr(found, "__qualname__", "")
    ):
        return
    try:
        tree = parsed(lambda: ast.parse(inspect.getsource(module)))
    except (OSError, TypeError, SyntaxError):
        return
    package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            name = attribute if alias.name == "*" else alias.name
            source = "." * node.level + (node.module or "")
            origin = importlib.util.resolve_name(source, package)
            there = sys.modules.get(origin)
            if (
                attribute in (alias.asname or alias.name, name)
                and getattr(there, name, None) is found
            ):
                yield origin
                if there is not None and there is not module:
                    yield from _imported_from(there, name, found)


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


def is_held_by(value: Any, modules: Iterable[str]) -> bool:
    """Whether one of these modules holds `value` under a name, or `value` names its own.

    Then the files of the modules tell what it is. A script's own globals may be set anew as it
    runs, so that of `__main__` only functions and classes count, which know their names.
    """
    if isinstance(value, str | Mapping):
        return True
    held = [(name, vars(sys.modules[name])) for name in modules if name in sys.modules]
    own = str(getattr(value, "__qualname__", ""))
    return any(
        found.get(own) is value
        or (name != "__main__" and any(one is value for one in found.values()))
        for name, found in held
    )
