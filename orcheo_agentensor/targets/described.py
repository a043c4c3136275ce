"""What a run is made of, described for its manifest: objects, models, config, environment."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import math
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from orcheo_agentensor.evaluators.binding import model_name, model_settings, source_hash
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.targets.isolation import Provenance, package_of, parts_of

if TYPE_CHECKING:
    from orcheo_agentensor.config.resolve import ResolvedConfig
    from orcheo_agentensor.targets.local import Target

SCHEMA = 1
"""The newest schema of a manifest; a higher one was written by a newer release."""

_OWN = "orcheo-agentensor"
_ALWAYS = ("langgraph", "langchain_core")
_GIT_TIMEOUT = 10.0
_MOST_MODELS = 20


def described(value: Any) -> dict[str, Any]:
    """`value` as a `Described` in JSON form; a text is the name of something."""
    if isinstance(value, str):
        return {"type": "name", "name": value}
    while isinstance(value, functools.partial):
        value = value.func
    value = inspect.unwrap(value) if inspect.isroutine(value) else value
    is_function = inspect.isroutine(value)
    kind = value if is_function or isinstance(value, type) else type(value)
    module, name = getattr(kind, "__module__", None), kind.__qualname__
    found = {
        "type": "function" if is_function else name,
        "module": module,
        "name": name if is_function else None,
        "source_hash": None if module == "builtins" else source_hash(kind),
    }
    named = vars(sys.modules[module]) if module in sys.modules and module != "__main__" else {}
    keys = (key for key, there in named.items() if there is value and not key.startswith("_"))
    return {**found, "entrypoint": next((f"{module}:{key}" for key in keys), None)}


def model_info(model: Any, **settings: Any) -> dict[str, Any]:
    """A chat model, or the name of one, as a `ModelInfo` in JSON form."""
    if isinstance(model, str):
        return {"type": "name", "name": model, "settings": redact(plain(settings))}
    found = {**described(model), "name": model_name(model)}
    return {**found, "settings": redact(plain({**model_settings(model), **settings}))}


def plain(value: Any) -> Any:
    """`value` as JSON, with objects in it described."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "_llm_type"):
        return model_info(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=canonical_json)
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    return described(value)


def models_of(value: Any) -> list[dict[str, Any]]:
    """The chat models that an evaluator or a proposer holds."""
    if isinstance(value, str):
        return []
    held = [getattr(value, "model", None), *getattr(value, "__dict__", {}).values(), value]
    found = [part for part in parts_of(held) if hasattr(part, "_llm_type")]
    named = [held[0]] if isinstance(held[0], str) else []
    extra = {"temperature": value.temperature} if named and hasattr(value, "temperature") else {}
    models = [one for one in found if not isinstance(one, type)][:_MOST_MODELS]
    return [model_info(one, **extra) for one in (*named, *models)]


def target_info(target: Target, spec: Any, source: Provenance) -> dict[str, Any]:
    """A `TargetInfo` in JSON form; `spec` is what the job, or the process, gave."""
    by_name = isinstance(spec, str | Mapping)
    return {
        "name": target.name,
        "entrypoint": redact(plain(spec)) if by_name else None,
        "kind": type(target).__name__,
        "object": None if by_name else described(spec),
        "fingerprint": target.fingerprint,
        "modules": source.modules,
        "code": source.code,
        "graph": source.graph,
        "models": [model_info(model) for model in source.models[:_MOST_MODELS]],
    }


def config_info(resolved: ResolvedConfig, callbacks: Any, context: Any) -> dict[str, Any]:
    """A `ConfigInfo` in JSON form; the config itself is in the run record."""
    live = getattr(callbacks, "handlers", callbacks) or ()
    return {
        "sources": resolved.sources(),
        "use": resolved.use,
        "version": resolved.base_version,
        "defaults_version": resolved.defaults_version,
        "callbacks": [described(one) for one in live],
        "context": None if context is None else described(context),
    }


def described_parts(value: Any) -> list[dict[str, Any]]:
    """A live part of a job, each of its objects as a `Described` in JSON form."""
    return [described(one) for one in (value if isinstance(value, list | tuple) else [value])]


# -- The environment -------------------------------------------------------------------------------


def environment(packages: Iterable[str], git: Mapping[str, Any] | None) -> dict[str, Any]:
    """An `Environment` in JSON form; blocking. `packages` are named as they are imported."""
    known = {_OWN: _version(_OWN)}
    for name in (*_ALWAYS, *packages):
        known |= _versions(name)
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": _platform(),
        "packages": {name: version for name, version in sorted(known.items()) if version},
        "git": git,
    }


_platform = functools.cache(platform.platform)


@functools.cache
def _versions(imported: str) -> dict[str, str | None]:
    """The versions of the distributions that a package is imported from."""
    if (version := _version(imported)) is not None:
        return {imported.replace("_", "-"): version}
    return {name: _version(name) for name in _distributions_of(imported)}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distributions_of(imported: str) -> list[str]:
    """The installed distributions that have a package or module of this name.

    `importlib.metadata.packages_distributions` makes a path of each file of each distribution
    first, which takes longer than a thousand cases.
    """
    found = []
    for one in importlib.metadata.distributions():
        named = (one.read_text("top_level.txt") or "").split()
        files = "" if named else "\n" + (one.read_text("RECORD") or "")
        if imported in named or f"\n{imported}/" in files or f"\n{imported}.py," in files:
            found.append(one.metadata["Name"])
    return found


def with_environment(
    manifest: Mapping[str, Any], *, source: Provenance, here: WorkingTree
) -> dict[str, Any]:
    """A manifest as it is stored: with what its run is executed by; blocking.

    `here` is known already, and does where the target's code is in the same working tree.
    """
    packages = sorted({*source.packages, *packages_in(manifest)})
    root, state = here
    if source.folder is not None and working_tree(source.folder) != root:
        state = git_state(source.folder)
    return {**manifest, "environment": environment(packages, state)}


WorkingTree: TypeAlias = tuple[Path | None, dict[str, Any] | None]
"""The root of a working tree and its `git_state`."""


def tree_of_process() -> WorkingTree:
    """The working tree that this process works in; blocking."""
    try:
        folder = Path.cwd()
    except OSError:  # it is gone
        return None, None
    return working_tree(folder), git_state(folder)


def working_tree(folder: Path) -> Path | None:
    """The root of the git working tree that a folder is in."""
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the working tree that a folder is in; None where there is none. Blocking."""
    if working_tree(folder) is None:
        return None
    options = ("status", "--porcelain=v2", "--branch", "--untracked-files=no")
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = lines[0].removeprefix("# branch.oid ") if lines else ""
    if not commit.isalnum():  # nothing is committed yet
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def packages_in(*parts: Any) -> set[str]:
    """The installed packages, as they are imported, that described parts come from."""
    found: set[str] = set()
    for part in parts:
        if isinstance(part, Mapping):
            module = part.get("module")
            if isinstance(module, str) and (name := package_of(module)) is not None:
                found.add(name)
            found |= packages_in(*part.values())
        elif isinstance(part, list):
            found |= packages_in(*part)
    return found
