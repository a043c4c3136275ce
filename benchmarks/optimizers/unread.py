"""A prompt that the target never reads should never be rewritten."""

from __future__ import annotations

import asyncio

from benchmarks.optimizers.play import GEPA, GEPA_ALL, OURS, TEXTGRAD, Contender, spread
from benchmarks.optimizers.proposers import pointless
from benchmarks.optimizers.results import Plan, Result, Row
from benchmarks.optimizers.sides import Search
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.tasks import Task, edit

CONTENDERS = (GEPA, GEPA_ALL, TEXTGRAD, OURS)
TASK = Task(name="unread prompts", unread=2)
BUDGET = 300


def run(plan: Plan) -> Result:
    """Rewrites of unread prompts, over all seeds."""
    jobs = [(contender, seed) for contender in CONTENDERS for seed in range(plan.seeds)]
    counts = iter(spread(_rewrites, jobs))
    totals = {c.name: sum(next(counts) for _ in range(plan.seeds)) for c in CONTENDERS}
    return Result(
        setup=f"The rule task with {TASK.unread} prompts that the target never reads; times that "
        f"the proposer was had to rewrite one of them, in {plan.seeds} searches of {BUDGET} "
        "rollouts. The proposer has something to say about every prompt.",
        rows=(
            Row(
                name="rewrites of unread prompts",
                cells={name: f"{count:,}" for name, count in totals.items()},
                target="0",
                met=totals[OURS.name] == 0,
                numbers=totals,
            ),
        ),
    )


def _rewrites(job: tuple[Contender, int]) -> int:
    contender, seed = job
    anything = pointless()

    def propose(text: str, component: str, feedback: list[str]) -> str:
        if component in TASK.never_read:
            return anything(text, component, feedback)
        return edit(text, component, feedback)

    search = Search(budget=BUDGET, seed=seed, edit=propose, stop=False)
    found = asyncio.run(contender.side()(Simulator(TASK), search))
    return sum(found.rewrites.get(name, 0) for name in TASK.never_read)
