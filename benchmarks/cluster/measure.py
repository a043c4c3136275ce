"""Measure what a case costs on a cluster: `python -m benchmarks.cluster.measure [FILE]`.

It starts the cluster of `make serve-cluster` with one worker and then with two, runs cases of 20 ms
on it from outside, and an evaluation inside of it, and writes what each part of it took: processor
time by part, which another load on the machine does not change much, and cases a second, which it
does. `share` is the part of the machine's processors that all of it could have at that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from langgraph_sdk import get_client

from orcheo_agentensor import Settings, aevaluate
from orcheo_agentensor.targets.remote_run import RemoteRun

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("CLUSTER_PYTHON", ROOT / ".venv-cluster" / "bin" / "python"))
TARGET_MS = 20
CASES = 160
INSIDE = 2_000
TICK = os.sysconf("SC_CLK_TCK")

GRAPHS = f"""
import asyncio
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    number: int
    answer: str


async def answer(state: State) -> State:
    await asyncio.sleep({TARGET_MS / 1000})
    return {{"answer": "yes"}}


graph = StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile()


def yes(inputs):
    return {{"answer": "yes"}}
"""


def cases(count: int) -> list[dict[str, Any]]:
    answer = {"answer": "yes"}
    return [
        {"id": str(n), "inputs": {"number": n}, "expected_output": answer} for n in range(count)
    ]


def right(outputs: Any, reference_outputs: Any) -> float:
    return float(outputs["answer"] == reference_outputs["answer"])


def processor_seconds(state: Path) -> Counter[str]:
    """What each part of the cluster that keeps its state there has used so far, and this client."""
    found: Counter[str] = Counter()
    processes: dict[str, tuple[str, list[str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                processes[entry.name] = command, fields
    postmasters = {one for one, (command, _) in processes.items() if f"-D {state}" in command}
    known = json.loads((state / "cluster.json").read_text())
    port = urlsplit(known["REDIS_URI"]).port
    for one, (command, fields) in processes.items():
        own = (int(fields[11]) + int(fields[12])) / TICK
        if one in map(str, known["workers"]):
            found["workers"] += own
        elif f":{port}" in command and "-server" in command:
            found["redis"] += own
        elif one in postmasters:
            ended = (int(fields[13]) + int(fields[14])) / TICK  # sessions that were closed
            found["postgres"] += own + ended
        elif fields[1] in postmasters:
            found["postgres"] += own
    found["client"] = time.process_time()
    return found


def machine() -> tuple[float, float]:
    """Processor seconds of the machine so far: those used, and all."""
    fields = [int(one) / TICK for one in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


class Measured:
    """What happened while a block ran."""

    def __init__(self, count: int, state: Path) -> None:
        self.count, self._state = count, state
        self._parts, self._machine = processor_seconds(state), machine()
        self._began = time.perf_counter()

    def end(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self._began
        parts, (used, whole) = processor_seconds(self._state), machine()
        ours = {name: parts[name] - self._parts[name] for name in parts}
        others = max((used - self._machine[0]) - sum(ours.values()), 0.0)
        return {
            "cases": self.count,
            "per_second": round(self.count / seconds, 1),
            "cpu_ms": {name: round(1000 * ours[name] / self.count, 2) for name in sorted(ours)},
            "share": round(1 - others / (whole - self._machine[1]), 2),
        }


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="agentensor-cluster-"))
    try:
        (made / "answering.py").write_text(GRAPHS)
        (made / "langgraph.json").write_text(
            json.dumps(
                {
                    "dependencies": ["."],
                    "graphs": {
                        "answer": "./answering.py:graph",
                        "evaluation": f"{ROOT}/graphs/evaluation.py:graph",
                    },
                }
            )
        )
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@asynccontextmanager
async def cluster(place: Path, workers: int) -> AsyncIterator[Path]:
    options = ["--workers", str(workers), "--port", "0", "--folder", str(place / "state")]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{place}",
        "AGENTENSOR_DEV_SERVER": "true",
        "AGENTENSOR_ALLOWED_MODULES": "answering",
    }
    said = place / "cluster.log"  # a pipe that nobody reads would hold the workers up
    with said.open("wb") as log:
        launcher = await asyncio.create_subprocess_exec(
            str(PYTHON),
            str(ROOT / "cluster" / "launch.py"),
            *options,
            cwd=place,
            env=environment,
            stderr=log,
        )
    try:
        while "workers answer at" not in said.read_text():
            if launcher.returncode is not None:
                raise SystemExit(f"the cluster did not start:\n{said.read_text()}")
            await asyncio.sleep(0.1)
        yield place / "state"
    finally:
        launcher.terminate()
        await launcher.wait()


def url_of(state: Path) -> str:
    return str(json.loads((state / "cluster.json").read_text())["url"])


async def remote(state: Path, concurrency: int, count: int) -> dict[str, Any]:
    """Cases of a remote target, and how many streams had to be read again."""
    again, attach = 0, RemoteRun._attach

    async def counting(run: RemoteRun) -> None:
        nonlocal again
        again += 1
        await attach(run)

    RemoteRun._attach = counting  # type: ignore[method-assign]
    try:
        measured = Measured(count, state)
        report = await aevaluate(
            {"url": url_of(state), "assistant": "answer"},
            dataset=cases(count),
            evaluators=[right],
            limits={"concurrency": concurrency},
            settings=Settings(allowed_hosts=("127.0.0.1",), max_concurrency=256),
        )
        found = measured.end()
    finally:
        RemoteRun._attach = attach  # type: ignore[method-assign]
    assert report.summary["n_ok"] == report.usage.rollouts == count
    return {**found, "concurrency": concurrency, "streams_read_again": again}


async def inside(state: Path, count: int) -> dict[str, Any]:
    """An evaluation that a worker runs, of a function that takes no time."""
    job = {
        "target": "answering:yes",
        "dataset": cases(count),
        "evaluators": ["exact_match"],
        "limits": {"concurrency": 16},
    }
    async with get_client(url=url_of(state), api_key=None) as client:
        thread = (await client.threads.create())["thread_id"]
        measured, heard = Measured(count, state), 0
        async for part in client.runs.stream(
            thread, "evaluation", input=job, stream_mode=["custom"]
        ):
            heard += part.event == "custom"
        found = measured.end()
        values = (await client.threads.get_state(thread))["values"]
    assert values["usage"]["rollouts"] == count
    return {**found, "concurrency": 16, "events": heard, "bytes": stored(state)}


def stored(state: Path) -> int:
    """Bytes of the side store for each rollout in it, indexes included."""
    url = json.loads((state / "cluster.json").read_text())["AGENTENSOR_DATABASE_URL"]
    tables = ("agentensor_rollouts", "agentensor_scores")
    with psycopg.connect(url) as connection:
        sizes = [
            connection.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
            for table in tables
        ]
        rows = connection.execute("SELECT COUNT(*) FROM agentensor_rollouts").fetchone()
    return round(sum(size[0] for size in sizes if size) / (rows or (1,))[0])


async def main() -> list[dict[str, Any]]:
    """Measure, and print a line for each point."""
    points: list[dict[str, Any]] = []

    def add(kind: str, workers: int, found: dict[str, Any]) -> None:
        points.append({"kind": kind, "workers": workers, **found})
        print(json.dumps(points[-1]), flush=True)

    for workers in (1, 2):
        with folder() as place:
            async with cluster(place, workers) as state:
                await remote(state, 4, 20)  # the first ones wait for imports and caches
                for concurrency in (1, 8, 20):
                    count = CASES if concurrency > 1 else CASES // 4
                    add("remote", workers, await remote(state, concurrency, count))
                if workers == 1:
                    await inside(state, 50)
                    add("inside", workers, await inside(state, INSIDE))
    return points


if __name__ == "__main__":
    if not PYTHON.exists():
        raise SystemExit("there is no .venv-cluster: `make test-cluster` makes it")
    measured = asyncio.run(main())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(measured, indent=1) + "\n")
