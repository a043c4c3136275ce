"""Records of ordinary runs: one row of mode "run" for each call of a configured workflow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig

from orcheo_agentensor.config import RunConfig
from orcheo_agentensor.errors import AgentensorError
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.redaction import redact

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

T = TypeVar("T")
_Ending = Literal["finished", "failed", "interrupted", "paused"]

_logger = logging.getLogger(__name__)
_MOST_ERROR_TEXT = 2_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run gets: `runnable` is handed to the graph, `config` is what is recorded.

    `base` is the stored version that the config was merged over, if any; `refs` is recorded too.
    """

    runnable: RunnableConfig | None
    config: RunConfig
    base: int | None = None
    refs: Mapping[str, Any] = field(default_factory=dict)


class RunLog:
    """Writes the records of one workflow's runs; the graph is asked whether a run has paused."""

    def __init__(self, store: Store, workflow_id: str, graph: Runnable[Any, Any]) -> None:
        self.store = store
        self._workflow_id = workflow_id
        self._graph: Any = graph

    @contextmanager
    def recorded(self, plan: Plan) -> Iterator[RunnableConfig | None]:
        """Record the run inside the block; gives the config to run with."""
        run_id = wait_for(self._begin(plan))
        try:
            yield plan.runnable
        except BaseException as error:
            wait_for(self._end(run_id, *_ending(error)))
            raise
        thread = self._thread(plan)
        paused = thread is not None and bool(self._graph.get_state(thread).next)
        wait_for(self._end(run_id, "paused" if paused else "finished"))

    @asynccontextmanager
    async def arecorded(self, plan: Plan) -> AsyncIterator[RunnableConfig | None]:
        """The async twin of `recorded`."""
        run_id = await self._begin(plan)
        try:
            yield plan.runnable
        except BaseException as error:
            await self._end(run_id, *_ending(error))
            raise
        thread = self._thread(plan)
        paused = thread is not None and bool((await self._graph.aget_state(thread)).next)
        await self._end(run_id, "paused" if paused else "finished")

    async def _begin(self, plan: Plan) -> str:
        from orcheo_agentensor.storage import RunRecord

        stored = plan.config.to_json()
        thread_id = plan.config.configurable.get("thread_id")
        refs = {"base_version": plan.base, "trace_id": stored.get("run_id"), **plan.refs}
        record = RunRecord(
            run_id=self.store.new_id(),
            workflow_id=self._workflow_id,
            mode="run",
            job_hash=content_hash({"mode": "run", "config": stored}),
            config=stored,
            thread_id=None if thread_id is None else str(thread_id),
            refs={key: value for key, value in refs.items() if value is not None},
            started_at=self.store.clock(),
        )
        await self.store.runs.create(record)
        return record.run_id

    async def _end(self, run_id: str, status: _Ending, error: str | None = None) -> None:
        try:
            await self.store.runs.update(
                run_id, status=status, error=error, ended_at=self.store.clock()
            )
        except AgentensorError as trouble:  # the run itself is over, and its outcome stands
            _logger.warning("run %s is %s, which could not be stored: %s", run_id, status, trouble)

    def _thread(self, plan: Plan) -> RunnableConfig | None:
        """The config of the thread to look at, where the graph keeps one of its own."""
        thread_id = plan.config.configurable.get("thread_id")
        if thread_id is None or not getattr(self._graph, "checkpointer", None):
            return None
        return {"configurable": {"thread_id": thread_id}}


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end from synchronous code, inside a running event loop too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _ending(error: BaseException) -> tuple[_Ending, str | None]:
    from langgraph.errors import GraphDrained, GraphInterrupt, ParentCommand

    if isinstance(error, ParentCommand):  # a jump in the graph around this one
        return "finished", None
    if isinstance(error, GraphInterrupt):
        return "paused", None
    if isinstance(error, GraphDrained) or not isinstance(error, Exception):
        return "interrupted", None
    text = error.message if isinstance(error, AgentensorError) else repr(error)
    return "failed", redact(text)[:_MOST_ERROR_TEXT]
