"""Sync callers: `invoke`, `stream` and `batch` of graphs that hold our nodes."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from orcheo_agentensor import (
    Reflective,
    create_evaluation_graph,
    create_training_graph,
    evaluation_node,
    get_prompt,
)

SPLITS = ["train"] * 4 + ["validation"] * 4 + ["holdout"] * 6
CASES = [
    {"id": str(n), "inputs": {"text": f"t{n}"}, "expected_output": f"t{n}", "split": split}
    for n, split in enumerate(SPLITS)
]


async def echo(inputs: dict[str, Any], config: Any) -> str:
    """Answers where its prompt asks for it."""
    return inputs["text"] if "echo" in get_prompt("task") else "?"


class Teacher:
    """Proposes the one word that is missing."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: f"{component.text} echo" for component in request.components}


def evaluation() -> Any:
    return create_evaluation_graph(echo, evaluators=["exact_match"], prompts={"task": "echo"})


def host() -> Any:
    graph = StateGraph(MessagesState)
    node = evaluation_node(
        evaluation(),
        map_input=lambda state: {"dataset": CASES},
        map_output=lambda result: {"messages": [("ai", str(result["summary"]["objective"]))]},
    )
    graph.add_node("evaluate", node)
    graph.add_edge(START, "evaluate")
    return graph


def test_an_evaluation_graph_is_invoked_streamed_and_batched() -> None:
    graph = evaluation().compile()
    assert graph.invoke({"dataset": CASES})["summary"]["objective"] == 1.0
    events = [event["type"] for event in graph.stream({"dataset": CASES}, stream_mode="custom")]
    assert events.count("case_finished") == len(CASES)
    assert events[-1] == "run_finished"
    both = graph.batch([{"dataset": CASES}, {"dataset": CASES[:3]}])
    assert [found["summary"]["cases"] for found in both] == [len(CASES), 3]


def test_a_training_graph_pauses_for_approval_and_goes_on() -> None:
    graph = create_training_graph(
        echo,
        evaluators=["exact_match"],
        prompts={"task": "do"},
        optimizer=Reflective(proposer=Teacher()),
    ).compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in graph.invoke({"dataset": CASES, "promote": "ask"}, thread)
    answer = {"approve": True, "actor": "me", "reason": "it echoes"}
    found = graph.invoke(Command(resume=answer), thread)
    assert found["decision"]["status"] == "promoted"
    assert found["best"]["scores"] == {"exact_match": 1.0}


def test_a_host_with_a_sync_saver_runs_our_node() -> None:
    saver = SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False))
    graph = host().compile(checkpointer=saver)
    thread: Any = {"configurable": {"thread_id": "1"}}
    assert graph.invoke({"messages": []}, thread)["messages"][-1].content == "1.0"
    other: Any = {"configurable": {"thread_id": "2"}}
    events = [e["type"] for e in graph.stream({"messages": []}, other, stream_mode="custom")]
    assert events[-1] == "run_finished"


def test_sync_calls_work_where_a_loop_runs_already() -> None:
    async def notebook() -> Any:
        return evaluation().compile().invoke({"dataset": CASES})

    assert asyncio.run(notebook())["summary"]["objective"] == 1.0
