"""Reading job files, and laying the command line's options over them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orcheo_agentensor.cli.promptfiles import with_texts
from orcheo_agentensor.errors import BadInput, ConfigError, DatasetError

PROJECT_FILE = "agentensor.yaml"
"""The job file that commands take by default; `agentensor init` makes it."""

_PROMPT_PLACES = (("prompts",), ("config", "prompts"), ("config", "configurable", "prompts"))


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line says about a job; None leaves the job's own."""

    run_id: str | None = None
    seed: int | None = None
    concurrency: int | None = None
    isolate: bool = False
    checkpoint: str | None = None
    split: str | None = None
    reuse: str | None = None
    cache: bool = False
    accept_drift: bool = False


def load_job(path: Path, overrides: Overrides) -> dict[str, Any]:
    """A job file as plain data, with its dataset's path made absolute and options laid over it.

    Raises `BadInput` naming the file and the line for what is not a mapping in YAML or JSON.
    """
    if path == Path(PROJECT_FILE) and not path.exists():
        raise BadInput(
            f"there is no {PROJECT_FILE} here: name a job file, or make one with: agentensor init",
            field="job",
            value=PROJECT_FILE,
        )
    data = read_document(path)
    if not isinstance(data, dict):
        raise BadInput(
            f"{path.name}: a job is a mapping of fields such as target, dataset and evaluators",
            field="job",
            value=data,
            rule="must be a mapping",
        )
    return completed(data, path.parent, overrides)


def is_sweep(path: Path) -> bool:
    """Whether a job file is one of a sweep: it has a `matrix`."""
    document = read_document(path) if path.is_file() else None
    return isinstance(document, Mapping) and "matrix" in document


def completed(data: Mapping[str, Any], folder: Path, overrides: Overrides) -> dict[str, Any]:
    """A job of a file in `folder`, with its dataset and texts found and options laid over it."""
    job = {name: value for name, value in data.items() if name != "project"}
    if "dataset" in job:
        job["dataset"] = _located(job["dataset"], folder)
    if "prompts" in job:
        job["prompts"] = with_texts(job["prompts"], folder)
    return override(job, overrides)


_PROJECT = {"store": "database_url", "model": "model", "allowed_modules": "allowed_modules"}


def project_settings(folder: Path) -> dict[str, Any]:
    """What the part `project` of a project file says of settings, by their names in `Settings`.

    `env_file` is its file of environment variables. Raises `BadInput` for what it cannot hold.
    """
    path = folder / PROJECT_FILE
    document = read_document(path) if path.is_file() else None
    project = document.get("project") if isinstance(document, Mapping) else None
    if project is None:
        return {}
    known = (*_PROJECT, "env_file")
    if not isinstance(project, Mapping) or not project.keys() <= {*known}:
        raise BadInput(
            f"{PROJECT_FILE}: project must be a mapping of {', '.join(known)}",
            field="project",
            value=project,
        )
    found: dict[str, Any] = {
        _PROJECT.get(str(key), str(key)): value
        for key, value in project.items()
        if value is not None
    }
    if isinstance(modules := found.get("allowed_modules"), list):
        found["allowed_modules"] = ",".join(map(str, modules))
    return found


def read_document(path: Path) -> Any:
    """A YAML or JSON file as JSON values: no tags, no aliases, no key twice, finite numbers."""
    from orcheo_agentensor.datasets.cases import read_yaml

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror})",
            field="job",
            value=str(path),
            rule="must be a readable file",
        ) from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8 text", field="job", value=str(path)) from None
    if path.suffix.lower() == ".json":
        return _read_json(text, path.name)
    try:
        document, _lines = read_yaml(text, path.name)
    except DatasetError as error:
        raise BadInput(error.message, field="job", value=str(path), rule=error.rule) from None
    return document


def _read_json(text: str, name: str) -> Any:
    from orcheo_agentensor.datasets.cases import decode_json

    try:
        return decode_json(text)
    except json.JSONDecodeError as error:
        place, reason = f"{name}:{error.lineno}", error.msg
    except (ValueError, RecursionError) as error:
        place, reason = f"{name}{_line_of(error, text)}", str(error)
    raise BadInput(f"{place}: is not JSON: {reason}", field="job", rule="must be JSON") from None


def _line_of(error: Exception, text: str) -> str:
    """`:LINE` of the last place that a quoted key or constant in the error's message stands at."""
    quoted = re.search(r"'([^']+)'|(NaN|-?Infinity)", str(error))
    if quoted is None:
        return ""
    wanted = quoted[1] or quoted[2]
    form = rf'"{re.escape(wanted)}"\s*:' if quoted[1] else rf"(?<!\w){re.escape(wanted)}(?!\w)"
    places = [match.start() for match in re.finditer(form, text)]
    return f":{text.count(chr(10), 0, places[-1]) + 1}" if places else ""


def override(data: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The job with the options laid over it; what has a wrong form is left to the job's rules."""
    job = dict(data)
    for name in ("run_id", "seed", "reuse"):
        value = getattr(overrides, name)
        if value is not None:
            job[name] = value
    for name in ("accept_drift", "cache"):
        if getattr(overrides, name):
            job[name] = True
    if overrides.concurrency is not None:
        job["limits"] = _with(job.get("limits"), "concurrency", overrides.concurrency)
    if overrides.isolate:
        job["limits"] = _with(job.get("limits"), "isolate", True)
    if overrides.split is not None:
        job["dataset"] = _split(job.get("dataset"), overrides.split)
    if overrides.checkpoint is not None:
        job = _use(job, overrides.checkpoint)
    return job


def _use(job: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """The job started from a stored version: its prompts give way to the version's."""
    for *places, last in _PROMPT_PLACES:
        there: Any = job
        for place in places:
            there = there.get(place) if isinstance(there, dict) else None
        if isinstance(there, dict):
            there.pop(last, None)
    use: str | int = int(checkpoint) if checkpoint.isdecimal() else checkpoint
    config = job.get("config") or {}
    if not isinstance(config, Mapping):
        return job
    configurable = config.get("configurable") or {}
    if not isinstance(configurable, Mapping):
        return job
    wanted = {**configurable, "agentensor": {"use": use}}
    return {**job, "config": {**config, "configurable": wanted}}


def _with(given: Any, key: str, value: Any) -> Any:
    if given is not None and not isinstance(given, Mapping):
        return given
    return {**(given or {}), key: value}


def _split(dataset: Any, name: str) -> Any:
    if isinstance(dataset, str):
        return {"path": dataset, "split": name}
    if isinstance(dataset, list):
        return {"cases": dataset, "split": name}
    return _with(dataset, "split", name)


def _located(dataset: Any, folder: Path) -> Any:
    """The dataset with its path found beside the job file, else under the working directory."""
    if isinstance(dataset, str):
        return _found(dataset, folder)
    if isinstance(dataset, Mapping) and isinstance(dataset.get("path"), str):
        return {**dataset, "path": _found(dataset["path"], folder)}
    return dataset


def _found(path: str, folder: Path) -> str:
    places = [(folder / path).resolve(), Path(path).resolve()]
    for place in places:
        if place.exists():
            return str(place)
    looked = " and ".join(str(place) for place in dict.fromkeys(places))
    raise ConfigError(
        f"job.dataset: there is no file {path!r} (looked at {looked})",
        field="job.dataset",
        value=path,
        rule="must be a file beside the job file or under the working directory",
    )
