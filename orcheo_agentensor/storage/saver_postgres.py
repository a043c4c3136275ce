"""The checkpointer of a store in PostgreSQL; needs the extra `postgres`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from orcheo_agentensor.errors import StoreError
from orcheo_agentensor.redaction import redact_url
from orcheo_agentensor.storage import engine
from orcheo_agentensor.storage.saver import DeletesLater, serializer

T = TypeVar("T")

_SCHEMA = "langgraph"
_CONNECT_TIMEOUT = 10.0
_SETUP_LOCK = 0x6167656E74736C67
_DELETION = """
WITH gone AS (
    DELETE FROM checkpoints WHERE metadata ->> 'run_id' = ANY(%s)
    RETURNING thread_id, checkpoint_ns, checkpoint_id
)
DELETE FROM checkpoint_writes USING gone
WHERE checkpoint_writes.thread_id = gone.thread_id
  AND checkpoint_writes.checkpoint_ns = gone.checkpoint_ns
  AND checkpoint_writes.checkpoint_id = gone.checkpoint_id
"""

_COPIES = [
    f"INSERT INTO {table} (thread_id, {columns}) "
    f"SELECT %(target)s, {columns} FROM {table} WHERE thread_id = %(source)s "
    "ON CONFLICT DO NOTHING"
    for table, columns in (
        ("checkpoint_blobs", "checkpoint_ns, channel, version, type, blob"),
        (
            "checkpoint_writes",
            "checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob",
        ),
        (
            "checkpoints",
            "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata",
        ),
    )
]


class PostgresSaver(DeletesLater, AsyncPostgresSaver):
    """The checkpointer of a store in a PostgreSQL database.

    It waits for a server that goes away as long as the store does. What LangGraph writes may be
    written twice: a checkpoint is under its id.
    """

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As LangGraph's own."""
        return await _patiently(lambda: super(PostgresSaver, self).aget_tuple(config))

    async def aput(self, *args: Any, **kwargs: Any) -> RunnableConfig:
        """As LangGraph's own."""
        return await _patiently(lambda: super(PostgresSaver, self).aput(*args, **kwargs))

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        """As LangGraph's own."""
        await _patiently(lambda: super(PostgresSaver, self).aput_writes(*args, **kwargs))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs that a server rolls back or deletes.

        Their values stay until the thread is pruned or deleted: earlier checkpoints may share them.
        """
        async with self._cursor() as cursor:
            await cursor.execute(_DELETION, ([str(run_id) for run_id in run_ids],))

    async def _keep_latest(self, thread_id: str) -> None:
        # Of LangGraph, from langgraph-checkpoint-postgres 3.2 on; older ones cannot, and say so.
        await AsyncPostgresSaver.aprune(self, [thread_id], strategy="keep_latest")

    async def _copy(self, source: str, target: str) -> None:
        async with self._cursor() as cursor, cursor.connection.transaction():
            for statement in _COPIES:
                await cursor.execute(statement, {"source": source, "target": target})


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call, again where it failed in passing."""
    again = AsyncRetrying(
        retry=retry_if_exception(_is_passing),
        stop=stop_after_delay(engine.PATIENCE),
        wait=wait_random_exponential(multiplier=0.1, max=engine.LONGEST_PAUSE),
        reraise=True,
    )
    async for attempt in again:
        with attempt:
            return await call()
    raise AssertionError("the last attempt raises")


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, PoolTimeout) or engine.is_passing(error)


@asynccontextmanager
async def postgres_saver(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A saver in the schema `langgraph` of a PostgreSQL database."""

    async def configure(connection: Any) -> None:
        await connection.execute(f"SET search_path TO {_SCHEMA}")

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
        raise StoreError(f"cannot open the checkpoints at {redact_url(url)}: {error}") from None
    async with pool:
        await _set_up(pool)
        saver = PostgresSaver(pool, serde=serializer())
        try:
            yield saver
        finally:
            await saver.settled()


async def _set_up(pool: Any) -> None:
    async with pool.connection() as connection:
        # Polls instead of waiting in the database: a session that waits there for a lock would
        # hold up the CREATE INDEX CONCURRENTLY of the session that has it.
        while True:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s) AS held", (_SETUP_LOCK,)
            )
            if (await cursor.fetchone())["held"]:
                break
            await asyncio.sleep(0.02)
        try:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
            await PostgresSaver(connection).setup()
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (_SETUP_LOCK,))
