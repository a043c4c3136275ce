"""What one more case costs, counted: functions called, and memory held."""

from __future__ import annotations

import collections
import functools
import gc
import os
import re
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

import orcheo_agentensor
from orcheo_agentensor import Limits, aevaluate

PACKAGE = os.path.dirname(orcheo_agentensor.__file__) + os.sep


def cases(count: int) -> list[dict[str, Any]]:
    """Cases that `double` answers correctly."""
    return [
        {"id": f"c{n}", "inputs": {"n": n}, "expected_output": {"n": 2 * n}} for n in range(count)
    ]


async def double(inputs: dict[str, int]) -> dict[str, int]:
    return {"n": 2 * inputs["n"]}


async def calls_of(dataset: list[dict[str, Any]], path: Path) -> collections.Counter[str]:
    """How often an evaluation calls the functions of the package on the thread of its loop."""
    calls: collections.Counter[str] = collections.Counter()

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        await aevaluate(
            double,
            dataset=dataset,
            evaluators=["exact_match"],
            limits=Limits(concurrency=1),
            store=f"sqlite:///{path}",
        )
    finally:
        sys.setprofile(None)
    return calls


class Doubling(TypedDict, total=False):
    """The state of a graph of one node."""

    n: int
    twice: int


async def twice(state: Doubling) -> Doubling:
    return {"twice": 2 * state["n"]}


async def all_calls(work: Callable[[], Awaitable[Any]]) -> int:
    """How many Python functions are called on the thread of the loop."""
    calls = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(profile)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return calls


async def test_a_case_of_a_graph_takes_few_calls_more_than_the_graph_alone() -> None:
    graph = StateGraph(Doubling).add_node("twice", twice).add_edge(START, "twice").compile()

    async def alone(count: int) -> None:
        for case in cases(count):
            await graph.ainvoke(case["inputs"])  # type: ignore[call-overload]

    async def evaluated(count: int) -> None:
        await aevaluate(
            graph, dataset=cases(count), evaluators=["json_valid"], limits=Limits(concurrency=50)
        )

    async def further(work: Callable[[int], Awaitable[None]]) -> float:
        await work(5)  # what is loaded once
        few, many = [await all_calls(functools.partial(work, count)) for count in (50, 250)]
        return (many - few) / 200

    assert await further(evaluated) <= 1.25 * await further(alone)


async def test_a_further_case_takes_few_calls_however_many_there_are(tmp_path: Path) -> None:
    await calls_of(cases(1), tmp_path / "warm.db")
    few, more, many = [  # the least of three: a busy machine makes more commits of fewer cases
        min([(await calls_of(cases(n), tmp_path / f"{n}-{i}.db")).total() for i in range(3)])
        for n in (10, 110, 410)
    ]
    assert (more - few) / 100 <= 82
    assert (many - more) / 300 <= 1.1 * (more - few) / 100


async def test_cases_that_take_a_longer_look_are_hashed_off_the_loop(tmp_path: Path) -> None:
    few, more = [
        await calls_of(
            [{**case, "inputs": {"n": n, "with": (n, 2)}} for n, case in enumerate(cases(count))],
            tmp_path / f"{count}.db",
        )
        for count in (1, 41)
    ]
    assert few["content_hash"] == more["content_hash"] > 0
    assert more["digest_of"] - few["digest_of"] == 40  # for the keys of rollouts, at hand by then


async def test_a_report_that_nobody_holds_is_forgotten_while_the_loop_goes_on() -> None:
    def held() -> int:
        gc.collect()
        return sum(type(one).__name__ == "CaseResult" for one in gc.get_objects())

    before = held()
    report = await aevaluate(double, dataset=cases(20), evaluators=["exact_match"])
    assert held() == before + 20
    del report
    assert held() == before


@pytest.mark.parametrize("place", ["memory", "file"])
async def test_large_outputs_stay_in_the_store_until_they_are_read(
    tmp_path: Path, place: str
) -> None:
    size, count = 40_000, 500

    async def long(inputs: dict[str, int]) -> str:
        return f"{inputs['n']}:" + "x" * size

    tracemalloc.start()
    try:
        report = await aevaluate(
            long,
            dataset=cases(count),
            evaluators=["json_valid"],
            limits=Limits(concurrency=5),
            store=None if place == "memory" else f"sqlite:///{tmp_path / 'store.db'}",
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size * count / 2
    assert len(report.cases) == count
    assert [case.output.split(":")[0] for case in report.cases] == [str(n) for n in range(count)]
    assert len(report.cases[-1].output) == size + len("499:")
    assert [case.case_id for case in report.cases[497:]] == ["c497", "c498", "c499"]
    assert report.to_json()["cases"][250]["output"].startswith("250:x")
    with pytest.raises(IndexError):
        report.cases[count]


async def test_an_evaluator_of_all_cases_sees_the_outputs_that_the_store_keeps() -> None:
    seen: list[str] = []

    def numbers(outputs: list[Any], reference_outputs: list[Any]) -> dict[str, Any]:
        seen.extend(re.findall(r"(\d{4})x", str(outputs)))
        return {"key": "numbers", "score": 1.0}

    async def long(inputs: dict[str, int]) -> str:
        return f"{inputs['n']:04d}" + "x" * 40_000

    await aevaluate(
        long,
        dataset=cases(300),
        evaluators=["json_valid"],
        summary_evaluators=[numbers],
        limits=Limits(concurrency=5),
    )
    assert seen == [f"{n:04d}" for n in range(300)]
