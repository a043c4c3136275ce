"""The cap on rollouts over all runs of a process: kept, shared fairly, and never leaked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orcheo_agentensor.evaluation.limits import Share, Slots, process_slots


@asynccontextmanager
async def slot(slots: Slots, share: Share) -> AsyncIterator[None]:
    await slots.acquire(share)
    try:
        yield
    finally:
        slots.release(share)


async def hold(slots: Slots, share: Share, name: str, order: list[str]) -> None:
    async with slot(slots, share):
        order.append(name)
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_hold_a_slot() -> None:
    slots, most, now = Slots(3), 0, 0

    async def work(share: Share) -> None:
        nonlocal most, now
        async with slot(slots, share):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    shares = [Share() for _ in range(4)]
    await asyncio.gather(*(work(share) for share in shares for _ in range(10)))
    assert (most, now) == (3, 0)


async def test_a_run_with_few_cases_is_not_starved_by_one_with_many() -> None:
    slots, order = Slots(2), list[str]()
    many, few = Share(), Share()
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(hold(slots, many, "many", order))
        for _ in range(5):
            group.create_task(hold(slots, few, "few", order))
    assert len(order) == 55
    assert order[:14].count("few") == 5


async def test_runs_that_hold_the_same_take_turns() -> None:
    slots, order = Slots(1), list[str]()
    shares = {name: Share() for name in "abc"}
    async with asyncio.TaskGroup() as group:
        for name, share in shares.items():
            for _ in range(3):
                group.create_task(hold(slots, share, name, order))
    assert "".join(order) == "aabcabcbc"


@pytest.mark.parametrize("granted", [False, True])
async def test_who_gives_up_waiting_leaves_no_slot_behind(granted: bool) -> None:
    slots = Slots(1)
    first, second = Share(), Share()
    await slots.acquire(first)
    waiter = asyncio.create_task(slots.acquire(second))
    await asyncio.sleep(0)
    if granted:
        slots.release(first)  # its turn has come, but it has not run since
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    if not granted:
        slots.release(first)
    assert (first.held, second.held) == (0, 0)
    await slots.acquire(first)


async def test_the_first_limit_of_a_loop_holds() -> None:
    assert process_slots(2) is process_slots(5)
