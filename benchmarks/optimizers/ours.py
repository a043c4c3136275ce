"""Our side: `atrain` on a target that calls the simulator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal

from benchmarks.optimizers.proposers import Ours
from benchmarks.optimizers.sides import Found, Search, Side
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.tasks import Task
from orcheo_agentensor import Budget, Limits, TargetScore, TrainingResult, atrain, get_prompt

OPTIMIZER = "reflective"


def target(simulator: Simulator, *, latency: float = 0.0) -> Any:
    """An async target that reads every prompt, as the steps of a pipeline do."""
    examples = {example.id: example for example in simulator.task.examples}
    task = simulator.task
    names = [name for name in task.seed_texts if name not in task.never_read]

    async def run(inputs: Mapping[str, str]) -> dict[str, Any]:
        texts = {name: get_prompt(name) for name in names}
        if latency:
            await asyncio.sleep(latency)
        score, feedback = simulator(texts, examples[inputs["example"]])
        return {"score": score, "feedback": feedback}

    return run


def task_score(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluator: the simulator's own score and feedback."""
    return {"key": "task", "score": outputs["score"], "comment": outputs["feedback"]}


def dataset(task: Task) -> list[dict[str, Any]]:
    """The task's examples as cases."""
    return [
        {"id": example.id, "inputs": {"example": example.id}, "split": example.split}
        for example in task.examples
    ]


async def train(
    simulator: Simulator,
    search: Search,
    proposer: Any,
    *,
    optimizer: str = OPTIMIZER,
    options: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    **settings: Any,
) -> TrainingResult:
    """One training with `optimizer`; the package's own concurrency unless one is given."""
    return await atrain(
        target(simulator, latency=search.latency),
        prompts=simulator.task.seed_texts,
        dataset=dataset(simulator.task),
        evaluators=[task_score],
        optimizer={"name": optimizer, "proposer": proposer, **(options or {})},
        budget=Budget(rollouts=search.budget),
        stop=[TargetScore(1.0)] if search.stop else [],
        limits=Limits(concurrency=concurrency) if concurrency else None,
        min_coverage=0.0,
        seed=search.seed,
        **settings,
    )


def texts(result: TrainingResult) -> dict[str, str]:
    """The prompts that a training returns."""
    return {name: tensor.text for name, tensor in result.best.prompts.items()}


def side(
    optimizer: str = OPTIMIZER,
    *,
    concurrency: int | None = None,
    promote: Literal["auto", "never"] = "never",
    **options: Any,
) -> Side:
    """The search of `optimizer` with `options`."""

    async def search(simulator: Simulator, given: Search) -> Found:
        proposer = Ours(given.edit)
        started = time.perf_counter()
        result = await train(
            simulator,
            given,
            proposer,
            optimizer=optimizer,
            options=options,
            concurrency=concurrency,
            promote=promote,
        )
        return Found(
            texts=texts(result),
            reported=result.best.metrics["objective"],
            rewrites=dict(proposer.rewrites),
            seconds=simulator.seconds_to_target(started),
            details={
                "rollouts": result.usage.rollouts,
                "decision": result.decision.status,
                "stopped": result.decision.stopped,
                "holdout": result.holdout,
            },
        )

    return search
