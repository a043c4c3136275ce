"""Time limits on one timer behave as `asyncio.timeout` does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orcheo_agentensor.evaluation.limits import OutOfTime, TimeLimits


@contextmanager
def within(limits: TimeLimits) -> Iterator[None]:
    """Limit the time of the current task inside the block."""
    task = asyncio.current_task()
    assert task is not None
    limits.begin(task)
    try:
        yield
    except BaseException as error:
        limits.end(task, error)
        raise
    limits.end(task)


async def test_what_takes_too_long_is_a_timeout_and_the_task_goes_on() -> None:
    with pytest.raises(OutOfTime), within(TimeLimits(0.01)):
        await asyncio.sleep(10)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_each_has_its_own_time_whatever_becomes_of_the_others() -> None:
    limits, ended = TimeLimits(1.0), list[str]()  # wide enough for a busy machine

    async def work(name: str, delay: float, seconds: float) -> None:
        await asyncio.sleep(delay)
        try:
            with within(limits):
                await asyncio.sleep(seconds)
        except TimeoutError:
            ended.append(f"{name} late")
        else:
            ended.append(name)

    await asyncio.gather(work("a", 0, 0.01), work("b", 0, 60), work("c", 0.5, 60))
    assert ended == ["a", "b late", "c late"]


async def test_a_timeout_of_its_own_is_not_the_limits() -> None:
    with pytest.raises(TimeoutError, match="mine") as caught, within(TimeLimits(10)):
        raise TimeoutError("mine")
    assert not isinstance(caught.value, OutOfTime)


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        with within(TimeLimits(60)):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    late = asyncio.Event()

    async def stubborn() -> None:
        with within(TimeLimits(0.02)):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                late.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await late.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
