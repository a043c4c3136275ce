"""Running a built graph from start or resume to its end, for the doors that are not LangGraph's."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph.errors import GraphDrained
from langgraph.types import Command
from pydantic import BaseModel

from orcheo_agentensor.errors import BadInput, NotFound, RunFailed
from orcheo_agentensor.events import Event, EventWriter, discard, listening
from orcheo_agentensor.runs.manager import Draining

if TYPE_CHECKING:
    from langgraph.runtime import RunControl

    from orcheo_agentensor.runs.nodes import JobGraph
    from orcheo_agentensor.storage import Store


T = TypeVar("T")

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
AWAITING_APPROVAL = "awaiting_approval"


async def drive(
    graph: JobGraph[Any, Any, Any],
    job: Mapping[str, Any] | None,
    *,
    store: Store,
    run_id: str,
    on_event: EventWriter = discard,
    control: RunControl | None = None,
    answer: Any = None,
) -> dict[str, Any]:
    """Run `job`, or go on with the run where `job` is None, and return the graph's last state.

    A job whose run id is known goes on from what the store holds. Of a graph that `pauses`,
    LangGraph's checkpoints are kept beside `store` on the thread named `run_id`; any other goes on
    by its job, submitted again. `answer` resumes a run that waits for approval. A run that pauses
    has the status `awaiting_approval` and its `request`; one stopped through `control` has the
    status `interrupted`.
    """
    heard = None if on_event is discard else _shielded(on_event)
    async with store.checkpointer() if graph.pauses else contextlib.nullcontext() as saver:
        compiled = graph.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": run_id}}
        given: Any = None
        if answer is not None:
            given = Command(resume=answer)
        elif job is not None:
            given = {**job, "run_id": run_id}
        elif saver is None or not (await compiled.aget_state(config)).next:
            given = await stored_job(store, run_id)
        try:
            with listening(heard) if heard is not None else contextlib.nullcontext():
                found: dict[str, Any] = await compiled.ainvoke(given, config, control=control)
        except (Draining, GraphDrained):
            with contextlib.suppress(NotFound):  # stopped before it had a record
                if (await store.runs.get(run_id)).status == "running":  # between two nodes
                    await store.runs.update(run_id, status=INTERRUPTED)
            return {"run_id": run_id, "status": INTERRUPTED}
        if saver is None:
            return found
        snapshot = await compiled.aget_state(config)
        found = dict(snapshot.values)
        if snapshot.interrupts:
            found |= {"status": AWAITING_APPROVAL, "request": snapshot.interrupts[0].value}
        return found


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
        except Exception:
            log.exception("on_event raised on %s %s", event["type"], event["seq"])

    return heard


async def stored_job(store: Store, run_id: str) -> dict[str, Any]:
    """A run's job as its record holds it, to be submitted again. Raises `NotFound`."""
    record = await store.runs.get(run_id)
    return {
        **record.job["job"],
        "run_id": run_id,
        "dataset": {"id": record.dataset_id, "version": record.dataset_version},
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


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, str | int | float | bool):
        return True
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    return isinstance(value, list) and all(_is_plain(entry) for entry in value)


def require_result(found: Mapping[str, Any], run_id: str) -> None:
    """Raise `RunFailed` for a run that was stopped before it had a result."""
    if found.get("status") == INTERRUPTED:
        raise RunFailed(f"run {run_id!r} was interrupted; run it again with run_id={run_id!r}")
