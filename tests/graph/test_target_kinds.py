"""Every kind of target that people have, unmodified, through one evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send

from orcheo_agentensor import ExactMatch, aevaluate, configure
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.testing import RuleChatModel

compat = pytest.mark.compat

CASES = [{"inputs": {"n": n}, "expected_output": {"doubled": 2 * n}} for n in range(3)]


class State(TypedDict, total=False):
    n: int
    doubled: int


def double(state: dict[str, Any]) -> dict[str, Any]:
    return {"doubled": 2 * state["n"]}


async def adouble(state: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return double(state)


def builder(node: Any = double) -> StateGraph[Any]:
    graph = StateGraph(State)
    graph.add_node("double", node)
    graph.add_edge(START, "double")
    return graph


def nested() -> Any:
    return builder(builder().compile()).compile()


@entrypoint(checkpointer=InMemorySaver())
async def functional(inputs: dict[str, int]) -> dict[str, int]:
    return await doubled(inputs["n"])


@task
async def doubled(n: int) -> dict[str, int]:
    return {"doubled": 2 * n}


@entrypoint()
def functional_sync(inputs: dict[str, int]) -> dict[str, int]:
    return doubled_sync(inputs["n"]).result()


@task
def doubled_sync(n: int) -> dict[str, int]:
    return {"doubled": 2 * n}


def fanned_out() -> Any:
    """A graph that sends work to its nodes, and jumps with a Command."""
    graph = StateGraph(State)
    graph.add_node("jump", lambda state: Command(goto="double"), destinations=("double",))
    graph.add_node("double", double)
    graph.add_conditional_edges(START, lambda state: [Send("jump", state)], ["jump"])
    graph.add_edge("double", END)
    return graph.compile()


class Flaky:
    """Fails once for each number, then answers."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __call__(self, inputs: dict[str, int]) -> dict[str, int]:
        if inputs["n"] not in self.seen:
            self.seen.add(inputs["n"])
            raise ConnectionError("lost")
        return double(inputs)


class Callable:
    """An object that is called."""

    async def __call__(self, inputs: dict[str, int], config: Any) -> dict[str, int]:
        return double(inputs)


def parts(inputs: dict[str, int]) -> Iterator[dict[str, int]]:
    yield {"doubled": 0}
    yield double(inputs)


async def aparts(inputs: dict[str, int]) -> AsyncIterator[dict[str, int]]:
    yield {"doubled": 0}
    yield double(inputs)


def with_factor(inputs: dict[str, int], factor: int) -> dict[str, int]:
    return {"doubled": factor * inputs["n"]}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: builder().compile(), marks=compat("targets", "graph", "compiled StateGraph")
        ),
        pytest.param(builder, marks=compat("targets", "graph", "uncompiled StateGraph")),
        pytest.param(
            lambda: builder().compile(checkpointer=InMemorySaver()),
            marks=compat("targets", "graph", "compiled with a checkpointer of its own"),
        ),
        pytest.param(
            lambda: builder(adouble).compile(), marks=compat("targets", "graph", "async nodes")
        ),
        pytest.param(nested, marks=compat("targets", "graph", "subgraphs")),
        pytest.param(fanned_out, marks=compat("targets", "graph", "Send and Command")),
        pytest.param(
            lambda: configure(builder().compile(), workflow_id="w"),
            marks=compat("targets", "graph", "configure(...)"),
        ),
        pytest.param(
            lambda: functional,
            marks=compat("targets", "functional API", "async @entrypoint, @task"),
        ),
        pytest.param(
            lambda: functional_sync,
            marks=compat("targets", "functional API", "sync @entrypoint that waits for its tasks"),
        ),
        pytest.param(
            lambda: RunnableLambda(double), marks=compat("targets", "Runnable", "RunnableLambda")
        ),
        pytest.param(
            lambda: RunnablePassthrough() | builder().compile() | RunnableLambda(dict),
            marks=compat("targets", "Runnable", "RunnableSequence around a graph"),
        ),
        pytest.param(
            lambda: RunnableParallel(doubled=lambda inputs: 2 * inputs["n"]),
            marks=compat("targets", "Runnable", "RunnableParallel"),
        ),
        pytest.param(
            lambda: RunnableLambda(Flaky()).with_retry(stop_after_attempt=2),
            marks=compat("targets", "Runnable", "with_retry"),
        ),
        pytest.param(
            lambda: RunnableLambda(Flaky()).with_fallbacks([RunnableLambda(double)]),
            marks=compat("targets", "Runnable", "with_fallbacks"),
        ),
        pytest.param(
            lambda: builder().compile().with_config(tags=["t"]),
            marks=compat("targets", "Runnable", "with_config around a graph"),
        ),
        pytest.param(lambda: double, marks=compat("targets", "function", "sync")),
        pytest.param(lambda: adouble, marks=compat("targets", "function", "async")),
        pytest.param(lambda: parts, marks=compat("targets", "function", "generator")),
        pytest.param(lambda: aparts, marks=compat("targets", "function", "async generator")),
        pytest.param(
            lambda: partial(with_factor, factor=2), marks=compat("targets", "function", "partial")
        ),
        pytest.param(Callable, marks=compat("targets", "function", "object with async __call__")),
    ],
)
async def test_a_target_of_every_kind_is_evaluated(make: Any) -> None:
    report = await aevaluate(
        make(), dataset=CASES, evaluators=["exact_match"], limits={"concurrency": 2}
    )
    assert report.objective == 1.0, report.cases[0].failure
    assert report.summary["n_ok"] == 3


def echo() -> RuleChatModel:
    return RuleChatModel(rule=lambda messages: f"You said: {messages[-1].text}")


def messages_graph() -> Any:
    model = echo()

    async def reply(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("reply", reply)
    graph.add_edge(START, "reply")
    return graph.compile()


PROMPTED = ChatPromptTemplate.from_messages([("human", "{text}")])


@pytest.mark.parametrize(
    ("make", "field"),
    [
        pytest.param(
            lambda: create_agent(model=echo(), tools=[]),
            "messages.-1.content",
            marks=compat(
                "targets",
                "agent",
                "create_agent",
                works_with="`output` of the target or `field` of the evaluator",
            ),
        ),
        pytest.param(
            messages_graph,
            "messages.-1.content",
            marks=compat(
                "targets",
                "graph",
                "MessagesState",
                works_with="`output` of the target or `field` of the evaluator",
            ),
        ),
        pytest.param(
            lambda: (
                RunnableLambda(lambda inputs: {"text": inputs["messages"][-1]["content"]})
                | PROMPTED
                | echo()
                | StrOutputParser()
            ),
            None,
            marks=compat("targets", "Runnable", "prompt | model | parser"),
        ),
    ],
)
async def test_a_conversation_is_evaluated_on_its_reply(make: Any, field: str | None) -> None:
    report = await aevaluate(
        make(),
        dataset=[
            {
                "inputs": {"messages": [{"role": "user", "content": "hi"}]},
                "expected_output": "You said: hi",
            }
        ],
        evaluators=[ExactMatch(field=field)],
    )
    assert report.objective == 1.0, report.cases[0]
    assert report.usage.calls == 1


@compat(
    "targets",
    "graph",
    "interrupt_before, interrupt_after",
    refused="the graph without static breakpoints",
)
async def test_a_graph_that_stops_before_its_end_is_refused() -> None:
    with pytest.raises(BadInput, match="double"):
        await aevaluate(
            builder().compile(checkpointer=InMemorySaver(), interrupt_before=["double"]),
            dataset=CASES,
            evaluators=["exact_match"],
        )
