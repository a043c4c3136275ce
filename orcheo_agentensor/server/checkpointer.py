"""The checkpointer for `checkpointer.path` in `langgraph.json`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from orcheo_agentensor.settings import Settings


@asynccontextmanager
async def checkpointer() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """LangGraph's saver beside the side store of `AGENTENSOR_DATABASE_URL`, ready to use.

    A file on SQLite, the schema `langgraph` on PostgreSQL. Threads outlive the server's process.
    """
    from orcheo_agentensor.storage import Store

    async with (
        Store.from_url(Settings().database_url) as store,
        store.checkpointer() as saver,
        _deleting_later(saver),
    ):
        yield saver


@asynccontextmanager
async def _deleting_later(saver: BaseCheckpointSaver[Any]) -> AsyncIterator[None]:
    """Let `adelete_thread` return at once; whoever waits for a deletion must not be overtaken.

    The dev server (langgraph-runtime-inmem 0.36) looks up the place of a thread in its list, waits
    for the saver, and then removes what is at that place: with several stateless runs ending at
    once, that is another thread, or none, and then the run's worker breaks.
    """
    delete = saver.adelete_thread
    under_way: set[asyncio.Task[None]] = set()

    async def soon(thread_id: str) -> None:
        task = asyncio.create_task(delete(thread_id))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    saver.adelete_thread = soon  # type: ignore[method-assign]
    try:
        yield
    finally:
        await asyncio.gather(*under_way, return_exceptions=True)
