"""The sides that are compared: this project, pydantic-evals, and bare asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.evaluation.measure import Side, Stopwatch

Task = Callable[[Any], Awaitable[Any]]


def cases(count: int) -> list[dict[str, Any]]:
    """Small cases that `echo` answers correctly."""
    return [
        {
            "id": f"case-{n}",
            "inputs": {"question": f"What is {n} + 1?", "n": n},
            "expected_output": {"answer": n + 1},
        }
        for n in range(count)
    ]


async def instant(inputs: Any) -> Any:
    """A target that takes no time."""
    return {"answer": inputs["n"] + 1}


def waiting(seconds: float) -> Task:
    """A target that waits as for a model and costs next to nothing."""

    async def wait(inputs: Any) -> Any:
        await asyncio.sleep(seconds)
        return {"answer": inputs["n"] + 1}

    return wait


def store_url(directory: Path) -> str:
    """A fresh SQLite file."""
    return f"sqlite:///{directory / 'agentensor.db'}"


def ours(
    task: Any,
    *,
    count: int,
    concurrency: int,
    durable: bool = True,
    running: list[float] | None = None,
) -> Side:
    """`aevaluate` with a listener, from plain cases to the report with every case in it.

    `running` is given the seconds from the first event to that of the last case.
    """
    from orcheo_agentensor import Limits, aevaluate  # here: no peer pays for its import

    async def sample(directory: Path) -> float:
        heard: list[Any] = []
        times: list[float] = []

        def hear(event: dict[str, Any]) -> None:
            heard.append(event)
            if event["type"] in ("run_started", "case_finished"):
                times.append(time.perf_counter())

        given = cases(count)
        with Stopwatch() as watch:
            report = await aevaluate(
                task,
                dataset=given,
                evaluators=["exact_match"],
                limits=Limits(concurrency=concurrency),
                store=store_url(directory) if durable else None,
                on_event=hear,
            )
        finished = sum(event["type"] == "case_finished" for event in heard)
        assert finished == count == len(report.cases), (finished, count, len(report.cases))
        assert report.summary["objective"] == 1.0, report.summary
        if running is not None:
            running.append(times[-1] - times[0])
        return watch.seconds

    return sample


def pydantic_evals(task: Task, *, count: int, concurrency: int | None) -> Side:
    """`Dataset.evaluate` as its documentation has it, progress bar off; nothing is stored."""
    from pydantic_evals import Case, Dataset
    from pydantic_evals.evaluators import EqualsExpected

    async def sample(_directory: Path) -> float:
        given = cases(count)
        with Stopwatch() as watch:
            dataset = Dataset(
                name="bench",
                cases=[
                    Case(
                        name=case["id"],
                        inputs=case["inputs"],
                        expected_output=case["expected_output"],
                    )
                    for case in given
                ],
                evaluators=[EqualsExpected()],
            )
            report = await dataset.evaluate(task, progress=False, max_concurrency=concurrency)
            averages = report.averages()
        assert averages is not None
        assert averages.assertions == 1.0
        assert len(report.cases) == count
        return watch.seconds

    return sample


def bare(task: Task, *, count: int, concurrency: int, whole_state: bool = False) -> Side:
    """A task group, a semaphore, `==`: the least that runs and scores cases at once.

    Of a `whole_state` only what is expected is compared.
    """

    async def sample(_directory: Path) -> float:
        given = cases(count)
        with Stopwatch() as watch:
            slots = asyncio.Semaphore(concurrency)
            scores: dict[str, float] = {}

            async def one(case: dict[str, Any]) -> None:
                async with slots:
                    output = await task(case["inputs"])
                if whole_state:
                    output = {key: output[key] for key in case["expected_output"]}
                scores[case["id"]] = float(output == case["expected_output"])

            async with asyncio.TaskGroup() as group:
                for case in given:
                    group.create_task(one(case))
        assert sum(scores.values()) == count
        return watch.seconds

    return sample
