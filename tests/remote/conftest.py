"""Fixtures of the tests against real LangGraph dev servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployments import Deployment, deployment_in
from langgraph_sdk import get_client

from orcheo_agentensor import Settings, Store


@pytest.fixture(scope="session")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Deployment]]:
    """Makes running servers; all are stopped at the end."""
    made: list[Deployment] = []

    def new() -> Deployment:
        deployment = deployment_in(tmp_path_factory.mktemp("deployment"))
        made.append(deployment)
        deployment.start()
        return deployment

    yield new
    for deployment in made:
        deployment.stop()


@pytest.fixture(scope="session")
def deployed(deploy: Callable[[], Deployment]) -> Deployment:
    """A running server."""
    return deploy()


@pytest.fixture(scope="session")
def second(deploy: Callable[[], Deployment]) -> Deployment:
    """Another one."""
    return deploy()


@pytest.fixture
async def client(deployed: Deployment) -> AsyncIterator[Any]:
    """An SDK client of the server."""
    async with get_client(url=deployed.url, api_key=None) as opened:
        yield opened


@pytest.fixture
def settings() -> Settings:
    """An operator who allows loopback."""
    return Settings(allowed_hosts=("127.0.0.1",))


@pytest.fixture
def impatient(settings: Settings) -> Settings:
    """An operator who does not wait long for a server that has gone."""
    return settings.model_copy(update={"http_patience": 1.0})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A side store of our own."""
    async with Store.from_url(f"sqlite:///{tmp_path / 'agentensor.db'}") as opened:
        yield opened
