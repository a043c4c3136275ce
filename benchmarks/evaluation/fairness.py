"""Eight runs at once under one cap: how the cap is kept, and whether any run is starved."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

from benchmarks.evaluation import sides
from benchmarks.evaluation.checkpoints import Rewriter
from benchmarks.evaluation.measure import Plan, Result, Row, Stopwatch, scratch
from orcheo_agentensor import Budget, Limits, MaxSteps, Store, aevaluate, atrain, get_prompt
from orcheo_agentensor.optimizers import RandomSearch
from orcheo_agentensor.settings import Settings

RUNS = 8
CAP = 16
CASES = 1_000
TRAIN_CASES = 40
STEPS = 40
SECONDS = 0.020
LEAST_SHARE = 0.5


class Gauge:
    """Watches all rollouts of the process."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.begun: list[tuple[float, str]] = []

    def target(self, run: str) -> Callable[[Any], Awaitable[Any]]:
        """A target of this run that takes a moment."""

        async def work(inputs: Any) -> Any:
            self.begun.append((time.perf_counter(), run))
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await asyncio.sleep(SECONDS)
            finally:
                self.now -= 1
            if "train" in run:
                get_prompt("p")
            return {"answer": inputs["n"] + inputs["n"] % 2}

        return work

    def shares(self) -> dict[str, float]:
        """Each run's part of an equal share, over the time when all were at work."""
        runs = {run for _, run in self.begun}
        first = max(min(t for t, r in self.begun if r == run) for run in runs)
        last = min(max(t for t, r in self.begun if r == run) for run in runs)
        counts = Counter(run for t, run in self.begun if first <= t <= last)
        return {run: counts[run] * len(runs) / counts.total() for run in sorted(runs)}

    def longest_wait(self) -> float:
        """The longest a run that was at work went without beginning a rollout, in seconds."""
        waits = []
        for run in {run for _, run in self.begun}:
            times = [t for t, r in self.begun if r == run]
            waits.append(max(b - a for a, b in pairwise(times)))
        return max(waits)


def run(plan: Plan) -> Result:
    """Four evaluations and four trainings on one SQLite store."""
    gauge = Gauge()
    finished: dict[str, float] = {}
    with Stopwatch() as watch:
        asyncio.run(_all(gauge, finished, plan))
    shares = gauge.shares()
    least = min(shares.values())
    return Result(
        setup=(
            f"{RUNS // 2} evaluations ({plan.size(CASES):,} cases, concurrency 50) and "
            f"{RUNS // 2} trainings ({plan.size(STEPS)} steps, {TRAIN_CASES} cases, concurrency "
            f"10) at once, {SECONDS * 1000:.0f} ms per rollout, one SQLite store, at most {CAP} "
            "rollouts at once in the process. A share of 1 is an equal part of the rollouts begun "
            "while all runs were at work."
        ),
        rows=(
            Row(
                name="most rollouts in flight",
                value=gauge.most,
                unit="",
                target=f"≤ {CAP}",
                met=gauge.most <= CAP,
            ),
            Row(
                name="smallest share of a run",
                value=least,
                unit="",
                target=f"≥ {LEAST_SHARE}",
                met=least >= LEAST_SHARE,
            ),
            Row(name="longest wait of a run for a rollout", value=gauge.longest_wait(), unit="s"),
            *(
                Row(name=f"{name} finished after", value=seconds, unit="s")
                for name, seconds in sorted(finished.items())
            ),
            Row(
                name="all rollouts one cap's width at a time (ideal)",
                value=len(gauge.begun) * SECONDS / CAP,
                unit="s",
            ),
        ),
        details={"shares": shares, "rollouts": len(gauge.begun), "seconds": watch.seconds},
    )


async def _all(gauge: Gauge, finished: dict[str, float], plan: Plan) -> None:
    settings = Settings(max_concurrency=CAP)
    with scratch() as directory:
        async with Store.from_url(sides.store_url(directory)) as store:
            started = time.perf_counter()

            async def timed(name: str, work: Awaitable[Any]) -> None:
                result = await work
                assert result.status == "finished", result.status
                finished[name] = time.perf_counter() - started

            async with asyncio.TaskGroup() as group:
                for n in range(RUNS // 2):
                    evaluation, training = f"evaluation {n + 1}", f"training {n + 1}"
                    group.create_task(
                        timed(evaluation, _evaluate(gauge, evaluation, store, settings, plan))
                    )
                    group.create_task(
                        timed(training, _train(gauge, training, store, settings, plan))
                    )


async def _evaluate(gauge: Gauge, name: str, store: Store, settings: Settings, plan: Plan) -> Any:
    return await aevaluate(
        gauge.target(name),
        dataset=sides.cases(plan.size(CASES)),
        evaluators=["exact_match"],
        limits=Limits(concurrency=50),
        store=store,
        settings=settings,
        workflow_id=name.replace(" ", "-"),
    )


async def _train(gauge: Gauge, name: str, store: Store, settings: Settings, plan: Plan) -> Any:
    given = [
        {**case, "split": "train" if n % 2 else "validation"}
        for n, case in enumerate(sides.cases(TRAIN_CASES))
    ]
    return await atrain(
        gauge.target(name),
        prompts={"p": "x" * 100},
        dataset=given,
        evaluators=["exact_match"],
        optimizer=RandomSearch(proposer=Rewriter()),
        budget=Budget(rollouts=1_000_000),
        stop=[MaxSteps(plan.size(STEPS))],
        limits=Limits(concurrency=10),
        store=store,
        settings=settings,
        workflow_id=name.replace(" ", "-"),
    )
