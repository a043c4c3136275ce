"""LangGraph dev servers that deploy the graphs of this folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GRAPHS = ("clerk", "quiet", "persona", "sleeper", "awkward", "witness")


@dataclass
class Deployment:
    """A server that can be stopped and started again at the same address."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.folder / 'agentensor.db'}"

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def start(self) -> None:
        """Start the server; returns when it answers."""
        options = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "10"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "langgraph_cli", "dev", *options, "--port", str(self.port)],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    "AGENTENSOR_DATABASE_URL": self.store_url,
                    "AGENTENSOR_ALLOWED_HOSTS": "127.0.0.1",
                    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
                    "LANGGRAPH_NO_VERSION_CHECK": "true",
                    "LANGSMITH_TRACING": "false",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/ok", timeout=None).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        pytest.fail(f"the server did not start:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """Stop it at once, as a machine that loses its power."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def deployment_in(folder: Path) -> Deployment:
    """A server in `folder`, at a free port; not started."""
    shutil.copy(HERE / "deployed_graphs.py", folder)
    shutil.copytree(ROOT / "graphs", folder / "graphs")
    graphs = {name: f"./deployed_graphs.py:{name}" for name in GRAPHS}
    graphs |= {name: f"./graphs/{name}.py:graph" for name in ("evaluation", "training")}
    config = {"dependencies": ["."], "graphs": graphs, "env": {}}
    (folder / "langgraph.json").write_text(json.dumps(config))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return Deployment(folder, listener.getsockname()[1])
