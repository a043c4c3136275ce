"""The manifest of a run: what it was made of, kept when it starts, for auditors and for reruns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orcheo_agentensor.entrypoints import is_held_by
from orcheo_agentensor.errors import BadInput, NotFound, RunMismatch, shorten
from orcheo_agentensor.evaluators.binding import BoundEvaluator
from orcheo_agentensor.evaluators.builtin import Builtin
from orcheo_agentensor.json_values import prose_only
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.runs.active import CACHED_FROM, CheckedJob, JobT
from orcheo_agentensor.targets.described import SCHEMA, described, models_of, plain
from orcheo_agentensor.targets.isolation import changed_source

if TYPE_CHECKING:
    from orcheo_agentensor.datasets import Dataset
    from orcheo_agentensor.identity import Identity
    from orcheo_agentensor.runs.job import Job
    from orcheo_agentensor.storage import CaseRow, RunRecord, Store

_MOST_TOLD = 8
_MOST_LOOKED_AT = 50
"""How many earlier runs of a workflow are looked at for one that has measured the same prompts."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra=prose_only, defer_build=True
    )


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
        evaluators: In the order of the job; none of a single execution.
        dataset: What it ran on; None of a single execution.
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
    dataset: DatasetInfo | None = Field(description="None of a single execution.")
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
_FREE = ("job.limits", "job.reuse", "job.cache", "job.accept_drift", "job.retry_failed")


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


def drift_of(before: RunRecord, checked: CheckedJob[Any], job: Job) -> dict[str, Any] | None:
    """What has changed in the target's code since a run was started, where the job accepts it.

    Raises `RunMismatch` where it does not.
    """
    changed = changed_source(
        before.refs.get("source", {}), checked.record.refs.get("source", {}), checked.target.name
    )
    if not changed:
        return None
    refused = "cannot be reused" if before.run_id == job.reuse else "cannot go on"
    if before.status == "finished" and before.run_id != job.reuse:
        refused = "has finished, and its result is that of other code"
    if not job.accept_drift:
        raise RunMismatch(
            f"run {before.run_id!r} {refused}: the code of its target has changed since it was "
            f"started ({', '.join(changed)}), and old and new answers would be mixed; start a new "
            "run, or accept it with accept_drift (--accept-drift), which is recorded",
            field="reuse" if before.run_id == job.reuse else "run_id",
            value=before.run_id,
            rule="must be of the same code, or accept_drift set",
        )
    return {"run_id": before.run_id, "changed": changed}


async def with_cache(
    checked: CheckedJob[JobT], store: Store, caller: Identity, *, target: Any
) -> CheckedJob[JobT]:
    """The job with the earlier run of its workflow that has measured its prompts, if there is one.

    `target` is the live object that the process gave, if any. Nothing is taken, and a warning says
    so, where files do not tell what answers: two objects of one class may be set differently.
    """
    source = checked.record.refs.get("source")
    live = {"target", "context"}.intersection(checked.record.job["live"])
    if is_held_by(target, checked.source.modules):
        live.discard("target")
    if any(not isinstance(one.model, str | None) for one in checked.prompts.values()):
        live.add("prompts")
    if live or source is None:
        told = (
            "cache: nothing is taken from earlier runs, since no code tells what the live "
            f"{' and '.join(sorted(live)) or 'target'} would answer; name the target as "
            "'module:attribute', or pass one that a module of the project holds"
        )
        return replace(checked, warnings=(*checked.warnings, told))
    candidate = Candidate.of(checked.prompts).hash
    for before in await store.runs.list(
        workflow_id=checked.record.workflow_id, hidden_from=caller.name, limit=_MOST_LOOKED_AT
    ):
        same = before.mode != "run" and before.refs.get("source") == source
        if same and await store.runs.count_rows(before.run_id, candidate_hash=candidate):
            refs = {**checked.record.refs, CACHED_FROM: before.run_id}
            return replace(checked, record=checked.record.model_copy(update={"refs": refs}))
    return checked


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
