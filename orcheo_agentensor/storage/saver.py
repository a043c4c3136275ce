"""Deleting threads for a server that must not be made to wait for it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orcheo_agentensor.errors import MissingExtra, StoreError
from orcheo_agentensor.storage.urls import redacted_url

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer


log = logging.getLogger(__name__)


class DeletesLater(BaseCheckpointSaver[Any]):
    """A saver whose `adelete_thread` is waited for by whoever reads, not by its caller.

    LangGraph's development server looks up where its own record of a thread is, calls
    `adelete_thread`, and takes away what is at that place by then: of two threads that end
    together it would lose another one, with whoever waits for its run.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deleting: set[asyncio.Task[None]] = set()

    async def adelete_thread(self, thread_id: str) -> None:
        """Have the checkpoints of a thread deleted, before anything is read again."""
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
    """What `checkpointer` opens in a SQLite file."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs of a server: it rolls a run back, or deletes it."""
        await self.setup()
        async with self.lock, self.conn.cursor() as cursor:
            for statement in _DELETIONS:
                await cursor.executemany(statement, [(str(run_id),) for run_id in run_ids])
            await self.conn.commit()


SCHEMA = "langgraph"
_CONNECT_TIMEOUT = 10.0
_SETUP_LOCK = 0x6167656E74736C67


def serializer() -> JsonPlusSerializer:
    """The serializer of our graphs' state: no pickles, and of our own types the prompt alone."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    return JsonPlusSerializer(allowed_msgpack_modules=[("orcheo_agentensor.prompts", "TextTensor")])


def saver_path(path: Path) -> Path:
    """Where the checkpoints of the store at `path` are: `NAME.langgraph.db` beside it."""
    return path.with_name(f"{path.stem}.langgraph.db")


@asynccontextmanager
async def sqlite_saver(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A saver in the SQLite file at `path`."""
    import aiosqlite

    from orcheo_agentensor.storage.engine import WAL_PRAGMAS, prepare_file

    await asyncio.to_thread(prepare_file, path)
    opening: Any = aiosqlite.connect(path, timeout=60)
    # A saver that nobody closed must not keep the interpreter from ending.
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


@asynccontextmanager
async def postgres_saver(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A saver in the schema `langgraph` of a PostgreSQL database."""
    for module in ("psycopg", "psycopg_pool", "langgraph.checkpoint.postgres"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(module, extra="postgres")
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool, PoolTimeout

    from orcheo_agentensor.storage.saver_postgres import PostgresSaver

    async def configure(connection: Any) -> None:
        await connection.execute(f"SET search_path TO {SCHEMA}")

    pool: Any = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=4,
        open=False,
        configure=configure,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
    )
    try:
        await pool.open(wait=True, timeout=_CONNECT_TIMEOUT)
    except PoolTimeout as error:
        await pool.close()
        raise StoreError(f"cannot open the checkpoints at {redacted_url(url)}: {error}") from None
    async with pool:
        await _setup(pool, PostgresSaver)
        saver = PostgresSaver(pool, serde=serializer())
        try:
            yield saver
        finally:
            await saver.settled()


async def _setup(pool: Any, saver_type: Any) -> None:
    async with pool.connection() as connection:
        # Polls instead of waiting in the database: a session that waits there for a lock would
        # hold up the CREATE INDEX CONCURRENTLY of the one that has it.
        while True:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s) AS held", (_SETUP_LOCK,)
            )
            if (await cursor.fetchone())["held"]:
                break
            await asyncio.sleep(0.02)
        try:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            await saver_type(connection).setup()
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (_SETUP_LOCK,))
