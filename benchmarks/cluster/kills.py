"""Kill workers, and count: `python -m benchmarks.cluster.kills [FILE] --kills 20 --pairs 5 ...`.

It starts the cluster of `make serve-cluster` with two workers. The target notes each execution in a
file, so that what ran twice is counted, and not derived from what a run says of itself.

- `--kills`: a training is under way, and the worker that has it is killed (SIGKILL).
- `--pairs`: both workers are killed at once, under a training and under cases of a remote target.
- `--flushes`: Redis loses all that it holds (FLUSHALL), under the same.
- `--together`: so many trainings at once, and a worker is killed in the middle of them.

A line for each says how long it took until another worker had the run, how many recorded calls
were made again, and whether the best prompts are those of a training that nobody disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from langgraph_sdk import get_client

from benchmarks.cluster.measure import PYTHON, cluster, folder, url_of
from orcheo_agentensor import Settings, Store, aevaluate
from orcheo_agentensor.errors import NotFound

KINDS = ("refund", "card", "login", "transfer")

KILLED = """
import asyncio
import os
import hashlib
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
from orcheo_agentensor import get_prompt

KINDS = {kinds!r}
LOG = {log!r}


class State(TypedDict, total=False):
    case: str
    kind: str
    gate: str
    answer: str


def noted(line):
    file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{{line}} {{os.getpid()}}\\n".encode())
    os.close(file)


async def answer(state: State, config) -> State:
    skills = get_prompt("skills", config, default="")
    noted(f"{{state['case']}} {{skills.replace(' ', '+') or '-'}}")
    while state.get("gate") and not os.path.exists(state["gate"]):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.05)
    return {{"answer": state["kind"] if state["kind"] in skills.split() else "unknown"}}


graph = StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile()


def right(outputs, reference_outputs):
    found, wanted = outputs["answer"], reference_outputs["answer"]
    return {{"key": "right", "score": float(found == wanted), "comment": f"learn {{wanted}}"}}


class Tutor:
    async def propose(self, request):
        texts = {{}}
        for component in request.components:
            lacking = sorted(
                str(record.expected_output["answer"])
                for record in component.feedback
                if record.score is not None and record.score < 1.0
            )
            if lacking:
                texts[component.name] = f"{{component.text}} {{lacking[0]}}"
        return texts
"""


def _cases(run: str, split: str, count: int, gate: Path | None, *, free: int = 0) -> list[Any]:
    """Cases of a split; all but the first `free` wait for the gate."""
    return [
        {
            "id": f"{split}-{number}",
            "inputs": {"case": f"{run}/{split}-{number}", "kind": KINDS[number % 4]}
            | ({"gate": str(gate)} if gate is not None and number >= free else {}),
            "expected_output": {"answer": KINDS[number % 4]},
            "split": split,
        }
        for number in range(count)
    ]


def _job(run: str, gate: Path | None) -> dict[str, Any]:
    return {
        "target": "answering:graph",
        "evaluators": ["answering:right"],
        "prompts": {"skills": "card"},
        "optimizer": {"name": "textgrad", "proposer": "answering:Tutor"},
        "stop": [{"type": "target_score", "score": 1.0}],
        "workflow_id": run,
        "run_id": run,
        "dataset": [
            *_cases(run, "train", 8, None),
            *_cases(run, "validation", 8, None),
            *_cases(run, "holdout", 40, gate, free=4),
        ],
    }


class Bench:
    """A cluster that is disturbed."""

    def __init__(self, place: Path, state: Path, client: Any, store: Store) -> None:
        self.place, self.state, self.client, self.store = place, state, client, store
        self._log = place / "executions"
        self._number = 0
        self.calm: dict[str, str] = {}

    def name(self, kind: str) -> tuple[str, Path]:
        """The name of the next run, and its gate."""
        self._number += 1
        run = f"{kind}-{self._number}"
        return run, self.place / f"{run}.gate"

    @property
    def known(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "cluster.json").read_text())
        return found

    def worker_of(self, run: str) -> int | None:
        with psycopg.connect(self.known["AGENTENSOR_DATABASE_URL"]) as connection:
            row = connection.execute(
                "SELECT lease_owner FROM agentensor_runs WHERE run_id = %s", (run,)
            ).fetchone()
        return int(row[0].rsplit(":", 2)[1]) if row and row[0] else None

    def executed(self, run: str) -> Counter[str]:
        """How often each case of a run was executed with each prompt."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Counter(
            line.rpartition(" ")[0] for line in lines if line.startswith((f"{run}/", f"{run} "))
        )

    async def recorded(self, run: str) -> set[str]:
        return {row.rollout.key for row in await self.store.runs.case_rows(run, limit=None)}

    async def begin(self, run: str, gate: Path | None) -> tuple[str, str]:
        thread = (await self.client.threads.create())["thread_id"]
        made = await self.client.runs.create(thread, "training", input=_job(run, gate))
        return thread, made["run_id"]

    async def until(self, run: str, rollouts: int) -> None:
        """Wait for so many recorded rollouts."""
        while True:
            try:
                if (await self.store.runs.usage(run)).rollouts >= rollouts:
                    return
            except NotFound:
                pass
            await asyncio.sleep(0.05)

    async def ended(self, thread: str, run: str) -> dict[str, Any]:
        """The run's output; the server may be away for a while."""
        while True:
            try:
                if (await self.client.runs.get(thread, run))["status"] not in (
                    "pending",
                    "running",
                ):
                    found: dict[str, Any] = await self.client.runs.join(thread, run)
                    return found
            except Exception as error:  # noqa: BLE001 - while its workers start again
                if "refused" not in str(error).lower() and "disconnected" not in str(error).lower():
                    print("  while waiting:", repr(error)[:150])
            await asyncio.sleep(0.1)

    async def disturbed(self, kind: str, disturb: Callable[[str], None]) -> dict[str, Any]:
        """A training that is disturbed once its holdout waits at the gate."""
        run, gate = self.name(kind)
        thread, server_run = await self.begin(run, gate)
        await self.until(run, 16)
        victim = self.worker_of(run)
        began = time.monotonic()
        disturb(run)
        before, ran = await self.recorded(run), self.executed(run)
        taken = None
        if kind != "flush":
            while self.worker_of(run) in (victim, None):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            taken = round(time.monotonic() - began, 2)
        gate.touch()
        found = await self.ended(thread, server_run)
        after, again = await self.recorded(run), self.executed(run)
        twice = sum(again[case] - 1 for case in again)
        under_way = sum(ran.values()) - len(before)  # calls that had not ended
        return {
            "kind": kind,
            "taken_seconds": taken,
            "status": found.get("status"),
            "recorded_before": len(before),
            "lost": len(before - after),
            "executions": sum(again.values()),
            "recorded": len(after),
            "under_way": under_way,
            "recorded_made_again": max(twice - under_way, 0) if kind != "flush" else twice,
            "same_best": (found.get("best") or {}).get("prompts", {}) == self.calm,
            "load": round(os.getloadavg()[0], 1),
        }

    async def remote(self, kind: str, disturb: Callable[[str], None], count: int) -> dict[str, Any]:
        """Cases of a remote target, disturbed in the middle."""
        run, _ = self.name(f"remote-{kind}")
        dataset = [{**case, "split": "test"} for case in _cases(run, "test", count, None)]
        task = asyncio.create_task(
            aevaluate(
                {"url": url_of(self.state), "assistant": "answer"},
                dataset=dataset,
                evaluators=[_right],
                prompts={"skills": " ".join(KINDS)},
                limits={"concurrency": 20},
                settings=Settings(
                    allowed_hosts=("127.0.0.1",), max_concurrency=256, http_patience=120
                ),
            )
        )
        while sum(self.executed(run).values()) < count // 3 and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        disturb(run)
        report = await task
        again = self.executed(run)
        return {
            "kind": f"remote {kind}",
            "cases": count,
            "right": report.summary["n_ok"],
            "failures": [
                str(case.target_failure)[:300] for case in report.cases if case.target_failure
            ],
            "rollouts": report.usage.rollouts,
            "retries": report.summary["retries"],
            "executions": sum(again.values()),
            "cases_made_again": sorted(case for case in again if again[case] > 1),
            "load": round(os.getloadavg()[0], 1),
        }

    async def together(self, count: int) -> dict[str, Any]:
        """Trainings at once; a worker is killed when half of them are at their holdout."""
        runs = [self.name("together") for _ in range(count)]
        began = time.monotonic()
        begun = await asyncio.gather(*(self.begin(run, gate) for run, gate in runs))
        await asyncio.gather(*(self.until(run, 16) for run, _ in runs[: count // 2]))
        self.kill(1)
        for _, gate in runs:
            gate.touch()
        found = await asyncio.gather(*(self.ended(*one) for one in begun))
        made = [self.executed(run) for run, _ in runs]
        return {
            "kind": "together",
            "trainings": count,
            "seconds": round(time.monotonic() - began, 1),
            "finished": sum(one.get("status") == "finished" for one in found),
            "same_best": sum(
                (one.get("best") or {}).get("prompts", {}) == self.calm for one in found
            ),
            "executions": sum(sum(one.values()) for one in made),
            "recorded": sum([len(await self.recorded(run)) for run, _ in runs]),
            "load": round(os.getloadavg()[0], 1),
        }

    def kill(self, workers: int, run: str | None = None) -> None:
        known = self.known["workers"]
        chosen = [self.worker_of(run)] if run and workers == 1 else known[:workers]
        for pid in chosen:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    def flush(self) -> None:
        program = "import redis, sys; redis.Redis.from_url(sys.argv[1]).flushall()"
        subprocess.run([PYTHON, "-c", program, self.known["REDIS_URI"]], check=True)

    async def all_serve(self) -> None:
        """Wait for two workers that answer: a killed one is started again."""
        while True:
            if sum(map(_is_alive, self.known["workers"])) == 2:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(8.0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _right(outputs: Any, reference_outputs: Any) -> float:
    return float(outputs["answer"] == reference_outputs["answer"])


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    for name, count in (("kills", 0), ("pairs", 0), ("flushes", 0), ("together", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--cases", type=int, default=60)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if asked.file is not None:
            asked.file.write_text(json.dumps(rows, indent=1) + "\n")

    with folder() as place:
        text = KILLED.format(kinds=KINDS, log=str(place / "executions"))
        (place / "answering.py").write_text(text)
        config = json.loads((place / "langgraph.json").read_text())
        config["graphs"]["training"] = config["graphs"]["evaluation"].replace(
            "evaluation", "training"
        )
        (place / "langgraph.json").write_text(json.dumps(config))
        async with (
            cluster(place, 2) as state,
            get_client(url=url_of(state), api_key=None) as client,
            Store.from_url(
                json.loads((state / "cluster.json").read_text())["AGENTENSOR_DATABASE_URL"]
            ) as store,
        ):
            bench = Bench(place, state, client, store)
            calm = await bench.ended(*await bench.begin("calm", None))
            bench.calm = calm["best"]["prompts"]
            for _ in range(asked.kills):
                add(await bench.disturbed("kill", lambda run: bench.kill(1, run)))
                await bench.all_serve()
            for _ in range(asked.pairs):
                add(await bench.disturbed("pair", lambda run: bench.kill(2)))
                await bench.all_serve()
                add(await bench.remote("pair", lambda run: bench.kill(2), asked.cases))
                await bench.all_serve()
            for _ in range(asked.flushes):
                add(await bench.disturbed("flush", lambda run: bench.flush()))
                add(await bench.remote("flush", lambda run: bench.flush(), asked.cases))
            if asked.together:
                add(await bench.together(asked.together))


if __name__ == "__main__":
    asyncio.run(main())
