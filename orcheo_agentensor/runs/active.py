"""A run at work: opened under its lease, kept open from node to node, closed whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orcheo_agentensor.config.model import LiveCallbacks, RunConfig
from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.datasets.attachments import Medium
from orcheo_agentensor.errors import AgentensorError, LeaseLost, RunPaused, StoreError
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.events import EventSink, EventWriter, discard
from orcheo_agentensor.kinds import is_pause
from orcheo_agentensor.media import media_at_hand
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.redaction import redact, without_secrets
from orcheo_agentensor.runs.access import take_lease
from orcheo_agentensor.runs.blocked import recorded_blocks
from orcheo_agentensor.runs.caller import NOBODY, Caller
from orcheo_agentensor.runs.job import Job
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets import ConnectedTarget, Target
from orcheo_agentensor.targets.isolation import Provenance
from orcheo_agentensor.upstream import checkpoint_of, var_child_runnable_config

if TYPE_CHECKING:
    from typing import Self

    from orcheo_agentensor.storage import Lease, Ledger, RunRecord, Store


JobT = TypeVar("JobT", bound=Job)

CACHED_FROM = "cached_from"
"""The run record's reference to the run whose rollouts it uses by `cache`."""


class Draining(Exception):
    """A graceful stop was asked for; no further case is begun."""


@dataclass(frozen=True, kw_only=True)
class CheckedJob(Generic[JobT]):
    """A job with everything resolved and checked, and its run record.

    `manifest` describes it, but for the environment; `source` is what the target comes from.
    `config` is the merged one without its prompts, `config_json` that as it is stored.
    `job_config` is what the job itself set, over the stored version that the prompts started from;
    `base_version` is the number of that version.
    `drift` are accepted changes of the target's code since the run, or the one to reuse, was
    started. `plan` is what only a training has; `summary_evaluators` score all cases together.
    `warnings` say what the job brings that nothing reads.
    `media` are those of the prompts, by SHA-256.
    `around` is what whoever invokes the run brings with its config.
    """

    record: RunRecord
    manifest: dict[str, Any]
    source: Provenance
    job: JobT
    target: Target
    dataset: Dataset
    evaluators: tuple[BoundEvaluator, ...]
    summary_evaluators: tuple[BoundEvaluator, ...]
    config: RunConfig
    config_json: dict[str, Any]
    job_config: RunConfig
    callbacks: LiveCallbacks
    prompts: dict[str, TextTensor]
    base_version: int | None
    media: Mapping[str, Medium | None] = field(default_factory=dict)
    around: Caller = NOBODY
    drift: tuple[dict[str, Any], ...] = ()
    plan: Any = None
    warnings: tuple[str, ...] = ()

    @property
    def bindings(self) -> dict[str, str]:
        """How each evaluator is called, by name."""
        return {e.name: e.binding for e in (*self.evaluators, *self.summary_evaluators)}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each evaluator, by name."""
        return {evaluator.name: evaluator.weight for evaluator in self.evaluators}


@dataclass(frozen=True, kw_only=True)
class ActiveRun(CheckedJob[JobT]):
    """A run at work: its lease is held and its ledger takes rows.

    `draining` tells whether a graceful stop of the graph run was asked for.
    """

    store: Store
    settings: Settings
    lease: Lease
    ledger: Ledger
    events: EventSink
    draining: Callable[[], bool]

    def at_next_node(self, draining: Callable[[], bool]) -> Self:
        """The run at the next node of its invocation, which brings all that the one before did but
        its checkpoint."""
        refs = with_checkpoint(self.record.refs)
        record = self.record.model_copy(update={"refs": refs})
        return replace(self, record=record, draining=draining)

    async def update(self, **fields: Any) -> None:
        """Change fields of the run's record, while the lease holds; with its status the checkpoint
        that LangGraph stands at."""
        if "status" in fields:
            fields = {"refs": with_checkpoint(self.record.refs), **fields}
        await self.store.runs.update(self.record.run_id, lease=self.lease, **fields)


def current_checkpoint() -> dict[str, Any] | None:
    """Thread, namespace and id of the checkpoint that the graph around a node stands at, if any."""
    return checkpoint_of((var_child_runnable_config.get() or {}).get("configurable") or {})


def writer_around() -> EventWriter:
    """What the node that we are in writes events by; nobody reads them where no graph is around."""
    if var_child_runnable_config.get() is None:
        return discard
    from langgraph.config import get_stream_writer

    return get_stream_writer()


def draining_around() -> Callable[[], bool]:
    """What tells whether the graph run that we are in is asked to stop; nobody asks none."""
    if var_child_runnable_config.get() is None:
        return bool
    from langgraph.runtime import get_runtime

    return partial(getattr, get_runtime(), "drain_requested")


def with_checkpoint(refs: Mapping[str, Any]) -> dict[str, Any]:
    """The references of a run with the checkpoint that the graph around us stands at, if any."""
    at = current_checkpoint()
    if at is None:
        return dict(refs)
    last = at.pop("checkpoint_id")
    first = (refs.get("langgraph") or {}).get("first_checkpoint_id", last)
    found = {**at, "first_checkpoint_id": first, "last_checkpoint_id": last}
    return {**refs, "langgraph": found}


@dataclass(eq=False, kw_only=True)
class OpenRun:
    """What is open of a run: its lease is held, its ledger takes rows, its events are counted.

    It is `kept` between two nodes of an invocation, with the `run` as its last node had it, and the
    `secrets` in its job.
    """

    store: Store
    lease: Lease
    ledger: Ledger
    events: EventSink
    target: Target
    run: Any = None
    secrets: frozenset[str] = frozenset()
    kept: bool = False

    @classmethod
    async def open(cls, checked: CheckedJob[Any], store: Store, **fields: Any) -> Self:
        """Take the lease of a run, and change `fields` of its record with that; its ledger is not
        started yet. Raises as `take_lease` does."""
        run_id = checked.record.run_id
        lease = await take_lease(store, run_id, **fields)
        events = EventSink(run_id, writer_around(), start=lease.event_seq)
        ledger: Ledger = store.ledger(
            run_id,
            lease=lease,
            reuse=checked.job.reuse or checked.record.refs.get(CACHED_FROM),
            event_seq=partial(getattr, events, "seq"),
            empty=lease.token == 1,
            on_blocked=recorded_blocks(lambda: ledger, events),
        )
        return cls(store=store, lease=lease, ledger=ledger, events=events, target=checked.target)

    @contextlib.asynccontextmanager
    async def at_work(self, run: ActiveRun[Any]) -> AsyncIterator[None]:
        """Work on the run in a node. Whatever ends that other than well is noted in its record and
        told, and closes the run; so does the end of a node that does not keep it open."""
        from orcheo_agentensor.storage.media import media_of_prompts

        ending: dict[str, Any] = {}
        try:
            await self.ledger.start()
            if run.draining():  # since the node before this one
                raise Draining
            media = await media_of_prompts(run.prompts, stored=self.store.media, known={})
            with media_at_hand(media):
                yield
        except (Draining, asyncio.CancelledError):
            ending |= {"status": "interrupted", "error": None}
            raise
        except RunPaused as error:
            await self._note_pause(error)
            ending |= {"status": "interrupted", "error": redact(error.message)}
            self.events.emit("run_failed", error=ending["error"], kind=type(error).__name__)
            raise
        except Exception as error:
            if not is_pause(error):
                text = redact(error.message if isinstance(error, AgentensorError) else repr(error))
                ending |= {"status": "failed", "error": text}
                self.events.emit("run_failed", error=text, kind=type(error).__name__)
                if (told := without_secrets(error)) is not error:
                    raise told from None
            raise
        finally:
            if not self.kept:
                if ending:
                    ending["refs"] = run.record.refs
                await self.close(ending)

    async def _note_pause(self, error: RunPaused) -> None:
        """Take back what failed in passing, to be tried again, and say what is kept."""
        with contextlib.suppress(AgentensorError):  # then a resume replays the failures
            await self.ledger.flush()
            kept = await self.store.runs.take_back_passing(self.lease)
            error.args = (
                f"{error.message}; {kept} rollouts are recorded, and run "
                f"{self.lease.run_id!r} goes on there when it is resumed",
            )

    async def close(self, ending: dict[str, Any]) -> None:
        """Commit what waits, note the `ending` of a run that did not end well in its record, and
        give the lease back.

        All of it is done, however often the caller is cancelled meanwhile: a lease left behind
        locks the run. An error of the store is told where no `ending` has told of one already.
        """
        closing = asyncio.create_task(self._close(ending))
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as again:
                cancelled = again
                ending.setdefault("status", "interrupted")
        if cancelled is not None:
            raise cancelled
        if not (ending and isinstance(closing.exception(), StoreError)):
            closing.result()

    async def _close(self, ending: Mapping[str, Any]) -> None:
        runs, lease = self.store.runs, self.lease
        try:
            await self.ledger.stop()
            if ending:
                ended = {"finished"} if ending["status"] == "failed" else {"finished", "paused"}
                if (await runs.get(lease.run_id)).status not in ended:
                    with contextlib.suppress(LeaseLost):  # it is for the new holder to say
                        await runs.update(lease.run_id, lease=lease, **ending)
        finally:
            await runs.release(lease, event_seq=self.events.seq)
            if isinstance(self.target, ConnectedTarget):
                await self.target.disconnect()


IDLE_SECONDS = 5.0
"""Seconds for which a run stays open where its graph has stopped between two nodes, such as for a
reader of its stream that reads no further. Then another process may work on it."""


@dataclass(eq=False)
class Invocation:
    """One invocation of a graph, which keeps the run of its last node open for the next one.

    Of nodes that run on another event loop than the invocation nothing is kept.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _kept: tuple[object, OpenRun] | None = None
    _timer: asyncio.TimerHandle | None = None
    _closing: asyncio.Task[None] | None = None

    @classmethod
    def here(cls) -> Invocation | None:
        """The invocation that the node which we are in belongs to, if it can keep a run."""
        found = _invocation.get()
        return found if found is not None and found._loop is asyncio.get_running_loop() else None

    async def stream(self, parts: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Hand on `parts`, which the invocation streams; at their end, and wherever the invocation
        is left before, the run that is kept is closed."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                token = _invocation.set(self)
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    break
                finally:
                    _invocation.reset(token)
                yield part
        except BaseException:
            with contextlib.suppress(StoreError):  # there is an error to tell already
                await self._leave(parts)
            raise
        await self._leave(parts)

    async def _leave(self, parts: Any) -> None:
        try:
            await parts.aclose()
        finally:
            await self.take(None, "")

    async def take(self, by: object, run_id: str) -> OpenRun | None:
        """The run that `by` has kept open, if it is this one; any other one is closed."""
        if self._timer is not None:
            self._timer.cancel()
        closing, self._closing = self._closing, None
        if closing is not None:
            await closing
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        keeper, found = kept
        found.kept = False
        if keeper is by and found.lease.run_id == run_id:
            return found
        await found.close({})
        return None

    def keep(self, by: object, run: OpenRun) -> None:
        """Keep a run open for the next node, which is about to begin."""
        self._kept, run.kept = (by, run), True
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go)

    def _let_go(self) -> None:
        assert self._kept is not None
        (_by, run), self._kept = self._kept, None
        self._closing = asyncio.get_running_loop().create_task(run.close({}))


_invocation: ContextVar[Invocation | None] = ContextVar("agentensor_invocation", default=None)
