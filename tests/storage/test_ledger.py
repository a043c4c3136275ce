"""How the ledger writes: in groups, at once, fenced, and to the end."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from store_conformance import leased_run, rollout, score

from orcheo_agentensor.errors import LeaseLost, RunAlreadyActive, StoreError
from orcheo_agentensor.storage import Lease, Ledger, RolloutRow, Store, utc_now
from orcheo_agentensor.usage import Usage


@pytest.fixture
async def lease(store: Store) -> Lease:
    """The lease of a new run."""
    return await leased_run(store)


def count_commits(ledger: Ledger) -> list[int]:
    """The number of rows of each commit, as they happen."""
    sizes: list[int] = []
    commit = ledger._commit

    def counted(group: Any) -> None:
        sizes.append(len(group.rollouts) + len(group.scores))
        commit(group)

    ledger._commit = counted  # type: ignore[method-assign]
    return sizes


async def test_rows_put_together_are_committed_together(store: Store, lease: Lease) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        sizes = count_commits(ledger)
        await asyncio.gather(*(ledger.put_rollout(rollout(number)) for number in range(100)))
    assert sizes == [100]


async def test_a_lone_row_is_committed_without_waiting_for_others(
    store: Store, lease: Lease
) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        sizes = count_commits(ledger)
        for number in range(3):
            await ledger.put_rollout(rollout(number))
            assert len(await store.runs.case_rows("run-1")) == number + 1
    assert sizes == [1, 1, 1]


async def test_rows_that_nobody_awaits_gather_until_somebody_urges(
    store: Store, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orcheo_agentensor.storage.ledger.LINGER", 60.0)
    async with store.ledger("run-1", lease=lease) as ledger:
        sizes = count_commits(ledger)
        for number in range(3):
            waiting = asyncio.ensure_future(ledger.put_rollout(rollout(number)).in_passing())
            for _ in range(5):
                await asyncio.sleep(0)
        assert sizes == []
        ledger.urge()
        await waiting
    assert sizes == [3]


async def test_a_row_can_be_looked_up_as_soon_as_it_is_put(store: Store, lease: Lease) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        waiting = ledger.put_rollout(rollout())
        assert ledger.rollouts.get("rollout-0") == rollout(usage=Usage(rollouts=1))
        await waiting


async def test_stopping_commits_what_waits(store: Store, lease: Lease) -> None:
    ledger = store.ledger("run-1", lease=lease)
    await ledger.start()
    waiting = [ledger.put_rollout(rollout(number)) for number in range(10)]
    await ledger.stop()
    await ledger.stop()
    assert all(future.done() for future in waiting)
    assert len(await store.runs.case_rows("run-1")) == 10
    with pytest.raises(StoreError, match="not started"):
        ledger.put_rollout(rollout(11))


async def test_a_waiter_that_gives_up_takes_nobody_along(store: Store, lease: Lease) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        one, other = ledger.put_rollout(rollout(0)), ledger.put_rollout(rollout(1))
        waiter = asyncio.ensure_future(one)
        await asyncio.sleep(0)
        waiter.cancel()
        await other
    assert waiter.cancelled()
    assert len(await store.runs.case_rows("run-1")) == 2


async def test_loading_is_one_query_for_all_who_ask(store: Store, lease: Lease) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        await ledger.put_rollout(rollout())
    async with store.ledger("run-1", lease=lease) as ledger:
        await asyncio.gather(*(ledger.load("c") for _ in range(20)))
        assert len(ledger._loaded) == 1
        assert ledger.rollouts.get("rollout-0") is not None


async def test_a_group_that_fails_writes_nothing_and_ends_the_ledger(
    store: Store, lease: Lease
) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        await ledger.put_rollout(rollout(0))
        bad = RolloutRow(key="bad", case_id=None, candidate_hash="c")  # type: ignore[arg-type]
        waiting = [ledger.put_rollout(rollout(1)), ledger.put_rollout(bad)]
        waiting.append(ledger.put_scores("rollout-0", "e", [score()]))
        for future in waiting:
            with pytest.raises(StoreError, match="run-1"):
                await future
        with pytest.raises(StoreError, match="run-1"):
            ledger.put_rollout(rollout(2))
    assert [row.rollout.key for row in await store.runs.case_rows("run-1")] == ["rollout-0"]


async def test_errors_nobody_waits_for_make_no_noise(
    store: Store, lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        await store.runs.release(lease)
        ledger.put_rollout(rollout())
    assert caplog.text == ""


async def test_the_heartbeat_keeps_the_lease_of_a_silent_ledger(store_url: str) -> None:
    class Clock:
        now = utc_now()

        def __call__(self) -> datetime:
            return self.now

    clock = Clock()
    async with Store.from_url(store_url, clock=clock) as store:
        await store.runs.release(await leased_run(store))
        lease = await store.runs.acquire("run-1", ttl=0.03)
        ledger = store.ledger("run-1", lease=lease)
        commit, beaten = ledger._commit_once, asyncio.Event()
        loop = asyncio.get_running_loop()

        def beat(group: Any) -> None:
            commit(group)
            loop.call_soon_threadsafe(beaten.set)

        ledger._commit_once = beat  # type: ignore[method-assign]
        async with ledger:
            clock.now += timedelta(seconds=0.02)
            await beaten.wait()
            clock.now += timedelta(seconds=0.02)
            with pytest.raises(RunAlreadyActive):
                await store.runs.acquire("run-1", owner="elsewhere:1:x")


async def test_the_heartbeat_of_a_lost_lease_ends_the_ledger(store_url: str) -> None:
    async with Store.from_url(store_url) as store:
        lease = await leased_run(store)
        await store.runs.release(lease)
        lease = await store.runs.acquire("run-1", ttl=0.01)
        async with store.ledger("run-1", lease=lease) as ledger:
            await store.runs.release(lease)
            with pytest.raises(LeaseLost):
                await ledger._group
            with pytest.raises(LeaseLost):
                ledger.put_rollout(rollout())


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancelled_writer_tells_those_who_wait(
    store: Store, lease: Lease, turns: int
) -> None:
    async with store.ledger("run-1", lease=lease) as ledger:
        waiting = ledger.put_rollout(rollout(0))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert ledger._writer is not None
        ledger._writer.cancel()
        await asyncio.wait([ledger._writer])
        with suppress(StoreError):  # or it was committed a moment before
            await waiting
        with pytest.raises(StoreError, match="cancelled"):
            ledger.put_rollout(rollout(1))


async def test_what_a_row_writes_does_not_grow_with_the_rows_before_it(tmp_path: Path) -> None:
    log = tmp_path / "store.db-wal"
    written = []
    async with (
        Store.from_url(f"sqlite:///{tmp_path / 'store.db'}") as store,
        store.ledger("run-1", lease=await leased_run(store)) as ledger,
    ):
        for number in range(3_000):
            row = rollout(number)
            row.key = hashlib.sha256(str(number).encode()).hexdigest()
            ledger.put_rollout(row)
            commit = ledger.put_scores(row.key, "e", [score(row.key)])
            if number % 50 == 49:
                await commit
                written.append(log.stat().st_size)
    first, last = written[9] - written[1], written[-1] - written[-9]
    assert 0 < last <= 1.5 * first
