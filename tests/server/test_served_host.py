"""The host workflow over the SDK: progress through the host, a pause, an answer, a promotion."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph_sdk.errors import UnprocessableEntityError

from orcheo_agentensor import Store

WORKFLOW = "support_triage"


async def test_a_host_streams_pauses_and_promotes(client: Any, store: Store) -> None:
    thread = await client.threads.create()
    heard: list[tuple[str, Any]] = [
        (part.event, part.data)
        async for part in client.runs.stream(
            thread["thread_id"],
            "host_workflow",
            input={"threshold": 1.0, "steps": 1},
            stream_mode=["updates", "custom"],
            stream_subgraphs=True,
        )
    ]
    assert [data for kind, data in heard if kind == "error"] == []
    custom = {kind.split("|")[1].split(":")[0] for kind, _ in heard if kind.startswith("custom|")}
    assert custom == {"evaluate", "train"}
    types = [data["type"] for kind, data in heard if kind.startswith("custom")]
    assert {"evaluation_summary", "step_started", "holdout_summary"} <= set(types)
    state = await client.threads.get_state(thread["thread_id"])
    assert state["next"] == ["train"]
    assert state["values"]["accuracy"] < 1.0
    [pause] = state["tasks"][0]["interrupts"]
    assert pause["value"]["type"] == "approval"
    before = await store.aliases.resolve(WORKFLOW, "production")
    [train] = [
        run for run in await store.runs.list(mode="train") if run.run_id == pause["value"]["run_id"]
    ]
    spent = await store.runs.usage(train.run_id)

    found = await client.runs.wait(
        thread["thread_id"],
        "host_workflow",
        command={"resume": {"approve": True, "actor": "ana", "reason": "reads well"}},
    )
    assert found["decision"] == "promoted", found["reasons"]
    assert found["production"] == pause["value"]["version"] != before
    assert await store.aliases.resolve(WORKFLOW, "production") == found["production"]
    assert await store.runs.usage(train.run_id) == spent

    progress: list[str] = []
    async for part in client.runs.stream(
        thread["thread_id"], "host_workflow", input={"threshold": 0.0}, stream_mode="custom"
    ):
        if part.event == "custom":
            progress.append(part.data["type"])
    assert [progress[0], progress[-1]] == ["run_started", "run_finished"]
    final = (await client.threads.get_state(thread["thread_id"]))["values"]
    assert (final["decision"], final["production"]) == ("not due", found["production"])


async def test_bad_tickets_are_refused_before_a_run_exists(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    for bad, told in (
        ({"threshold": 2, "steps": 0}, ["input.threshold", "input.steps"]),
        ({"tickets": [{"ticket": "Hello", "queue": "nowhere"}]}, ["input.tickets.0.queue"]),
        ({"ticket": "Hello"}, ["input.ticket"]),
        ("Hello", ["input"]),
    ):
        with pytest.raises(UnprocessableEntityError) as caught:
            await client.runs.create(thread, "host_workflow", input=bad)
        assert [problem["field"] for problem in caught.value.body["error"]["problems"]] == told
    assert await client.runs.list(thread) == []
