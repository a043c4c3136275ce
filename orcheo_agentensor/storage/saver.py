"""LangGraph's own checkpointer, next to the side store: a file beside it, or its own schema."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.errors import MissingExtra, StoreError
from orcheo_agentensor.storage.urls import redacted_url

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

SCHEMA = "langgraph"
_CONNECT_TIMEOUT = 10.0
_SETUP_LOCK = 0x6167656E74736C67


def serializer() -> JsonPlusSerializer:
    """The serializer of our graphs' state: no pickles, and of our own types the prompt alone."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    return JsonPlusSerializer(allowed_msgpack_modules=[("orcheo_agentensor.tensor", "TextTensor")])


def saver_path(path: Path) -> Path:
    """Where the checkpoints of the store at `path` are: `NAME.langgraph.db` beside it."""
    return path.with_name(f"{path.stem}.langgraph.db")


@asynccontextmanager
async def sqlite_saver(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A saver in the SQLite file at `path`."""
    import aiosqlite

    from orcheo_agentensor.storage.engine import WAL_PRAGMAS, prepare_file
    from orcheo_agentensor.storage.saver_sqlite import SqliteSaver

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
