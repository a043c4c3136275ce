"""The database tools: figures, checks, the removal of old runs, copies; on both databases."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store_conformance import leased_run, new_version, rollout, run_record, score
from test_migrations import on_engine
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
