"""What only a fresh process shows: its first call, its imports, and the memory of a long run."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, paired_ratio, scratch

CASES = 2_000
CONCURRENCY = 50
MOST_FIRST_CALL = 1.0  # of the peer's
MEMORY_CASES = 100_000
OUTPUT_BYTES = 2_000
MOST_MEMORY = 150  # MB
MOST_IMPORT, MOST_HELP = 0.05, 0.60  # CPU seconds


def run(plan: Plan) -> Result:
    """First call, imports and memory, each in processes of their own."""
    count, many = plan.size(CASES), plan.size(MEMORY_CASES)
    with scratch() as cache:
        spent = seconds_of(count, rounds=plan.rounds, cache=cache)
    bare = median(spent.pop("bare"))
    ratio, ratios = paired_ratio(spent["ours"], spent["pydantic-evals"])
    imported = median(spent["import"]) - bare
    help_shown = median(spent["help"])
    memory = json.loads(output(sys.executable, "-m", __spec__.name, "memory", str(many)))
    return Result(
        setup=(
            f"CPU seconds (user and system) of a fresh process that makes one call on {count:,} "
            "instant cases, imports and all; pydantic-evals likewise. Every module is found "
            "compiled, as pip leaves it. Memory: the most resident memory of an evaluation of "
            f"{many:,} cases from a JSONL file, durable in SQLite, with "
            f"outputs of {OUTPUT_BYTES:,} bytes, above that after a first small one."
        ),
        rows=(
            *(
                Row(
                    name=f"first call, {side}: CPU",
                    value=median(spent[side]),
                    unit="s",
                    samples=tuple(spent[side]),
                )
                for side in ("ours", "pydantic-evals")
            ),
            Row(
                name="first call, ours ÷ pydantic-evals",
                value=ratio,
                unit="×",
                target=f"≤ {MOST_FIRST_CALL}",
                met=ratio <= MOST_FIRST_CALL,
                samples=ratios,
            ),
            Row(
                name="import orcheo_agentensor, above a bare interpreter: CPU",
                value=imported,
                unit="s",
                target=f"≤ {MOST_IMPORT}",
                met=imported <= MOST_IMPORT,
            ),
            Row(
                name="agentensor --help: CPU",
                value=help_shown,
                unit="s",
                target=f"≤ {MOST_HELP}",
                met=help_shown <= MOST_HELP,
                samples=tuple(spent["help"]),
            ),
            Row(
                name=f"memory of {many:,} cases, above import",
                value=memory["peak_mb"],
                unit="MB",
                target=f"≤ {MOST_MEMORY}",
                met=memory["peak_mb"] <= MOST_MEMORY,
            ),
            Row(
                name=f"the same: CPU per case of {many:,}",
                value=memory["cpu_us"],
                unit="µs",
            ),
        ),
        details={"seconds": spent, "memory": memory},
    )


def seconds_of(count: int, *, rounds: int, cache: Path) -> dict[str, list[float]]:
    """CPU seconds of fresh processes, by turns, whose modules are compiled into `cache`."""
    commands: dict[str, tuple[str, ...]] = {
        "ours": (sys.executable, "-m", __spec__.name, "ours", str(count)),
        "pydantic-evals": (sys.executable, "-m", __spec__.name, "pydantic-evals", str(count)),
        "import": (sys.executable, "-c", "import orcheo_agentensor"),
        "help": (str(Path(sys.executable).with_name("agentensor")), "--help"),
        "bare": (sys.executable, "-c", "pass"),
    }
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    measured = functools.partial(cpu, env=environment)
    for command in commands.values():
        measured(*command)
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(measured(*command))
    return found


def cpu(*command: str, env: Mapping[str, str]) -> float:
    """CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output(*command, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def output(*command: str, env: Mapping[str, str] | None = None) -> str:
    """What a process prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def resident(which: str) -> float:
    """Resident memory of this process in MB: `VmRSS` now, `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) / 1024
    raise ValueError(which)


async def long_answer(inputs: Any) -> Any:
    """A target with a long output."""
    return {"answer": inputs["n"] + 1, "text": f"{inputs['n']:0{OUTPUT_BYTES}d}"}


async def measure_memory(count: int, directory: Path) -> dict[str, float]:
    """The peak of an evaluation from a file, and what a case of it costs."""
    from orcheo_agentensor import Limits, aevaluate

    async def evaluate(number: int) -> Any:
        path = directory / f"{number}.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(case) + "\n" for case in sides.cases(number))
        return await aevaluate(
            long_answer,
            dataset=str(path),
            evaluators=["exact_match"],
            limits=Limits(concurrency=CONCURRENCY),
            store=f"sqlite:///{directory / f'{number}.db'}",
        )

    await evaluate(1)
    base, started = resident("VmRSS"), time.process_time()
    report = await evaluate(count)
    spent = time.process_time() - started
    peak = resident("VmHWM") - base
    assert len(report.cases[count // 2].output["text"]) == OUTPUT_BYTES
    return {"peak_mb": peak, "cpu_us": spent / count * 1e6}


if __name__ == "__main__":
    which, number = sys.argv[1], int(sys.argv[2])
    with scratch() as place:
        if which == "memory":
            sys.stdout.write(json.dumps(asyncio.run(measure_memory(number, place))))
        elif which == "ours":
            asyncio.run(sides.ours(sides.instant, count=number, concurrency=CONCURRENCY)(place))
        else:
            side = sides.pydantic_evals(sides.instant, count=number, concurrency=CONCURRENCY)
            asyncio.run(side(place))
