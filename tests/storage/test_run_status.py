"""A run says that it is running only while somebody works on it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orcheo_agentensor import Store
from orcheo_agentensor.storage import RunMode, RunRecord, utc_now


def record(mode: RunMode = "train") -> RunRecord:
    return RunRecord(run_id="r", workflow_id="w", mode=mode, job={}, job_hash="h")


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> object:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def shown(store: Store) -> str:
    """The status, the same however one asks."""
    status = (await store.runs.get("r")).status
    assert [run.status for run in await store.runs.list()] == [status]
    assert [run.run_id for run in await store.runs.list(status=status)] == ["r"]
    other = "running" if status != "running" else "interrupted"
    assert await store.runs.list(status=other) == []
    return status


async def test_a_run_whose_process_is_gone_is_shown_as_interrupted(store_url: str) -> None:
    clock = Clock()
    async with Store.from_url(store_url, clock=clock) as store:  # type: ignore[arg-type]
        await store.runs.create(record())
        assert await shown(store) == "running"
        lease = await store.runs.acquire("r", ttl=30)
        clock.forward(29)
        assert await shown(store) == "running"
        clock.forward(2)
        assert await shown(store) == "interrupted"
        lease = await store.runs.acquire("r", ttl=30)
        assert await shown(store) == "running"
        await store.runs.release(lease)
        assert await shown(store) == "running"  # about to enter its next node
        clock.forward(6)
        assert await shown(store) == "interrupted"
        assert (await store.runs.create(record())).status == "interrupted"


@pytest.mark.parametrize("status", ["finished", "failed", "paused"])
async def test_other_statuses_stay(store_url: str, status: str) -> None:
    clock = Clock()
    async with Store.from_url(store_url, clock=clock) as store:  # type: ignore[arg-type]
        await store.runs.create(record())
        await store.runs.update("r", status=status)
        clock.forward(100)
        assert await shown(store) == status


async def test_a_plain_run_needs_no_lease(store_url: str) -> None:
    clock = Clock()
    async with Store.from_url(store_url, clock=clock) as store:  # type: ignore[arg-type]
        await store.runs.create(record("run"))
        clock.forward(100)
        assert await shown(store) == "running"
