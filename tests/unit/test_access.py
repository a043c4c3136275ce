"""Who may read and work on what: files of a server, and the lease of a run."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import Settings, Store
from orcheo_agentensor.errors import ConfigError, RunAlreadyActive
from orcheo_agentensor.identity import LOCAL_IDENTITY, Identity
from orcheo_agentensor.runs.access import require_readable, take_lease
from orcheo_agentensor.storage import RunRecord


def test_callers_with_tokens_read_no_files_until_a_folder_is_named(tmp_path: Path) -> None:
    ana = Identity(name="ana")
    require_readable("cases.csv", Settings(), LOCAL_IDENTITY)
    require_readable("cases.csv", Settings(dataset_dir=tmp_path), ana)
    require_readable("cases.csv", Settings(dev_server=True), ana)
    require_readable([{"inputs": {}}], Settings(), ana)
    for dataset in ("cases.csv", {"path": "cases.csv"}):
        with pytest.raises(ConfigError, match="AGENTENSOR_DATASET_DIR"):
            require_readable(dataset, Settings(), ana)


@contextlib.asynccontextmanager
async def held_elsewhere(ttl: float) -> Any:
    """A store whose one run is held by a process of another machine."""
    async with Store.from_url(None) as store:
        await store.runs.create(RunRecord(run_id="r", workflow_id="w", mode="train", job_hash="x"))
        yield store, await store.runs.acquire("r", owner="elsewhere:1:x", ttl=ttl)


async def test_the_lease_of_a_dead_process_elsewhere_is_waited_for() -> None:
    async with held_elsewhere(ttl=0.3) as (store, dead):
        taken = await take_lease(store, "r")
        assert taken.token == dead.token + 1
        assert taken.ttl <= 15


async def test_a_process_elsewhere_that_renews_its_lease_is_alive() -> None:
    async with held_elsewhere(ttl=30) as (store, alive):
        waiting = asyncio.ensure_future(take_lease(store, "r"))
        async with store.ledger("r", lease=alive) as ledger:
            while not waiting.done():
                await ledger.flush()
                await asyncio.wait([waiting], timeout=0.05)
        with pytest.raises(RunAlreadyActive, match="elsewhere"):
            waiting.result()


async def test_giving_up_on_a_lease_leaves_it_free() -> None:
    async with held_elsewhere(ttl=30) as (store, holder):
        waiting = asyncio.ensure_future(take_lease(store, "r"))
        await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await store.runs.release(holder)
        await take_lease(store, "r")
