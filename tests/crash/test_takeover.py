"""A process that was stopped and taken over moves no alias, and publishes nothing."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from processes import start, until
from store_conformance import leased_run, new_version

from orcheo_agentensor.errors import AliasConflict, LeaseLost, RunAlreadyActive
from orcheo_agentensor.storage import Lease, Store

ZOMBIE = """
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from store_conformance import *
from orcheo_agentensor.errors import LeaseLost
from orcheo_agentensor.training import decision

async def main():
    async with Store.from_url(URL) as store:
        await store.runs.create(run_record())
        lease = await store.runs.acquire("run-1", ttl=0.05)
        head = store.aliases.head

        async def stopped(*args):
            found = await head(*args)
            print("between resolve and move", flush=True)
            sys.stdin.readline()
            return found

        store.aliases.head = stopped
        record = await store.runs.get("run-1")
        run = SimpleNamespace(record=record, store=store, lease=lease)
        state = SimpleNamespace(versions={"c": 3}, best="c")
        training = SimpleNamespace(run=run, state=state)
        try:
            told = await decision.promote(training, actor="run run-1", reason="better")
        except LeaseLost:
            told = "lost"
        print(told, flush=True)

asyncio.run(main())
"""


async def test_a_stopped_process_that_was_taken_over_does_not_move_production(
    store_url: str,
) -> None:
    async with Store.from_url(store_url) as store:
        for number in (1, 2, 3):
            await new_version(store, number)
        why = {"actor": "ann", "reason": "by hand"}
        await store.aliases.move("support", "production", to=1, **why)
        zombie = start(ZOMBIE, store_url)
        try:
            assert zombie.stdout is not None
            assert zombie.stdin is not None
            assert zombie.stdout.readline() == "between resolve and move\n"
            zombie.send_signal(signal.SIGSTOP)
            until(lambda: _state(zombie.pid) == "T")
            lease = await taken(store)
            await store.aliases.move("support", "production", to=3, lease=lease, **why)
            await store.aliases.move("support", "production", to=1, **why)  # operations
            zombie.send_signal(signal.SIGCONT)
            told, errors = zombie.communicate("go on\n")
        finally:
            zombie.kill()
        assert (told, errors) == ("lost\n", "")
        assert await store.aliases.resolve("support", "production") == 1


async def taken(store: Store) -> Lease:
    """The lease of the run, as soon as that of its stopped process has run out."""
    while True:
        try:
            return await store.runs.acquire("run-1")
        except RunAlreadyActive:
            await asyncio.sleep(0.01)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_an_alias_that_came_back_to_where_it_was_has_moved(store: Store) -> None:
    for number in (1, 2):
        await new_version(store, number)
    why = {"actor": "ann", "reason": "r"}
    await store.aliases.move("support", "production", to=1, **why)
    current, head = await store.aliases.head("support", "production")
    await store.aliases.move("support", "production", to=2, **why)
    await store.aliases.move("support", "production", to=1, **why)
    with pytest.raises(AliasConflict, match="was moved to version 1 by ann"):
        await store.aliases.move("support", "production", to=2, expect=current, head=head, **why)
    with pytest.raises(AliasConflict, match="was moved"):
        await store.aliases.rollback("support", "production", expect=1, head=head, **why)
    assert await store.aliases.resolve("support", "production") == 1


async def test_a_move_under_a_lease_that_was_given_back_is_refused(store: Store) -> None:
    await new_version(store)
    lease = await leased_run(store)
    await store.runs.release(lease)
    with pytest.raises(LeaseLost):
        await store.aliases.move(
            "support", "production", to=1, lease=lease, actor="run", reason="r"
        )
    assert await store.aliases.resolve("support", "production") is None
