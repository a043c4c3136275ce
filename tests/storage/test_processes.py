"""Several processes on one database, killed ones too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_conformance import leased_run, rollout

from orcheo_agentensor.storage import Store
from orcheo_agentensor.usage import Usage

ROOT = Path(__file__).parents[2]
PRELUDE = """
import asyncio, sys
from orcheo_agentensor.storage import *
from orcheo_agentensor.usage import Usage
from store_conformance import *
URL = sys.argv[1]
"""


def start(
    code: str, *args: str, flags: tuple[str, ...] = (), prelude: str = PRELUDE
) -> subprocess.Popen[str]:
    """Run `code` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *flags, "-c", prelude + code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
    )


WRITERS = """
import os
import orcheo_agentensor.storage.checkpoints

async def write(name):
    async with Store.from_url(URL) as store:
        for n in range(25):
            await new_version(store, f"{name}-{n}", run_id=name)

children = []
for number in range(4):
    children.append(os.fork())
    if not children[-1]:
        asyncio.run(write(f"run-{number}"))
        os._exit(0)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.requirement("checkpoint.numbered")
async def test_versions_from_many_processes_are_distinct_and_without_gaps(store_url: str) -> None:
    writers = start(WRITERS, store_url)
    _, errors = writers.communicate()
    assert (writers.returncode, errors) == (0, "")
    async with Store.from_url(store_url) as store:
        saved = await store.checkpoints.list("support", limit=None)
        assert [version.config_version for version in saved] == list(range(100, 0, -1))
        assert await store.aliases.list("support") == {"best": 1, "latest": 100}
        moves = [move for move in await store.aliases.log("support") if move.alias == "latest"]
        assert [move.to_version for move in moves] == list(range(100, 0, -1))


VICTIM = """
async def main():
    async with Store.from_url(URL) as store:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            for n in range(10**6):
                await ledger.put_rollout(rollout(n, usage=Usage(calls=1, cost=0.5)))
                print(n, flush=True)
asyncio.run(main())
"""


@pytest.mark.requirement("durability.lease")
async def test_after_a_kill_nothing_committed_is_lost_and_the_run_can_be_taken_over(
    store_url: str,
) -> None:
    victim = start(VICTIM, store_url)
    assert victim.stdout is not None
    while int(victim.stdout.readline()) < 20:
        pass
    victim.send_signal(signal.SIGKILL)
    told = 21 + len(victim.stdout.read().split())
    victim.communicate()
    async with Store.from_url(store_url) as store:
        lease = await store.runs.acquire("run-1")  # its owner is dead: no need to wait
        assert lease.token == 2
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.load("c")
            found = 0
            while ledger.rollouts.get(f"rollout-{found}") is not None:
                found += 1
            assert found in (told, told + 1)  # one may be committed that was not told yet
            paid = Usage(rollouts=found, calls=found, cost=found * 0.5)
            assert await ledger.usage() == paid
            await ledger.put_rollout(rollout(0, usage=Usage(calls=1, cost=0.5)))
            assert await ledger.usage() == paid


async def test_a_live_process_keeps_its_run(tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path / 'a.db'}"
    holder = start(
        """
async def main():
    async with Store.from_url(URL) as store:
        await leased_run(store)
        print("held", flush=True)
        sys.stdin.readline()
asyncio.run(main())
""",
        store_url,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    from orcheo_agentensor.errors import RunAlreadyActive

    async with Store.from_url(store_url) as store:
        with pytest.raises(RunAlreadyActive, match=f":{holder.pid}:"):
            await store.runs.acquire("run-1")
        holder.communicate("done\n")
        await store.runs.acquire("run-1")


FORGETFUL = """
import gc
store = Store.from_url(URL if URL != "memory" else None)
async def main():
    lease = await leased_run(store)
    ledger = store.ledger("run-1", lease=lease)
    await ledger.start()
    await ledger.put_rollout(rollout())
    await asyncio.gather(*(new_version(store, n) for n in range(5)))
asyncio.run(main())
asyncio.run(new_version(store, 9))
gc.collect()
print("end")
"""


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_store_nobody_closed_ends_with_the_interpreter_and_in_silence(
    kind: str, tmp_path: Path
) -> None:
    url = str(tmp_path / "a.db") if kind == "file" else "memory"
    forgetful = start(FORGETFUL, url, flags=("-W", "error::ResourceWarning"))
    out, errors = forgetful.communicate()
    assert (forgetful.returncode, out, errors) == (0, "end\n", "")


def test_importing_the_storage_package_does_not_load_the_database_libraries() -> None:
    code = """
import sys
from orcheo_agentensor.storage import ConfigCheckpoint, RolloutRow, Store
Store.from_url("sqlite:///a.db")
print([name for name in ("sqlalchemy", "alembic", "aiosqlite", "psycopg") if name in sys.modules])
"""
    out, errors = start(code, prelude="").communicate()
    assert (out, errors) == ("[]\n", "")


async def test_a_store_beside_a_killed_writer_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with Store.from_url(url) as store:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.put_rollout(rollout())
    blocker = start(
        """
import sqlite3
c = sqlite3.connect(URL.removeprefix("sqlite:///"), isolation_level=None)
c.execute("BEGIN IMMEDIATE")
c.execute("DELETE FROM agentensor_rollouts")
print("holding", flush=True)
sys.stdin.readline()
""",
        url,
    )
    assert blocker.stdout is not None
    assert blocker.stdout.readline() == "holding\n"
    async with Store.from_url(url) as store:
        assert len(await store.runs.case_rows("run-1")) == 1  # readers do not wait
        blocker.kill()
        blocker.communicate()
        await store.runs.update("run-1", status="finished")
        assert len(await store.runs.case_rows("run-1")) == 1
