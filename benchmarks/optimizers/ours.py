"""Our side: `atrain` on a target that calls the simulator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.optimizers.proposers import Ours
from benchmarks.optimizers.sides import Found, Search, Side
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.tasks import Task
from orcheo_agentensor import Budget, Limits, TargetScore, atrain, get_prompt

OPTIMIZER = "reflective"


def target(simulator: Simulator, *, latency: float = 0.0) -> Any:
    """An async target that reads every prompt, as the steps of a pipeline do."""
    examples = {example.id: example for example in simulator.task.examples}
    names = tuple(simulator.task.seed_texts)

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


def optimizer(name: str, options: Mapping[str, Any], proposer: Any) -> dict[str, Any]:
    """An optimizer's spec."""
    return {"name": name, "proposer": proposer, **options}


def side(
    name: str = OPTIMIZER, *, concurrency: int | None = None, promote: Any = "never", **options: Any
) -> Side:
    """The optimizer `name` with `options`; the package's own concurrency unless one is given."""

    async def search(simulator: Simulator, given: Search) -> Found:
        proposer = Ours(given.edit)
        started = time.perf_counter()
        result = await atrain(
            target(simulator, latency=given.latency),
            prompts=simulator.task.seed_texts,
            dataset=dataset(simulator.task),
            evaluators=[task_score],
            optimizer=optimizer(name, options, proposer),
            budget=Budget(rollouts=given.budget),
            stop=[TargetScore(1.0)] if given.stop else [],
            promote=promote,
            limits=Limits(concurrency=concurrency) if concurrency else None,
            min_coverage=0.0,
            seed=given.seed,
        )
        return Found(
            texts={name: tensor.text for name, tensor in result.best.prompts.items()},
            reported=result.best.metrics["objective"],
            rewrites=proposer.rewrites,
            seconds=simulator.seconds_to_target(started),
            details={
                "rollouts": result.usage.rollouts,
                "decision": result.decision.status,
                "stopped": result.decision.stopped,
                "holdout": result.holdout,
            },
        )

    return search
