"""A LangGraph target, a finished run submitted again, and a training: what we add to each."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

from benchmarks.evaluation import sides
from benchmarks.evaluation.checkpoints import Rewriter
from benchmarks.evaluation.measure import Plan, Result, Row, Side, Stopwatch, interleave, scratch
from orcheo_agentensor import Budget, Limits, aevaluate, atrain, get_prompt
from orcheo_agentensor.optimizers import RandomSearch

CASES = 2_000
CONCURRENCY = 50
MOST_ABOVE = 0.15
AGAIN = 10_000
MOST_AGAIN = 3.0  # seconds
ROLLOUTS = 400
MOST_ROLLOUT = 600.0  # µs of CPU


class State(TypedDict, total=False):
    """The state of the graph under test."""

    question: str
    n: int
    answer: int


async def _answer(state: State) -> State:
    return {"answer": state["n"] + 1}


async def reader(inputs: Any) -> Any:
    """A target that reads the prompt and is right in one case of two."""
    get_prompt("p")
    return {"answer": inputs["n"] + inputs["n"] % 2}


def run(plan: Plan) -> Result:
    """Time above bare `ainvoke`, seconds of a resubmission, CPU per rollout of a training."""
    count = plan.size(CASES)
    workflow = StateGraph(State).add_node("answer", _answer).add_edge(START, "answer").compile()
    seconds = interleave(
        {
            "bare": invoked(workflow, count),
            "evaluated": sides.ours(workflow, count=count, concurrency=CONCURRENCY),
        },
        rounds=plan.rounds,
    )
    above = median(seconds["evaluated"]) / median(seconds["bare"]) - 1
    many, rollouts = plan.size(AGAIN), plan.size(ROLLOUTS, least=100)
    with scratch() as directory:
        again = asyncio.run(submitted_again(many, directory))
    per_rollout = []
    for _ in range(plan.rounds):
        with scratch() as directory:
            per_rollout.append(asyncio.run(trained(rollouts, directory)))
    rollout = median(per_rollout)
    return Result(
        setup=(
            f"{count:,} cases through a LangGraph graph of one node, {CONCURRENCY} at once: bare "
            "`ainvoke` in a task group, and evaluated, durable in SQLite with events. A finished "
            f"run of {many:,} instant cases is submitted again with its run id. A training of "
            f"{rollouts:,} rollouts of an instant target that reads one prompt, by random_search."
        ),
        rows=(
            *(
                Row(
                    name=f"one node, {name}, per case",
                    value=median(values) / count * 1e6,
                    unit="µs",
                    samples=tuple(value / count * 1e6 for value in values),
                )
                for name, values in seconds.items()
            ),
            Row(
                name="time above bare ainvoke",
                value=above,
                unit="",
                target=f"≤ {MOST_ABOVE}",
                met=above <= MOST_ABOVE,
            ),
            Row(
                name=f"finished run of {many:,} cases submitted again",
                value=again,
                unit="s",
                target=f"≤ {MOST_AGAIN:g}",
                met=again <= MOST_AGAIN,
            ),
            Row(
                name="training, CPU per rollout",
                value=rollout,
                unit="µs",
                target=f"≤ {MOST_ROLLOUT:g}",
                met=rollout <= MOST_ROLLOUT,
                samples=tuple(per_rollout),
            ),
        ),
        details={"seconds": seconds},
    )


def invoked(workflow: Any, count: int) -> Side:
    """The graph alone, as many at once as ours."""

    async def work(inputs: Any) -> Any:
        return await workflow.ainvoke(inputs)

    return sides.bare(work, count=count, concurrency=CONCURRENCY, whole_state=True)


async def submitted_again(count: int, directory: Path) -> float:
    """Seconds of the second call with the same run id."""
    for _ in range(2):
        given = sides.cases(count)
        with Stopwatch() as watch:
            report = await aevaluate(
                sides.instant,
                dataset=given,
                evaluators=["exact_match"],
                limits=Limits(concurrency=CONCURRENCY),
                store=sides.store_url(directory),
                run_id="again",
            )
        assert len(report.cases) == count
    return watch.seconds


async def trained(rollouts: int, directory: Path) -> float:
    """CPU microseconds per rollout."""
    given = [
        {**case, "split": "train" if n % 2 else "validation"}
        for n, case in enumerate(sides.cases(80))
    ]
    started = time.process_time()
    result = await atrain(
        reader,
        prompts={"p": "x" * 200},
        dataset=given,
        evaluators=["exact_match"],
        optimizer=RandomSearch(proposer=Rewriter()),
        budget=Budget(rollouts=rollouts),
        store=sides.store_url(directory),
    )
    return (time.process_time() - started) / result.usage.rollouts * 1e6
