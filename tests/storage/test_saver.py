"""What a LangGraph server asks of its checkpointer beside running graphs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor.storage import Store


class Count(TypedDict):
    count: int


async def _count(state: Count) -> Count:
    return {"count": state["count"] + 1}


def _on(thread: str, run: str) -> Any:
    return {"configurable": {"thread_id": thread}, "metadata": {"run_id": run}}


def _graph(saver: Any) -> Any:
    graph = StateGraph(Count)
    graph.add_node("count", _count)
    graph.add_edge(START, "count")
    return graph.compile(checkpointer=saver)


async def test_a_run_is_taken_back_and_the_one_before_it_stays(store: Store) -> None:
    async with store.checkpointer() as saver:
        graph = _graph(saver)
        await graph.ainvoke({"count": 1}, _on("a", "first"))
        await graph.ainvoke({"count": 10}, _on("a", "second"))
        await graph.ainvoke({"count": 20}, _on("b", "third"))
        await saver.adelete_for_runs(["second", "unknown"])
        assert (await graph.aget_state(_on("a", ""))).values == {"count": 2}
        assert (await graph.aget_state(_on("b", ""))).values == {"count": 21}
        await graph.ainvoke({"count": 30}, _on("a", "fourth"))
        assert (await graph.aget_state(_on("a", ""))).values == {"count": 31}


async def test_a_thread_is_deleted_without_a_wait_and_before_what_comes_later(
    store: Store,
) -> None:
    async with store.checkpointer() as saver:
        graph = _graph(saver)
        await graph.ainvoke({"count": 1}, _on("a", "first"))
        turns = 0

        async def watch() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        watching = asyncio.create_task(watch())
        await saver.adelete_thread("a")
        assert turns == 0, "the server's own record would have moved"
        watching.cancel()
        assert (await graph.aget_state(_on("a", ""))).values == {}
        await graph.ainvoke({"count": 5}, _on("a", "second"))
        await saver.adelete_thread("a")
    async with store.checkpointer() as saver:
        assert (await _graph(saver).aget_state(_on("a", ""))).values == {}


def _hosting(saver: Any) -> Any:
    """A graph with a subgraph, which has checkpoints under a namespace of its own."""
    inner = StateGraph(Count).add_node("count", _count).add_edge(START, "count").compile()
    host = StateGraph(Count).add_node("inner", inner).add_edge(START, "inner")
    return host.compile(checkpointer=saver)


async def test_threads_are_pruned_to_what_they_go_on_from_and_copied(store: Store) -> None:
    async def steps(thread: str) -> list[int | None]:
        return [one.values.get("count") async for one in graph.aget_state_history(_on(thread, ""))]

    async with store.checkpointer() as saver:
        graph = _hosting(saver)
        for thread in ("a", "b"):
            for count in (1, 10):
                await graph.ainvoke({"count": count}, _on(thread, f"run-{count}"))
        everything = [one async for one in saver.alist(None)]
        await saver.aprune(["a"])
        assert await steps("a") == [11]
        assert len(await steps("b")) == 6
        left = [one async for one in saver.alist(_on("a", ""))]
        assert len(left) < len(everything) / 2
        assert len({one.config["configurable"]["checkpoint_ns"] for one in left}) <= 2
        await saver.acopy_thread("a", "c")
        assert await steps("c") == [11]
        await graph.ainvoke({"count": 30}, _on("a", "later"))
        assert (await steps("a"))[0] == 31
        assert await steps("c") == [11]
        await saver.aprune(["a", "c", "unknown"], strategy="delete")
        assert await steps("a") == await steps("c") == []
        with pytest.raises(ValueError, match="must be keep_latest or delete"):
            await saver.aprune(["b"], strategy="some")
