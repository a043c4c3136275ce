"""LangGraph's checkpointers beside a store, which delete threads without making a server wait."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orcheo_agentensor.errors import StoreError
from orcheo_agentensor.prompts import TENSORS

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

log = logging.getLogger(__name__)


class DeletesLater(BaseCheckpointSaver[Any]):
    """A saver whose `adelete_thread` returns at once; the next read waits for the deletion.

    LangGraph's development server looks up the index of its own record of a thread, calls
    `adelete_thread`, and then deletes the record at that index. If the call took time, another
    thread that ends meanwhile would move the records, and the server would delete the wrong one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deleting: set[asyncio.Task[None]] = set()

    async def adelete_thread(self, thread_id: str) -> None:
        """Start to delete the checkpoints of a thread; the next read waits for it."""
        task = asyncio.create_task(super().adelete_thread(thread_id))
        self._deleting.add(task)
        task.add_done_callback(self._deleted)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As LangGraph's own; every run begins with it."""
        await self.settled()
        return await super().aget_tuple(config)

    async def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        """As LangGraph's own."""
        await self.settled()
        async for found in super().alist(config, **options):
            yield found

    def _deleted(self, task: asyncio.Task[None]) -> None:
        self._deleting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the checkpoints of a deleted thread are left behind", exc_info=error)

    async def settled(self) -> None:
        """Wait until nothing is being deleted any more."""
        if self._deleting:
            await asyncio.wait(self._deleting)


_OF_RUNS = """
SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints
WHERE json_extract(CAST(metadata AS TEXT), '$.run_id') = ?
"""
_DELETIONS = [
    f"DELETE FROM {table} WHERE (thread_id, checkpoint_ns, checkpoint_id) IN ({_OF_RUNS})"
    for table in ("writes", "checkpoints")
]


class SqliteSaver(DeletesLater, AsyncSqliteSaver):
    """The checkpointer of a store in a SQLite file."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs that a server rolls back or deletes."""
        await self.setup()
        async with self.lock, self.conn.cursor() as cursor:
            for statement in _DELETIONS:
                await cursor.executemany(statement, [(str(run_id),) for run_id in run_ids])
            await self.conn.commit()


def serializer() -> JsonPlusSerializer:
    """The serializer of graph state: no pickles, and tensors as the only types of our own."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    ours = [("orcheo_agentensor.prompts", name) for name in TENSORS]
    return JsonPlusSerializer(allowed_msgpack_modules=ours)


def saver_path(path: Path) -> Path:
    """The file of the checkpoints of the store at `path`: `NAME.langgraph.db` beside it."""
    return path.with_name(f"{path.stem}.langgraph.db")


@asynccontextmanager
async def sqlite_saver(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A saver in the SQLite file at `path`."""
    import aiosqlite

    from orcheo_agentensor.storage.engine import WAL_PRAGMAS, prepare_file

    await asyncio.to_thread(prepare_file, path)
    opening: Any = aiosqlite.connect(path, timeout=60)
    # A saver that was not closed must not keep the interpreter from ending.
    getattr(opening, "_thread", opening).daemon = True
    try:
        connection = await opening
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot open the checkpoints at {path}: {error}") from error
    saver = SqliteSaver(connection, serde=serializer())
    try:
        for pragma in WAL_PRAGMAS:
            await connection.execute(pragma)
        await saver.setup()
        yield saver
    finally:
        await saver.settled()
        # A run that was cancelled may be in the middle of a write: closing under it would leave
        # its transaction open, and the file locked, for as long as its cursor lives.
        async with saver.lock:
            await connection.close()
