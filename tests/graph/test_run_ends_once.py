"""One run, several executions: they wait for each other, and what was decided stays decided."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from rule_task import PROMPTS, Target, Teacher, dataset, done

from orcheo_agentensor import Reflective, Store, create_training_graph

JOB: dict[str, Any] = {
    "prompts": PROMPTS,
    "budget": {"rollouts": 200},
    "limits": {"concurrency": 1},
    "workflow_id": "w",
    "run_id": "r",
}
RESULT = ("status", "best", "baseline", "holdout", "decision", "summary", "usage")


def on(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


def training(target: Target, store: Store, saver: InMemorySaver) -> Any:
    graph = create_training_graph(
        target,
        dataset=dataset(holdout=24),
        evaluators=[done],
        optimizer=Reflective(minibatch=4, proposer=Teacher()),
        store=store,
    )
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("cut_at", [3, 25, 70])
async def test_a_thread_that_goes_on_and_its_job_submitted_again_end_alike(
    cut_at: int, first: int
) -> None:
    """As after a kill: the server goes on with the thread while its client submits the job."""
    target, store, saver = Target(), Store.from_url(None), InMemorySaver()
    whole = await training(Target(), Store.from_url(None), InMemorySaver()).ainvoke(JOB, on("x"))
    cut = asyncio.Event()

    async def hook(_inputs: dict[str, Any]) -> None:
        if len(target.calls) == cut_at:
            cut.set()
            await asyncio.Event().wait()

    target.hook = hook
    killed = asyncio.ensure_future(training(target, store, saver).ainvoke(JOB, on("a")))
    await cut.wait()
    killed.cancel()
    await asyncio.wait([killed])

    graph = training(target, store, saver)
    both = [graph.ainvoke(None, on("a")), graph.ainvoke(JOB, on("b"))]
    found = await asyncio.gather(*(both if first == 0 else reversed(both)))
    assert {key: found[0][key] for key in RESULT} == {key: found[1][key] for key in RESULT}
    for key in ("status", "baseline", "decision"):
        assert found[0][key] == whole[key]
    assert found[0]["best"]["prompts"] == whole["best"]["prompts"]
    assert target.repeated() == 1  # the one that was cut


async def test_a_decided_run_that_is_replayed_moves_no_alias() -> None:
    target, store = Target(), Store.from_url(None)
    graph = training(target, store, InMemorySaver())
    found = await graph.ainvoke({**JOB, "promote": "auto"}, on("a"))
    version = found["best"]["config_version"]
    assert await store.aliases.resolve("w", "production") == version
    await store.aliases.move("w", "production", to=1, expect=version, actor="ann", reason="back")
    async for past in graph.aget_state_history(on("a")):
        if past.next and past.next != ("__start__",):
            again = await graph.ainvoke(None, past.config)
            assert {key: again[key] for key in RESULT} == {key: found[key] for key in RESULT}
    assert await store.aliases.resolve("w", "production") == 1
    assert target.repeated() == 0
