"""The runs of one built graph: prepared, recalled after a resume, and opened for work.

A graph is built once and serves many runs. Its `Workbench` turns a job into a `Prepared` run
(checked, then recorded in the store) and opens a `Session` on it, under the run's lease. After a
resume in another process the same `Prepared` is rebuilt from the run record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

from orcheo_agentensor.callers import NOBODY_ASKED, Caller, caller_of_run
from orcheo_agentensor.datasets import Dataset, DatasetSpec
from orcheo_agentensor.errors import (
    AgentensorError,
    BadInput,
    LeaseLost,
    NotFound,
    RunMismatch,
    TargetUnavailable,
)
from orcheo_agentensor.evaluation.concurrency import process_slots
from orcheo_agentensor.evaluation.executor import Draining
from orcheo_agentensor.evaluation.faults import with_all_others
from orcheo_agentensor.evaluation.leasing import LOOK_AGAIN, RunEnded, take_lease
from orcheo_agentensor.evaluation.meter import Meter
from orcheo_agentensor.evaluation.ownership import (
    require_dataset,
    require_free_run_id,
    require_readable,
    require_run,
)
from orcheo_agentensor.evaluation.resolve import Extra, Given, JobT, Prepared, Resolver, no_extra
from orcheo_agentensor.evaluation.runner import Runner
from orcheo_agentensor.events import EventSink, EventWriter
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets import ConnectedTarget, Target

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Lease, Ledger, Store
    from orcheo_agentensor.storage.records import RunMode


@dataclass(kw_only=True)
class Session(Generic[JobT]):
    """A run at work: its lease is held and its ledger takes rows while the session is open."""

    prepared: Prepared[JobT]
    store: Store
    lease: Lease
    ledger: Ledger
    events: EventSink
    runner: Runner


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
        self._settings = settings
        self._resolver: Resolver[JobT] = Resolver(
            mode=mode,
            given=given,
            store=store,
            settings=settings,
            new_run_id=new_run_id,
            extra=extra,
        )
        self._prepared: dict[str, Prepared[JobT]] = {}
        self.store = store

    async def check(
        self, data: Mapping[str, Any], *, caller: Caller = NOBODY_ASKED
    ) -> Prepared[JobT]:
        """Check and resolve a job; the store is read where the job refers to it, not written.

        `caller` is who submits it: what is somebody else's is to them as if it were not there.
        Raises `BadInput` and its kinds, `NotFound`, and `Forbidden` for a name that is taken.
        """
        try:
            prepared = await self._resolved(self._job_model.parse(data), caller)
            await self.store.runs.require_free(prepared.run)
        except NotFound:
            if caller.identity is None:
                raise
            raise NotFound("names something that is not stored") from None
        except BadInput as error:
            raise await with_all_others(
                error, data, job_model=self._job_model, resolver=self._resolver, caller=caller
            ) from error
        return prepared

    async def _resolved(self, job: JobT, caller: Caller) -> Prepared[JobT]:
        require_readable(job.dataset, self._settings, caller)
        if isinstance(job.dataset, dict):
            await require_dataset(self.store, DatasetSpec.parse(job.dataset), caller)
        if job.run_id is not None:
            await require_free_run_id(self.store, job.run_id, caller)
        if job.reuse is not None:
            await require_run(self.store, job.reuse, caller)
        return await self._resolver.resolve(job, await self._resolver.dataset(job), caller)

    async def prepare(self, data: Mapping[str, Any]) -> Prepared[JobT]:
        """Check and resolve a job, store its dataset and create its run record.

        While this workbench works on the very same job already, that is waited for: a client that
        submits it again, after a lost connection or a restart of its server, wants its result.
        Nothing is written before everything has been checked. Raises `BadInput` and its kinds.
        """
        caller = caller_of_run()
        prepared = await self._resolved(self._job_model.parse(data), caller)
        if caller.identity is not None:
            refs = {**prepared.run.refs, "identity": caller.identity}
            prepared = replace(prepared, run=prepared.run.model_copy(update={"refs": refs}))
        run_id = prepared.run.run_id
        await self._until_free(prepared)
        self._prepared[run_id] = prepared
        try:
            record = await self.store.runs.create(prepared.run)
            await self._save_dataset(prepared.dataset)
        except BaseException:
            if self._prepared.get(run_id) is prepared:
                self.forget(run_id)
            raise
        prepared = replace(prepared, run=record)
        self._prepared[run_id] = prepared
        return prepared

    async def _until_free(self, prepared: Prepared[JobT]) -> None:
        """Wait until no other invocation of this graph works on the same job."""
        run_id = prepared.run.run_id
        while (other := self._prepared.get(run_id)) is not None:
            if other.run.job_hash != prepared.run.job_hash:
                return  # to be refused
            await asyncio.sleep(LOOK_AGAIN)
            try:
                status = (await self.store.runs.get(run_id)).status
            except NotFound:
                continue  # about to be made
            if status != "running" and self._prepared.get(run_id) in (other, None):
                return

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
        self._resolver.require_complete(record)
        job = self._job_model.parse(record.job["job"])
        dataset = await self._resolver.stored_dataset(record.dataset_id, record.dataset_version)
        prepared = await self._resolver.resolve(job, dataset)
        if prepared.run.job_hash != record.job_hash:
            raise RunMismatch(
                f"run {run_id!r} cannot go on: its target, its evaluators, or the defaults of "
                f"workflow {record.workflow_id!r}, have changed since it was started; start a new "
                f"run with reuse={run_id!r}, which takes over what still fits",
                field="run_id",
                value=run_id,
                rule="must still be the same job",
            )
        prepared = replace(prepared, run=record)
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
        `interrupted`, to be resumed. Another execution in this process is waited for. Raises
        `RunAlreadyActive` while another process works on it, `RunEnded` where it has ended,
        `NotFound` where the run is not that of whom the graph runs for.
        """
        caller = caller_of_run()
        if caller.identity is not None:
            await require_run(self.store, run_id, caller)
        prepared = await self.recall(run_id)
        try:
            lease = await take_lease(self.store, run_id)
        except RunEnded:
            self.forget(run_id)
            raise
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
                    process_slots=process_slots(self._settings.max_concurrency).share(),
                    meter=found,
                    replicates=prepared.job.replicates,
                    taped=taped,
                    draining=draining,
                ),
            )
        except (Draining, asyncio.CancelledError):
            ending |= {"status": "interrupted", "error": None}
            raise
        except TargetUnavailable as error:
            ending |= {"status": "interrupted", "error": redact(error.message)}
            events.emit("run_failed", error=ending["error"], kind=type(error).__name__)
            raise
        except Exception as error:
            if not _is_pause(error):
                text = redact(error.message if isinstance(error, AgentensorError) else repr(error))
                ending |= {"status": "failed", "error": text}
                events.emit("run_failed", error=text, kind=type(error).__name__)
            raise
        finally:
            if ending:
                self.forget(run_id)
            closing = asyncio.create_task(
                self._close(lease, ledger, events, ending, prepared.target)
            )
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

    async def _close(
        self,
        lease: Lease,
        ledger: Ledger,
        events: EventSink,
        ending: Mapping[str, Any],
        target: Target,
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
            if isinstance(target, ConnectedTarget):
                await target.disconnect()

    async def _note(self, lease: Lease, ending: Mapping[str, Any]) -> None:
        ended = {"finished"} if ending["status"] == "failed" else {"finished", "paused"}
        if (await self.store.runs.get(lease.run_id)).status not in ended:
            with contextlib.suppress(LeaseLost):  # it is for the new holder to say
                await self.store.runs.update(lease.run_id, lease=lease, **ending)

    async def _save_dataset(self, dataset: Dataset) -> None:
        await self.store.datasets.save(
            dataset.id,
            dataset.version,
            metadata=dataset.metadata,
            counts={"cases": len(dataset), "splits": dataset.splits()},
            cases=[case.to_json() for case in dataset.cases],
        )


def _is_pause(error: Exception) -> bool:
    """LangGraph's own signal for `interrupt()`."""
    from langgraph.errors import GraphBubbleUp

    return isinstance(error, GraphBubbleUp)
