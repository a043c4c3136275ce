"""Outputs that are huge, endless or cannot be told cost their own case and no more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from orcheo_agentensor import Limits, aevaluate


@dataclass
class Node:
    """May hold itself."""

    others: list[Any] = field(default_factory=list)


class Model(BaseModel):
    """May hold itself."""

    others: list[Any] = []


def cyclic(kind: str) -> Any:
    if kind == "list":
        found: Any = [1]
        found.append(found)
    elif kind == "wide list":
        found = [{"n": n} for n in range(50_000)]
        found.append(found)
    elif kind == "dict":
        found = {"a": {}}
        found["a"]["b"] = found
    else:
        found = Node() if kind == "dataclass" else Model()
        found.others.append(found)
    return found


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


async def outcome_of(output: Any, **limits: Any) -> Any:
    """How the case ends that has `output`; all others are to be scored."""

    async def target(inputs: int) -> Any:
        await asyncio.sleep(0)
        return output if inputs == 2 else inputs

    cases = [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(6)]
    report = await aevaluate(
        target,
        dataset=cases,
        evaluators=["exact_match"],
        min_coverage=0,
        limits=Limits(retries=0, concurrency=3, **limits),
    )
    others = [case for case in report.cases if case.case_id != "c2"]
    assert all(case.scores == {"exact_match": 1.0} for case in others)
    return report.cases[2]


@pytest.mark.parametrize("kind", ["list", "wide list", "dict", "dataclass", "model"])
async def test_an_output_that_holds_itself_is_a_failure_of_its_case(kind: str) -> None:
    failure = (await outcome_of(cyclic(kind))).failure
    assert failure.kind == "not_json"
    assert failure.reason.startswith("output")


@pytest.mark.parametrize("levels", [40, 3_000, 200_000])
async def test_an_output_that_is_too_deep_is_a_failure_of_its_case(levels: int) -> None:
    failure = (await outcome_of(deep(levels))).failure
    assert failure.kind == "not_json"
    assert "32 levels" in failure.reason


class Walked(Mapping[str, Any]):
    """A large object that counts in which thread its entries are looked at. In any but the loop's
    it goes on only once the loop has had a turn: a loop that waits for it never ends."""

    def __init__(self, loop_thread: int, turns: list[None]) -> None:
        self._loop_thread, self._turns = loop_thread, turns
        self.on_loop = 0

    def __getitem__(self, key: str) -> Any:
        return "abc"

    def __len__(self) -> int:
        return 40_000

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self)):
            if threading.get_ident() == self._loop_thread:
                self.on_loop += 1
            elif number % 10_000 == 0:
                before = len(self._turns)
                while len(self._turns) == before:
                    time.sleep(0.0005)
            yield f"k{number}"


@pytest.mark.parametrize("cyclic", [False, True])
async def test_a_large_output_is_converted_while_the_loop_goes_on(cyclic: bool) -> None:
    turns: list[None] = []
    output: Any = Walked(threading.get_ident(), turns)
    given = [output]
    if cyclic:
        given.append(given)

    async def tick() -> None:
        while True:
            turns.append(None)
            await asyncio.sleep(0.0005)

    ticking = asyncio.ensure_future(tick())
    case = await outcome_of(given)
    ticking.cancel()
    assert (case.failure is None) is not cyclic
    assert output.on_loop == 0  # its length tells that it is large


class Evil(dict[str, Any]):
    """Its parts cannot be had."""

    def __init__(self, how: BaseException) -> None:
        super().__init__(a=1)
        self._how = how

    def items(self) -> Any:
        raise self._how


class EvilError(Exception):
    """Its words cannot be had."""

    def __str__(self) -> str:
        raise SystemExit(9)


class EvilText(str):
    """Nothing can be had of it but its characters."""

    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit(9)

    __str__ = __repr__ = __len__  # type: ignore[assignment]


@pytest.mark.parametrize("how", [SystemExit(9), KeyError("gone")], ids=["exit", "error"])
async def test_an_output_whose_methods_break_is_a_failure_of_its_case(how: BaseException) -> None:
    failure = (await outcome_of(Evil(how))).failure
    assert failure.kind == "not_json"
    assert type(how).__name__ in failure.reason


async def test_a_text_of_another_class_is_a_text() -> None:
    assert (await outcome_of(EvilText("as it is"))).output == "as it is"


async def test_an_error_that_cannot_be_told_is_told_by_its_name() -> None:
    def target(inputs: int) -> int:
        raise EvilError

    case = (await aevaluate(target, dataset=[{"inputs": 1}], evaluators=["json_valid"])).cases[0]
    assert case.failure is not None
    assert case.failure.reason == "EvilError: (its text cannot be told: SystemExit)"


HUGE = {
    "text": "x" * 200_000,
    "texts": ["x" * 1_000] * 200,
    "cases": [{"n": n, "text": "abc"} for n in range(9_000)],
    "model": Model(others=["x" * 1_000] * 200),
    "dataclass": Node(others=["x" * 1_000] * 200),
    "nested": {"answers": [{"content": ["x" * 1_000] * 200}]},
}


@pytest.mark.parametrize("kind", HUGE)
async def test_an_output_beyond_the_limit_is_a_failure_that_names_both(kind: str) -> None:
    failure = (await outcome_of(HUGE[kind], max_output_bytes=150_000)).failure
    assert failure.kind == "too_large"
    assert "limits.max_output_bytes is 150,000" in failure.reason
    size = int(failure.reason.partition("at least ")[2].split()[0].replace(",", ""))
    assert 150_000 < size < 350_000


@pytest.mark.parametrize("kind", HUGE)
async def test_a_large_output_within_the_limit_is_kept_whole(kind: str) -> None:
    case = await outcome_of(HUGE[kind])
    assert case.failure is None
    plain = HUGE[kind].__dict__ if kind in ("model", "dataclass") else HUGE[kind]
    assert case.output == plain
