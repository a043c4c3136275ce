"""The proof: baseline and best on cases that the search never saw."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.evaluation.deltas import deltas
from orcheo_agentensor.evaluation.graph import summary_of
from orcheo_agentensor.training.guardrail import compare_holdout
from orcheo_agentensor.training.work import Training


async def measure_holdout(training: Training) -> dict[str, Any] | None:
    """Baseline and best on cases the search never saw, paired.

    None without such cases, and where the budget ends before all of them are measured.
    """
    plan, memory, session = training.plan, training.memory, training.session
    training.meter.release()
    if not plan.holdout:
        return None
    baseline, best = training.pool[memory.baseline], training.pool[memory.best]
    try:
        before = await training.measure_all(plan.holdout, baseline, phase="holdout")
        after = (
            before
            if best.hash == baseline.hash
            else await training.measure_all(plan.holdout, best, phase="holdout")
        )
    except BudgetExhausted:
        return None
    seed = session.prepared.job.seed
    difference = await asyncio.to_thread(
        compare_holdout, before, after, weights=training.weights, seed=seed
    )
    holdout: dict[str, Any] = {
        **asdict(difference),
        "baseline": await summary_of(session, before),
        "best": await summary_of(session, after),
        "deltas": await asyncio.to_thread(deltas, before, after, seed=seed),
    }
    if holdout["ci95"] is not None:
        holdout["ci95"] = list(holdout["ci95"])
    session.events.emit("holdout_summary", **holdout)
    return holdout
