"""What a store must do with runs and leases."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from orcheo_agentensor.errors import (
    BadInput,
    LeaseLost,
    NotFound,
    RunAlreadyActive,
    RunMismatch,
)
from orcheo_agentensor.storage import (
    Lease,
    Store,
    process_owner,
)
from orcheo_agentensor.testing.store_conformance.builders import (
    ODD_JSON,
    leased_run,
    new_version,
    refused,
    run_record,
)


class RunConformance:
    """Runs and leases."""

    async def test_a_run_is_created_once_for_its_job(self, store: Store) -> None:
        run = await store.runs.create(run_record(job=ODD_JSON, config=ODD_JSON, seed=7))
        assert await store.runs.create(run_record()) == run
        assert await store.runs.get("run-1") == run
        with refused(RunMismatch, "run-1", "another job"):
            await store.runs.create(run_record(job_hash="other"))

    async def test_update_changes_only_what_may_change(self, store: Store) -> None:
        await store.runs.create(run_record())
        changed = await store.runs.update("run-1", status="failed", error="bad\x00 \ud800 text")
        assert changed == await store.runs.get("run-1")
        assert changed.error == "bad\ufffd \ufffd text"
        wrong: list[dict[str, Any]] = [{"run_id": "x"}, {"job_hash": "x"}, {"nonsense": "x"}]
        for fields in wrong:
            with refused(BadInput, *fields):
                await store.runs.update("run-1", **fields)
        with refused(NotFound, "'run-2'", "run-1"):
            await store.runs.update("run-2", status="failed")

    async def test_list_filters_and_pages(self, store: Store) -> None:
        for number in range(4):
            await store.runs.create(run_record(f"run-{number}", workflow_id=f"w{number % 2}"))
        await store.runs.update("run-3", status="finished")
        assert {run.run_id for run in await store.runs.list(workflow_id="w1")} == {"run-1", "run-3"}
        assert [run.run_id for run in await store.runs.list(status="finished")] == ["run-3"]
        assert len(await store.runs.list(limit=3)) == 3

    async def test_a_second_holder_is_turned_away_until_the_lease_is_given_back(
        self, store: Store
    ) -> None:
        lease = await leased_run(store)
        with refused(RunAlreadyActive, "run-1", lease.owner, " s "):
            await store.runs.acquire("run-1", owner="elsewhere:1:x")
        await store.runs.release(lease)
        again = await store.runs.acquire("run-1", owner="elsewhere:1:x")
        assert again.token > lease.token

    async def test_one_of_many_concurrent_holders_gets_the_lease(self, store: Store) -> None:
        await store.runs.create(run_record())
        results = await asyncio.gather(
            *(store.runs.acquire("run-1", owner=f"elsewhere:{n}:x") for n in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Lease) for result in results) == 1
        assert sum(isinstance(result, RunAlreadyActive) for result in results) == 7

    async def test_a_dead_process_of_this_host_loses_its_lease(self, store: Store) -> None:
        await store.runs.create(run_record())
        host, pid, _ = process_owner().rsplit(":", 2)
        for dead in (f"{host}:{2**22 + 1}:x", f"{host}:{pid}:of-an-earlier-process"):
            first = await store.runs.acquire("run-1", owner=dead)
            taken = await store.runs.acquire("run-1")
            assert taken.token == first.token + 1
            await store.runs.release(taken)
        alive = await store.runs.acquire("run-1", owner=f"{socket.gethostname()}x:{pid}:x")
        with refused(RunAlreadyActive):
            await store.runs.acquire("run-1")
        assert alive.owner
        with refused(NotFound, "nowhere"):
            await store.runs.acquire("nowhere")

    async def test_an_expired_lease_can_be_taken(self, store: Store) -> None:
        await store.runs.create(run_record())
        first = await store.runs.acquire("run-1", owner="elsewhere:1:x", ttl=-1)
        second = await store.runs.acquire("run-1", owner=f"elsewhere:{os.getpid()}:y")
        assert second.token == first.token + 1
        with refused(LeaseLost, "run-1"):
            await store.runs.update("run-1", lease=first, status="failed")
        with refused(LeaseLost):
            await new_version(store, lease=first)
        with refused(LeaseLost):
            await store.training.save_change("run-1", 1, {}, lease=first)
        await store.runs.release(first)
        await store.runs.update("run-1", lease=second, status="failed")
