"""Which URLs are stores, and what is said of those that are not."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_conformance import new_version

from orcheo_agentensor.errors import AgentensorError, BadInput, MissingExtra, StoreError
from orcheo_agentensor.storage import Store
from orcheo_agentensor.storage.urls import parse_store_url


@pytest.mark.parametrize("url", [None, "sqlite://", "sqlite:///:memory:", ":memory:"])
def test_a_store_in_memory(url: str | None) -> None:
    assert parse_store_url(url).in_memory


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+aiosqlite:///b.db", "b.db"),
        ("a/b.db", "a/b.db"),
        (Path("/a/b.db"), "/a/b.db"),
        ("sqlite:///with space.db?mode=rwc", "with space.db"),
    ],
)
def test_a_store_in_a_file(url: Any, path: str) -> None:
    assert parse_store_url(url).path == Path(path)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_store_on_a_server(scheme: str) -> None:
    target = parse_store_url(f"{scheme}://me:pw@host/name")
    assert target.url == "postgresql://me:pw@host/name"
    assert "pw" not in target.shown


@pytest.mark.parametrize(
    "url", ["mysql://me:s3cret-word@host/db", "", "folder", "sqlite://relative.db", "http://x/a.db"]
)
def test_other_urls_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(BadInput) as found:
        Store.from_url(url)
    assert "sqlite:///PATH" in str(found.value)
    assert "s3cret-word" not in f"{found.value} {found.value.value}"


@given(st.text())
def test_any_text_is_a_store_or_bad_input(text: str) -> None:
    try:
        target = parse_store_url(text)
    except BadInput:
        return
    assert target.dialect in ("sqlite", "postgresql")


async def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    store = Store.from_url("postgresql://me:s3cret-word@127.0.0.1:1/name?connect_timeout=2")
    with pytest.raises(StoreError) as found:
        await store.open()
    assert "127.0.0.1:1/name" in str(found.value)
    assert "s3cret-word" not in str(found.value)
    assert "s3cret-word" not in repr(store)
    await store.close()


async def test_a_server_without_its_driver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    store = Store.from_url("postgresql://host/name")
    with pytest.raises(MissingExtra, match=r"orcheo-agentensor\[postgres\]"):
        await store.open()
    with pytest.raises(MissingExtra, match=r"orcheo-agentensor\[postgres\]"):
        async with store.checkpointer():
            pass
    await store.close()


async def test_a_new_file_is_private_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.db"
    old = os.umask(0)
    try:
        async with Store.from_url(path) as store, store.checkpointer():
            files = sorted(path.parent.iterdir())
            assert {"a.db", "a.langgraph.db"} <= {file.name for file in files}
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(old)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("hello, this is certainly not a database file" * 50)
    for place in (path, tmp_path, path / "below.db"):
        store = Store.from_url(f"sqlite:///{place}")
        with pytest.raises(StoreError, match="cannot open the store"):
            await store.open()
        await store.close()
    assert path.read_text().startswith("hello")


async def test_sqlite_is_set_up_for_concurrent_readers_and_safe_commits(tmp_path: Path) -> None:
    async with Store.from_url(tmp_path / "a.db") as store:
        wanted = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1}
        for pragma, value in wanted.items():
            found = await store._context.db.read(
                lambda c, pragma=pragma: c.exec_driver_sql(f"PRAGMA {pragma}").scalar()  # type: ignore[misc]
            )
            assert found == value


def test_a_store_works_from_one_event_loop_after_the_other(store_url: str) -> None:
    store = Store.from_url(store_url)
    for number in range(3):
        saved = asyncio.run(new_version(store, number))
        assert saved.config_version == number + 1
    asyncio.run(store.close())
    assert len(asyncio.run(store.checkpoints.list("support"))) == 3
    asyncio.run(store.close())


def test_a_store_in_memory_lives_over_event_loops_until_it_is_closed() -> None:
    store = Store.from_url(None)

    async def keep() -> int:
        async with store.checkpointer() as saver:
            assert saver is store._memory_saver
        return (await new_version(store, 1)).config_version

    assert asyncio.run(keep()) == asyncio.run(keep()) == 1
    assert asyncio.run(new_version(store, 2)).config_version == 2
    asyncio.run(store.close())
    assert asyncio.run(store.checkpoints.list_workflows()) == []
    asyncio.run(store.close())


async def test_two_stores_in_memory_share_nothing() -> None:
    async with Store.from_url(None) as one, Store.from_url(None) as other:
        await new_version(one)
        assert await other.checkpoints.list_workflows() == []


async def test_ids_and_times_come_from_outside() -> None:
    from datetime import UTC, datetime

    now = datetime(2030, 1, 2, tzinfo=UTC)
    async with Store.from_url(None, clock=lambda: now, new_id=lambda: "the-id") as store:
        saved = await new_version(store)
    assert (saved.id, saved.created_at) == ("the-id", now)


async def test_a_cancelled_call_leaves_a_whole_transaction_or_none(store: Store) -> None:
    task = asyncio.create_task(new_version(store))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for version in await store.checkpoints.list("support"):
        assert await store.aliases.resolve("support", "latest") == version.config_version


async def test_errors_of_the_database_are_store_errors(store: Store) -> None:
    with pytest.raises(AgentensorError, match="cannot use the store") as found:
        await store.workflows.set_owner(None, "secret-owner")  # type: ignore[arg-type]
    assert isinstance(found.value, StoreError)
