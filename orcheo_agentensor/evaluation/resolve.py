"""From a job to what a run needs: everything resolved and checked, nothing written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orcheo_agentensor.callers import NOBODY_ASKED, Caller
from orcheo_agentensor.config import (
    LiveCallbacks,
    RunConfig,
    merge_configs,
    resolve_config,
    with_prompts,
)
from orcheo_agentensor.datasets import Dataset, DatasetSpec, as_dataset
from orcheo_agentensor.errors import BadInput, ConfigError, DatasetError, NotFound
from orcheo_agentensor.evaluation.job import Job
from orcheo_agentensor.evaluation.ownership import workflow_taken
from orcheo_agentensor.evaluators import BoundEvaluator, bind_evaluators
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets import ConnectedTarget, Target, check_target, resolve_target
from orcheo_agentensor.tensor import TextTensor, as_prompts, prompts_to_json

if TYPE_CHECKING:
    from orcheo_agentensor.storage import RunRecord, Store, WorkflowRecord
    from orcheo_agentensor.storage.records import RunMode

JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True, kw_only=True)
class Given:
    """Live objects a graph was built with; a job may leave out what is here."""

    target: Any = None
    dataset: Any = None
    evaluators: Sequence[Any] | None = None
    prompts: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    optimizer: Any = None


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[JobT]):
    """A job with everything resolved and checked, and its run record.

    `config` is the merged one without its prompts, `job_config` what the job itself set, over
    `base`, the stored version the prompts started from, if any. `extra` is the training graph's.
    """

    run: RunRecord
    job: JobT
    target: Target
    dataset: Dataset
    evaluators: tuple[BoundEvaluator, ...]
    config: RunConfig
    job_config: RunConfig
    callbacks: LiveCallbacks
    prompts: dict[str, TextTensor]
    base: int | None
    extra: Any = None


Extra = Callable[[Any, Dataset, Mapping[str, TextTensor]], tuple[Any, dict[str, Any]]]
"""Resolves what only training has; returns it with its JSON description for the job's identity."""


def no_extra(
    _job: Any, _dataset: Dataset, _prompts: Mapping[str, TextTensor]
) -> tuple[None, dict[str, Any]]:
    """For evaluations."""
    return None, {}


@dataclass(frozen=True, kw_only=True)
class Resolver(Generic[JobT]):
    """Resolves jobs of one mode against what a graph was built with, and the store."""

    mode: RunMode
    given: Given
    store: Store
    settings: Settings
    new_run_id: Callable[[], str]
    extra: Extra = no_extra

    async def resolve(
        self, job: JobT, dataset: Dataset, caller: Caller = NOBODY_ASKED
    ) -> Prepared[JobT]:
        """A job with its dataset as a `Prepared` run with a fresh run record; writes nothing.

        Raises `BadInput` and its kinds, `Forbidden` for a workflow that is not `caller`'s.
        """
        from orcheo_agentensor.storage import RunRecord

        target = self._target(job)
        workflow_id = job.workflow_id or slug(target.name)
        evaluators = self._evaluators(job)
        live, callbacks = RunConfig.trusted(self.given.config)
        job_config = merge_configs(live, RunConfig.parse(job.config, settings=self.settings))
        known = await self.store.workflows.get(workflow_id)
        if known is not None and not caller.may_see(known.owner):
            if isinstance(target, ConnectedTarget):  # refused first where that is not there either
                await target.connect(job_config.to_runnable())
            raise workflow_taken(workflow_id)
        workflow, stored, base = await self._stored_configs(known, workflow_id, job_config)
        if base is not None:  # an alias may move before the run is resumed
            job_config = merge_configs(job_config, RunConfig.parse(_pin({}, base)))
        named = {**as_prompts(self.given.prompts), **as_prompts(job.prompts)}
        prompts_over, _none = RunConfig.trusted({"prompts": named}, field="job")
        request = merge_configs(job_config, prompts_over)
        config = resolve_config(
            request, checkpoint=stored, workflow=workflow, settings=self.settings
        )
        prompts = dict(config.prompts)
        check_target(target, with_prompts(config.configurable, prompts), prompts)
        if isinstance(target, ConnectedTarget):
            target = await target.connect(config.to_runnable())
        config = config.model_copy(update={"prompts": {}})
        extra, described = self.extra(job, dataset, prompts)
        evaluator_set = content_hash([[e.name, e.fingerprint, e.weight] for e in evaluators])
        identity = {
            "mode": self.mode,
            "target": target.fingerprint,
            "dataset": [dataset.id, dataset.version],
            "evaluators": evaluator_set,
            "config": config.to_json(),
            "prompts": prompts_to_json(prompts),
            "min_coverage": job.min_coverage,
            **({"replicates": job.replicates} if job.replicates > 1 else {}),
            **described,
        }
        plain = job.model_dump(mode="json", exclude={"run_id", "dataset"}, exclude_none=True)
        if base is not None:
            plain["config"] = _pin(plain.get("config"), base)
        record = RunRecord(
            run_id=job.run_id or self.new_run_id(),
            workflow_id=workflow_id,
            mode=self.mode,
            job={
                "job": {
                    **redact(plain),
                    "workflow_id": workflow_id,
                },
                "live": self._live_parts(job),
                "redacted": REDACTED in str(redact(plain)) and redact(plain) != plain,
            },
            job_hash=content_hash(identity),
            config=merge_configs(config, RunConfig(prompts=prompts)).to_json(),
            seed=getattr(job, "seed", 0),
            dataset_id=dataset.id,
            dataset_version=dataset.version,
            evaluator_set=evaluator_set,
            refs={"base_version": base} if base is not None else {},
        )
        return Prepared(
            run=record,
            job=job,
            target=target,
            dataset=dataset,
            evaluators=tuple(evaluators),
            config=config,
            job_config=merge_configs(stored or RunConfig(), job_config),
            callbacks=callbacks,
            prompts=prompts,
            base=base,
            extra=extra,
        )

    async def faults(self, job: JobT) -> list[BadInput]:
        """What is wrong with the parts of a job, each looked at by itself."""
        found: list[BadInput] = []
        looks: list[Callable[[], Any]] = [
            lambda: self._target(job),
            lambda: self._evaluators(job),
            lambda: RunConfig.parse(job.config),
        ]
        for look in looks:
            try:
                look()
            except BadInput as error:
                found.append(error)
        try:
            dataset = await self.dataset(job)
            if job.prompts:  # those of a stored version are not known here
                self.extra(job, dataset, as_prompts(job.prompts))
        except BadInput as error:
            found.append(error)
        except NotFound:
            pass  # said where it is asked for, with what may be told of it
        return found

    def _target(self, job: Job) -> Target:
        spec = job.target if job.target is not None else self.given.target
        if spec is None:
            raise ConfigError(field="job.target", value=None, rule="must name the workflow to run")
        return resolve_target(spec, settings=self.settings)

    def _evaluators(self, job: Job) -> list[BoundEvaluator]:
        specs = job.evaluators if job.evaluators is not None else self.given.evaluators
        if not specs:
            raise ConfigError(
                field="job.evaluators", value=specs, rule="must name at least one evaluator"
            )
        return bind_evaluators(list(specs), settings=self.settings)

    async def dataset(self, job: JobT) -> Dataset:
        """The dataset of a job, or the one that was given."""
        spec = job.dataset if job.dataset is not None else self.given.dataset
        if spec is None:
            raise ConfigError(field="job.dataset", value=None, rule="must name a dataset")
        if isinstance(spec, Mapping):
            parsed = DatasetSpec.parse(spec)
            if parsed.is_stored:
                return parsed.apply(await self.stored_dataset(parsed.id, parsed.version))
        return await asyncio.to_thread(self._load, spec)

    def _load(self, spec: Any) -> Dataset:
        """A dataset in place or from a file, where the operator allows that file; blocking."""
        folder = self.settings.dataset_dir
        path = spec.get("path") if isinstance(spec, Mapping) else spec
        if folder is None or not isinstance(path, str | Path):
            return as_dataset(spec)
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise DatasetError(
                field="job.dataset",
                value=str(path),
                rule="is outside the folder that datasets are read from (AGENTENSOR_DATASET_DIR)",
            )
        return as_dataset(spec, base_dir=folder)

    async def stored_dataset(self, dataset_id: str | None, version: str | None) -> Dataset:
        """A dataset version from the side store. Raises `NotFound`."""
        metadata, cases = await self.store.datasets.load(str(dataset_id), version)
        return await asyncio.to_thread(
            Dataset.from_cases, cases, id=str(dataset_id), metadata=metadata
        )

    async def _stored_configs(
        self, workflow: WorkflowRecord | None, workflow_id: str, request: RunConfig
    ) -> tuple[RunConfig | None, RunConfig | None, int | None]:
        """Workflow defaults, and the stored version that the request asks for by `use`."""
        defaults = RunConfig.parse(workflow.default_config) if workflow else None
        use = request.use if request.use is not None else (defaults.use if defaults else None)
        if use is None:
            return defaults, None, None
        checkpoint = await self.store.checkpoints.get(workflow_id, use)
        return defaults, RunConfig.parse(checkpoint.runnable_config), checkpoint.config_version

    def _live_parts(self, job: Job) -> list[str]:
        """The job's parts that only this process has."""
        parts = ("target", "evaluators", "prompts", "config", "optimizer")
        return [
            part
            for part in parts
            if getattr(job, part, None) is None and getattr(self.given, part) is not None
        ]

    def require_complete(self, record: RunRecord) -> None:
        """Raise `BadInput` where a run cannot be rebuilt from its record and what was given."""
        missing = [part for part in record.job["live"] if getattr(self.given, part) is None]
        if missing:
            raise BadInput(
                f"run {record.run_id!r} was started in process with its own {', '.join(missing)}; "
                "resume it from there, with the same arguments and run_id",
                field="run_id",
                value=record.run_id,
                rule="must be resumable from its record",
            )
        if record.job.get("redacted"):
            raise BadInput(
                f"run {record.run_id!r} had secrets in its job, which are not stored; resume it "
                "by submitting the same job with the same run_id",
                field="run_id",
                value=record.run_id,
                rule="must be resumable from its record",
            )


def slug(name: str) -> str:
    """A workflow id from a target's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.:_")[:128] or "workflow"


def _pin(config: Mapping[str, Any] | None, version: int) -> dict[str, Any]:
    """`config` asking for this version by number."""
    configurable = (config or {}).get("configurable") or {}
    return {**(config or {}), "configurable": {**configurable, "agentensor": {"use": version}}}
