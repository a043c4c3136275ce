"""Wall-clock to the target when a rollout takes time."""

from __future__ import annotations

import statistics
from dataclasses import replace

from benchmarks.optimizers.play import GEPA, GEPA_ALL, OURS, Job, play, spread
from benchmarks.optimizers.results import Plan, Result, Row
from benchmarks.optimizers.suite import RULES

SECONDS = 0.2
CONCURRENCY = 16
SEEDS = 7
FASTER = 2.5
BUDGET = 3_000


def run(plan: Plan) -> Result:
    """Median seconds, one search at a time."""
    seeds = range(min(plan.seeds, SEEDS))
    ours = replace(OURS, options={"concurrency": CONCURRENCY})
    contenders = (GEPA, GEPA_ALL, ours)
    jobs = [
        Job(task=RULES, contender=contender, seed=seed, budget=BUDGET, latency=SECONDS)
        for seed in seeds
        for contender in contenders
    ]
    for job in jobs[: len(contenders)]:  # loads what is loaded once per process
        play(replace(job, latency=0.0))
    played = spread(play, jobs, processes=1)
    seconds = {
        contender.name: [
            one.found.seconds
            for job, one in zip(jobs, played, strict=True)
            if job.contender is contender
        ]
        for contender in contenders
    }
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    mine = medians[OURS.name]
    return Result(
        setup=f"The rule task with {SECONDS * 1000:.0f} ms per rollout, {CONCURRENCY} at once "
        f"(gepa's adapter on {CONCURRENCY} threads); median seconds to the target, "
        f"{len(seeds)} seeds.",
        rows=(
            Row(
                name="seconds to validation 1.0",
                cells={name: f"{value:.1f} s" for name, value in medians.items()},
                target=f"{FASTER} times as fast as gepa",
                met=medians[GEPA.name] >= FASTER * mine,
                numbers=seconds,
            ),
            Row(
                name="ours is faster by",
                cells={
                    name: f"{value / mine:.1f} x"
                    for name, value in medians.items()
                    if value != mine
                },
            ),
        ),
    )
