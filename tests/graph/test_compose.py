"""Both subgraphs inside a host graph of another shape, on savers in memory and on disk."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command
from tutor import Tutor
from typing_extensions import TypedDict

from orcheo_agentensor import (
    Store,
    TargetScore,
    TextGrad,
    create_evaluation_graph,
    create_training_graph,
    evaluation_node,
    get_prompt,
    training_node,
)
from orcheo_agentensor.errors import ConfigError

KINDS = ("refund", "card", "login", "transfer")


def make_cases(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{number}",
            "inputs": {"kind": KINDS[number % len(KINDS)], "split": split},
            "expected_output": {"answer": KINDS[number % len(KINDS)]},
            "split": split,
        }
        for number in range(count)
    ]


CASES = [*make_cases("train", 8), *make_cases("validation", 8), *make_cases("holdout", 40)]


async def clerk(inputs: dict[str, str], config: RunnableConfig) -> dict[str, str]:
    """Handles the kinds named in its prompt."""
    await asyncio.sleep(0.001)
    known = get_prompt("skills", config).split()
    return {"answer": inputs["kind"] if inputs["kind"] in known else "unknown"}


def training_graph(store: Store, target: Any = clerk) -> Any:
    return create_training_graph(
        target,
        dataset=CASES,
        evaluators=["exact_match"],
        optimizer=TextGrad(proposer=Tutor()),
        store=store,
    )


def evaluation_graph(store: Store, target: Any = clerk) -> Any:
    return create_evaluation_graph(target, dataset=CASES, evaluators=["exact_match"], store=store)


class Release(TypedDict, total=False):
    """The state of a host that releases an assistant."""

    skills: str
    promote: str
    score: float
    decision: str
    log: Annotated[list[str], operator.add]


def release_host(store: Store, target: Any = clerk) -> StateGraph[Release]:
    """Evaluate, then train, then publish."""

    async def publish(state: Release) -> dict[str, Any]:
        return {"log": [f"published: {state['decision']}"]}

    host = StateGraph(Release)
    host.add_node(
        "evaluate",
        evaluation_node(
            evaluation_graph(store, target),
            map_input=lambda state: {"prompts": {"skills": state["skills"]}},
            map_output=lambda found: {
                "score": found["summary"]["objective"],
                "log": [f"evaluated {found['summary']['cases']}"],
            },
        ),
    )
    host.add_node(
        "train",
        training_node(
            training_graph(store, target).compile(),
            map_input=lambda state: {
                "prompts": {"skills": state["skills"]},
                "promote": state.get("promote", "never"),
                "stop": [TargetScore(1.0).model_dump()],
                "workflow_id": "clerk",
                "limits": {"concurrency": 1},  # a machine standing still slows one case
            },
            map_output=lambda found: {
                "skills": found["best"]["prompts"]["skills"]["text"],
                "decision": found["decision"]["status"],
                "log": [f"trained to {found['best']['objective']}"],
            },
        ),
    )
    host.add_node("publish", publish)
    host.add_edge(START, "evaluate")
    host.add_edge("evaluate", "train")
    host.add_edge("train", "publish")
    host.add_edge("publish", END)
    return host


@pytest.fixture(params=["memory", "sqlite"])
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """A host's own checkpointer."""
    if request.param == "memory":
        yield InMemorySaver()
    else:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "host.db")) as opened:
            yield opened


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path / 'side.db'}") as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_unregistered(caplog: pytest.LogCaptureFixture) -> Any:
    """No type of ours may be stored in a way that only reads back by luck."""
    yield
    assert "unregistered type" not in caplog.text


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


@pytest.mark.requirement("door.subgraph")
async def test_a_host_of_another_shape_evaluates_trains_and_goes_on(
    saver: Any, store: Store
) -> None:
    graph = release_host(store).compile(checkpointer=saver)
    parts = [
        part
        async for part in graph.astream(
            {"skills": "card", "log": ["begun"]},
            thread("a"),
            stream_mode=["updates", "custom"],
            subgraphs=True,
        )
    ]
    final = (await graph.aget_state(thread("a"))).values
    assert final["log"] == ["begun", "evaluated 56", "trained to 1.0", "published: kept"]
    assert final["score"] == 0.25
    assert set(final["skills"].split()) == set(KINDS)
    assert set(final) == {"skills", "score", "decision", "log"}

    events = [(ns, data) for ns, mode, data in parts if mode == "custom"]
    for node in ("evaluate", "train"):
        own = [data for ns, data in events if ns and ns[0].startswith(f"{node}:")]
        assert [data["seq"] for data in own] == list(range(1, len(own) + 1))
        assert own[0]["type"] == "run_started"
        assert own[-1]["type"] == "run_finished"
        first = next(i for i, part in enumerate(parts) if part[1:] == ("custom", own[0]))
        finished = next(
            i for i, part in enumerate(parts) if part[1] == "updates" and node in part[2]
        )
        assert first < finished


async def test_events_arrive_while_cases_run(store: Store) -> None:
    gate, running = asyncio.Event(), 0

    async def gated(inputs: dict[str, str]) -> dict[str, str]:
        nonlocal running
        running += 1
        if inputs["kind"] != "card":
            await gate.wait()
        return {"answer": inputs["kind"]}

    graph = release_host(store, target=gated).compile()
    heard: list[str] = []
    async for _ns, event in graph.astream({"skills": "card"}, stream_mode="custom", subgraphs=True):
        heard.append(event["type"])
        if event["type"] == "case_finished":
            gate.set()
    assert heard[:2] == ["run_started", "case_finished"]
    assert heard.count("run_finished") == 2


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.requirement("door.subgraph")
async def test_an_interrupt_passes_through_the_host_and_is_answered(
    saver: Any, store: Store, approve: bool
) -> None:
    graph = release_host(store).compile(checkpointer=saver)
    paused = await graph.ainvoke({"skills": "card", "promote": "ask"}, thread("a"))
    [pause] = paused["__interrupt__"]
    assert pause.value["type"] == "approval"
    assert (await graph.aget_state(thread("a"))).next == ("train",)
    [train] = await store.runs.list(mode="train")
    assert train.status == "paused"
    spent = await store.runs.usage(train.run_id)

    answer = {"approve": approve, "actor": "ana", "reason": "read it"}
    final = await graph.ainvoke(Command(resume=answer), thread("a"))
    assert final["decision"] == ("promoted" if approve else "kept")
    assert final["log"][-1] == f"published: {final['decision']}"
    assert [run.status for run in await store.runs.list()] == ["finished", "finished"]
    assert await store.runs.usage(train.run_id) == spent
    assert (await store.aliases.resolve("clerk", "production") is not None) is approve


async def test_the_compiled_subgraph_is_a_node_by_itself(saver: Any, store: Store) -> None:
    class Shared(TypedDict, total=False):
        prompts: Any
        summary: Any
        status: str
        unrelated: int
        log: Annotated[list[str], operator.add]

    async def before(_state: Shared) -> dict[str, Any]:
        return {"log": ["before"], "prompts": {"skills": "card login"}}

    host = StateGraph(Shared)
    host.add_node("before", before)
    host.add_node("evaluate", evaluation_graph(store).compile())
    host.add_edge(START, "before")
    host.add_edge("before", "evaluate")
    final = await host.compile(checkpointer=saver).ainvoke(
        {"unrelated": 1, "log": ["start"]}, thread("a")
    )
    assert final["log"] == ["start", "before"]
    assert final["unrelated"] == 1
    assert final["status"] == "finished"
    assert final["summary"]["objective"] == 0.5


async def test_the_hosts_configurable_reaches_the_target_and_its_context_and_thread_do_not(
    store: Store,
) -> None:
    @dataclass
    class HostContext:
        tenant: str

    class Ticket(TypedDict, total=False):
        kind: str
        answer: str

    seen: list[Any] = []

    async def look(state: Ticket, config: RunnableConfig, runtime: Runtime[Any]) -> Ticket:
        configurable = config.get("configurable") or {}
        seen.append((runtime.context, configurable.get("tenant"), configurable.get("thread_id")))
        return {"answer": state["kind"]}

    target = StateGraph(Ticket)
    target.add_node("look", look)
    target.add_edge(START, "look")

    class State(TypedDict, total=False):
        score: float

    host = StateGraph(State, context_schema=HostContext)
    host.add_node(
        "evaluate",
        evaluation_node(
            evaluation_graph(store, target),
            map_input=lambda _state: {},
            map_output=lambda found: {"score": found["summary"]["objective"]},
        ),
    )
    host.add_edge(START, "evaluate")
    final = await host.compile(checkpointer=InMemorySaver()).ainvoke(
        {}, {"configurable": {"thread_id": "t", "tenant": "acme"}}, context=HostContext("acme")
    )
    assert final == {"score": 1.0}
    threads = {thread_id for _context, _tenant, thread_id in seen}
    assert len(threads) == len(seen) == len(CASES)
    assert "t" not in threads
    assert {(context, tenant) for context, tenant, _thread in seen} == {(None, "acme")}


async def test_two_hosts_at_once_do_not_mix(saver: Any, store: Store) -> None:
    graph = release_host(store).compile(checkpointer=saver)
    one, two = await asyncio.gather(
        graph.ainvoke({"skills": "card"}, thread("one")),
        graph.ainvoke({"skills": "card login refund transfer"}, thread("two")),
    )
    assert (one["score"], two["score"]) == (0.25, 1.0)
    assert set(one["skills"].split()) == set(two["skills"].split()) == set(KINDS)
    runs = await store.runs.list()
    assert len({run.run_id for run in runs}) == 4
    assert {run.status for run in runs} == {"finished"}


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.requirement("evaluation.live")
async def test_a_reader_who_leaves_ends_the_run_in_good_order(
    saver: Any, store: Store, how: str
) -> None:
    ran: list[str] = []

    async def counted(inputs: dict[str, str], config: RunnableConfig) -> dict[str, str]:
        ran.append(inputs["kind"])
        return await clerk(inputs, config)

    graph = release_host(store, target=counted).compile(checkpointer=saver)
    enough = asyncio.Event()

    async def read() -> None:
        parts = graph.astream({"skills": "card"}, thread("a"), stream_mode="custom", subgraphs=True)
        async with aclosing(parts):
            async for _ns, event in parts:
                if event["type"] == "training_progress":
                    enough.set()
                    if how == "close":
                        return

    reader = asyncio.create_task(read())
    await enough.wait()
    if how == "cancel":
        reader.cancel()
    await asyncio.wait([reader])

    # Between two nodes it takes some seconds to show.
    while (train := (await store.runs.list(mode="train"))[0]).status == "running":  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert train.status == "interrupted"
    lease = await store.runs.acquire(train.run_id, owner="somebody else")
    await store.runs.release(lease)

    final = await graph.ainvoke(None, thread("a"))
    assert final["log"] == ["evaluated 56", "trained to 1.0", "published: kept"]
    [finished] = await store.runs.list(mode="train")
    assert (finished.run_id, finished.status) == (train.run_id, "finished")
    total = sum([(await store.runs.usage(run.run_id)).rollouts for run in await store.runs.list()])
    # At most the rollouts in flight were run again: those that ran, or waited for their commit.
    assert total <= len(ran) <= total + 20


@pytest.mark.parametrize("make", [create_evaluation_graph, create_training_graph])
async def test_a_key_that_no_job_has_is_refused_not_dropped(make: Any) -> None:
    graph = make(clerk, dataset=CASES, evaluators=["exact_match"]).compile()
    told = r"^job\.datasett, job\.stops: no such field; known: .*dataset, evaluators"
    with pytest.raises(ConfigError, match=told):
        await graph.ainvoke({"datasett": [], "stops": []})

    class State(TypedDict, total=False):
        unrelated: int
        status: str

    host = StateGraph(State)
    host.add_node("inner", evaluation_node(graph, map_input=lambda _state: {"limit": 1}))
    host.add_edge(START, "inner")
    with pytest.raises(ConfigError, match=r"^job\.limit: no such field"):
        await host.compile().ainvoke({"unrelated": 1})
