"""The database tools: figures, checks, the removal of old runs, copies; on both databases."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from langgraph.checkpoint.base import empty_checkpoint
from store_conformance import leased_run, new_version, rollout, run_record, score
from test_migrations import on_engine
from test_processes import start
from typer.testing import CliRunner, Result

from orcheo_agentensor.cli.app import app
from orcheo_agentensor.storage import Store


def db(url: str, *arguments: str) -> Result:
    """Call `agentensor db …` on a store."""
    return CliRunner().invoke(app, ["db", *arguments, "--store", url], catch_exceptions=False)


def told(url: str, *arguments: str, code: int = 0) -> Any:
    """The same with `--json`; gives its document."""
    result = db(url, *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def executed(url: str, *statements: str) -> None:
    """Change a database behind the store's back, without its foreign keys."""

    def work(engine: sa.Engine) -> None:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                assert connection.execute(sa.text(statement)).rowcount > 0, statement

    asyncio.run(on_engine(url, work))


async def _filled(url: str) -> None:
    async with Store.from_url(url) as store:
        await store.datasets.save("d", "v", metadata={}, counts={}, cases=[{"id": "c"}])
        for run_id in ("one", "two"):
            lease = await leased_run(store, run_id)
            async with store.ledger(run_id, lease=lease) as ledger:
                ledger.put_rollout(rollout())
                await ledger.put_scores("rollout-0", "e", [score()])
            await store.runs.release(lease)
            await store.training.save_candidate(run_id, "c", prompts={}, parents=[], status="new")
        await store.runs.update("one", status="finished")
        dataset = await store.datasets.get("d", "v")
        await store.runs.create(
            run_record(
                "three",
                workflow_id="other",
                dataset_id="d",
                dataset_version="v",
                dataset_metadata_version=dataset.metadata_version,
            )
        )
        await new_version(store)
        await store.aliases.move("support", "production", to=1, actor="a", reason="r")


@pytest.fixture
def filled(store_url: str) -> str:
    """The URL of a store with three runs, a version and a dataset."""
    asyncio.run(_filled(store_url))
    return store_url


def test_stats_count_rows_bytes_runs_and_workflows(filled: str) -> None:
    found = told(filled, "stats")
    rows = {entry["table"].removeprefix("agentensor_"): entry for entry in found["tables"]}
    counted = {name: rows[name]["rows"] for name in ("runs", "rollouts", "scores", "aliases")}
    assert counted == {"runs": 3, "rollouts": 2, "scores": 2, "aliases": 3}
    assert all(entry["bytes"] > 0 for entry in rows.values())
    assert found["runs"]["by_status"] == {"finished": 1, "running": 2}
    assert found["runs"]["oldest"] < found["runs"]["newest"]
    assert [
        (entry["workflow_id"], entry["runs"], entry["rollouts"], entry["versions"])
        for entry in found["workflows"]
    ] == [("other", 1, 0, 0), ("support", 2, 2, 1)]
    shown = db(filled, "stats")
    assert shown.exit_code == 0, shown.output
    assert "1 finished, 2 running" in shown.stdout
    assert "agentensor_rollouts" in shown.stdout


def test_stats_of_no_store_create_none(tmp_path: Path) -> None:
    found = told(f"sqlite:///{tmp_path / 'a.db'}", "stats")
    assert {entry["rows"] for entry in found["tables"]} == {0}
    assert [*tmp_path.iterdir()] == []
    assert "no store" in db(f"sqlite:///{tmp_path / 'a.db'}", "check").stderr


def test_nothing_is_wrong_with_a_store_that_was_only_used(filled: str) -> None:
    assert told(filled, "check")["problems"] == []
    assert "nothing is wrong" in db(filled, "check").stdout


ORPHANS = {
    "scores without rollouts": (
        "UPDATE agentensor_scores SET position = 99 WHERE run_id = 'one'",
        ("agentensor_scores", "one"),
    ),
    "aliases without versions": (
        "UPDATE agentensor_aliases SET version = 9 WHERE alias = 'production'",
        ("agentensor_aliases", "production"),
    ),
    "runs without dataset": (
        "UPDATE agentensor_runs SET dataset_version = 'w' WHERE run_id = 'three'",
        ("agentensor_runs", "three"),
    ),
    "runs without the metadata": (
        "UPDATE agentensor_runs SET dataset_metadata_version = 'w' WHERE run_id = 'three'",
        ("agentensor_runs", "three"),
    ),
    "candidates without runs": (
        "UPDATE agentensor_candidates SET run_id = 'gone' WHERE run_id = 'one'",
        ("agentensor_candidates", "gone"),
    ),
    "rollouts without runs": (
        "DELETE FROM agentensor_runs WHERE run_id = 'two'",
        ("agentensor_rollouts", "two"),
    ),
    "cases without dataset": (
        "UPDATE agentensor_cases SET version = 'w'",
        ("agentensor_cases", "w"),
    ),
}


@pytest.mark.parametrize("kind", ORPHANS)
def test_what_belongs_to_nothing_is_named(filled: str, kind: str) -> None:
    statement, (table, key) = ORPHANS[kind]
    executed(filled, statement)
    found = told(filled, "check", code=2)["problems"]
    named = next(entry for entry in found if entry["table"] == table)
    assert named["rows"] == 1
    assert key in named["first"][0].values()
    shown = db(filled, "check")
    assert shown.exit_code == 2
    assert f"1 rows of {table}" in shown.stdout
    assert key in shown.stdout


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    url = f"sqlite:///{path}"
    asyncio.run(_filled(url))
    executed(url, "UPDATE agentensor_runs SET config = '{' WHERE run_id = 'one'")
    [found] = told(url, "check", code=2)["problems"]
    assert (found["first"], "JSON" in found["problem"]) == ([{"run_id": "one"}], True)
    executed(url, "UPDATE agentensor_runs SET config = '{}' WHERE run_id = 'one'")

    def root(engine: sa.Engine) -> tuple[int, int]:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            place = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_agentensor_runs_started'"
            size = connection.exec_driver_sql("PRAGMA page_size").scalar() or 0
            return size, connection.exec_driver_sql(place).scalar() or 0

    size, page = asyncio.run(on_engine(url, root))
    content = bytearray(path.read_bytes())
    content[(page - 1) * size + 8 : page * size] = bytes(size - 8)
    path.write_bytes(content)
    result = db(url, "check")
    assert result.exit_code == 2
    assert "damaged" in result.output or "malformed" in result.output


async def _run(store: Store, run_id: str, days: int, **fields: Any) -> None:
    """A finished evaluation of so many days ago, with a rollout and its score."""
    ago = datetime.now(UTC) - timedelta(days=days)
    values = {"status": "finished", "ended_at": ago, **fields}
    await store.runs.create(run_record(run_id, started_at=ago))
    lease = await store.runs.acquire(run_id)
    async with store.ledger(run_id, lease=lease) as ledger:
        ledger.put_rollout(rollout())
        await ledger.put_scores("rollout-0", "e", [score()])
    await store.runs.update(run_id, lease=lease, **values)
    await store.runs.release(lease)
    past = f"UPDATE agentensor_runs SET lease_expires = 1 WHERE run_id = '{run_id}'"
    await store._context.db.write(lambda connection: connection.execute(sa.text(past)))


async def _aged(url: str) -> None:
    """Two trainings, one of them in production; evaluations of its version; unfinished runs."""
    async with Store.from_url(url) as store:
        for training, numbers in (("trained", (1, 2)), ("unused", (3, 4)), ("newer", (5,))):
            await _run(store, training, 60 if training != "newer" else 1, mode="train")
            for number in numbers:
                await new_version(store, number, run_id=training)
        await store.aliases.move("support", "production", to=2, actor="a", reason="r")
        await new_version(store, 6, run_id="newer", metrics={"objective": 0.9, "complete": True})
        proved = {"refs": {"base_version": 2}, "dataset_version": "d1", "evaluator_set": "e1"}
        for night in range(40, 44):
            await _run(store, f"night-{night}", night, **proved)
        await _run(store, "of-unused", 40, **(proved | {"refs": {"base_version": 4}}))
        await _run(store, "interrupted", 50, status="interrupted", ended_at=None)
        await _run(store, "today", 0)
        async with store.checkpointer() as saver:
            old = (datetime.now(UTC) - timedelta(days=40)).isoformat()
            for thread, ts in (("unused", old), ("trained", old), ("night-43", None)):
                checkpoint = {**empty_checkpoint(), **({"ts": ts} if ts else {})}
                config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
                await saver.aput(config, checkpoint, {}, {})  # type: ignore[typeddict-item]


async def _left(url: str) -> tuple[set[str], list[int], set[str]]:
    """The runs, versions and threads of a store."""
    async with Store.from_url(url) as store, store.checkpointer() as saver:
        runs = {run.run_id for run in await store.runs.list(limit=None)}
        versions = [version.config_version for version in await store.checkpoints.list("support")]
        threads = {found.config["configurable"]["thread_id"] async for found in saver.alist(None)}
        return runs, versions, threads


def test_prune_keeps_versions_in_use_and_what_proves_them(store_url: str) -> None:
    asyncio.run(_aged(store_url))
    before = asyncio.run(_left(store_url))
    counted = told(store_url, "prune", "--older-than", "30d", "--dry-run")
    assert asyncio.run(_left(store_url)) == before
    refused = db(store_url, "prune", "--older-than", "30d")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert asyncio.run(_left(store_url)) == before
    done = told(store_url, "prune", "--older-than", "30d", "--yes")
    assert done == {**counted, "dry_run": False, "older_than": done["older_than"]}
    assert (done["runs"], done["versions"], done["threads"], done["rows"]) == (5, 2, 1, 15)
    assert done["kept"] == {"proofs": 2, "unfinished": 1, "changed": 0}
    runs, versions, threads = asyncio.run(_left(store_url))
    assert runs == {"trained", "newer", "night-40", "interrupted", "today"}
    assert versions == [6, 5, 2, 1]
    assert threads == {"trained", "night-43"}
    assert told(store_url, "check")["problems"] == []
    assert told(store_url, "prune", "--older-than", "30d", "--yes")["runs"] == 0
    assert told(store_url, "prune", "--older-than", "30d", "--unfinished", "--yes")["runs"] == 1
    assert told(store_url, "prune", "--older-than", "0d", "--workflow", "other", "-y")["runs"] == 0


async def test_prune_leaves_a_run_that_is_being_worked_on(store_url: str) -> None:
    async with Store.from_url(store_url) as store:
        await _run(store, "old", 60)
        await store.runs.acquire("old")
        found = await store.maintenance.prune(datetime.now(UTC), unfinished=True)
        assert (found["runs"], found["kept"]["unfinished"]) == (0, 1)
        assert len(await store.runs.case_rows("old")) == 1


@pytest.mark.parametrize("when", ["soon", "", "30 days", "2026-13-01"])
def test_prune_refuses_a_time_that_is_none(tmp_path: Path, when: str) -> None:
    result = db(f"sqlite:///{tmp_path / 'a.db'}", "prune", "--older-than", when)
    assert result.exit_code == 2
    assert "--older-than" in result.stderr


WRITER = """
async def main():
    async with Store.from_url(URL) as store, store.checkpointer():
        lease = await leased_run(store)
        async with store.ledger("run-1", lease=lease) as ledger:
            for n in range(10**6):
                await ledger.put_rollout(rollout(n, usage=Usage(calls=1)))
                await ledger.put_scores(f"rollout-{n}", "e", [score(f"rollout-{n}")])
                print(n, flush=True)
asyncio.run(main())
"""


def test_a_backup_is_taken_while_a_run_writes_and_is_restored(tmp_path: Path) -> None:
    url, copy = f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "copy.db"
    writer = start(WRITER, url)
    assert writer.stdout is not None
    try:
        while int(writer.stdout.readline()) < 50:
            pass
        files = told(url, "backup", str(copy))["files"]
        assert files.keys() == {str(copy), str(tmp_path / "copy.langgraph.db")}
        while int(writer.stdout.readline()) < 100:
            pass
    finally:
        writer.kill()
        writer.communicate()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert told(f"sqlite:///{copy}", "check")["problems"] == []

    async def kept(url: str) -> list[str]:
        async with Store.from_url(url) as store:
            return [row.rollout.key for row in await store.runs.case_rows("run-1", limit=None)]

    rows, all_rows = asyncio.run(kept(f"sqlite:///{copy}")), asyncio.run(kept(url))
    assert 50 < len(rows) < len(all_rows)
    assert set(rows) < set(all_rows)
    assert "--yes" in db(url, "restore", str(copy)).stderr
    assert asyncio.run(kept(url)) == all_rows
    told(url, "restore", str(copy), "--yes")
    assert asyncio.run(kept(url)) == rows
    assert told(url, "check")["problems"] == []
    fresh = f"sqlite:///{tmp_path / 'new' / 'b.db'}"
    told(fresh, "restore", str(copy))
    assert asyncio.run(kept(fresh)) == rows


def test_a_backup_that_cannot_be_is_refused_and_leaves_all_as_it_was(
    tmp_path: Path, postgres_url: str
) -> None:
    url, copy = f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "copy.db"
    assert "no store" in db(url, "backup", str(copy)).stderr
    asyncio.run(_filled(url))
    copy.write_text("mine")
    assert "--force" in db(url, "backup", str(copy)).stderr
    assert "itself" in db(url, "backup", str(tmp_path / "a.db"), "--force").stderr
    assert "folder" in db(url, "backup", str(tmp_path / "none" / "b.db")).stderr
    assert "pg_dump" in db(postgres_url, "backup", str(tmp_path / "b.db")).stderr
    assert "pg_restore" in db(postgres_url, "restore", str(copy)).stderr
    assert db(url, "restore", str(copy), "--yes").exit_code == 2
    assert copy.read_text() == "mine"
    assert told(url, "check")["problems"] == []
    told(url, "backup", str(copy), "--force")
    assert told(f"sqlite:///{copy}", "stats")["runs"]["by_status"] == {
        "finished": 1,
        "running": 2,
    }
