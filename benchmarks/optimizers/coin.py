"""A metric that is a coin flip, and edits that do nothing: whatever is gained is made up."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.optimizers import ours, peer
from benchmarks.optimizers.play import GEPA, OURS, Contender, spread
from benchmarks.optimizers.proposers import pointless
from benchmarks.optimizers.results import Plan, Result, Row
from benchmarks.optimizers.sides import Search
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.tasks import Example, Task, Texts

RUNS = 1_000
HEADS = 0.6
TASK = Task(name="coin flips", holdout=40)
BUDGET = 2 * TASK.holdout + 160
MOST_PROMOTED = 0.065
CHUNK = 10


class Coin(Simulator):
    """Scores 1 with a probability of `HEADS`, whatever the texts."""

    def __init__(self, *, seed: int) -> None:
        super().__init__(TASK)
        self._coin = random.Random(f"coin {seed}")

    def __call__(self, texts: Texts, example: Example) -> tuple[float, str]:
        """One flip."""
        self.calls += 1
        heads = self._coin.random() < HEADS
        return (1.0, "ok") if heads else (0.0, "FAIL for no reason")


def run(plan: Plan) -> Result:
    """`RUNS` searches of each side."""
    runs = plan.size(RUNS, least=20)
    chunks = [range(first, min(first + CHUNK, runs)) for first in range(0, runs, CHUNK)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for contender in (OURS, GEPA):
        jobs = [(contender, chunk) for chunk in chunks]
        rows[contender.name] = [one for found in spread(_toss, jobs) for one in found]
    gains = {name: [one["gain"] for one in found] for name, found in rows.items()}
    means = {name: statistics.fmean(found) for name, found in gains.items()}
    errors = {name: _error(found) for name, found in gains.items()}
    promoted = {
        name: sum(one["promoted"] for one in found) / runs
        for name, found in rows.items()
        if name != GEPA.name
    }
    accepted = sum(one["accepted"] for one in rows[GEPA.name])
    edits = sum(one["edits"] for one in rows[GEPA.name])
    return Result(
        setup=f"{runs:,} runs, score 1 with probability {HEADS}, {TASK.train} train, "
        f"{TASK.validation} validation, {TASK.holdout} holdout cases, {BUDGET} rollouts each "
        f"(gepa without the {2 * TASK.holdout} of the holdout). Gain: ours on holdout as reported, "
        "gepa's of its best over its seed on its validation; ± is the standard error.",
        rows=(
            Row(
                name="promoted (gepa: edits accepted)",
                cells={name: f"{share:.1%}" for name, share in promoted.items()}
                | {GEPA.name: f"{accepted / max(1, edits):.1%}"},
                target=f"≤ {MOST_PROMOTED:.1%}",
                met=promoted[OURS.name] <= MOST_PROMOTED,
                numbers={"promoted": promoted, "accepted": accepted, "edits": edits},
            ),
            Row(
                name="mean reported gain",
                cells={name: f"{means[name]:+.4f} ± {errors[name]:.4f}" for name in means},
                target="0 ± 2 standard errors",
                met=abs(means[OURS.name]) <= 2 * errors[OURS.name],
                numbers={"means": means, "standard_errors": errors},
            ),
            Row(
                name="rollouts over the budget, most",
                cells={n: f"{max(one['over'] for one in found):+d}" for n, found in rows.items()},
            ),
        ),
    )


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def _toss(job: tuple[Contender, range]) -> list[dict[str, Any]]:
    contender, seeds = job
    return asyncio.run(_tosses(contender, seeds))


async def _tosses(contender: Contender, seeds: range) -> list[dict[str, Any]]:
    return [await _one(contender, seed) for seed in seeds]


async def _one(contender: Contender, seed: int) -> dict[str, Any]:
    coin = Coin(seed=seed)
    if contender.optimizer is None:
        search = Search(budget=BUDGET - 2 * TASK.holdout, seed=seed, edit=pointless(), stop=False)
        found = await peer.side(**contender.options)(coin, search)
        return {
            "gain": found.reported - found.details["seed_score"],
            "accepted": len(found.details["candidates"]) - 1,
            "edits": sum(found.rewrites.values()),
            "over": coin.calls - search.budget,
        }
    search = Search(budget=BUDGET, seed=seed, edit=pointless(), stop=False)
    side = ours.side(contender.optimizer, promote="auto", **contender.options)
    found = await side(coin, search)
    holdout = found.details["holdout"]
    return {
        "gain": holdout["gain"] if holdout else 0.0,
        "promoted": found.details["decision"] == "promoted",
        "over": coin.calls - search.budget,
    }
