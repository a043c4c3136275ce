"""Tests with real workers over PostgreSQL and Redis: `make test-cluster`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import PYTHON, Cluster, bearer, lay_out, left_of, running
from langgraph_sdk import get_client

from orcheo_agentensor import Store


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """They take minutes of two processors, so that they are never part of the others."""
    return None if "cluster" in config.option.markexpr else True


@pytest.fixture(scope="session")
def installed() -> None:
    if not PYTHON.exists():
        pytest.skip("the engine is not installed here: `make test-cluster` does it")


@pytest.fixture(scope="session")
def folder(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def cluster(folder: Path) -> Iterator[Cluster]:
    with running(folder) as started:
        yield started
    assert left_of(folder) == []  # a PostgreSQL that a test has restarted is stopped as well


@pytest.fixture
async def ana(cluster: Cluster) -> AsyncIterator[Any]:
    async with get_client(url=cluster.url, api_key=None, headers=bearer("ana")) as client:
        yield client


@pytest.fixture
async def ben(cluster: Cluster) -> AsyncIterator[Any]:
    async with get_client(url=cluster.url, api_key=None, headers=bearer("ben")) as client:
        yield client


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    async with Store.from_url(cluster.store_url) as opened:
        yield opened
