"""Runs of one graph: a job is checked, recorded in the store, and opened under its run's lease.

A graph is built once and serves many runs. Its `RunManager` turns a job into a `CheckedJob`, with
everything that the run needs resolved, and opens it as an `ActiveRun`. After a resume in another
process the same `CheckedJob` is rebuilt from the run record.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from orcheo_agentensor.config.model import LiveCallbacks, RunConfig
from orcheo_agentensor.config.resolve import ResolvedConfig, merge_configs, resolve
from orcheo_agentensor.datasets import Case, Dataset, DatasetSpec, as_dataset
from orcheo_agentensor.datasets.attachments import Attachments
from orcheo_agentensor.errors import (
    BadInput,
    ConfigError,
    DatasetError,
    NotFound,
    RunMismatch,
    problems_of,
)
from orcheo_agentensor.evaluators import BoundEvaluator, bind_evaluators
from orcheo_agentensor.evaluators.binding import completed, require_judge
from orcheo_agentensor.identity import (
    LOCAL_IDENTITY,
    Identity,
    identity_of_run,
    inside_a_host,
)
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.kinds import is_pause
from orcheo_agentensor.prompts import (
    TextTensor,
    as_prompts,
    prompts_to_json,
    with_prompts,
)
from orcheo_agentensor.redaction import REDACTED, knowing, redact, telling_secrets, without_secrets
from orcheo_agentensor.runs.access import (
    LOOK_AGAIN,
    RunEnded,
    may_read_files,
    not_found_in,
    require_config,
    require_free_run_id,
    require_readable,
    require_run,
    require_trainer,
    workflow_taken,
)
from orcheo_agentensor.runs.active import (
    ActiveRun,
    CheckedJob,
    Invocation,
    JobT,
    OpenRun,
    draining_around,
    with_checkpoint,
    writer_around,
)
from orcheo_agentensor.runs.caller import NOBODY, Caller, caller_of_run
from orcheo_agentensor.runs.job import Job, JobSecrets
from orcheo_agentensor.runs.manifest import (
    dataset_info,
    drift_of,
    evaluator_info,
    job_info,
    other_job,
    redacted_fields,
    with_cache,
)
from orcheo_agentensor.runs.media import attached, keep_media, media_access, require_media
from orcheo_agentensor.runs.unread import unread
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets import (
    ConnectedTarget,
    ConversationSpec,
    TalkingTarget,
    Target,
    check_target,
    resolve_target,
)
from orcheo_agentensor.targets.constants import load_constants
from orcheo_agentensor.targets.context import found_prompts
from orcheo_agentensor.targets.described import (
    SCHEMA,
    config_info,
    described_parts,
    target_info,
    tree_of_process,
    with_environment,
)
from orcheo_agentensor.targets.isolation import Provenance, provenance_of
from orcheo_agentensor.targets.overriding import require_nodes
from orcheo_agentensor.upstream import var_child_runnable_config

if TYPE_CHECKING:
    from orcheo_agentensor.storage import RunRecord, Store
    from orcheo_agentensor.storage.records import RunMode


OVERRIDDEN = "agent_trainer_enabled_overridden_by"
"""The key of a run's `refs` that names who trained although the flag was off."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """Live objects that a graph was built with; a job may leave out what is here.

    `overrides_flag` is who lets it train although the flag `agent_trainer_enabled` is off.
    """

    target: Any = None
    dataset: Any = None
    evaluators: Sequence[Any] | None = None
    prompts: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    context: Any = None
    optimizer: Any = None
    overrides_flag: str | None = None


MakePlan = Callable[[Any, Dataset, Mapping[str, TextTensor]], tuple[Any, dict[str, Any]]]
"""Makes the plan of a training from its job, cases and prompts; returns it with its JSON
description, which is part of what makes a job another job."""


class RunManager(Generic[JobT]):
    """Checks, records and opens the runs of one built graph."""

    def __init__(
        self,
        job_model: type[JobT],
        *,
        mode: RunMode,
        given: Given,
        store: Store,
        settings: Settings,
        new_run_id: Callable[[], str],
        make_plan: MakePlan | None = None,
        require: Callable[[CheckedJob[JobT]], Awaitable[None]] | None = None,
    ) -> None:
        self.store = store
        self._job_model = job_model
        self._mode = mode
        self._given = given
        self._settings = settings
        self._new_run_id = new_run_id
        self._make_plan = make_plan
        self._require = require
        self._known: dict[str, CheckedJob[JobT]] = {}
        self.secrets = JobSecrets()

    async def check(
        self, data: Mapping[str, Any], *, caller: Identity = LOCAL_IDENTITY
    ) -> CheckedJob[JobT]:
        """Check and resolve a job; the store is read where the job refers to it, not written.

        `caller` submits it: what belongs to others is to them as if it were not there.
        Raises `BadInput` and its kinds, `NotFound`, and `Forbidden` for a name that is taken.
        """
        with knowing(texts=self._secrets(data)):
            try:
                checked = await self._checked(self._job_model.parse(data), caller, NOBODY)
                await self.store.runs.require_free(checked.record)
            except NotFound:
                if caller.name is None:
                    raise
                raise not_found_in(data) from None
            except BadInput as error:
                raise await self._all_problems(error, data, caller) from None
        return checked

    def _secrets(self, data: Mapping[str, Any]) -> frozenset[str]:
        """What the job, or its caller's config, says under the names of secrets."""
        job = {k: v for k, v in data.items() if k != "dataset"}
        around = var_child_runnable_config.get() or {}
        return telling_secrets(job, self._given.config, around.get("configurable"))

    async def record(self, data: Mapping[str, Any]) -> CheckedJob[JobT]:
        """Check and resolve a job, create its run record and store its dataset.

        While this manager works on the very same job already, that is waited for: a client that
        submits it again, after a lost connection or a restart of its server, wants its result.
        Nothing is written before everything has been checked. Raises `BadInput` and its kinds.
        """
        caller = identity_of_run()
        tree = asyncio.ensure_future(asyncio.to_thread(tree_of_process))  # git works meanwhile
        data = self.secrets.reveal(data)  # LangGraph has given it with references
        with knowing(texts=self._secrets(data)):
            try:
                parsed = self._job_model.parse(data)
                checked = await self._checked(parsed, caller, caller_of_run())
            except Exception as error:
                if (told := without_secrets(error)) is not error:
                    raise told from None
                raise
        if caller.name is not None:
            refs = {**checked.record.refs, "identity": caller.name}
            checked = replace(checked, record=checked.record.model_copy(update={"refs": refs}))
        run_id = checked.record.run_id
        await self._until_free(checked.record)
        self._known[run_id] = checked
        try:
            if checked.job.retry_failed:
                with contextlib.suppress(NotFound):  # a new run
                    await self.store.runs.retry_failed(run_id)
            await self.save_dataset(checked.dataset)  # first: a run goes on with it after a kill
            await keep_media(self.store, checked.media)
            manifest = await asyncio.to_thread(
                with_environment, checked.manifest, source=checked.source, here=await tree
            )
            record = await self.store.runs.create(checked.record, manifest=manifest)
        except BaseException:
            if self._known.get(run_id) is checked:
                self.forget(run_id)
            raise
        if checked.drift and record.status != "finished":
            record = await self._accept_drift(record, checked)
        self._known[run_id] = checked = replace(checked, record=record)
        return checked

    async def recall(self, run_id: str, *, accept_drift: bool = False) -> CheckedJob[JobT]:
        """The checked job of a run, rebuilt from the store where this process does not have it.

        `accept_drift` notes that the code of its target has changed, and goes on.

        Raises `NotFound` for an unknown run, `BadInput` where live objects or secrets the job was
        started with are not at hand, `RunMismatch` where the job has become another one.
        """
        if run_id in self._known:
            return self._known[run_id]
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
        dataset = await self._stored_dataset(DatasetSpec.parse(record.dataset), LOCAL_IDENTITY)
        around = caller_of_run().started_with(record.refs.get("caller"), run_id)
        checked = await self._resolve(
            job, dataset, LOCAL_IDENTITY, around, workflow_id=record.workflow_id
        )
        if checked.record.job_hash != record.job_hash:
            changed = await self._other_job(record, checked)
            changed = changed or "its target, its evaluators, or the defaults of its workflow"
            raise RunMismatch(
                f"run {run_id!r} cannot go on: {changed} have changed since it was started; start "
                f"a new run with reuse={run_id!r}, which takes over what still fits",
                field="run_id",
                value=run_id,
                rule="must still be the same job",
            )
        if record.status != "paused":  # which has run all its cases
            refs = (await self._trained(checked, record)).record.refs
            record = await self._noted(record, refs)
            job = job.model_copy(update={"accept_drift": accept_drift})
            drift = drift_of(record, checked, job)
            if drift is not None:
                record = await self._accept_drift(record, replace(checked, drift=(drift,)))
        self._known[run_id] = checked = replace(checked, record=record)
        return checked

    async def _accept_drift(self, record: RunRecord, checked: CheckedJob[JobT]) -> RunRecord:
        """Note in a run's record with which code of the target it goes on."""
        noted = [*record.refs.get("drift", ()), *checked.drift]
        refs = {**record.refs, "source": checked.record.refs["source"], "drift": noted}
        return await self.store.runs.update(record.run_id, refs=refs)

    def forget(self, run_id: str) -> None:
        """Let go of a run that has ended."""
        self._known.pop(run_id, None)

    @asynccontextmanager
    async def open(self, run_id: str, *, running: bool = True) -> AsyncIterator[ActiveRun[JobT]]:
        """Work on a run in a graph's node, with its lease held and its ledger started.

        What is open is kept for the next node of this invocation, and given back at its end; where
        something is raised here, at once.

        Its record says that it is `running`, unless it is opened without. A failure inside is noted
        there; cancellation and draining leave the run `interrupted`, to be resumed. Another
        execution in this process is waited for. Raises `RunAlreadyActive` while another process
        works on it, `RunEnded` where it has ended, `NotFound` where it does not belong to the
        identity that the graph runs for.
        """
        invocation = Invocation.here()
        found = None if invocation is None else await invocation.take(self, run_id)
        draining = draining_around()
        try:
            if found is None or run_id not in self._known:
                checked = await self._called(run_id, again=found is not None)
                if found is None:
                    at_work: dict[str, Any] = {"refs": checked.record.refs} if running else {}
                    if running:
                        at_work |= {"status": "running", "error": None, "ended_at": None}
                    found = await OpenRun.open(checked, self.store, **at_work)
                found.run = ActiveRun(
                    **vars(checked),
                    store=self.store,
                    settings=self._settings,
                    lease=found.lease,
                    ledger=found.ledger,
                    events=found.events,
                    draining=draining,
                )
                found.secrets = self._secrets(vars(checked.job))
            else:
                found.run = found.run.at_next_node(draining)
            found.events.write_to(writer_around())
        except BaseException as error:
            if isinstance(error, RunEnded):
                self.forget(run_id)
            if found is not None:
                await found.close({})
            raise
        try:
            with knowing(texts=found.secrets):
                async with found.at_work(found.run):
                    yield found.run
                    if invocation is not None:
                        invocation.keep(self, found)
        except BaseException as error:
            if not is_pause(error):
                self.forget(run_id)
            raise

    async def _called(self, run_id: str, *, again: bool) -> CheckedJob[JobT]:
        """The job of a run as the node that we are in has called for it: at which checkpoint, and
        with whose config. It is not asked `again` whose the run is while that is open."""
        caller = identity_of_run()
        if not again and caller.name is not None:
            await require_run(self.store, run_id, caller)
        checked = await self.recall(run_id)
        refs = with_checkpoint(checked.record.refs)
        record = checked.record.model_copy(update={"refs": refs})
        self._known[run_id] = checked = replace(checked, record=record)
        now, begun = caller_of_run(), checked.around
        now = replace(now, configurable=begun.configurable, live={**begun.live, **now.live})
        return replace(checked, around=now)

    async def _until_free(self, record: RunRecord) -> None:
        """Wait until no other invocation of this graph works on the same job."""
        run_id = record.run_id
        while (other := self._known.get(run_id)) is not None:
            if other.record.job_hash != record.job_hash:
                return  # to be refused
            await asyncio.sleep(LOOK_AGAIN)
            try:
                status = (await self.store.runs.get(run_id)).status
            except NotFound:
                continue  # about to be made
            if status != "running" and self._known.get(run_id) in (other, None):
                return

    async def save_dataset(self, dataset: Dataset) -> None:
        """Store a dataset, unless it is there."""
        await keep_media(self.store, dataset.media)
        await self.store.datasets.save(
            dataset.id,
            dataset.version,
            metadata=dataset.metadata,
            counts={"cases": len(dataset), "splits": dataset.splits()},
            cases=dataset.cases,
            to_json=Case.to_json,
        )

    async def _checked(self, job: JobT, caller: Identity, around: Caller) -> CheckedJob[JobT]:
        """Resolve a job, once everything it refers to is known to be `caller`'s to use."""
        require_readable(job.dataset, self._settings, caller)
        require_config(job, self._settings, caller)
        if job.run_id is not None:
            await require_free_run_id(self.store, job.run_id, caller)
        if job.reuse is not None:
            await require_run(self.store, job.reuse, caller)
        begun: RunRecord | None = None
        if job.run_id is not None:
            with contextlib.suppress(NotFound):
                begun = await self.store.runs.get(job.run_id)
                around = around.of_run(begun.refs.get("caller"), job.run_id)
        named = None if begun is None else begun.workflow_id
        dataset = await self._dataset(job, caller)
        checked = await self._resolve(job, dataset, caller, around, workflow_id=named)
        await require_media(self.store, dataset, checked.media)
        if job.cache and job.reuse is None and begun is None:
            checked = await with_cache(checked, self.store, caller, target=self._given.target)
        found: list[dict[str, Any]] = []
        for run_id in filter(None, dict.fromkeys((job.run_id, job.reuse))):
            with contextlib.suppress(NotFound):
                before = begun if run_id == job.run_id else await self.store.runs.get(run_id)
                if before is None:
                    continue  # a new run
                if run_id == job.run_id and (other := await self._other_job(before, checked)):
                    raise before.taken(other)
                drift = drift_of(before, checked, job)
                found += [] if drift is None else [drift]
        checked = await self._trained(checked, begun)
        if self._require is not None:
            await self._require(checked)
        if begun is None or begun.status != "finished" or job.retry_failed:
            for one in (*checked.evaluators, *checked.summary_evaluators):
                await asyncio.to_thread(require_judge, one, checked.dataset.cases)
        return replace(checked, drift=tuple(found))

    async def _trained(
        self, checked: CheckedJob[JobT], begun: RunRecord | None
    ) -> CheckedJob[JobT]:
        """A training that is allowed; who has overridden a flag is in its record."""
        if self._mode != "train" or (begun is not None and begun.status == "finished"):
            return checked
        known = begun.refs.get(OVERRIDDEN) if begun is not None else None
        override = known or self._given.overrides_flag
        needed = await require_trainer(
            self.store,
            checked.record.workflow_id,
            promote=getattr(checked.job, "promote", "never"),
            settings=self._settings,
            override=override is not None,
        )
        if not needed:
            return checked
        noted = {**checked.record.refs, OVERRIDDEN: override}
        return replace(checked, record=checked.record.model_copy(update={"refs": noted}))

    async def _noted(self, record: RunRecord, refs: Mapping[str, Any]) -> RunRecord:
        """The record of a run with who has overridden a flag, where it lacks that."""
        if OVERRIDDEN not in refs or OVERRIDDEN in record.refs:
            return record
        noted = {**record.refs, OVERRIDDEN: refs[OVERRIDDEN]}
        return await self.store.runs.update(record.run_id, refs=noted)

    async def _resolve(
        self,
        job: JobT,
        dataset: Dataset,
        caller: Identity,
        around: Caller,
        *,
        workflow_id: str | None = None,
    ) -> CheckedJob[JobT]:
        """A job with its dataset as a `CheckedJob` with a fresh run record; writes nothing.

        `workflow_id` is that of a run which the job goes on with, where its owner has called it so.

        Raises `BadInput` and its kinds, `Forbidden` for a workflow that is not `caller`'s.
        """
        from orcheo_agentensor.storage import RunRecord

        target = self._target(job)
        talks = isinstance(target, TalkingTarget)
        if not talks and dataset.talks:
            target = TalkingTarget.of(
                target, ConversationSpec(), settings=self._settings, marked_only=True
            )
        if isinstance(target, TalkingTarget):
            target.check_cases(dataset.cases)
        called = job.workflow_id or slug(target.name)
        if workflow_id is None or workflow_id.rpartition("~")[2] != called:
            workflow_id = await self.store.workflows.id_for(called, caller.name)
        evaluators = [completed(one, dataset.metadata) for one in self._evaluators(job)]
        live, callbacks = RunConfig.trusted(self._given.config)
        request = merge_configs(live, RunConfig.parse(job.config))
        job_config = request.clamp(self._settings)
        known = None if caller.name is None else await self.store.workflows.get(workflow_id)
        if known is not None and not caller.may_see(known.owner):
            if isinstance(target, ConnectedTarget):  # refused first where that is not there either
                await target.connect(job_config.to_runnable())
            raise workflow_taken(workflow_id)
        media = Attachments(
            media_access(self._settings, files=may_read_files(self._settings, caller))
        )
        named = {**as_prompts(self._given.prompts), **as_prompts(job.prompts)}
        named = await attached(named, media)
        if job.prompts and media.found:
            own = {name: named[name].to_json() for name in job.prompts}
            job = job.model_copy(update={"prompts": own})
        if named:
            request = merge_configs(request, RunConfig.trusted({"prompts": named}, field="job")[0])
        where: Any = {"workflow_id": workflow_id, "store": self.store, "settings": self._settings}
        resolved = await resolve(request, **where)
        if self._mode == "train" and not resolved.config.prompts:
            named = await attached(found_prompts(target), media)
            request = merge_configs(request, RunConfig.trusted({"prompts": named}, field="job")[0])
            resolved = await resolve(request, **where)
        config, base_version = resolved.config, resolved.base_version
        config = config.model_copy(update={"prompts": await attached(config.prompts, media)})
        asks = bool(config.uses)
        if asks:  # an alias may move before the run is resumed
            pinned = RunConfig.parse(_pin({}, base_version))
            config, job_config = merge_configs(config, pinned), merge_configs(job_config, pinned)
        prompts = dict(config.prompts)
        for name in prompts.keys() & named.keys():
            if not isinstance(model := named[name].model, str | None):
                prompts[name].model = model  # an object, which no config holds
        whole = around.beneath(config)
        if not hasattr(target, "servers"):  # whose modules are on other machines
            trusted = [*as_prompts(self._given.prompts)]
            await asyncio.to_thread(
                load_constants, prompts, settings=self._settings, trusted=trusted
            )
        check_target(target, with_prompts({**around.live, **whole.configurable}, prompts), prompts)
        if isinstance(target, ConnectedTarget):
            target = await target.connect(around.completed(whole.to_runnable()))
        require_nodes(target, getattr(job, "exclude_nodes", ()), field="job.exclude_nodes")
        recorded_config = config.to_json()
        config = config.model_copy(update={"prompts": {}})
        config_json = config.to_json() if prompts else recorded_config
        plan, described = self._planned(job, dataset, prompts)
        evaluator_set = content_hash([[e.name, e.fingerprint, e.weight] for e in evaluators])
        identity = {
            "mode": self._mode,
            "target": target.fingerprint,
            "dataset": [dataset.id, dataset.version],
            "evaluators": evaluator_set,
            "config": config_json,
            "prompts": prompts_to_json(prompts),
            "min_coverage": job.min_coverage,
            **({"sla": job.limits.sla} if job.limits.sla else {}),
            **({"replicates": job.replicates} if job.replicates > 1 else {}),
            **({"seed": job.seed} if job.seed else {}),
            **described,
        }
        plain = job.model_dump(
            mode="json",
            exclude={"run_id", "dataset", "accept_drift", "retry_failed"},
            exclude_none=True,
        )
        if asks:
            plain["config"] = _pin(plain.get("config"), base_version)
        stored_job = redact(plain)
        refs: dict[str, Any] = {} if base_version is None else {"base_version": base_version}
        if around.configurable:
            refs["caller"] = around.stored
        warnings = await asyncio.to_thread(
            unread,
            target,
            dataset,
            evaluators,
            config.configurable,
            prompts,
            training=self._mode == "train",
        )
        source, manifest = await asyncio.to_thread(
            self._described, job, target, evaluators, dataset, plan, resolved, callbacks
        )
        if ref := source.to_ref(target.fingerprint):
            refs["source"] = ref
        manifest = redact(manifest) | {
            "config": manifest["config"],  # the paths in it are named like secrets at times
            "redacted": [*redacted_fields(plain, stored_job)],
        }
        record = RunRecord(
            run_id=job.run_id or self._new_run_id(),
            workflow_id=workflow_id,
            mode=self._mode,
            job={
                "job": {**stored_job, "workflow_id": called},
                "live": self._live_parts(job),
                "redacted": REDACTED in str(stored_job) and stored_job != plain,
            },
            job_hash=content_hash(identity),
            config=recorded_config,
            seed=job.seed,
            dataset_id=dataset.id,
            dataset_version=dataset.version,
            dataset_metadata_version=dataset.metadata_version,
            evaluator_set=evaluator_set,
            refs=refs,
        )
        return CheckedJob(
            record=record,
            manifest=manifest,
            source=source,
            job=job,
            target=target,
            dataset=dataset,
            evaluators=tuple(e for e in evaluators if not e.adapter.whole),
            summary_evaluators=tuple(e for e in evaluators if e.adapter.whole),
            config=config,
            config_json=config_json,
            job_config=merge_configs(resolved.version, job_config),
            callbacks=callbacks,
            prompts=prompts,
            media=media.found,
            base_version=base_version,
            around=around,
            plan=plan,
            warnings=tuple(warnings),
        )

    def _described(
        self,
        job: JobT,
        target: Target,
        evaluators: Sequence[BoundEvaluator],
        dataset: Dataset,
        plan: Any,
        resolved: ResolvedConfig,
        callbacks: LiveCallbacks,
    ) -> tuple[Provenance, dict[str, Any]]:
        """What the target comes from, and the parts of the manifest that take files to read."""
        given = self._given
        source = provenance_of(target)
        specs = job.evaluators if job.evaluators is not None else given.evaluators or ()
        spec = job.target if job.target is not None else given.target
        return source, {
            "schema": SCHEMA,
            "target": target_info(target, spec, source),
            "evaluators": [
                evaluator_info(one, spec) for one, spec in zip(evaluators, specs, strict=True)
            ],
            "dataset": dataset_info(dataset),
            "config": config_info(resolved, callbacks, given.context),
            "job": job_info(job),
            "training": None if plan is None else plan.to_manifest(),
            "live": {part: described_parts(getattr(given, part)) for part in self._live_parts(job)},
        }

    async def _other_job(self, before: RunRecord, checked: CheckedJob[JobT]) -> str | None:
        """What makes a job another one than that which a run was started with, in words."""
        try:
            manifest = await self.store.runs.manifest(before.run_id)
        except NotFound:  # it was recorded without one
            return None
        now = checked.record.in_manifest(checked.manifest)
        strict = before.status == "finished" and not checked.job.accept_drift
        return other_job(manifest, now, strict=strict)

    async def _all_problems(
        self, first: BadInput, data: Mapping[str, Any], caller: Identity
    ) -> BadInput:
        """`first`, and what else is wrong with the parts of a job, each looked at by itself."""
        found = _told(first)
        parts = [str(problem["field"]).split(".") for problem in found]
        said = {part[1] for part in parts if part[0] == "job" and len(part) > 1}
        if caller.name is not None and not isinstance(data.get("dataset"), list):
            said.add("dataset")  # what is not the caller's tells nothing of itself
        others: list[BadInput] = []
        try:
            job = self._job_model.parse({key: data[key] for key in data if key not in said})
            others += await self._faults(job, caller)
        except BadInput as error:
            others.append(error)
        for problem in [problem for other in others for problem in _told(other)]:
            part = str(problem["field"]).removeprefix("job.").split(".")[0]
            if part not in said and problem not in found:
                found.append(problem)
        if found == _told(first):
            return first
        lines = [f"{p['field']}: {p['value']} {p['rule']}" for p in found]
        text = f"{len(found)} problems in the job:\n  " + "\n  ".join(lines)
        return ConfigError(text, problems=found)

    async def _faults(self, job: JobT, caller: Identity) -> list[BadInput]:
        found: list[BadInput] = []
        looks: tuple[Callable[[], Any], ...] = (
            lambda: self._target(job),
            lambda: self._evaluators(job),
            lambda: RunConfig.parse(job.config),
        )
        for look in looks:
            try:
                look()
            except BadInput as error:
                found.append(error)
        try:
            dataset = await self._dataset(job, caller)
            if job.prompts:  # those of a stored version are not known here
                self._planned(job, dataset, as_prompts(job.prompts))
        except BadInput as error:
            found.append(error)
        except NotFound:
            pass  # said where it is asked for, with what may be told of it
        return found

    def _target(self, job: Job) -> Target:
        spec = job.target if job.target is not None else self._given.target
        if spec is None:
            raise ConfigError(field="job.target", value=None, rule="must name the workflow to run")
        return resolve_target(
            spec,
            settings=self._settings,
            memory_store=job.memory_store,
            context=self._given.context,
        )

    def _evaluators(self, job: Job) -> list[BoundEvaluator]:
        specs = job.evaluators if job.evaluators is not None else self._given.evaluators
        if not specs:
            raise ConfigError(
                field="job.evaluators", value=specs, rule="must name at least one evaluator"
            )
        bound = bind_evaluators(list(specs), settings=self._settings)
        for one in bound if self._mode == "train" else ():
            if one.adapter.whole:
                raise ConfigError(
                    field="job.evaluators",
                    value=one.name,
                    rule="scores all cases together; a training compares the scores of cases",
                )
        return bound

    def _planned(
        self, job: JobT, dataset: Dataset, prompts: Mapping[str, TextTensor]
    ) -> tuple[Any, dict[str, Any]]:
        return self._make_plan(job, dataset, prompts) if self._make_plan else (None, {})

    async def _dataset(self, job: JobT, caller: Identity) -> Dataset:
        """The dataset of a job, or the one that was given."""
        spec = job.dataset if job.dataset is not None else self._given.dataset
        if spec is None:
            raise ConfigError(field="job.dataset", value=None, rule="must name a dataset")
        if isinstance(spec, Mapping):
            parsed = DatasetSpec.parse(spec)
            if parsed.is_stored:
                stored = await self._stored_dataset(parsed, caller)
                return await asyncio.to_thread(lambda: _hashed(parsed.apply(stored)))
        files = may_read_files(self._settings, caller)
        return await asyncio.to_thread(self._load, spec, files)

    def _load(self, spec: Any, files: bool) -> Dataset:
        """A dataset in place or from a file, where the operator allows that file; blocking."""
        folder = self._settings.dataset_dir
        access = media_access(self._settings, files=files)
        path = spec.get("path") if isinstance(spec, Mapping) else spec
        if folder is None or not isinstance(path, str | Path):
            return _hashed(as_dataset(spec, access=access))
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise DatasetError(
                field="job.dataset",
                value=str(path),
                rule="is outside the folder that datasets are read from (AGENTENSOR_DATASET_DIR)",
            )
        return _hashed(as_dataset(spec, base_dir=folder, access=access))

    async def _stored_dataset(self, spec: DatasetSpec, caller: Identity) -> Dataset:
        """A dataset version from the side store; raises `NotFound` for one that no run of `caller`
        had. A job that a host graph makes inside is the host's, as for files."""
        metadata, cases = await self.store.datasets.load(
            str(spec.id),
            spec.version,
            spec.metadata_version,
            seen_by=None if inside_a_host() else caller.name,
        )
        return await asyncio.to_thread(
            lambda: _hashed(Dataset.stored(cases, id=str(spec.id), metadata=metadata))
        )

    def _live_parts(self, job: Job) -> list[str]:
        """The job's parts that only this process has."""
        parts = ("target", "evaluators", "prompts", "config", "context", "optimizer")
        return [
            part
            for part in parts
            if getattr(job, part, None) is None and getattr(self._given, part) is not None
        ]

    def _require_complete(self, record: RunRecord) -> None:
        """Raise `BadInput` where a run cannot be rebuilt from its record and what was given."""
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


def _hashed(dataset: Dataset) -> Dataset:
    """A dataset that knows its version: what takes a look at every case is done here, off the
    loop."""
    dataset.version  # noqa: B018 - it is kept
    return dataset


def slug(name: str) -> str:
    """A workflow id from a target's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.:_")[:128] or "workflow"


def _pin(config: Mapping[str, Any] | None, version: int | None) -> dict[str, Any]:
    """`config` asking for this version by number, or for none."""
    configurable = (config or {}).get("configurable") or {}
    return {**(config or {}), "configurable": {**configurable, "agentensor": {"use": version}}}


def _told(error: BadInput) -> list[dict[str, Any]]:
    return problems_of(error) or [{"field": "job", "value": None, "rule": error.message}]
