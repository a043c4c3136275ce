"""The server killed in the middle of a training: submitting its run id again finishes it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from dev_server import lay_out, running
from langgraph_sdk import get_client
from served_workflows import cases
from test_runs import TRAINING

from orcheo_agentensor import Store
from orcheo_agentensor.errors import NotFound


async def test_a_training_survives_the_kill_of_its_server(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "served")
    again = tmp_path / "the second server"
    job: dict[str, Any] = {
        **TRAINING,
        "workflow_id": "killed",
        "run_id": "killed",
        "dataset": [
            *cases("train", 8),
            *cases("validation", 8),
            *cases("holdout", 40, free=4, after=again),
        ],
        "limits": {"concurrency": 1},
    }
    with running(folder) as first:
        async with get_client(url=first.url, api_key=None) as client:
            thread = (await client.threads.create())["thread_id"]
            await client.runs.create(thread, "training", input=job)
            async with Store.from_url(first.store_url) as store:
                await _until_some_work(store)
                first.kill()
    async with Store.from_url(first.store_url) as store:
        assert (await store.runs.get("killed")).result is None
        before = await store.runs.case_rows("killed", limit=None)
        spent = (await store.runs.usage("killed")).rollouts
        assert spent >= 12
        async with store.checkpointer() as saver:
            kept = await saver.aget_tuple({"configurable": {"thread_id": thread}})
            assert kept is not None, "the thread outlives the server"
    again.touch()
    with running(folder, store_url=first.store_url) as second:
        async with get_client(url=second.url, api_key=None) as client:
            thread = (await client.threads.create())["thread_id"]
            found = await client.runs.wait(thread, "training", input=job)
        assert found["status"] == "finished"
        assert found["best"]["objective"] == 1.0
        log = second.log.read_text()
    async with Store.from_url(first.store_url) as store:
        after = await store.runs.case_rows("killed", limit=None)
        keys = {row.rollout.key for row in after}
        assert {row.rollout.key for row in before} <= keys
        assert len(keys) == len(after)
        assert all(row.rollout.attempts == 1 for row in after)
        assert (await store.runs.usage("killed")).rollouts == len(after)
    for text in (first.log.read_text(), log):
        assert "Deserializing unregistered type" not in text
        assert "BlockingError" not in text


async def _until_some_work(store: Store) -> None:
    """Return once a dozen rollouts are recorded."""
    while await _recorded(store) < 12:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def _recorded(store: Store) -> int:
    try:
        return (await store.runs.usage("killed")).rollouts
    except NotFound:  # the run has not begun
        return 0
