"""The manifest of a run: what it was made of, kept when it starts, for auditors and for reruns."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import math
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orcheo_agentensor.errors import BadInput, NotFound, shorten
from orcheo_agentensor.evaluators.binding import (
    BoundEvaluator,
    model_name,
    model_settings,
    source_hash,
)
from orcheo_agentensor.evaluators.builtin import Builtin
from orcheo_agentensor.json_values import canonical_json, prose_only
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.targets.isolation import Provenance, package_of, parts_of

if TYPE_CHECKING:
    from orcheo_agentensor.config.resolve import ResolvedConfig
    from orcheo_agentensor.datasets import Dataset
    from orcheo_agentensor.runs.job import Job
    from orcheo_agentensor.storage import CaseRow, Store
    from orcheo_agentensor.targets import Target

SCHEMA = 1
"""The newest schema of a manifest; a higher one was written by a newer release."""

_OWN = "orcheo-agentensor"
_ALWAYS = ("langgraph", "langchain_core")
_GIT_TIMEOUT = 10.0
_MOST_MODELS = 20
_MOST_TOLD = 8


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=prose_only)


class Described(_Part):
    """An object of the process that started a run: nothing of its state is kept."""

    type: str = Field(description="Its class; `function`, or `name` for a part given by name.")
    module: str | None = Field(default=None, description="Where the class or function is defined.")
    name: str | None = Field(default=None, description="Of a function, a model or a named part.")
    source_hash: str | None = Field(default=None, description="Of its class's or its own source.")
    entrypoint: str | None = Field(default=None, description="By which a job can name it.")


class ModelInfo(Described):
    """A chat model with its settings; secrets are left out."""

    settings: dict[str, Any] = Field(default_factory=dict)


class GitState(_Part):
    """The commit of the working tree that the target, or else the process, is in."""

    commit: str
    dirty: bool = Field(description="Whether tracked files differ from the commit.")


class Environment(_Part):
    """What a run was executed by."""

    python: str
    implementation: str
    platform: str
    packages: dict[str, str] = Field(
        description="Versions of this package, LangGraph, langchain-core, and of what target, "
        "evaluators, optimizer, proposer and models come from."
    )
    git: GitState | None = None


class TargetInfo(_Part):
    """The workflow that was run."""

    name: str
    entrypoint: str | dict[str, Any] | None = Field(description="As the job names it.")
    kind: str = Field(description="The class by which it was run.")
    object: Described | None = Field(description="What was given in process, if anything.")
    fingerprint: str = Field(description="Takes part in the keys of recorded rollouts.")
    modules: dict[str, str] = Field(description="The project's modules, with their source hashes.")
    code: str | None = Field(description="Hash of its graphs, lambdas, closures and partials.")
    graph: str | None = Field(description="Hash of the nodes and edges of its graphs.")
    models: list[ModelInfo]


class EvaluatorInfo(_Part):
    """An evaluator as it was bound."""

    name: str
    spec: str | dict[str, Any] | None = Field(description="As the job names it.")
    object: Described
    options: dict[str, Any]
    binding: str
    scale: tuple[float, float] | None
    weight: float
    scores: Literal["cases", "all cases"]
    fingerprint: str
    models: list[ModelInfo]


class DatasetInfo(_Part):
    """The dataset: ids, versions and counts; its cases are in the store."""

    id: str
    version: str
    metadata_version: str
    metadata: dict[str, Any] | None = None
    cases: int
    splits: dict[str, int]
    without_split: int


class ConfigInfo(_Part):
    """The config that the target ran with, and where each value comes from."""

    resolved: dict[str, Any] = Field(default_factory=dict)
    sources: dict[str, Literal["default", "version", "assistant", "request", "override"]]
    caller: dict[str, Any] = Field(
        default_factory=dict, description="What the caller's `configurable` brought beneath it."
    )
    use: int | str | None = None
    version: int | None = Field(default=None, description="The stored version it started from.")
    defaults_version: int | None = None
    callbacks: list[Described] = Field(default=[], description="Live ones, which are not stored.")
    context: Described | None = None


class OptimizerInfo(_Part):
    """An optimizer with all of its options."""

    name: str
    object: Described
    options: dict[str, Any]


class ProposerInfo(_Part):
    """Who proposes new prompts, with the models it asks."""

    object: Described
    models: list[ModelInfo]


class TrainingInfo(_Part):
    """What only a training has."""

    optimizer: OptimizerInfo
    proposer: ProposerInfo
    critic: ModelInfo | None
    trainable: list[str]
    splits: dict[str, int] = Field(description="Cases by what the training does with them.")
    budget: dict[str, Any]
    budget_given: bool


class CheckpointRefs(_Part):
    """LangGraph's thread and checkpoints of a run, and the versions that it has made."""

    langgraph: dict[str, Any] | None = None
    versions: list[dict[str, Any]] = []


class Manifest(_Part):
    """What a run was made of.

    Args:
        schema_version: `schema` in JSON; a higher one than this release knows is refused.
        run_id: The run.
        workflow_id: Its workflow.
        mode: What it does.
        started_at: When it was first recorded.
        job_hash: Equal for jobs that are the same.
        evaluator_set: Names the evaluators together.
        seed: Of the search, and of what its target draws.
        target: The workflow under test.
        evaluators: In the order of the job.
        dataset: What it ran on.
        config: The config of the target, with the origin of each value.
        training: What only a training has.
        environment: What it was executed by.
        checkpoints: Where LangGraph keeps its state, and the versions it has made.
        drift: Changes of the target's code that were accepted.
        rerun_of: The run that it repeats.

    Raises:
        BadInput: `Manifest.parse` got one of a newer schema, or no manifest.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import Manifest, Store, aevaluate
        >>> async def main():
        ...     store = Store.from_url(None)
        ...     dataset = [{"inputs": "hi", "expected_output": "HI"}]
        ...     report = await aevaluate(
        ...         lambda inputs: inputs.upper(),
        ...         dataset=dataset,
        ...         evaluators=["exact_match"],
        ...         store=store,
        ...     )
        ...     return Manifest.parse(await store.runs.manifest(report.run_id))
        >>> manifest = asyncio.run(main())
        >>> manifest.target.name, [one.name for one in manifest.evaluators]
        ('<lambda>', ['exact_match'])
    """

    model_config = ConfigDict(title="Manifest", populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run_id: str = ""
    workflow_id: str = ""
    mode: Literal["run", "evaluate", "train"] = "evaluate"
    started_at: str | None = None
    job_hash: str = ""
    evaluator_set: str | None = None
    seed: int = 0
    target: TargetInfo
    evaluators: list[EvaluatorInfo]
    dataset: DatasetInfo
    config: ConfigInfo
    job: dict[str, Any] = Field(description="Limits, replicates, coverage and the like.")
    training: TrainingInfo | None = None
    environment: Environment | None = None
    checkpoints: CheckpointRefs = CheckpointRefs()
    drift: list[dict[str, Any]] = []
    rerun_of: str | None = None
    live: dict[str, list[Described]] = Field(
        default={}, description="Parts of the job that only the process had that started the run."
    )
    redacted: list[str] = Field(default=[], description="Fields of the job that held secrets.")

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Read a manifest; raises `BadInput` for one of a newer schema, or what is none."""
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise BadInput(
                f"manifest.schema: {schema} is newer than {SCHEMA}, which this release reads: "
                "upgrade orcheo-agentensor",
                field="manifest.schema",
                value=schema,
                rule=f"must be at most {SCHEMA}",
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, ("manifest", *first["loc"])))
            raise BadInput(
                field=place, value=shorten(first["input"]), rule=first["msg"].lower()
            ) from None

    def to_json(self) -> dict[str, Any]:
        """As stored and exported."""
        found: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return found


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of a manifest."""
    return Manifest.model_json_schema(by_alias=True)


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


def evaluator_info(evaluator: BoundEvaluator, spec: Any) -> dict[str, Any]:
    """An `EvaluatorInfo` in JSON form; `spec` is what the job, or the process, gave."""
    subject = evaluator.subject
    options = spec.get("params") or {} if isinstance(spec, Mapping) else {}
    if isinstance(subject, Builtin):
        fields = type(subject).model_fields.keys() - {"model"}
        options = {name: getattr(subject, name) for name in sorted(fields)}
    return {
        "name": evaluator.name,
        "spec": redact(plain(spec)) if isinstance(spec, str | Mapping) else None,
        "object": described(subject),
        "options": redact(plain(options)),
        "binding": evaluator.binding,
        "scale": plain(evaluator.scale),
        "weight": evaluator.weight,
        "scores": "all cases" if evaluator.adapter.whole else "cases",
        "fingerprint": evaluator.fingerprint,
        "models": models_of(subject),
    }


def dataset_info(dataset: Dataset) -> dict[str, Any]:
    """A `DatasetInfo` in JSON form; its metadata is in the store."""
    splits = dataset.splits()
    return {
        "id": dataset.id,
        "version": dataset.version,
        "metadata_version": dataset.metadata_version,
        "cases": len(dataset),
        "splits": splits,
        "without_split": len(dataset) - sum(splits.values()),
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


_ELSEWHERE = {"target", "dataset", "evaluators", "config", "prompts", "run_id", "workflow_id"}
_TRAINING = {"optimizer", "budget", "seed"}


def job_info(job: Job) -> dict[str, Any]:
    """The fields of a job that no other part of the manifest holds."""
    fields = set(type(job).model_fields) - _ELSEWHERE - _TRAINING
    found: dict[str, Any] = redact(job.model_dump(mode="json", include=fields))
    return found


def redacted_fields(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The dotted paths at which `after`, the redacted form of `before`, differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before:
            yield from redacted_fields(before[key], after[key], f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list):
        for n, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from redacted_fields(one, other, f"{path}.{n}")
    elif before != after:
        yield path


def described_parts(value: Any) -> list[dict[str, Any]]:
    """A live part of a job, each of its objects as a `Described` in JSON form."""
    return [described(one) for one in (value if isinstance(value, list | tuple) else [value])]


async def stored_manifest(store: Store, run_id: str) -> dict[str, Any]:
    """The manifest of a run in JSON form; empty for one that was recorded without."""
    try:
        return await store.runs.manifest(run_id)
    except NotFound:
        return {}


# -- Comparing -------------------------------------------------------------------------------------

Difference: TypeAlias = tuple[str, Any, Any]
"""The dotted path of a value, and what it is in either manifest; None for nothing."""

_OF_ONE_RUN = ("run_id", "started_at", "job_hash", "checkpoints", "rerun_of", "drift", "live")
_IDENTITY = (
    "mode",
    "seed",
    "target.name",
    "target.fingerprint",
    "dataset.id",
    "dataset.version",
    "dataset.metadata_version",
    "config.resolved",
    "evaluators",
    "training.",
    "job.",
)
_NOT_IDENTITY = (".source_hash", ".entrypoint", ".module")
_OF_EVALUATORS = (".fingerprint", ".weight", ".scale")
_FREE = ("job.limits", "job.reuse", "job.accept_drift", "job.retry_failed")


def manifest_diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What differs between two manifests in JSON form, but for what is each run's own."""
    old, new = dict(_flat("", before)), dict(_flat("", after))
    paths = [path for path in dict.fromkeys((*old, *new)) if not path.startswith(_OF_ONE_RUN)]
    found = [(path, old.get(path), new.get(path)) for path in paths]
    return [(path, one, other) for path, one, other in found if one != other]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, dict) and "name" in v for v in value)
    ):
        value = {str(one["name"]): one for one in value}
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), item)
    elif value not in (None, [], {}):
        yield path, value


def other_job(before: Mapping[str, Any], now: Mapping[str, Any], *, strict: bool) -> str | None:
    """What makes the job of one manifest another than that of an earlier one, in words; or None.

    Where it is `strict`, as for a run that has its result, the code of optimizer and proposer
    counts as well. Raises `BadInput` for an earlier manifest of a newer schema.
    """
    Manifest.parse(before)
    found = []
    for path, old, new in manifest_diff(before, now):
        if not path.startswith(_IDENTITY) or path.startswith(_FREE):
            continue
        counts = not path.endswith(_NOT_IDENTITY)
        if path.startswith("evaluators."):
            counts = path.endswith(_OF_EVALUATORS)
        if path.startswith("training.") and path.endswith(".source_hash"):
            counts = strict
        if counts:
            found.append(f"{path} ({shorten(new, 40)}, was {shorten(old, 40)})")
    if not found:
        return None
    more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return f"{', '.join(found[:_MOST_TOLD])}{more}"


_RESULTS = (
    "status",
    "summary.objective",
    "summary.coverage",
    "summary.cases",
    "summary.n_target_failed",
    "summary.n_evaluator_failed",
    "summary.evaluators",
    "baseline.objective",
    "best.objective",
    "best.prompts",
    "holdout.n",
    "holdout.gain",
    "holdout.p_value",
    "decision.status",
    "usage.rollouts",
    "usage.calls",
)


async def compare(store: Store, before: str, after: str) -> dict[str, Any]:
    """What differs between two runs: their manifests, their results, and their cases.

    Raises `NotFound` for a run that is not there or has no manifest, and `BadInput` for a manifest
    of a newer schema.
    """
    manifests = [await store.runs.manifest(run_id) for run_id in (before, after)]
    found = diff_document(*manifests)
    one, other = [await store.runs.get(run_id) for run_id in (before, after)]
    for run in (one, other):
        if run.result is None:
            found["results"] = None
            found["note"] = f"run {run.run_id!r} is {run.status}: it has no result to compare"
            return found
    old, new = (dict(_flat("", run.result)) for run in (one, other))
    paths = [path for path in dict.fromkeys((*old, *new)) if path.startswith(_RESULTS)]
    found["results"] = [
        {"path": path, "before": old.get(path), "after": new.get(path)}
        for path in paths
        if old.get(path) != new.get(path)
    ]
    found["cases"] = _compared_cases(
        await store.runs.case_rows(before, limit=None),
        await store.runs.case_rows(after, limit=None),
    )
    return found


def diff_document(before: Any, after: Any) -> dict[str, Any]:
    """The differences of two manifests as JSON; raises `BadInput` for what is no manifest."""
    for manifest in (before, after):
        Manifest.parse(manifest)
    return {
        "before": before["run_id"],
        "after": after["run_id"],
        "manifest": [
            {"path": path, "before": old, "after": new}
            for path, old, new in manifest_diff(before, after)
        ],
    }


def _compared_cases(before: Sequence[CaseRow], after: Sequence[CaseRow]) -> dict[str, Any]:
    """How many rollouts of two runs agree, and the cases of those that do not."""
    old, new = _by_rollout(before), _by_rollout(after)
    both = [key for key in old if key in new]
    outputs = [key for key in both if old[key][0] != new[key][0]]
    scores = [key for key in both if old[key][1] != new[key][1]]
    return {
        "compared": len(both),
        "only_before": len(old) - len(both),
        "only_after": len(new) - len(both),
        "other_outputs": sorted({key[0] for key in outputs}),
        "other_scores": sorted({key[0] for key in scores}),
    }


def _by_rollout(rows: Sequence[CaseRow]) -> dict[tuple[str, str, int], tuple[Any, Any]]:
    return {
        (row.rollout.case_id, row.rollout.candidate_hash, row.rollout.replicate): (
            [row.rollout.output, (row.rollout.failure or {}).get("kind")],
            {one.name: [one.score, one.passed, one.label] for one in row.scores},
        )
        for row in rows
    }


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
    return {name: _version(name) for name in _distributions().get(imported, ())}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


_distributions = functools.cache(importlib.metadata.packages_distributions)


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
