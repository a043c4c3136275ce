"""What a cluster does with so many cases: `python -m benchmarks.cluster.simulate`.

A case goes from the process that evaluates to a worker, to PostgreSQL and Redis, waits for its
target, and comes back the same way. Each of these parts does one thing at a time, or a few, and all
that are on one machine share its processors. What each takes for a case is measured (`measure`);
this follows cases through it, event by event, and first shows how well that gives the measured
points again.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parents[1] / "recorded" / "cluster" / "measured.json"
PARTS = ("client", "workers", "postgres", "redis")
LONGEST = 4_000  # cases that are followed, after as many as warm it up


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A cluster and what runs on it; times in milliseconds.

    `processors` are those of the one machine that all is on; without them, each part has its own,
    PostgreSQL `postgres_processors` of them. `clients` are the processes that evaluate, each a run
    with a ledger of its own; `jobs` is how many runs a worker takes at once.
    """

    costs: Mapping[str, float]
    target: float
    concurrency: int
    workers: int
    jobs: int = 10
    clients: int = 1
    postgres_processors: int = 8
    processors: float | None = None


@dataclass
class _Part:
    """What works on cases in turn, `width` at once, and has been busy so long."""

    width: int
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    working: dict[int, float] = field(default_factory=dict)
    busy: float = 0.0

    def give(self, case: int, work: float) -> None:
        self.waiting.append((case, work))
        self.fill()

    def fill(self) -> None:
        while self.waiting and len(self.working) < self.width:
            case, work = self.waiting.popleft()
            self.working[case] = work


@dataclass(frozen=True)
class Outcome:
    """Cases a second, and which part of the time each part works."""

    per_second: float
    busy: Mapping[str, float]

    @property
    def limit(self) -> str:
        """What more of would help: the busiest part, or the target where none is busy."""
        name = max(self.busy, key=lambda part: self.busy[part])
        return name if self.busy[name] > 0.9 else "slots: the target's own time"


def simulated(plan: Plan, *, cases: int | None = None) -> Outcome:
    """Follow cases through the cluster, as many at once as the plan says."""
    slots = min(plan.concurrency, plan.workers * plan.jobs)
    follow = cases or min(LONGEST, max(400, 4 * slots))
    parts: dict[str, _Part] = {
        **{f"client {n}": _Part(1) for n in range(plan.clients)},
        **{f"worker {n}": _Part(1) for n in range(plan.workers)},
        "postgres": _Part(plan.postgres_processors),
        "redis": _Part(1),
    }

    def path(case: int) -> list[tuple[str | None, float]]:
        """Where a case goes, and how much work it is there; None is the target."""
        client, worker = f"client {case % plan.clients}", f"worker {case % plan.workers}"
        there = [
            (client, plan.costs["client"] / 2),
            (worker, plan.costs["workers"] / 2),
            ("postgres", plan.costs["postgres"] / 2),
            ("redis", plan.costs["redis"] / 2),
        ]
        return [*there, (None, plan.target), *reversed(there)]

    now, begun, ended, warm = 0.0, 0, 0, follow // 2
    since = 0.0
    left: dict[int, list[tuple[str | None, float]]] = {}
    away: list[tuple[float, int]] = []

    def go_on(case: int) -> None:
        nonlocal ended, begun, since
        if not left[case]:
            del left[case]
            ended += 1
            if ended == warm:
                since = now
                for part in parts.values():
                    part.busy = 0.0
            left[begun] = path(begun)
            begun += 1
            go_on(begun - 1)
            return
        name, work = left[case].pop(0)
        if name is None:
            heappush(away, (now + work, case))
        else:
            parts[name].give(case, work)

    for _ in range(slots):
        left[begun] = path(begun)
        begun += 1
        go_on(begun - 1)
    while ended < warm + follow:
        working = [part for part in parts.values() if part.working]
        most = plan.processors or math.inf
        rate = min(1.0, most / max(sum(len(part.working) for part in working), 1))
        step = min(
            (min(part.working.values()) / rate for part in working),
            default=math.inf,
        )
        if away:
            step = min(step, max(away[0][0] - now, 0.0))
        now += step
        done = []
        for part in working:
            part.busy += step * len(part.working) / part.width
            for case in part.working:
                part.working[case] -= step * rate
            finished = [case for case, work in part.working.items() if work <= 1e-9]
            for case in finished:
                del part.working[case]
            part.fill()
            done += finished
        while away and away[0][0] <= now + 1e-9:
            done.append(heappop(away)[1])
        for case in done:
            go_on(case)
    seconds = now - since
    busy = {
        "the process that evaluates": _mean(parts, "client", seconds),
        "the workers' processors": _mean(parts, "worker", seconds),
        "PostgreSQL": _mean(parts, "postgres", seconds),
        "Redis": _mean(parts, "redis", seconds),
    }
    return Outcome(1000 * (ended - warm) / seconds, busy)


def _mean(parts: Mapping[str, _Part], kind: str, seconds: float) -> float:
    found = [part.busy for name, part in parts.items() if name.startswith(kind)]
    return sum(found) / len(found) / seconds


def measured() -> list[dict[str, Any]]:
    """The points of `measure`."""
    points: list[dict[str, Any]] = json.loads(MEASURED.read_text())
    return points


def again(point: Mapping[str, Any], *, processors: int = 2, target: float = 20.0) -> float:
    """What the simulation gives for a measured point, with the processors that it could have."""
    plan = Plan(
        costs=point["cpu_ms"],
        target=target,
        concurrency=point["concurrency"],
        workers=point["workers"],
        processors=processors * point["share"],
    )
    return simulated(plan, cases=400).per_second


def costs_of(points: Sequence[Mapping[str, Any]], workers: int) -> dict[str, float]:
    """The mean costs of a case at so many workers, from points with more than one case at once."""
    chosen = [
        one["cpu_ms"]
        for one in points
        if one["kind"] == "remote" and one["workers"] == workers and one["concurrency"] > 1
    ]
    return {part: sum(one[part] for one in chosen) / len(chosen) for part in PARTS}


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    """Print the measured points beside the simulated ones, then the plan."""
    points = measured()
    print("workers  at once  measured/s  simulated/s")
    for point in points:
        if point["kind"] == "remote":
            print(
                f"{point['workers']:7}  {point['concurrency']:7}  {point['per_second']:10.1f}  "
                f"{again(point):11.1f}"
            )
    base = Plan(costs=costs_of(points, 2), target=2_000, concurrency=10**6, workers=1, jobs=50)
    sizes = (10**4, 10**5, 10**6, 10**7)
    print("\nA model that takes 2 s; each worker on a processor of its own, 50 runs at once.")
    print("workers  evaluating  cases/s  " + "".join(f"{size:>10,}" for size in sizes) + "  limit")
    for workers, clients in ((1, 1), (4, 1), (10, 1), (10, 4), (30, 8), (100, 8), (100, 24)):
        found = simulated(replace(base, workers=workers, clients=clients))
        times = "".join(f"{_duration(size / found.per_second):>10}" for size in sizes)
        print(f"{workers:7}  {clients:10}  {found.per_second:7.0f}  {times}  {found.limit}")


if __name__ == "__main__":
    main()
