"""What a host may rely on when our subgraphs are its nodes: resume, savers, streams, threads."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy
from tutor import Tutor
from typing_extensions import TypedDict

from orcheo_agentensor import (
    Store,
    TextGrad,
    create_evaluation_graph,
    create_training_graph,
    evaluation_node,
    get_prompt,
    training_node,
)

KINDS = ("card", "login", "refund")
CASES = [
    {
        "id": f"{split}-{number}",
        "split": split,
        "inputs": {"kind": KINDS[number % 3]},
        "expected_output": {"answer": KINDS[number % 3]},
    }
    for split, count in (("train", 6), ("validation", 6), ("holdout", 30))
    for number in range(count)
]


class Clerk:
    """A target that handles the kinds its prompt names, and counts its rollouts."""

    def __init__(self) -> None:
        self.rollouts = 0

    async def __call__(self, inputs: dict[str, str], config: RunnableConfig) -> dict[str, str]:
        self.rollouts += 1
        known = get_prompt("skills", config).split()
        return {"answer": inputs["kind"] if inputs["kind"] in known else "unknown"}


class Release(TypedDict, total=False):
    skills: str
    score: float
    decision: str
    log: Annotated[list[str], operator.add]


def evaluation(clerk: Clerk, store: Store) -> Any:
    return create_evaluation_graph(clerk, dataset=CASES, evaluators=["exact_match"], store=store)


def training_host(clerk: Clerk, store: Store, *, inherit: bool | None = None) -> StateGraph[Any]:
    """One node that trains and asks, its subgraph compiled with this `checkpointer`."""
    graph = create_training_graph(
        clerk,
        dataset=CASES,
        evaluators=["exact_match"],
        optimizer=TextGrad(proposer=Tutor()),
        store=store,
    )
    host = StateGraph(Release)
    host.add_node(
        "train",
        training_node(
            graph.compile(checkpointer=inherit),
            map_input=lambda state: {
                "prompts": {"skills": state["skills"]},
                "stop": [{"type": "target_score", "score": 1.0}],
                "promote": "ask",
                "workflow_id": f"clerk-{state['skills']}",
                "limits": {"concurrency": 1},
            },
            map_output=lambda found: {
                "decision": found["decision"]["status"],
                "log": [found["run_id"]],
            },
        ),
    )
    host.add_edge(START, "train")
    return host


def thread(name: str = "a") -> Any:
    return {"configurable": {"thread_id": name}}


@pytest.mark.parametrize("inherit", [None, True, False])
async def test_an_answer_repeats_no_rollout_whatever_the_subgraph_inherits(
    inherit: bool | None,
) -> None:
    clerk, store = Clerk(), Store.from_url(None)
    graph = training_host(clerk, store, inherit=inherit).compile(checkpointer=InMemorySaver())
    for skills in KINDS[:2]:  # two jobs after each other on one thread
        paused = await graph.ainvoke({"skills": skills}, thread())
        assert paused["__interrupt__"][0].value["type"] == "approval"
        spent = clerk.rollouts
        final = await graph.ainvoke(Command(resume=True), thread())
        assert final["decision"] == "promoted"
        assert clerk.rollouts == spent
    assert len(set(final["log"])) == 2
    assert [run.status for run in await store.runs.list()] == ["finished", "finished"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit", None])
async def test_every_durability_pauses_and_goes_on(durability: Any) -> None:
    clerk, store = Clerk(), Store.from_url(None)
    graph = training_host(clerk, store).compile(checkpointer=InMemorySaver())
    options = {"durability": durability} if durability else {}
    paused = await graph.ainvoke({"skills": "card"}, thread(), **options)
    assert "__interrupt__" in paused
    spent = clerk.rollouts
    final = await graph.ainvoke(Command(resume=True), thread(), **options)
    assert final["decision"] == "promoted"
    assert clerk.rollouts == spent


async def test_a_node_that_is_retried_goes_on_with_its_run() -> None:
    clerk, store, failures = Clerk(), Store.from_url(None), iter([OSError("lost"), None])

    def map_output(found: dict[str, Any]) -> dict[str, Any]:
        if error := next(failures):
            raise error
        return {"score": found["summary"]["objective"]}

    host = StateGraph(Release)
    host.add_node(
        "evaluate",
        evaluation_node(
            evaluation(clerk, store),
            map_input=lambda state: {"prompts": {"skills": state["skills"]}},
            map_output=map_output,
        ),
        retry_policy=RetryPolicy(initial_interval=0.01, retry_on=OSError),
    )
    host.add_edge(START, "evaluate")
    found = await host.compile().ainvoke({"skills": "card"})
    assert found["score"] == pytest.approx(1 / 3)
    assert clerk.rollouts == len(CASES)
    assert len(await store.runs.list()) == 1


async def test_one_node_may_run_several_subgraphs() -> None:
    store = Store.from_url(None)
    graph = evaluation(Clerk(), store).compile()

    async def compare(state: Release) -> dict[str, Any]:
        both = await asyncio.gather(
            *(graph.ainvoke({"prompts": {"skills": skills}}) for skills in ("card", "card login"))
        )
        again = await graph.ainvoke({"prompts": {"skills": "card"}})
        return {"log": [f"{found['summary']['objective']:.2f}" for found in (*both, again)]}

    host = StateGraph(Release)
    host.add_node("compare", compare)
    host.add_edge(START, "compare")
    found = await host.compile(checkpointer=InMemorySaver()).ainvoke({}, thread())
    assert found["log"] == ["0.33", "0.67", "0.33"]
    assert len(await store.runs.list()) == 3


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("subgraphs", [False, True])
async def test_the_hosts_custom_stream_has_every_event_once(subgraphs: bool, nested: bool) -> None:
    clerk, store = Clerk(), Store.from_url(None)
    inner = StateGraph(Release)
    inner.add_node(
        "evaluate",
        evaluation_node(
            evaluation(clerk, store),
            map_input=lambda state: {"prompts": {"skills": state["skills"]}},
            map_output=lambda found: {"score": found["summary"]["objective"]},
        ),
    )
    inner.add_edge(START, "evaluate")
    host: Any = inner
    if nested:
        host = StateGraph(Release)
        host.add_node("around", inner.compile())
        host.add_edge(START, "around")
    heard = [
        part[1] if subgraphs else part
        async for part in host.compile().astream(
            {"skills": "card"}, stream_mode="custom", subgraphs=subgraphs
        )
    ]
    if nested and not subgraphs:  # LangGraph drops what a graph inside writes, its own nodes too
        assert heard == []
        return
    assert [event["seq"] for event in heard] == list(range(1, len(heard) + 1))
    assert [heard[0]["type"], heard[-1]["type"]] == ["run_started", "run_finished"]


async def test_namespaces_nest() -> None:
    clerk, store = Clerk(), Store.from_url(None)
    outer = StateGraph(Release)
    outer.add_node("release", training_host(clerk, store).compile())
    outer.add_edge(START, "release")
    graph = outer.compile(checkpointer=InMemorySaver())
    namespaces = {
        ns
        async for ns, _event in graph.astream(
            {"skills": "card"}, thread(), stream_mode="custom", subgraphs=True
        )
    }
    [namespace] = namespaces
    assert [part.split(":")[0] for part in namespace] == ["release", "train"]
    paused = await graph.aget_state(thread(), subgraphs=True)
    assert paused.next == ("release",)
    assert paused.tasks[0].state.tasks[0].name == "train"
    final = await graph.ainvoke(Command(resume=True), thread())
    assert final["decision"] == "promoted"
    assert len(final["log"]) == 1


async def test_reducers_of_the_host_get_each_value_once() -> None:
    class Shared(TypedDict, total=False):
        prompts: Any
        status: Annotated[list[str], lambda left, right: [*left, right]]
        log: Annotated[list[str], operator.add]

    host = StateGraph(Shared)
    host.add_node("first", evaluation(Clerk(), Store.from_url(None)).compile())
    host.add_node("second", evaluation(Clerk(), Store.from_url(None)).compile())
    host.add_edge(START, "first")
    host.add_edge("first", "second")
    found = await host.compile(checkpointer=InMemorySaver()).ainvoke(
        {"prompts": {"skills": "card"}, "log": ["begun"]}, thread()
    )
    assert found["log"] == ["begun"]
    assert found["status"] == ["finished", "finished"]


async def test_a_hosts_context_object_passes_a_compiled_subgraph_by() -> None:
    @dataclass
    class Tenant:
        name: str

    class Shared(TypedDict, total=False):
        prompts: Any
        summary: Any

    host = StateGraph(Shared, context_schema=Tenant)
    host.add_node("evaluate", evaluation(Clerk(), Store.from_url(None)).compile())
    host.add_edge(START, "evaluate")
    found = await host.compile().ainvoke({"prompts": {"skills": "card"}}, context=Tenant("acme"))
    assert found["summary"]["objective"] == pytest.approx(1 / 3)


async def test_a_second_job_on_a_thread_is_a_job_of_its_own() -> None:
    clerk, store = Clerk(), Store.from_url(None)
    graph = create_evaluation_graph(clerk, evaluators=["exact_match"], store=store).compile(
        checkpointer=InMemorySaver()
    )
    job = {"dataset": CASES, "prompts": {"skills": "card"}}
    first = await graph.ainvoke(job, thread())
    second = await graph.ainvoke({**job, "prompts": {"skills": "card login"}}, thread())
    assert first["run_id"] != second["run_id"]
    assert second["summary"]["objective"] == pytest.approx(2 / 3)
    with pytest.raises(Exception, match=r"job\.dataset"):
        await graph.ainvoke({"prompts": {"skills": "card"}}, thread())
