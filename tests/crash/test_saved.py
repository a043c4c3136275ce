"""A store that can no longer be written: what was paid for is saved, and comes back."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from test_blips import Counted, evaluated, found, own_server

from orcheo_agentensor.errors import BadInput, NotFound, StoreError
from orcheo_agentensor.storage import Store

__all__ = ["own_server"]


async def came_back(target: Counted, url: str, saved: Path) -> None:
    """Bring the rows of `saved` back: the run goes on, and repeats none of them."""
    before = len(target.calls)
    async with Store.from_url(url) as store:
        written = {row.rollout.case_id for row in await store.runs.case_rows("r", limit=None)}
        for _ in range(2):  # twice is once
            assert (await store.maintenance.recover(saved))["r"] > 0
        kept = {row.rollout.case_id for row in await store.runs.case_rows("r", limit=None)}
        assert len(kept) > len(written)
        report = await evaluated(target, store, count=200)
        assert (report.scores["exact_match"].mean, report.coverage) == (1.0, 1.0)
    assert not [n for n in target.calls[before:] if f"c{n}" in kept]


async def test_what_a_full_disk_refuses_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    url = f"sqlite:///{path}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    called: list[int] = []  # when the disk was full

    def harm() -> None:
        if not called:
            size = path.with_name("a.db-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            called.append(len(target.calls))

    target = Counted(100, harm)
    try:
        async with Store.from_url(url) as store:
            with pytest.raises(StoreError, match=r"db recover .*a\.saved-r-1\.db") as full:
                await evaluated(target, store, count=200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (saved,) = found(tmp_path, "a.saved-*.db")
    assert str(saved) in full.value.message
    assert len(target.calls) <= called[0] + 8
    await came_back(target, url, saved)


async def test_what_a_server_that_stays_away_leaves_is_saved(
    own_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def harm() -> None:
        if len(target.calls) == 30:
            monkeypatch.setattr("orcheo_agentensor.storage.engine.PATIENCE", 0.2)
            own_server.stop()

    target = Counted(30, harm)
    url = str(own_server.get_uri())
    async with Store.from_url(url) as store:
        with pytest.raises(StoreError, match=r"db recover .*\.saved-r-1\.db"):
            await evaluated(target, store, count=200)
    (saved,) = found(tmp_path, "*.saved-*.db")
    own_server.start()
    await came_back(target, url, saved)


async def test_another_file_is_not_brought_back(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path / 'a.db'}") as store:
        await store.open()
        for name in ("none.db", "text.db"):
            if name == "text.db":
                (tmp_path / name).write_text("no database" * 100)
            with pytest.raises(BadInput, match="holds no rows that were saved"):
                await store.maintenance.recover(tmp_path / name)
        async with Store.from_url(f"sqlite:///{tmp_path / 'b.db'}") as other:
            await evaluated(Counted(1000, None), other, count=3)
        with pytest.raises(NotFound, match="no run 'r'"):
            await store.maintenance.recover(tmp_path / "b.db")
