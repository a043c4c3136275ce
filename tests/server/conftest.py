"""The real LangGraph dev server, once for the session, on a store of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from orcheo_agentensor import Store

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STARTED_WITHIN = 90.0


@dataclass(frozen=True)
class Served:
    """A running server: where it listens, where it keeps what, what it has logged."""

    url: str
    store_url: str
    log: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that `make serve` starts, with the modules of this folder allowed."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(ROOT / "langgraph.json", folder)
    shutil.copytree(ROOT / "graphs", folder / "graphs")
    port = _free_port()
    server = Served(
        url=f"http://127.0.0.1:{port}",
        store_url=f"sqlite:///{folder / 'agentensor.db'}",
        log=folder / "server.log",
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "AGENTENSOR_DATABASE_URL": server.store_url,
        "AGENTENSOR_ALLOWED_MODULES": "served_workflows",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "LANGSMITH_TRACING": "false",
    }
    options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "10", "--port", str(port)]
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ok(server, process)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Any]:
    """An SDK client of the server."""
    async with get_client(url=served.url, api_key=None) as opened:
        yield opened


@pytest.fixture
async def store(served: Served) -> AsyncIterator[Store]:
    """The server's side store, opened beside it."""
    async with Store.from_url(served.store_url) as opened:
        yield opened


def _wait_until_ok(server: Served, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/ok", timeout=5.0).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{server.log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
