"""200 training steps: what LangGraph's checkpointer writes for each, and what a node of its own
costs a step."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, scratch
from orcheo_agentensor import Budget, MaxSteps, atrain, get_prompt
from orcheo_agentensor.optimizers import RandomSearch

STEPS = 200
FIRST = 10
PROMPTS = {"triage": 1_000, "reply": 1_000}
TARGET_BYTES = 32 * 1024
GROWTH = 0.01
MOST_OF_GROUPED = 1.15


class Rewriter:
    """Proposes texts of the same length that were never there before."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    async def propose(self, request: Any) -> dict[str, str]:
        """A new number in front of every text."""
        number = next(self._numbers)
        return {c.name: f"{number:08d}" + c.text[8:] for c in request.components}


async def reader(inputs: Any) -> Any:
    """A target that reads both prompts."""
    read = [get_prompt(name) for name in PROMPTS]
    return {"answer": inputs["n"] + (len(read) if inputs["n"] % 2 else 1)}


def run(plan: Plan) -> Result:
    """Bytes per step from step 10 to the last, from the checkpointer's own tables."""
    steps = plan.size(STEPS, least=2 * FIRST)
    with scratch() as directory:
        asyncio.run(train(directory, steps + 1))  # what ends the run goes with the step after
        sizes = bytes_by_step(directory / "agentensor.langgraph.db")
    taken: dict[int, float] = {}
    for per_node in (1, steps):
        with scratch() as directory:
            started = time.process_time()
            asyncio.run(train(directory, steps, steps_per_node=per_node, checkpoint_every=None))
            taken[per_node] = time.process_time() - started
    ratio = taken[1] / taken[steps]
    first, last = sizes[FIRST], sizes[steps]
    largest = max(size for step, size in sizes.items() if FIRST <= step <= steps)
    growth = last / first - 1
    prompt_bytes = sum(PROMPTS.values())
    return Result(
        setup=(
            f"{steps} steps of random_search on 40 cases, {prompt_bytes:,} bytes of prompts, a "
            "version stored after every step. Counted: checkpoints, their metadata and pending "
            "writes, of all supersteps that belong to a step, in SQLite."
        ),
        rows=(
            Row(name=f"step {FIRST}", value=first / 1024, unit="KiB"),
            Row(
                name=f"step {steps}",
                value=last / 1024,
                unit="KiB",
                target=f"flat (± {GROWTH * 100:.0f} %)",
                met=abs(growth) <= GROWTH,
            ),
            Row(
                name="largest step",
                value=largest / 1024,
                unit="KiB",
                target=f"≤ {TARGET_BYTES // 1024} KiB",
                met=largest <= TARGET_BYTES,
            ),
            Row(
                name="CPU of one step in a node ÷ all steps in one, no versions",
                value=ratio,
                unit="",
                target=f"≤ {MOST_OF_GROUPED}",
                met=ratio <= MOST_OF_GROUPED,
            ),
        ),
        details={"bytes_by_step": sizes, "cpu_seconds": taken},
    )


async def train(directory: Path, steps: int, **options: Any) -> None:
    """One training that stops after `steps` steps."""
    given = [
        {**case, "split": "train" if n % 2 else "validation"}
        for n, case in enumerate(sides.cases(40))
    ]
    result = await atrain(
        reader,
        prompts={name: "x" * size for name, size in PROMPTS.items()},
        dataset=given,
        evaluators=["exact_match"],
        optimizer=RandomSearch(proposer=Rewriter()),
        budget=Budget(rollouts=1_000_000),
        stop=[MaxSteps(steps)],
        store=sides.store_url(directory),
        **options,
    )
    assert result.decision.stopped == f"{steps} steps done", result.decision


def bytes_by_step(path: Path) -> dict[int, int]:
    """Bytes per training step: those of the checkpoint after `step` and after `checkpoint`."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    serde = JsonPlusSerializer()
    sizes: dict[int, int] = {}
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT checkpoint_id, type, checkpoint, metadata FROM checkpoints"
            " WHERE checkpoint_ns = '' ORDER BY checkpoint_id"
        ).fetchall()
        writes = dict(
            database.execute(
                "SELECT checkpoint_id, SUM(LENGTH(value) + LENGTH(channel) + LENGTH(task_id))"
                " FROM writes GROUP BY checkpoint_id"
            ).fetchall()
        )
    for id, kind, blob, metadata in rows:
        step = serde.loads_typed((kind, blob))["channel_values"].get("step")
        if step is not None:
            sizes[step] = sizes.get(step, 0) + len(blob) + len(metadata) + writes.get(id, 0)
    return sizes
