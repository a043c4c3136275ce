"""Rollouts used beyond the budget, over many budgets."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from benchmarks.optimizers.play import GEPA, GEPA_ALL, OURS, Contender, spread
from benchmarks.optimizers.results import Plan, Result, Row
from benchmarks.optimizers.sides import Search
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.suite import INTERFERING, RULES
from benchmarks.optimizers.tasks import Task
from orcheo_agentensor.errors import BudgetTooSmall

PARALLEL = Contender(name="reflective, 4 at once", optimizer="reflective", options={"parallel": 4})
CONTENDERS = (GEPA, GEPA_ALL, OURS, PARALLEL)
TASKS = (RULES, INTERFERING[0])
BUDGETS = (0, 1, 5, 19, 20, 21, 22, 25, 31, 40, 47, 60, 73, 95, 118, 151, 199, 260)


def run(plan: Plan) -> Result:
    """Most rollouts over the budget, per contender."""
    seeds = range(min(plan.seeds, 4))
    each = [(budget, seed) for budget in BUDGETS for seed in seeds]
    jobs = [(contender, budget, seed) for contender in CONTENDERS for budget, seed in each]
    over = iter(spread(_over, jobs))
    found = {c.name: [next(over) for _ in each] for c in CONTENDERS}
    most = {name: max(values) for name, values in found.items()}
    return Result(
        setup=f"Rollouts counted minus the budget, the most over {len(BUDGETS)} budgets from "
        f"{BUDGETS[0]} to {BUDGETS[-1]}, {len(TASKS)} tasks and {len(seeds)} seeds; a budget too "
        "small to begin with must be refused before the first rollout.",
        rows=(
            Row(
                name="rollouts over the budget, most",
                cells={name: f"{value:+d}" if value > 0 else "0" for name, value in most.items()},
                target="0",
                met=max(most[OURS.name], most[PARALLEL.name]) <= 0,
                numbers={"over": found, "budgets": BUDGETS},
            ),
        ),
    )


def _over(job: tuple[Contender, int, int]) -> int:
    contender, budget, seed = job
    return _used(contender, TASKS[seed % len(TASKS)], budget, seed) - budget


def _used(contender: Contender, task: Task, budget: int, seed: int) -> int:
    simulator = Simulator(task)
    search = Search(budget=budget, seed=seed, stop=False)
    with suppress(BudgetTooSmall):
        asyncio.run(contender.side()(simulator, search))
    return simulator.calls
