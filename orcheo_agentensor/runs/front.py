"""What the functions that run a job share: what is made of their arguments, who hears of the run,
how it ends, and how the work of a graph is done without one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from orcheo_agentensor.errors import BadInput, NotFound, RunFailed
from orcheo_agentensor.events import Event, EventWriter, discard, listening
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.runs.access import RunEnded
from orcheo_agentensor.runs.active import Invocation

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"

NodeWork: TypeAlias = Callable[[Any], Awaitable[Any]]
"""What a node does: it takes the state and gives the update of it."""


async def walk(
    nodes: Sequence[NodeWork],
    job: Mapping[str, Any],
    *,
    store: Store,
    run_id: str,
    on_event: EventWriter = discard,
) -> dict[str, Any]:
    """Do the work of a graph's nodes, one after the other while the run is at work; returns the
    last state.

    It comes to the same as an invocation of the graph that nothing is around (`is_alone`) and that
    does not pause, and costs less: LangGraph is not even imported.
    """
    state: dict[str, Any] = {**job, "run_id": run_id}

    async def executed() -> AsyncIterator[None]:
        for work in nodes:
            state.update(await done_once(work, state))
            yield
            if state["status"] != "running":
                return

    try:
        with heard_by(on_event):
            async for _ in Invocation().stream(executed()):
                pass
    except asyncio.CancelledError:
        await note_interrupted(store, run_id)
        raise
    return state


async def done_once(work: NodeWork, state: Any) -> Any:
    """The update that a node's work gives, or the stored result where the run has ended already:
    another execution of the same job ended it, in this process, after a kill, or earlier on a
    thread that is replayed."""
    try:
        return await work(state)
    except RunEnded as ended:
        return ended.result


async def note_interrupted(store: Store, run_id: str) -> None:
    """Say in the record of a run that was stopped between two nodes that it was."""
    with contextlib.suppress(NotFound):  # stopped before it had a record
        if (await store.runs.get(run_id)).status == "running":
            await store.runs.update(run_id, status=INTERRUPTED)


def heard_by(on_event: EventWriter) -> AbstractContextManager[None]:
    """Let `on_event` hear of the runs inside. Its errors are logged and cannot end a run."""
    return contextlib.nullcontext() if on_event is discard else listening(_shielded(on_event))


def _shielded(on_event: EventWriter) -> EventWriter:
    """`on_event`, whose errors are logged and cannot end the run. Raises `BadInput` for a coroutine
    function, which nobody would await."""
    if inspect.iscoroutinefunction(on_event):
        raise BadInput(
            field="on_event", value=on_event, rule="must be a plain function, not an async one"
        )

    def heard(event: Event) -> None:
        try:
            on_event(event)
        except Exception as error:  # noqa: BLE001 - told, and the run goes on
            told = redact("".join(traceback.format_exception(error)))
            about, said = {"run_id": event["run_id"]}, "on_event raised on %s %s\n%s"
            log.error(said, event["type"], event["seq"], told, extra=about)

    return heard


async def stored_job(store: Store, run_id: str) -> dict[str, Any]:
    """A run's job as its record holds it, to be submitted again. Raises `NotFound`."""
    record = await store.runs.get(run_id)
    return {
        **record.job["job"],
        "run_id": run_id,
        "dataset": record.dataset,
    }


def as_data(value: Any) -> Any:
    """A model such as `Limits` or `Budget` as plain data; anything else as it is."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def split_live(**parts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Job fields that are plain data, and those that only this process has.

    Plain ones go into the job, so that the run can be resumed from its record alone. Cases do
    not: they are kept in the side store, and would only make the graph's checkpoints large.
    """
    plain: dict[str, Any] = {}
    live: dict[str, Any] = {}
    for name, value in parts.items():
        if value is None:
            continue
        travels = isinstance(value, str) if name == "dataset" else _is_plain(value)
        (plain if travels else live)[name] = value
    return plain, live


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, str | int | float | bool) or depth > _DEEPEST:
        return True
    if isinstance(value, dict):
        entries: Any = value.items()
        return all(isinstance(key, str) and _is_plain(one, depth + 1) for key, one in entries)
    return isinstance(value, list) and all(_is_plain(entry, depth + 1) for entry in value)


_DEEPEST = 100
"""What is nested deeper, or in itself, is refused with the job, whatever is at its end."""


def require_result(found: Mapping[str, Any], run_id: str) -> None:
    """Raise `RunFailed` for a run that was stopped before it had a result."""
    if found.get("status") == INTERRUPTED:
        raise RunFailed(f"run {run_id!r} was interrupted; run it again with run_id={run_id!r}")


def emptied(state: Mapping[str, Any], job: type[BaseModel], output: type[Any]) -> dict[str, Any]:
    """The update that takes a job, which is stored by now, and an earlier job's output away."""
    left = [key for key in output.__annotations__ if state.get(key) is not None]
    return dict.fromkeys([*job.model_fields, *left])
