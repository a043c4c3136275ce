"""The schema: created, upgraded, downgraded, and refused where it is of another release."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from store_conformance import leased_run, new_version, rollout, run_record, score
from test_processes import start

from orcheo_agentensor.errors import StoreError, StoreOutdated, StoreTooNew
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage import Store
from orcheo_agentensor.storage.engine import HEAD
from orcheo_agentensor.usage import Usage

VERSION_TABLE = "agentensor_schema"


async def on_engine(url: str, work: Callable[[sa.Engine], Any]) -> Any:
    """Call `work` with an engine on the database, whatever its schema."""
    plain = sa.make_url(url)
    if plain.drivername == "postgresql":
        plain = plain.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(plain)
    try:
        return await asyncio.to_thread(work, engine)
    finally:
        engine.dispose()


def stamp(revision: str) -> Callable[[sa.Engine], None]:
    """Pretend that the database is of another revision."""

    def work(engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))

    return work


def schema_of(engine: sa.Engine) -> dict[str, Any]:
    """Everything the database tells about our tables."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            rows = connection.execute(
                sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            )
            found = {name: "".join(sql.split()) for name, sql in rows}
            found.pop(VERSION_TABLE, None)
            found.pop(f"{VERSION_TABLE}_pkc", None)
        else:
            found = {}
            for query in (
                "SELECT table_name || '.' || column_name, data_type || ' ' || is_nullable || "
                "coalesce(column_default, '') || row_number() OVER (PARTITION BY table_name ORDER "
                "BY ordinal_position) FROM information_schema.columns WHERE table_schema = "
                "'public'",
                "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE connamespace = 'public'::regnamespace",
            ):
                found |= {
                    f"{query[:20]} {name}": value
                    for name, value in connection.execute(sa.text(query))
                }
        return {"objects": found, "tables": sorted(sa.inspect(connection).get_table_names())}


def rows_of(engine: sa.Engine) -> dict[str, int]:
    """How many rows each table has."""
    with engine.connect() as connection:
        return {
            name: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) or 0
            for name in sa.inspect(connection).get_table_names()
        }


async def fill(store: Store, url: str) -> None:
    """Put a row in every table."""
    lease = await leased_run(store)
    await new_version(store)
    await store.aliases.move("support", "production", to=1, actor="a", reason="r")
    await store.workflows.set_defaults("support", {"tags": []}, actor="a")
    await store.datasets.save("d", "v", metadata={}, counts={}, cases=[{"id": "c"}])
    await store.media.put(b"a picture")
    await store.training.save_candidate("run-1", "c", prompts={}, parents=[], status="new")
    await store.training.save_change("run-1", 1, {})
    async with store.ledger("run-1", lease=lease) as ledger:
        ledger.put_rollout(rollout())
        ledger.put_scores("rollout-0", "e", [score()])
        await ledger.put_call("k", "judge", {}, Usage())
    counts = await on_engine(url, rows_of)
    assert len(counts) > 10
    assert all(counts.values()), counts


async def test_a_fresh_database_is_brought_to_the_head(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url) as store:
        assert await store.schema_revision() == HEAD


async def test_asking_for_the_revision_creates_nothing(fresh_store_url: str) -> None:
    store = Store.from_url(fresh_store_url)
    assert await store.schema_revision() is None
    assert (await on_engine(fresh_store_url, schema_of))["tables"] == []
    await store.close()


async def test_the_schema_equals_the_replayed_migrations(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url) as store:
        created = await on_engine(fresh_store_url, schema_of)
        await store.downgrade("base")
        await store.upgrade()
        assert await on_engine(fresh_store_url, schema_of) == created


async def test_a_migrated_ledger_reads_as_before(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url) as store:
        for run_id in ("run-1", "run-2"):
            lease = await leased_run(store, run_id)
            async with store.ledger(run_id, lease=lease) as ledger:
                for number in range(3):
                    ledger.put_rollout(rollout(number, usage=Usage(calls=1, cost=0.5)))
                    named = [score(f"rollout-{number}", name) for name in ("e", "e.tone")]
                    await ledger.put_scores(f"rollout-{number}", run_id, named)
        before = [await store.runs.case_rows(run_id) for run_id in ("run-1", "run-2")]
        await store.downgrade("0002")
        await store.upgrade()
        after = [await store.runs.case_rows(run_id) for run_id in ("run-1", "run-2")]
    assert after == before
    assert [len(row.scores) for row in after[1]] == [2, 2, 2]


@pytest.mark.requirement("durability.stores")
async def test_downgrade_and_upgrade_with_data(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url) as store:
        await fill(store, fresh_store_url)
        await store.upgrade()
        assert (await store.checkpoints.get("support", "production")).config_version == 1
        await store.downgrade("base")
        tables = (await on_engine(fresh_store_url, schema_of))["tables"]
        assert set(tables) <= {VERSION_TABLE}
    async with Store.from_url(fresh_store_url) as store:
        await fill(store, fresh_store_url)


@pytest.mark.requirement("durability.stores")
async def test_an_upgrade_gives_runs_the_metadata_version_that_they_had(
    fresh_store_url: str,
) -> None:
    metadata = {"domains": ["bank"], "weights": [1.0, 2.5]}
    async with Store.from_url(fresh_store_url) as store:
        kept = await store.datasets.save("d", "v", metadata=metadata, counts={}, cases=[])
        run = run_record("r", dataset_id="d", dataset_version="v")
        await store.runs.create(run)
        await store.downgrade("0003")
        await store.upgrade()
        assert await store.datasets.get("d", "v") == kept
        assert (await store.runs.get("r")).dataset_metadata_version == kept.metadata_version


async def test_a_downgrade_keeps_the_newest_metadata(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url) as store:
        for rubric in ("v1", "v2"):
            await store.datasets.save("d", "v", metadata={"rubric": rubric}, counts={}, cases=[])
        await store.downgrade("0003")
        await store.upgrade()
        [left] = await store.datasets.list()
        assert left.metadata == {"rubric": "v2"}


async def test_a_newer_database_is_refused(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url):
        pass
    await on_engine(fresh_store_url, stamp("9999"))
    store = Store.from_url(fresh_store_url)
    with pytest.raises(StoreTooNew, match="9999"):
        await store.open()
    with pytest.raises(StoreTooNew, match="9999"):
        await store.upgrade()
    await store.close()


async def test_an_older_database_waits_for_an_upgrade(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url):
        pass
    await on_engine(fresh_store_url, stamp("0000"))
    store = Store.from_url(fresh_store_url)
    with pytest.raises(StoreOutdated, match="agentensor db upgrade"):
        await store.runs.list()
    await store.close()


async def test_an_unknown_revision_is_refused(fresh_store_url: str) -> None:
    async with Store.from_url(fresh_store_url) as store:
        with pytest.raises(StoreError, match="nonsense"):
            await store.downgrade("nonsense")
        await on_engine(fresh_store_url, stamp("nonsense"))
        with pytest.raises(StoreError, match="nonsense"):
            await Store.from_url(fresh_store_url).open()


async def test_many_stores_may_open_a_fresh_database_at_once(fresh_store_url: str) -> None:
    stores = [Store.from_url(fresh_store_url) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.runs.list() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))


def test_the_head_is_the_newest_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "orcheo_agentensor.storage:migrations")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [HEAD]
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert sorted(revisions, reverse=True) == revisions
    assert all(revision.isdigit() and len(revision) == 4 for revision in revisions)


REVISIONS = ["0001", "0002", "0003", "0004", "0005"]
"""Every revision that a release had; a new migration adds its own."""

USED = {"rollouts": 1, "calls": 2, "input_tokens": 3, "output_tokens": 4, "cost": 0.5}
DAY = datetime(2026, 1, 2, tzinfo=UTC)
STORED: dict[str, list[dict[str, Any]]] = {
    "checkpoints": [
        {
            "id": "x",
            "workflow_id": "support",
            "config_version": 1,
            "runnable_config": {"configurable": {"prompts": {"triage": "Kindly: ü"}}},
            "metrics": {"objective": 0.5},
            "metadata": {},
            "content_hash": "h",
            "run_id": "old",
            "objective": 0.5,
            "complete": True,
            "created_at": DAY,
        }
    ],
    "aliases": [{"workflow_id": "support", "alias": "production", "version": 1, "updated_at": DAY}],
    "datasets": [
        {"dataset_id": "d", "version": "v", "metadata": {"r": 1}, "counts": {}, "created_at": DAY}
    ],
    "dataset_metadata": [
        {
            "dataset_id": "d",
            "version": "v",
            "metadata_version": content_hash({"r": 1}),
            "metadata": {"r": 1},
            "created_at": DAY,
        }
    ],
    "cases": [
        {"dataset_id": "d", "version": "v", "position": 0, "case_id": "c", "content": {"id": "c"}}
    ],
    "runs": [
        {
            "run_id": "old",
            "workflow_id": "support",
            "mode": "evaluate",
            "status": "finished",
            "job": {"job": {}},
            "job_hash": "job",
            "config": {},
            "seed": 7,
            "dataset_id": "d",
            "dataset_version": "v",
            "dataset_metadata_version": content_hash({"r": 1}),
            "usage": {},
            "event_seq": 3,
            "refs": {},
            "lease_token": 1,
            "started_at": DAY,
        }
    ],
    "rollouts": [
        {
            "run_id": "old",
            "position": number + 1,
            "key": f"rollout-{number}",
            "case_id": f"case-{number}",
            "candidate_hash": "c",
            "replicate": 0,
            "phase": "evaluation",
            "output": {"text": "ü"},
            "latency_ms": 1.5,
            "attempts": 1,
            **USED,
        }
        for number in range(3)
    ],
    "scores": [
        {
            "run_id": "old",
            "position": number + 1,
            "rollout_key": f"rollout-{number}",
            "evaluator_fingerprint": "e",
            "name": "accuracy",
            "score": number / 2,
            "passed": number > 0,
            **USED,
        }
        for number in range(3)
    ],
    "calls": [{"run_id": "old", "key": "k", "kind": "judge", "response": {"a": 1}, **USED}],
}
"""Rows as releases have written them; a table takes the columns that it has at its revision."""


def write_as_then(engine: sa.Engine) -> None:
    """Store `STORED` in a database of any revision."""
    schema = sa.MetaData()
    schema.reflect(engine)
    with engine.begin() as connection:
        for name, rows in STORED.items():
            if (table := schema.tables.get(f"agentensor_{name}")) is None:
                continue
            for row in rows:
                connection.execute(sa.insert(table).values(**_as_then(engine, table, row)))


def _as_then(engine: sa.Engine, table: Any, row: dict[str, Any]) -> dict[str, Any]:
    values = {column: row[column] for column in row if column in table.c}
    if engine.dialect.name == "postgresql":
        return values
    return {
        column: json.dumps(value)
        if isinstance(value, dict)
        else value.isoformat(timespec="microseconds")
        if isinstance(value, datetime)
        else value
        for column, value in values.items()
    }


async def of_revision(url: str, revision: str) -> None:
    """Make a database as a release with this revision has left it."""
    store = Store.from_url(url)
    await store.upgrade(revision)
    await store.close()
    await on_engine(url, write_as_then)


async def assert_nothing_lost(url: str) -> None:
    """See that all of `STORED` is there, through the present release."""
    async with Store.from_url(url) as store:
        assert await store.schema_revision() == HEAD
        version = await store.checkpoints.get("support", "production")
        assert version.prompts["triage"].text == "Kindly: ü"
        run = await store.runs.get("old")
        assert (run.status, run.seed, run.started_at) == ("finished", 7, DAY)
        assert run.dataset_metadata_version == content_hash({"r": 1})
        assert (await store.datasets.get("d", "v")).metadata == {"r": 1}
        rows = await store.runs.case_rows("old")
        assert [row.rollout.key for row in rows] == [f"rollout-{number}" for number in range(3)]
        assert [row.scores[0].score for row in rows] == [0.0, 0.5, 1.0]
        assert rows[0].rollout.output == {"text": "ü"}
        paid = (await store.runs.usage("old")).to_json()
        assert (paid["rollouts"], paid["calls"], paid["cost"]) == (7, 14, 3.5)
        assert await store.maintenance.check() == []
        lease = await store.runs.acquire("old")
        async with store.ledger("old", lease=lease) as ledger:
            assert await ledger.call("k") == {"a": 1}
            await ledger.put_rollout(rollout(9))


def test_every_released_revision_is_tried() -> None:
    assert [f"{number:04}" for number in range(1, int(HEAD) + 1)] == REVISIONS


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.requirement("durability.stores")
async def test_data_of_every_released_revision_survives_the_upgrade(
    fresh_store_url: str, revision: str
) -> None:
    await of_revision(fresh_store_url, revision)
    store = Store.from_url(fresh_store_url)
    if revision != HEAD:
        with pytest.raises(StoreOutdated, match="agentensor db upgrade"):
            await store.runs.list()
    await store.upgrade()
    await store.close()
    await assert_nothing_lost(fresh_store_url)
    upgraded = await on_engine(fresh_store_url, schema_of)
    async with Store.from_url(fresh_store_url) as store:
        await store.downgrade("base")
    async with Store.from_url(fresh_store_url):
        assert await on_engine(fresh_store_url, schema_of) == upgraded


KILLED = """
import os
import signal
import sqlalchemy as sa
import orcheo_agentensor.storage.engine, alembic.command, alembic.config, psycopg

def upgrade(killed_before):
    seen = 0
    def count(connection, cursor, statement, *_):
        nonlocal seen
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA", "BEGIN", "SHOW")):
            seen += 1
            if seen == killed_before:
                os.kill(os.getpid(), signal.SIGKILL)
    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    asyncio.run(Store.from_url(URL).upgrade())
    os._exit(0)

for number in range(1, 1000):
    child = os.fork()
    if not child:
        upgrade(number)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)
    if not os.WIFSIGNALED(status) or sys.stdin.readline() != "go on\\n":
        break
"""


async def test_a_migration_killed_between_any_two_statements_leaves_the_database_as_it_was(
    fresh_store_url: str,
) -> None:
    await of_revision(fresh_store_url, "0001")
    before = await on_engine(fresh_store_url, rows_of)
    victims = start(KILLED, fresh_store_url)
    assert victims.stdin is not None
    assert victims.stdout is not None
    killed = 0
    while (told := victims.stdout.readline()) == "killed\n":
        killed += 1
        assert await on_engine(fresh_store_url, rows_of) == before
        store = Store.from_url(fresh_store_url)
        assert await store.schema_revision() == "0001"
        with pytest.raises(StoreOutdated, match="agentensor db upgrade"):
            await store.runs.list()
        await store.close()
        victims.stdin.write("go on\n")
        victims.stdin.flush()
    _, errors = victims.communicate()
    assert (told, errors) == ("ended 0\n", "")
    assert killed > 20
    await assert_nothing_lost(fresh_store_url)


OPENERS = """
import os
import orcheo_agentensor.storage.engine, alembic.command, alembic.config

async def main(number):
    store = Store.from_url(URL)
    if sys.argv[2] == "upgrade":
        await store.upgrade()
    await leased_run(store, f"run-{number}")
    await store.close()

waiting, go = os.pipe()
children = []
for number in range(6):
    children.append(os.fork())
    if not children[-1]:
        os.close(go)
        os.read(waiting, 1)  # the end of the pipe wakes all of them at once
        asyncio.run(main(number))
        os._exit(0)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.parametrize("doing", ["open", "upgrade"])
async def test_several_processes_may_be_the_first(fresh_store_url: str, doing: str) -> None:
    if doing == "upgrade":
        await of_revision(fresh_store_url, "0001")
    openers = start(OPENERS, fresh_store_url, doing)
    _, errors = openers.communicate()
    assert (openers.returncode, errors) == (0, "")
    async with Store.from_url(fresh_store_url) as store:
        found = {run.run_id for run in await store.runs.list()} - {"old"}
        assert found == {f"run-{number}" for number in range(6)}
        assert await store.maintenance.check() == []
    if doing == "upgrade":
        await assert_nothing_lost(fresh_store_url)
