"""From a job to everything a run needs, and back to it after a resume.

A graph is built once and serves many runs. Its `Workbench` turns a job into a `Prepared` run
(checked, recorded in the store) and opens a `Session` on it, under the run's lease. After a resume
in another process the same `Prepared` is rebuilt from the run record.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orcheo_agentensor.config import LiveCallbacks, RunConfig, merge_configs, resolve_config
from orcheo_agentensor.datasets import Dataset, DatasetSpec, as_dataset
from orcheo_agentensor.errors import AgentensorError, BadInput, ConfigError, LeaseLost, RunMismatch
from orcheo_agentensor.evaluation.concurrency import process_slots
from orcheo_agentensor.evaluation.job import Job
from orcheo_agentensor.evaluation.runner import Draining, Meter, Runner
from orcheo_agentensor.evaluators import BoundEvaluator, bind_evaluators
from orcheo_agentensor.events import EventSink, EventWriter
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets import Target, resolve_target
from orcheo_agentensor.tensor import TextTensor, as_prompts, prompts_to_json

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Lease, Ledger, RunRecord, Store
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

    `config` is the merged one without its prompts, `job_config` what the job itself set; `base` is
    the stored version the prompts started from, if any. `extra` is the training graph's.
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


@dataclass(kw_only=True)
class Session(Generic[JobT]):
    """A run at work: its lease is held and its ledger takes rows while the session is open."""

    prepared: Prepared[JobT]
    store: Store
    lease: Lease
    ledger: Ledger
    events: EventSink
    runner: Runner


Extra = Callable[[Any, Dataset, Mapping[str, TextTensor]], tuple[Any, dict[str, Any]]]
"""Resolves what only training has; returns it with its JSON description for the job's identity."""


def no_extra(
    _job: Any, _dataset: Dataset, _prompts: Mapping[str, TextTensor]
) -> tuple[None, dict[str, Any]]:
    """For evaluations."""
    return None, {}


class Workbench(Generic[JobT]):
    """Prepares and opens runs for one built graph."""

    def __init__(
        self,
        job_model: type[JobT],
        *,
        mode: RunMode,
        given: Given,
        store: Store,
        settings: Settings,
        new_run_id: Callable[[], str],
        extra: Extra = no_extra,
    ) -> None:
        self._job_model = job_model
        self._mode = mode
        self._given = given
        self._settings = settings
        self._new_run_id = new_run_id
        self._extra = extra
        self._prepared: dict[str, Prepared[JobT]] = {}
        self.store = store

    async def check(self, data: Mapping[str, Any]) -> Prepared[JobT]:
        """Check and resolve a job; the store is read where the job refers to it, not written.

        Raises `BadInput` and its kinds.
        """
        job = self._job_model.parse(
            {key: value for key, value in data.items() if value is not None}
        )
        return await self._resolve(job, await self._dataset(job))

    async def prepare(self, data: Mapping[str, Any]) -> Prepared[JobT]:
        """Check and resolve a job, store its dataset and create its run record.

        Nothing is written before everything has been checked. Raises `BadInput` and its kinds.
        """
        prepared = await self.check(data)
        record = await self.store.runs.create(prepared.run)
        await self._save_dataset(prepared.dataset)
        prepared = Prepared(**{**vars(prepared), "run": record})
        self._prepared[record.run_id] = prepared
        return prepared

    async def recall(self, run_id: str) -> Prepared[JobT]:
        """The prepared run with this id, rebuilt from the store where this process has not it.

        Raises `NotFound` for an unknown run, `BadInput` where live objects or secrets the job was
        started with are not at hand, `RunMismatch` where the job has become another one.
        """
        if run_id in self._prepared:
            return self._prepared[run_id]
        await self.store.open()
        record = await self.store.runs.get(run_id)
        if record.mode != self._mode:
            raise BadInput(
                f"run {run_id!r} is of mode {record.mode!r}, not {self._mode!r}",
                field="run_id",
                value=run_id,
                rule=f"must be of mode {self._mode!r}",
            )
        self._require_complete(record)
        job = self._job_model.parse(record.job["job"])
        dataset = await self._stored_dataset(record.dataset_id, record.dataset_version)
        prepared = await self._resolve(job, dataset)
        if prepared.run.job_hash != record.job_hash:
            raise RunMismatch(
                f"run {run_id!r} cannot go on: its evaluators, or the defaults of workflow "
                f"{record.workflow_id!r}, have changed since it was started; start a new run with "
                f"reuse={run_id!r}, which takes over what still fits",
                field="run_id",
                value=run_id,
                rule="must still be the same job",
            )
        prepared = Prepared(**{**vars(prepared), "run": record})
        self._prepared[run_id] = prepared
        return prepared

    def forget(self, run_id: str) -> None:
        """Let go of a run that has ended."""
        self._prepared.pop(run_id, None)

    @asynccontextmanager
    async def open(
        self,
        run_id: str,
        *,
        write: EventWriter,
        taped: bool = False,
        meter: Callable[[Ledger], Any] | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[Session[JobT]]:
        """Work on a run: lease taken, ledger started; both are given back whatever happens.

        A failure inside is noted in the run record; cancellation and draining leave the run
        `interrupted`, to be resumed. Raises `RunAlreadyActive` while another process works on it.
        """
        prepared = await self.recall(run_id)
        lease = await self._acquire(run_id)
        events = EventSink(run_id, write, start=lease.event_seq)
        ledger = self.store.ledger(
            run_id, lease=lease, reuse=prepared.job.reuse, event_seq=lambda: events.seq
        )
        ending: dict[str, Any] = {}
        try:
            await ledger.start()
            found: Meter | None = await meter(ledger) if meter else None
            yield Session(
                prepared=prepared,
                store=self.store,
                lease=lease,
                ledger=ledger,
                events=events,
                runner=Runner(
                    target=prepared.target,
                    evaluators=prepared.evaluators,
                    ledger=ledger,
                    limits=prepared.job.limits,
                    config=prepared.config,
                    callbacks=prepared.callbacks,
                    process_slots=process_slots(self._settings.max_concurrency),
                    meter=found,
                    taped=taped,
                    draining=draining,
                ),
            )
        except (Draining, asyncio.CancelledError):
            ending |= {"status": "interrupted", "error": None}
            raise
        except Exception as error:
            if not _is_pause(error):
                text = error.message if isinstance(error, AgentensorError) else repr(error)
                ending |= {"status": "failed", "error": text}
                events.emit("run_failed", error=text, kind=type(error).__name__)
            raise
        finally:
            closing = asyncio.create_task(self._close(lease, ledger, events, ending))
            cancelled: asyncio.CancelledError | None = None
            while not closing.done():  # whatever happens: a lease left behind locks the run
                try:
                    await asyncio.wait([closing])
                except asyncio.CancelledError as again:
                    cancelled = again
                    ending.setdefault("status", "interrupted")
            if cancelled is not None:
                raise cancelled
            closing.result()

    async def _acquire(self, run_id: str) -> Lease:
        """Take the lease; one that arrives after a cancellation is given back at once."""
        taking = asyncio.create_task(self.store.runs.acquire(run_id))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            with contextlib.suppress(AgentensorError):
                await self.store.runs.release(await taking)
            raise

    async def _close(
        self, lease: Lease, ledger: Ledger, events: EventSink, ending: Mapping[str, Any]
    ) -> None:
        """Commit what waits, note how a run ended that did not end well, give the lease back."""
        with contextlib.suppress(AgentensorError):  # whoever had rows waiting was told
            if events.seq > lease.event_seq:
                await ledger.flush()
        try:
            await ledger.stop()
            if ending:
                await self._note(lease, ending)
        finally:
            await self.store.runs.release(lease)

    async def _note(self, lease: Lease, ending: Mapping[str, Any]) -> None:
        ended = {"finished"} if ending["status"] == "failed" else {"finished", "paused"}
        if (await self.store.runs.get(lease.run_id)).status not in ended:
            with contextlib.suppress(LeaseLost):  # it is for the new holder to say
                await self.store.runs.update(lease.run_id, lease=lease, **ending)

    # -- resolving ---------------------------------------------------------------------------

    async def _resolve(self, job: JobT, dataset: Dataset) -> Prepared[JobT]:
        from orcheo_agentensor.storage import RunRecord

        target = self._target(job)
        workflow_id = job.workflow_id or slug(target.name)
        evaluators = self._evaluators(job)
        live, callbacks = RunConfig.trusted(self._given.config)
        job_config = merge_configs(live, RunConfig.parse(job.config, settings=self._settings))
        workflow, stored, base = await self._stored_configs(workflow_id, job_config)
        if base is not None:  # an alias may move before the run is resumed
            job_config = merge_configs(job_config, RunConfig.parse(_pin({}, base)))
        named = {**as_prompts(self._given.prompts), **as_prompts(job.prompts)}
        prompts_over, _none = RunConfig.trusted({"prompts": named}, field="job")
        request = merge_configs(job_config, prompts_over)
        config = resolve_config(
            request, checkpoint=stored, workflow=workflow, settings=self._settings
        )
        prompts = dict(config.prompts)
        config = config.model_copy(update={"prompts": {}})
        extra, described = self._extra(job, dataset, prompts)
        evaluator_set = content_hash([[e.name, e.fingerprint, e.weight] for e in evaluators])
        identity = {
            "mode": self._mode,
            "target": target.fingerprint,
            "dataset": [dataset.id, dataset.version],
            "evaluators": evaluator_set,
            "config": config.to_json(),
            "prompts": prompts_to_json(prompts),
            "min_coverage": job.min_coverage,
            **described,
        }
        plain = job.model_dump(
            mode="json", exclude={"run_id", "dataset"}, exclude_none=True
        )
        if base is not None:
            plain["config"] = _pin(plain.get("config"), base)
        record = RunRecord(
            run_id=job.run_id or self._new_run_id(),
            workflow_id=workflow_id,
            mode=self._mode,
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
            job_config=job_config,
            callbacks=callbacks,
            prompts=prompts,
            base=base,
            extra=extra,
        )

    def _target(self, job: JobT) -> Target:
        spec = job.target if job.target is not None else self._given.target
        if spec is None:
            raise ConfigError(field="job.target", value=None, rule="must name the workflow to run")
        return resolve_target(spec, settings=self._settings)

    def _evaluators(self, job: JobT) -> list[BoundEvaluator]:
        specs = job.evaluators if job.evaluators is not None else self._given.evaluators
        if not specs:
            raise ConfigError(
                field="job.evaluators", value=specs, rule="must name at least one evaluator"
            )
        return bind_evaluators(list(specs), settings=self._settings)

    async def _dataset(self, job: JobT) -> Dataset:
        spec = job.dataset if job.dataset is not None else self._given.dataset
        if spec is None:
            raise ConfigError(field="job.dataset", value=None, rule="must name a dataset")
        if isinstance(spec, Mapping):
            parsed = DatasetSpec.parse(spec)
            if parsed.is_stored:
                return parsed.apply(await self._stored_dataset(parsed.id, parsed.version))
        return await asyncio.to_thread(as_dataset, spec)

    async def _stored_dataset(self, dataset_id: str | None, version: str | None) -> Dataset:
        metadata, cases = await self.store.datasets.load(str(dataset_id), version)
        return await asyncio.to_thread(
            Dataset.from_cases, cases, id=str(dataset_id), metadata=metadata
        )

    async def _save_dataset(self, dataset: Dataset) -> None:
        await self.store.datasets.save(
            dataset.id,
            dataset.version,
            metadata=dataset.metadata,
            counts={"cases": len(dataset), "splits": dataset.splits()},
            cases=[case.to_json() for case in dataset.cases],
        )

    async def _stored_configs(
        self, workflow_id: str, request: RunConfig
    ) -> tuple[RunConfig | None, RunConfig | None, int | None]:
        """Workflow defaults, and the stored version that the request asks for by `use`."""
        workflow = await self.store.workflows.get(workflow_id)
        defaults = RunConfig.parse(workflow.default_config) if workflow else None
        use = request.use if request.use is not None else (defaults.use if defaults else None)
        if use is None:
            return defaults, None, None
        checkpoint = await self.store.checkpoints.get(workflow_id, use)
        return defaults, RunConfig.parse(checkpoint.runnable_config), checkpoint.config_version

    def _live_parts(self, job: JobT) -> list[str]:
        """The job's parts that only this process has."""
        parts = ("target", "evaluators", "prompts", "config", "optimizer")
        return [
            part
            for part in parts
            if getattr(job, part, None) is None and getattr(self._given, part) is not None
        ]

    def _require_complete(self, record: RunRecord) -> None:
        missing = [part for part in record.job["live"] if getattr(self._given, part) is None]
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


def _is_pause(error: Exception) -> bool:
    """LangGraph's own signal for `interrupt()`."""
    from langgraph.errors import GraphBubbleUp

    return isinstance(error, GraphBubbleUp)


__all__ = ["Given", "Prepared", "Session", "Workbench", "slug"]
