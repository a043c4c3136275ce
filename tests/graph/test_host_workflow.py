"""The example of a host workflow: evaluate what arrives, train where it is due, ask, promote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host_workflow import create_host_workflow
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from orcheo_agentensor import Store
from orcheo_agentensor.demo import WORKFLOW
from orcheo_agentensor.errors import ConfigError

TICKETS = [
    {"ticket": "I want a refund for this purchase", "queue": "refunds"},
    {"ticket": "How long does the delivery of my card take?", "queue": "delivery"},
    {"ticket": "The passcode is not accepted any more", "queue": "access"},
    {"ticket": "What is the exchange rate today?", "queue": "exchange"},
    {"ticket": "Somebody else used my lost phone", "queue": "security"},
]


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


async def test_new_tickets_are_followed_by_training_approval_and_promotion(tmp_path: Path) -> None:
    """Each part in a process-like life of its own: another graph, saver and store object."""
    database = f"sqlite:///{tmp_path / 'side.db'}"
    saved = str(tmp_path / "host.db")
    async with Store.from_url(database) as store, AsyncSqliteSaver.from_conn_string(saved) as saver:
        graph = create_host_workflow(store=store).compile(checkpointer=saver)
        heard: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        async for namespace, event in graph.astream(
            {"tickets": TICKETS, "steps": 1}, thread("a"), stream_mode="custom", subgraphs=True
        ):
            heard.append((namespace, event))
        nodes = {namespace[0].split(":")[0] for namespace, _event in heard}
        assert nodes == {"evaluate", "train"}
        types = [event["type"] for _namespace, event in heard]
        assert {"case_finished", "evaluation_summary", "step_started", "decision"} <= set(types)
        state = await graph.aget_state(thread("a"))
        assert state.next == ("train",)
        assert state.values["accuracy"] < 0.7
        assert state.values["tickets"] is None
        [pause] = state.interrupts
        assert (pause.value["type"], pause.value["workflow_id"]) == ("approval", WORKFLOW)
        assert await store.aliases.resolve(WORKFLOW, "production") is None
        [train] = await store.runs.list(mode="train")
        spent = await store.runs.usage(train.run_id)

    async with Store.from_url(database) as store, AsyncSqliteSaver.from_conn_string(saved) as saver:
        graph = create_host_workflow(store=store).compile(checkpointer=saver)
        answer = {"approve": True, "actor": "ana", "reason": "reads well"}
        found = await graph.ainvoke(Command(resume=answer), thread("a"))
        assert set(found) == {"accuracy", "decision", "reasons", "production"}
        assert found["decision"] == "promoted", found["reasons"]
        assert found["production"] == await store.aliases.resolve(WORKFLOW, "production")
        assert (await store.aliases.log(WORKFLOW, "production"))[0].actor == "ana"
        assert await store.runs.usage(train.run_id) == spent

        again = await graph.ainvoke({"tickets": TICKETS, "threshold": 0.1}, thread("a"))
        assert again["accuracy"] > found["accuracy"]
        assert (again["decision"], again["production"]) == ("not due", found["production"])
        assert len(await store.runs.list(mode="train")) == 1


async def test_bad_tickets_get_one_clear_message() -> None:
    graph = create_host_workflow(store=Store.from_url(None)).compile()
    bad = {"tickets": [{"ticket": "x", "queue": "complaints"}], "threshold": 2}
    told = r"input\.tickets\.0\.queue: 'complaints'.*input\.threshold: 2"
    with pytest.raises(ConfigError, match=told):
        await graph.ainvoke(bad)
    with pytest.raises(ConfigError, match="treshold"):
        await graph.ainvoke({"treshold": 0.5})


def test_both_subgraphs_show_in_the_drawing() -> None:
    graph = create_host_workflow(store=Store.from_url(None)).compile()
    assert {"arrive", "evaluate", "train", "report"} <= set(graph.get_graph().nodes)
    inside = dict(graph.get_subgraphs())
    assert {*inside} == {"evaluate", "train"}
    assert all(isinstance(inner, CompiledStateGraph) for inner in inside.values())
