"""The database: its connections, transactions and schema.

SQLAlchemy Core works in threads of its own and is awaited from any event loop. A call holds a
worker thread, never the loop, and belongs to no loop, so a store works from successive
`asyncio.run` calls. One call is one whole transaction: a cancelled caller leaves nothing half done.

A fresh database gets the current tables at once. An older one is refused until `upgrade` is
called, because that may take long and cannot be shared with processes of the old release.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel
from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    Select,
    create_engine,
    create_mock_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from orcheo_agentensor.errors import (
    StoreError,
    StoreOutdated,
    StoreTooNew,
    StoreVanished,
    require_extra,
)
from orcheo_agentensor.storage import tables
from orcheo_agentensor.storage.urls import StoreUrl

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=BaseModel)

HEAD = "0005"
"""The newest schema revision; revisions are numbered in order."""

BUSY_TIMEOUT_MS = 60_000
PATIENCE = 90.0
"""Seconds for which a database is waited for that was in use and has gone away."""
LONGEST_PAUSE = 2.0
_POSTGRES_OPTIONS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that is cut off without a word is noticed in seconds, not in hours."""
WAL_PRAGMAS = ("PRAGMA synchronous=OFF", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")
"""Switch to WAL, or stay there; the switch itself need not wait for the disk."""
_WRITE = "agentensor_write"
_SCHEMA_LOCK = "schema"
_WORKERS = 8
DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed later: its connection was lost, its server is away,
    or it had to give way to another one."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if not type(cause).__module__.startswith("psycopg"):
        return isinstance(error, DBAPIError) and error.connection_invalidated
    state = getattr(cause, "sqlstate", None)
    if state is None:  # libpq has no code for a connection that is refused or lost
        return type(cause).__name__ in ("OperationalError", "InterfaceError")
    return state[:2] in ("08", "40") or state[:3] == "57P" or state in ("53300", "55P03")


class HeldConnection:
    """A driver's connection; `with` gives it to one thread at a time, for one transaction.

    The first transaction opens it. The task that waits for a transaction may be cancelled while the
    thread still works on it, or opens it; closing the connection under that thread would crash the
    process, and forgetting it would leave it open.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Any:
        self._lock.acquire()
        try:
            if self._closed:
                raise StoreError("the store was closed")
            if self._connection is None:
                self._connection = self._connect()
        except BaseException:
            self._lock.release()
            raise
        return self._connection

    def __exit__(self, _type: object, error: BaseException | None, *_: object) -> None:
        try:
            if error is not None and is_passing(error):  # the next transaction opens another one
                broken, self._connection = self._connection, None
                with contextlib.suppress(Exception):
                    broken.invalidate()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Give the connection back to its pool, when its last transaction is over. Blocks."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


class _Handles:
    """The engine, threads and connections to release when the database is closed or forgotten."""

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
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()
        weakref.finalize(self, self._handles.release)

    @property
    def postgres(self) -> bool:
        """Whether this is PostgreSQL."""
        return self.target.dialect == "postgresql"

    def work_off_loop(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` in a worker thread, for another thread than the loop's. Blocks."""
        return (self._handles.executor or self._executor()).submit(work, *args).result()

    def call(self, work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Run `work(*args)` in a worker thread."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        # By hand, because `run_in_executor` costs three times as much.
        executor = self._handles.executor or self._executor()
        executor.submit(_run, loop, outcome, work, args)
        return outcome

    def read(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Run `work` in a transaction that only reads."""
        return self.call(self._transaction, work, False, None)

    def write(
        self, work: Callable[[Connection], T], *, lock: str | None = None
    ) -> asyncio.Future[T]:
        """Run `work` in one write transaction; writers of the same `lock` go one after the other.

        On SQLite the transaction starts as a writer, so every writer waits for its turn; on
        PostgreSQL `lock` names an advisory lock held until the commit.
        """
        return self.call(self._transaction, work, True, lock)

    async def revision(self) -> str | None:
        """The revision of the schema; None for a fresh database."""
        return await self._on_any_schema(_current_revision)

    async def upgrade(self, revision: str) -> None:
        """Run the migrations up to `revision`; a newer database is refused."""

        def work(engine: Engine) -> None:
            found = _current_revision(engine)
            if found is not None and found.isdigit() and int(found) > int(HEAD):
                _check_revision(found)
            _migrate(engine, "upgrade", revision)

        await self._on_any_schema(work)

    async def downgrade(self, revision: str) -> None:
        """Run the migrations down to `revision`; `base` removes every table."""
        await self._on_any_schema(lambda engine: _migrate(engine, "downgrade", revision))

    async def _on_any_schema(self, work: Callable[[Engine], T]) -> T:
        def run() -> T:
            try:
                return work(self.engine(check_schema=False))
            except DATABASE_ERRORS as error:
                self._refuse("open", error)

        return await self.call(run)

    async def open(self) -> None:
        """Connect, and bring a fresh database to the current schema."""
        await self.call(self.engine)

    async def close(self) -> None:
        """Close every connection and end every thread. A database in memory is lost."""
        if self._handles.engine is not None:
            await self.call(self._close)

    def engine(self, *, check_schema: bool = True) -> Engine:
        """The engine; opens the database. Blocks: for use in a worker thread."""
        with self._lock:
            engine = self._handles.engine
            if engine is None or (check_schema and not self._ready):
                try:
                    if engine is None:
                        make = self._postgres_engine if self.postgres else self._sqlite_engine
                        engine = self._handles.engine = make()
                    if check_schema:
                        _ensure_schema(engine, self.target.path)
                        self._ready = True
                except DATABASE_ERRORS as error:
                    self._refuse("open", error)
            return engine

    def hold_connection(self) -> HeldConnection:
        """A connection for one user, until `drop_connection`."""
        held = HeldConnection(lambda: self.engine().raw_connection())
        self._handles.held.add(held)
        return held

    def drop_connection(self, held: HeldConnection) -> None:
        """Give a held connection back, when its last transaction is over. Blocks."""
        self._handles.held.discard(held)
        held.close()

    def patiently(self, transaction: Callable[[], T]) -> T:
        """Run a whole transaction, again where it failed in passing. Blocks.

        Only for what may be done twice: a connection that is lost in a commit does not tell whether
        it went through.
        """
        try:
            return transaction()
        except Exception as error:  # of SQLAlchemy, or of the driver itself
            self.require_file()
            if not is_passing(error):
                raise
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

        over = stop_after_delay(PATIENCE)
        again = Retrying(
            retry=retry_if_exception(is_passing),
            stop=lambda state: self._handles.engine is None or over(state),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE),
            reraise=True,
        )
        return again(transaction)

    def require_file(self) -> None:
        """Raise `StoreVanished` unless the database's file is the one that was opened."""
        path = self.target.path
        if path is None or self._file is None:
            return
        with contextlib.suppress(OSError):
            if _identity(path) == self._file:
                return
        raise StoreVanished(
            f"the store {self.target.shown} was deleted or replaced while it was in use"
        )

    def _transaction(self, work: Callable[[Connection], T], write: bool, lock: str | None) -> T:
        engine = (self._ready and self._handles.engine) or self.engine()
        if write:
            self.require_file()
        try:
            return self.patiently(lambda: _in_transaction(engine, work, write=write, lock=lock))
        except DATABASE_ERRORS as error:
            self._refuse("use", error)

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

    def _refuse(self, doing: str, error: Exception) -> NoReturn:
        """Raise a `StoreError` that shows no password and no values."""
        message = f"cannot {doing} the store {self.target.shown}"
        if isinstance(error, ArgumentError):
            raise StoreError(f"{message}: the URL is not valid") from None
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{message}: {str(cause).strip()}") from error

    def _postgres_engine(self) -> Engine:
        require_extra("postgres", "psycopg")
        assert self.target.url is not None
        url = make_url(self.target.url).set(drivername="postgresql+psycopg")
        return create_engine(
            url,
            hide_parameters=True,
            json_serializer=tables.encode,
            json_deserializer=tables.decode,
            connect_args={k: v for k, v in _POSTGRES_OPTIONS.items() if k not in url.query},
            max_overflow=50,
            pool_pre_ping=True,
        )

    def _sqlite_engine(self) -> Engine:
        path = self.target.path
        place, writable = "", True  # a file without a name, of which little is in memory
        dialect, compiled = _sqlite_dialect()
        if path is not None:
            writable = prepare_file(path)
            self._file = _identity(path)
            place = sqlite_place(path)

        def connect() -> Any:
            return sqlite3.connect(
                place,
                uri=path is not None,
                check_same_thread=False,
                isolation_level=None,
                timeout=BUSY_TIMEOUT_MS / 1000,
            )

        pool = (
            StaticPool(connect, dialect=dialect)
            if path is None
            else QueuePool(connect, max_overflow=50, dialect=dialect)
        )
        engine = Engine(
            pool,
            dialect,
            URL.create("sqlite", database=place),
            hide_parameters=True,
            execution_options={"compiled_cache": compiled},
        )
        if not writable:
            return engine
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


@cache
def _sqlite_dialect() -> tuple[Dialect, dict[Any, Any]]:
    """What all SQLite files share: the dialect, and the statements compiled for it.

    Compiling them is most of what a short run costs; `create_engine` makes a dialect for each
    engine, and takes statements compiled for another one for unknown.
    """
    engine = create_engine("sqlite://")
    engine.connect().close()
    return engine.dialect, {}


def _run(
    loop: asyncio.AbstractEventLoop,
    outcome: asyncio.Future[T],
    work: Callable[..., T],
    args: tuple[Any, ...],
) -> None:
    result: T | None = None
    failure: BaseException | None = None
    try:
        result = work(*args)
    except BaseException as error:  # noqa: BLE001 - it is handed to the caller
        failure = error
    with contextlib.suppress(RuntimeError):  # the loop was closed: no task waits
        loop.call_soon_threadsafe(_settle, outcome, result, failure)


def _settle(outcome: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if outcome.done():  # its task was cancelled
        return
    if failure is not None:
        outcome.set_exception(failure)
    else:
        outcome.set_result(result)


def _in_transaction(
    engine: Engine, work: Callable[[Connection], T], *, write: bool, lock: str | None
) -> T:
    with engine.connect() as connection:
        if write:
            connection.execution_options(**{_WRITE: True})
        with connection.begin():
            if lock is not None and engine.dialect.name == "postgresql":
                digest = hashlib.sha256(f"agentensor:{lock}".encode()).digest()
                key = int.from_bytes(digest[:8], "big", signed=True)
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            return work(connection)


def prepare_file(path: Path) -> bool:
    """Create the file, readable by its owner alone, and the folder it is in; whether it may be
    written to."""
    if path.exists():
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return True


def sqlite_place(path: Path) -> str:
    """The URI of a file that exists, for reading and writing where that is possible."""
    return f"{path.absolute().as_uri()}?mode={_mode(path, prepare_file(path))}"


def _mode(path: Path, writable: bool) -> str:
    """How to open a file: `rw` creates none in the place of one that has vanished."""
    if writable:
        return "rw"
    # Its log cannot be shared by who may not write; without one nobody is writing.
    return "ro" if _log_size(path) else "ro&immutable=1"


def _log_size(path: Path) -> int:
    """Bytes in the log of a SQLite file."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


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


def _ensure_schema(engine: Engine, path: Path | None) -> None:
    """Create the tables in a fresh database, in the SQLite file at `path` if it is one; refuse one
    of another revision."""
    found = _current_revision(engine)
    if found is None:
        _set_sync(engine, "OFF", when=path is not None and not _log_size(path))
        try:
            _in_transaction(engine, _create_tables, write=True, lock=_SCHEMA_LOCK)
        finally:
            _set_sync(engine, "NORMAL", when=path is not None)
    else:
        _check_revision(found)


def _set_sync(engine: Engine, how: str, *, when: bool) -> None:
    """Wait for the disk, or do not, in what an engine of SQLite does with its one connection.

    The head of a log is synced because an older log may stand behind it. Behind the first one there
    is none, and what it holds is synced before it is moved to the file.
    """
    if when:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA synchronous={how}")


def _current_revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return _revision_of(connection)


def _revision_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table(tables.VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {tables.VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def _check_revision(found: str) -> None:
    """Raise unless `found` is the revision that this release works with."""
    if found == HEAD:
        return
    if not found.isdigit():
        raise StoreError(f"the database has the unknown schema revision {found!r}")
    if int(found) > int(HEAD):
        raise StoreTooNew(
            f"the database has schema revision {found}, this release knows {HEAD}: "
            "upgrade orcheo-agentensor"
        )
    raise StoreOutdated(
        f"the database has schema revision {found}, this release needs {HEAD}: "
        "run: agentensor db upgrade"
    )


def _create_tables(connection: Connection) -> None:
    found = _revision_of(connection)
    if found is not None:  # another process was faster
        _check_revision(found)
        return
    for statement in _schema(connection.dialect.name):
        connection.exec_driver_sql(statement)


@lru_cache
def _schema(dialect: str) -> list[str]:
    """The statements that make all tables, compiled once for each kind of database."""
    statements: list[str] = []

    def collect(element: Any, *_: Any, **__: Any) -> None:
        statements.append(str(element.compile(dialect=mock.dialect)))

    mock = create_mock_engine(f"{dialect}://", collect)
    tables.metadata.create_all(mock, checkfirst=False)
    name = tables.VERSION_TABLE
    return [
        *statements,
        f"CREATE TABLE IF NOT EXISTS {name} (version_num VARCHAR(32) NOT NULL, "
        f"CONSTRAINT {name}_pkc PRIMARY KEY (version_num))",
        f"INSERT INTO {name} (version_num) VALUES ('{HEAD}')",
    ]


def _migrate(engine: Engine, direction: Literal["upgrade", "downgrade"], revision: str) -> None:
    """Run migrations in one write transaction, one process at a time."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    def work(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "orcheo_agentensor.storage:migrations")
        config.attributes["connection"] = connection
        try:
            getattr(command, direction)(config, revision)
        except CommandError as error:
            raise StoreError(f"cannot {direction} the schema to {revision!r}: {error}") from error

    _in_transaction(engine, work, write=True, lock=_SCHEMA_LOCK)


@dataclass(frozen=True, slots=True)
class Context:
    """The database, clock and ids of a store, shared by its repositories."""

    db: Database
    clock: Callable[[], datetime]
    new_id: Callable[[], str]


class Repository:
    """Reads and writes some of the tables; the base class of what a `Store` consists of."""

    def __init__(self, context: Context) -> None:
        self._db = context.db
        self._clock = context.clock
        self._new_id = context.new_id

    async def _all(self, record: type[RecordT], query: Select[Any]) -> list[RecordT]:
        """Every row that a query finds, as records."""
        return await self._db.read(
            lambda connection: [
                record.model_validate(dict(row)) for row in connection.execute(query).mappings()
            ]
        )


def first(connection: Connection, record: type[RecordT], query: Select[Any]) -> RecordT | None:
    """The first row that a query finds, as a record."""
    row = connection.execute(query).mappings().first()
    return None if row is None else record.model_validate(dict(row))


def listed(values: list[str], limit: int = 20) -> str:
    """Names for an error message: all of a few, the first of many."""
    if not values:
        return "none"
    shown = ", ".join(values[:limit])
    return shown if len(values) <= limit else f"{shown}, … ({len(values)} in all)"
