"""Dev servers for the tests: an open one, and one that wants tokens; each once for the session."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from dev_server import Served, lay_out, running
from langgraph_sdk import get_client
from prompt_readers import KINDS

from orcheo_agentensor import Store

READERS = [f"{door}_{kind}" for door in ("serve", "configure", "form") for kind in KINDS]
GRAPHS = {name: f"./served_graphs.py:{name}" for name in ("echo", "bare", "context", *READERS)}
TOKENS = {
    "ana-token": ("ana", ["run", "train", "promote"]),
    "ana-reader": ("ana", ["run"]),
    "ana-trainer": ("ana", ["run", "train"]),
    "ben-token": ("ben", ["run", "train", "promote"]),
    "nobody": ("nil", []),
}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that `make serve` starts, with the modules of this folder allowed."""
    with running(lay_out(tmp_path_factory.mktemp("server"), graphs=GRAPHS)) as server:
        yield server


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same server with the tokens of two tenants."""
    tokens = [
        {
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "identity": identity,
            "scopes": scopes,
        }
        for token, (identity, scopes) in TOKENS.items()
    ]
    folder = lay_out(tmp_path_factory.mktemp("guarded"), graphs=GRAPHS)
    environment = {"AGENTENSOR_AUTH_TOKENS": json.dumps(tokens)}
    with running(folder, environment=environment) as server:
        yield server


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Any]:
    """An SDK client of the open server."""
    async with get_client(url=served.url, api_key=None) as opened:
        yield opened


@pytest.fixture
async def store(served: Served) -> AsyncIterator[Store]:
    """The open server's side store, opened beside it."""
    async with Store.from_url(served.store_url) as opened:
        yield opened
