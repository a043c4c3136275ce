"""The schema: created, upgraded, downgraded, and refused where it is of another release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from store_conformance import leased_run, new_version, rollout, run_record, score

from orcheo_agentensor.errors import StoreError, StoreOutdated, StoreTooNew
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
