"""Many searches, in processes of their own: who searches, what, and what came of it."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.optimizers import proposers
from benchmarks.optimizers.proposers import Edit
from benchmarks.optimizers.sides import Found, Search, Side
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.tasks import Task

A = TypeVar("A")
B = TypeVar("B")

PROPOSERS: Mapping[str, Callable[[int, Task], Edit]] = {
    "perfect": lambda seed, task: proposers.perfect,
    "rubbish": lambda seed, task: proposers.rubbish(seed),
    "crashing": lambda seed, task: proposers.crashing(seed, rules=task.rules),
    "forgetting": lambda seed, task: proposers.forgetting(seed),
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Who searches: `optimizer` of ours, or gepa where that is None, with options."""

    name: str
    optimizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def side(self) -> Side:
        """The search it makes."""
        from benchmarks.optimizers import ours, peer

        if self.optimizer is None:
            return peer.side(**self.options)
        return ours.side(self.optimizer, **self.options)


GEPA = Contender(name="gepa")
GEPA_ALL = Contender(name="gepa, all together", options={"components": "all"})
GEPA_BEST = Contender(
    name="gepa, all together, whole train split",
    options={"components": "all", "whole_train": True},
)
TEXTGRAD = Contender(name="textgrad", optimizer="textgrad")
OURS = Contender(name="reflective", optimizer="reflective")
PEERS = (GEPA, GEPA_ALL, GEPA_BEST)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One search on a task."""

    task: Task
    contender: Contender
    seed: int
    budget: int
    noise: float = 0.0
    proposer: str = "perfect"
    stop: bool = True
    latency: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of a search: everything here but `reported` was counted in the simulator."""

    seed: int
    solved_at: int | None
    calls: int
    crashes: int
    value: float
    crashing: bool
    found: Found


def play(job: Job) -> Played:
    """Run one search."""
    simulator = Simulator(job.task, noise=job.noise, seed=job.seed)
    search = Search(
        budget=job.budget,
        seed=job.seed,
        edit=PROPOSERS[job.proposer](job.seed, job.task),
        stop=job.stop,
        latency=job.latency,
    )
    found = asyncio.run(job.contender.side()(simulator, search))
    return Played(
        seed=job.seed,
        solved_at=simulator.solved_at,
        calls=simulator.calls,
        crashes=simulator.crashes,
        value=simulator.value(found.texts),
        crashing=any("CRASH" in text for text in found.texts.values()),
        found=found,
    )


def spread(work: Callable[[A], B], jobs: Sequence[A], *, processes: int | None = None) -> list[B]:
    """`work` of every job, in order, on as many processes as there are cores."""
    count = min(processes or os.cpu_count() or 1, len(jobs))
    if count <= 1:
        return [work(job) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return list(pool.map(work, jobs, chunksize=1))


def median_solved(played: Iterable[Played]) -> float:
    """Median rollouts to the target; infinite where most searches did not reach it."""
    return statistics.median(math.inf if one.solved_at is None else one.solved_at for one in played)


def mean_value(played: Iterable[Played]) -> float:
    """Mean true value of the returned prompts."""
    return statistics.fmean(one.value for one in played)


def solved(played: Iterable[Played]) -> int:
    """How many reached the target."""
    return sum(one.solved_at is not None for one in played)
