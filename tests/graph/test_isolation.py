"""A rollout is alone: what the target writes in one is not there in another."""

from __future__ import annotations

import operator
from typing import Annotated, Any

import pytest
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import aevaluate

CASES = [{"id": name, "inputs": {"said": [name]}} for name in "abcd"]


class Chat(TypedDict):
    said: Annotated[list[str], operator.add]


def answer(state: Chat) -> dict[str, list[str]]:
    return {"said": ["hello"]}


def chat() -> Any:
    """A graph with a saver, which on one thread collects what is said."""
    graph = StateGraph(Chat)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=InMemorySaver())


def behind_a_function() -> Any:
    graph = chat()

    async def target(inputs: Any, config: RunnableConfig) -> Any:
        return await graph.ainvoke(inputs, config)

    return target


def behind_a_silent_function() -> Any:
    graph = chat()

    def target(inputs: Any) -> Any:
        return graph.invoke(inputs)

    return target


def in_a_sequence() -> Runnable[Any, Any]:
    return RunnableLambda(lambda inputs: inputs) | chat()


def with_retry() -> Runnable[Any, Any]:
    return chat().with_retry()  # type: ignore[no-any-return]


SAVERS = [chat, behind_a_function, behind_a_silent_function, in_a_sequence, with_retry]


def turns(outputs: dict[str, list[str]]) -> int:
    return len(outputs["said"])


@pytest.mark.parametrize("make", SAVERS)
@pytest.mark.parametrize("config", [None, {"configurable": {"thread_id": "of the job"}}])
async def test_state_does_not_leak_through_a_thread(make: Any, config: Any) -> None:
    target = make()
    for _ in range(2):
        report = await aevaluate(target, dataset=CASES, evaluators=[turns], config=config)
        assert [case.scores["turns"] for case in report.cases] == [2.0] * 4
