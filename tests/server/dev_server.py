"""The real LangGraph dev server, as `make serve` starts it, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Served:
    """A running server: where it listens, where it keeps what, what it has logged."""

    url: str
    store_url: str
    log: Path
    folder: Path
    pid: int

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        os.killpg(self.pid, signal.SIGKILL)


def lay_out(folder: Path, *, graphs: Mapping[str, str] | None = None, **changes: Any) -> Path:
    """A folder to serve from: the project's `langgraph.json` and graphs, changed as asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((ROOT / "langgraph.json").read_text()) | changes
    config["graphs"] |= graphs or {}
    (folder / "langgraph.json").write_text(json.dumps(config))
    for part in ("graphs", "examples"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    shutil.copy(HERE / "served_graphs.py", folder)
    return folder


@contextmanager
def running(
    folder: Path, *, environment: Mapping[str, str] | None = None, store_url: str | None = None
) -> Iterator[Served]:
    """The server of `folder`; it is killed at the end."""
    port = _free_port()
    store_url = store_url or f"sqlite:///{folder / 'agentensor.db'}"
    log = folder / f"server-{port}.log"
    whole = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
        "AGENTENSOR_DATABASE_URL": store_url,
        "AGENTENSOR_ALLOWED_MODULES": "served_workflows",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "AGENTENSOR_DEV_SERVER": "true",
        "LANGSMITH_TRACING": "false",
        **(environment or {}),
    }
    options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "10", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", *options],
            cwd=folder,
            env=whole,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Served(
        url=f"http://127.0.0.1:{port}",
        store_url=store_url,
        log=log,
        folder=folder,
        pid=process.pid,
    )
    try:
        _wait_until_ok(server, process)
        yield server
    finally:
        if process.poll() is None:
            server.kill()
        process.wait()


def _wait_until_ok(server: Served, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if httpx.get(f"{server.url}/ok", timeout=None).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{server.log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
