"""The connection to the database: SQLAlchemy Core in threads of its own, awaited from any loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from orcheo_agentensor.errors import AgentensorError, MissingExtra, StoreError
from orcheo_agentensor.storage import migrate, tables
from orcheo_agentensor.storage.urls import StoreUrl

# A database call holds a worker thread, never the event loop, and belongs to no loop: a store works
# from successive `asyncio.run` calls. One call is one whole transaction, so a cancelled caller
# leaves nothing half done.


T = TypeVar("T")

BUSY_TIMEOUT_MS = 60_000
WAL_PRAGMAS = ("PRAGMA synchronous=OFF", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")
"""Switch to WAL, or stay there; the switch itself need not wait for the disk."""
_WRITE = "agentensor_write"
_WORKERS = 8


class HeldConnection:
    """A driver's connection that is never used by two threads at once.

    Whoever waited for a transaction may be cancelled while the thread still works on it; closing
    the connection under its hands would crash the process.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """The connection, for one transaction."""
        with self._lock:
            if self._connection is None:
                raise StoreError("the store was closed")
            yield self._connection

    def close(self) -> None:
        """Give the connection back to its pool."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


class _Handles:
    """What must be let go of when the database is closed or forgotten."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.executor: ThreadPoolExecutor | None = None
        self.held: set[HeldConnection] = set()

    def release(self) -> None:
        held, self.held = self.held, set()
        for connection in held:
            connection.close()
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.dispose()
        executor, self.executor = self.executor, None
        if executor is not None:
            executor.shutdown(wait=False)


class Database:
    """One database; opened by the first call that needs it."""

    def __init__(self, target: StoreUrl) -> None:
        self.target = target
        self._handles = _Handles()
        self._ready = False
        self._lock = threading.Lock()
        weakref.finalize(self, self._handles.release)

    @property
    def postgres(self) -> bool:
        """Whether this is PostgreSQL."""
        return self.target.dialect == "postgresql"

    async def call(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` in a worker thread."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        # By hand, because `run_in_executor` costs three times as much.
        self._executor().submit(_run, loop, outcome, work, args)
        return await outcome

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads."""
        return await self.call(self._transaction, work, False, None)

    async def write(self, work: Callable[[Connection], T], *, lock: str | None = None) -> T:
        """Run `work` in one write transaction; writers of the same `lock` go one after the other.

        On SQLite the transaction starts as a writer, so every writer waits for its turn; on
        PostgreSQL `lock` names an advisory lock held until the commit.
        """
        return await self.call(self._transaction, work, True, lock)

    async def on_any_schema(self, work: Callable[[Engine], T]) -> T:
        """Run `work` on the engine, whatever the schema of the database is."""

        def run() -> T:
            with self._translated("open"):
                return work(self.engine(check_schema=False))

        return await self.call(run)

    async def open(self) -> None:
        """Connect, and bring a fresh database to the current schema."""
        await self.call(self.engine)

    async def close(self) -> None:
        """Let go of every connection and thread. A database in memory is gone after that."""
        if self._handles.engine is not None:
            await self.call(self._close)

    def engine(self, *, check_schema: bool = True) -> Engine:
        """The engine; opens the database. Blocks: for use in a worker thread."""
        with self._lock:
            if self._handles.engine is None:
                self._handles.engine = self._create()
            if check_schema and not self._ready:
                with self._translated("open"):
                    migrate.ensure(self._handles.engine)
                self._ready = True
            return self._handles.engine

    def hold_connection(self) -> HeldConnection:
        """A connection for one user, until `drop_connection`. Blocks."""
        held = HeldConnection(self.engine().raw_connection())
        self._handles.held.add(held)
        return held

    def drop_connection(self, held: HeldConnection) -> None:
        """Give a held connection back, when its last transaction is over. Blocks."""
        self._handles.held.discard(held)
        held.close()

    def _transaction(self, work: Callable[[Connection], T], write: bool, lock: str | None) -> T:
        engine = self.engine()
        with self._translated("use"), engine.connect() as connection:
            if write:
                begin_write(connection)
            with connection.begin():
                if write and lock is not None and self.postgres:
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(lock)}
                    )
                return work(connection)

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._handles.executor is None:
                # One thread for a database in memory: it has one connection.
                workers = 1 if self.target.in_memory else _WORKERS
                self._handles.executor = ThreadPoolExecutor(workers, "agentensor-store")
            return self._handles.executor

    def _close(self) -> None:
        with self._lock:
            self._ready = False
            self._handles.release()

    def _translated(self, doing: str) -> _Translated:
        return _Translated(f"cannot {doing} the store {self.target.shown}")

    def _create(self) -> Engine:
        with self._translated("open"):
            return self._postgres_engine() if self.postgres else self._sqlite_engine()

    def _postgres_engine(self) -> Engine:
        if importlib.util.find_spec("psycopg") is None:
            raise MissingExtra("psycopg", extra="postgres")
        assert self.target.url is not None
        url = make_url(self.target.url).set(drivername="postgresql+psycopg")
        return create_engine(
            url,
            hide_parameters=True,
            json_serializer=tables.encode,
            json_deserializer=tables.decode,
            max_overflow=50,
            pool_pre_ping=True,
        )

    def _sqlite_engine(self) -> Engine:
        path = self.target.path
        if path is not None:
            prepare_file(path)
        engine = create_engine(
            URL.create("sqlite", database=None if path is None else str(path.absolute())),
            connect_args={
                "check_same_thread": False,
                "isolation_level": None,
                "timeout": BUSY_TIMEOUT_MS / 1000,
            },
            hide_parameters=True,
            **({"poolclass": StaticPool} if path is None else {"max_overflow": 50}),
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


def _run(
    loop: asyncio.AbstractEventLoop,
    outcome: asyncio.Future[T],
    work: Callable[..., T],
    args: tuple[Any, ...],
) -> None:
    try:
        result = work(*args)
    except BaseException as error:  # noqa: BLE001 - it is handed to the caller
        settle, value = _fail, error
    else:
        settle, value = _succeed, result  # type: ignore[assignment]
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
        loop.call_soon_threadsafe(settle, outcome, value)


def _succeed(outcome: asyncio.Future[T], result: T) -> None:
    if not outcome.done():
        outcome.set_result(result)


def _fail(outcome: asyncio.Future[Any], error: BaseException) -> None:
    if not outcome.done():
        outcome.set_exception(error)


class _Translated:
    """Turns database errors into `StoreError`s that show no password and no values."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, AgentensorError):
            return
        if isinstance(error, ArgumentError):
            raise StoreError(f"{self._message}: the URL is not valid") from None
        if isinstance(error, SQLAlchemyError | sqlite3.Error | OSError):
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"{self._message}: {str(cause).strip()}") from error


def begin_write(connection: Connection) -> None:
    """Make the connection's next transaction one that writes (`BEGIN IMMEDIATE` on SQLite)."""
    connection.execution_options(**{_WRITE: True})


def lock_key(name: str) -> int:
    """The number of a PostgreSQL advisory lock."""
    digest = hashlib.sha256(f"agentensor:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def prepare_file(path: Path) -> None:
    """Create the file, readable by its owner alone, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    for pragma in WAL_PRAGMAS:
        cursor.execute(pragma)
    cursor.execute("PRAGMA wal_autocheckpoint=4000")  # 16 MB: fewer syncs while cases pour in
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@dataclass(frozen=True, slots=True)
class Context:
    """The means of a repository."""

    db: Database
    clock: Callable[[], datetime]
    new_id: Callable[[], str]


def listed(values: list[str], limit: int = 20) -> str:
    """Names for an error message: all of a few, the first of many."""
    if not values:
        return "none"
    shown = ", ".join(values[:limit])
    return shown if len(values) <= limit else f"{shown}, … ({len(values)} in all)"
