"""A rollout is alone: what the target writes in one is not there in another."""

from __future__ import annotations

import asyncio
import functools
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy
from typing_extensions import TypedDict

from orcheo_agentensor import (
    Limits,
    Reflective,
    TargetScore,
    TextTensor,
    aevaluate,
    atrain,
    get_prompt,
)
from orcheo_agentensor.errors import BadInput

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


def with_retry() -> Any:
    return chat().with_retry()


SAVERS = [chat, behind_a_function, behind_a_silent_function, in_a_sequence, with_retry]


def turns(outputs: dict[str, list[str]]) -> int:
    return len(outputs["said"])


@pytest.mark.parametrize("make", SAVERS)
@pytest.mark.parametrize("config", [None, {"configurable": {"thread_id": "of the job"}}])
@pytest.mark.requirement("evaluation.isolated")
async def test_state_does_not_leak_through_a_thread(make: Any, config: Any) -> None:
    target = make()
    for _ in range(2):
        report = await aevaluate(target, dataset=CASES, evaluators=[turns], config=config)
        assert [case.scores["turns"] for case in report.cases] == [2.0] * 4


def wrapped_in_a_function(graph: Any) -> Any:
    async def target(inputs: Any) -> Any:
        return await graph.ainvoke(inputs)

    return target


class Agent:
    """Keeps a graph, as applications do."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    async def answer(self, inputs: Any, config: RunnableConfig) -> Any:
        return await self.graph.ainvoke(inputs, config)


WRAPPERS: list[Any] = [
    pytest.param(lambda graph: graph, id="graph"),
    pytest.param(wrapped_in_a_function, id="function"),
    pytest.param(lambda graph: Agent(graph).answer, id="method"),
    pytest.param(lambda graph: functools.partial(Agent.answer, Agent(graph)), id="partial"),
    pytest.param(lambda graph: RunnableLambda(lambda inputs: inputs) | graph, id="sequence"),
    pytest.param(lambda graph: graph.with_retry(), id="with_retry"),
    pytest.param(lambda graph: graph.with_config({"tags": ["x"]}), id="with_config"),
]


class Answer(TypedDict, total=False):
    n: int
    text: str


def cached(node: Any, cache: Any) -> Any:
    graph = StateGraph(Answer)
    graph.add_node("node", node, cache_policy=CachePolicy())
    graph.add_edge(START, "node")
    return graph.compile(cache=cache)


@pytest.mark.compat("targets", "graph", "nodes with a CachePolicy")
@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_a_node_cache_does_not_hand_the_answer_of_one_prompt_to_another(wrap: Any) -> None:
    async def node(state: Answer) -> Answer:
        return {"text": get_prompt("p")}

    def good(outputs: Answer) -> bool:
        return outputs["text"] == "good"

    target = wrap(cached(node, InMemoryCache()))
    for prompt, score in (("bad", 0.0), ("good", 1.0)):
        report = await aevaluate(
            target,
            dataset=[{"inputs": {"n": n}} for n in range(3)],
            evaluators=[good],
            prompts={"p": prompt},
        )
        assert report.objective == score


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_replicates_are_not_served_from_a_node_cache(wrap: Any) -> None:
    ran: list[int] = []

    async def node(state: Answer) -> Answer:
        ran.append(state["n"])
        return {"text": str(len(ran))}

    cache: InMemoryCache[Any] = InMemoryCache()
    await aevaluate(
        wrap(cached(node, cache)),
        dataset=[{"id": str(n), "inputs": {"n": n % 2}} for n in range(4)],
        evaluators=["json_valid"],
        replicates=3,
    )
    assert sorted(ran) == [0] * 6 + [1] * 6
    assert not cache._cache, "the project's own cache is left as it was"


async def test_training_finds_a_better_prompt_behind_a_node_cache() -> None:
    async def node(state: Answer) -> Answer:
        return {"text": get_prompt("p")}

    class Better:
        async def propose(self, request: Any) -> dict[str, str]:
            return {"p": "good"}

    result = await atrain(
        cached(node, InMemoryCache()),
        prompts={"p": "bad"},
        dataset=[
            {"id": f"{split}{n}", "split": split, "inputs": {"n": n}}
            for split in ("train", "validation", "holdout")
            for n in range(6)
        ],
        evaluators=[lambda outputs: float(outputs["text"] == "good")],
        optimizer=Reflective(proposer=Better()),
    )
    assert result.best.prompts["p"].text == "good"


def remembering(store: Any) -> Any:
    """A graph that answers with what it remembers of the user, and remembers what they say."""

    async def node(state: Answer, runtime: Runtime[Any]) -> Answer:
        assert runtime.store is not None
        known = await runtime.store.asearch(("user",))
        await runtime.store.aput(("user",), str(state["n"]), {"said": state["n"]})
        return {"text": " ".join(sorted(str(item.value["said"]) for item in known))}

    graph = StateGraph(Answer)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile(store=store)


NUMBERS = [{"id": str(n), "inputs": {"n": n}, "expected_output": ""} for n in range(4)]


async def told(target: Any, **arguments: Any) -> list[str]:
    """What the target knew in each case, of two evaluations."""
    found: list[str] = []
    for _ in range(2):
        report = await aevaluate(
            target,
            dataset=NUMBERS,
            evaluators=["json_valid"],
            limits=Limits(concurrency=1),
            **arguments,
        )
        assert report.objective == 1.0, report.cases
        found += [case.output["text"] for case in report.cases]
    return found


@pytest.mark.compat("targets", "graph", "compile(store=…), or a platform's store")
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("own", [True, False], ids=["own store", "platform's store"])
@pytest.mark.requirement("evaluation.isolated")
async def test_memories_stay_within_a_rollout(wrap: Any, own: bool) -> None:
    store = InMemoryStore() if own else None
    assert await told(wrap(remembering(store))) == [""] * 8
    if store is not None:
        assert store.search(("user",)) == []


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_memories_are_shared_where_the_job_says_so(wrap: Any) -> None:
    store = InMemoryStore()
    found = await told(wrap(remembering(store)), memory_store="shared")
    assert found == ["", "0", "0 1", "0 1 2"] + ["0 1 2 3"] * 4
    assert len(store.search(("user",))) == 4


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_memories_start_from_a_copy_where_the_job_says_so(wrap: Any) -> None:
    store = InMemoryStore()
    store.put(("user",), "before", {"said": 7})
    assert await told(wrap(remembering(store)), memory_store="seeded") == ["7"] * 8
    assert len(store.search(("user",))) == 1


class Elsewhere(BaseStore):
    """A store of another kind, as one in a database is."""

    def __init__(self) -> None:
        self.inner = InMemoryStore()

    def batch(self, ops: Any) -> Any:
        return self.inner.batch(ops)

    async def abatch(self, ops: Any) -> Any:
        return await self.inner.abatch(ops)


async def test_a_store_of_any_kind_can_be_copied() -> None:
    store = Elsewhere()
    store.put(("user",), "before", {"said": 7})
    assert await told(remembering(store), memory_store="seeded") == ["7"] * 8


async def test_a_search_by_meaning_works_in_a_rollouts_own_store() -> None:
    embedded: list[str] = []

    def embed(texts: Any) -> list[list[float]]:
        embedded.extend(texts)
        return [[float("cat" in text), float("dog" in text), 0.1] for text in texts]

    async def node(state: Answer, runtime: Runtime[Any]) -> Answer:
        found = await runtime.store.asearch(("facts",), query="a cat", limit=1)  # type: ignore[union-attr]
        return {"text": found[0].value["text"]}

    graph = StateGraph(Answer)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    store = InMemoryStore(index={"dims": 3, "embed": embed})
    for name in ("dog", "cat"):
        store.put(("facts",), name, {"text": f"my {name}"})
    assert await told(graph.compile(store=store), memory_store="seeded") == ["my cat"] * 8
    assert sum("my cat" in text for text in embedded) == 1, "an item is embedded once"


@pytest.mark.parametrize(
    ("mode", "target", "message"),
    [
        ("seeded", remembering(None), "needs a graph with a store"),
        ("shared", lambda inputs: inputs, "a LangGraph graph"),
        ("own", remembering(None), "'fresh', 'shared' or 'seeded'"),
    ],
)
async def test_a_memory_store_that_cannot_be_is_refused(
    mode: Any, target: Any, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        await aevaluate(target, dataset=NUMBERS, evaluators=["json_valid"], memory_store=mode)


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interrupt_before": ["review"]}, "before 'review'"),
        ({"interrupt_after": ["draft", "review"]}, "after 'draft', 'review'"),
        ({"interrupt_before": "*"}, "before every node"),
    ],
)
async def test_breakpoints_are_refused_with_their_nodes(
    wrap: Any, arguments: Any, message: str
) -> None:
    graph = StateGraph(Answer)
    graph.add_sequence([("draft", lambda state: {"text": "a"}), ("review", lambda state: state)])
    graph.add_edge(START, "draft")
    target = wrap(graph.compile(checkpointer=InMemorySaver(), **arguments))
    with pytest.raises(BadInput, match=message):
        await aevaluate(target, dataset=NUMBERS, evaluators=["json_valid"])


async def test_breakpoints_of_a_graph_inside_are_refused() -> None:
    inner = StateGraph(Answer)
    inner.add_node("review", lambda state: state)
    inner.add_edge(START, "review")
    outer = StateGraph(Answer)
    outer.add_node("inner", inner.compile(interrupt_before=["review"]))
    outer.add_edge(START, "inner")
    with pytest.raises(BadInput, match="before 'review'"):
        await aevaluate(outer, dataset=NUMBERS, evaluators=["json_valid"])


class Database:
    """A live object that has no JSON form."""

    def find(self, n: int) -> str:
        return f"row {n}"


@dataclass
class Needs:
    db: Database
    tone: str = "plain"


async def look_up(state: Answer, runtime: Runtime[Needs]) -> Answer:
    return {"text": f"{runtime.context.tone}: {runtime.context.db.find(state['n'])}"}


def with_needs() -> Any:
    graph = StateGraph(Answer, context_schema=Needs)
    graph.add_node("look_up", look_up)
    graph.add_edge(START, "look_up")
    return graph.compile()


@pytest.mark.compat(
    "targets", "graph", "context_schema with live objects", works_with="`context=` in Python"
)
@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_a_live_context_reaches_the_nodes(wrap: Any) -> None:
    report = await aevaluate(
        wrap(with_needs()),
        dataset=[{"inputs": {"n": 1}, "expected_output": {"n": 1, "text": "plain: row 1"}}],
        evaluators=["exact_match"],
        context=Needs(db=Database()),
    )
    assert report.objective == 1.0, report.cases


class Silent:
    async def propose(self, request: Any) -> dict[str, str]:
        return {}


async def test_config_and_prompts_go_over_a_live_context() -> None:
    context = Needs(db=Database())
    report = await aevaluate(
        with_needs(),
        dataset=[{"inputs": {"n": 1}, "expected_output": {"n": 1, "text": "kind: row 1"}}],
        evaluators=["exact_match"],
        config={"configurable": {"tone": "kind"}},
        context=context,
    )
    assert report.objective == 1.0
    result = await atrain(
        with_needs(),
        prompts={"tone": TextTensor(text="curt", bind="context.tone")},
        dataset=[
            {"id": f"{split}{n}", "split": split, "inputs": {"n": n}}
            for split in ("train", "validation")
            for n in range(3)
        ],
        evaluators=[lambda outputs: float(outputs["text"].startswith("curt: row"))],
        optimizer=Reflective(proposer=Silent()),
        stop=[TargetScore(1.0)],
        context=context,
    )
    assert result.best.metrics["objective"] == 1.0
    assert context == Needs(db=context.db)


async def test_a_context_that_nothing_takes_is_refused() -> None:
    with pytest.raises(BadInput, match="context_schema"):
        await aevaluate(chat(), dataset=CASES, evaluators=[turns], context=Needs(db=Database()))
    with pytest.raises(BadInput, match="requires 'db'"):
        await aevaluate(with_needs(), dataset=NUMBERS, evaluators=["json_valid"])


class Meeting:
    """Lets nobody go on before `size` callers are there at once."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)

    def wait(self) -> None:
        self._barrier.wait(timeout=20)


async def met(target: Any) -> None:
    report = await aevaluate(
        target,
        dataset=[{"id": str(n), "inputs": {"n": n}} for n in range(64)],
        evaluators=["json_valid"],
        limits=Limits(concurrency=32, retries=0),
    )
    assert report.objective == 1.0, report.cases[0]


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_sync_nodes_run_as_many_at_once_as_the_job_asks_for(wrap: Any) -> None:
    meeting = Meeting(32)

    def node(state: Answer) -> Answer:
        meeting.wait()
        return {"text": "x"}

    graph = StateGraph(Answer)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    await met(wrap(graph.compile()))


async def test_a_sync_entrypoint_can_wait_for_its_tasks() -> None:
    meeting = Meeting(32)

    @task
    def inner(n: int) -> int:
        return n + 1

    @task
    def outer(n: int) -> int:
        meeting.wait()
        return inner(n).result()

    @entrypoint()
    def flow(inputs: Any) -> list[int]:
        meeting.wait()  # now each of them holds a thread
        return [one.result() for one in [outer(inputs["n"]), inner(inputs["n"])]]

    await met(flow)


async def test_sync_functions_run_as_many_at_once_as_the_job_asks_for() -> None:
    meeting = Meeting(32)

    def target(inputs: Any) -> Any:
        meeting.wait()
        return inputs

    await met(target)


async def test_a_large_executor_of_the_loop_is_left_as_it_is() -> None:
    own = ThreadPoolExecutor(2_000, thread_name_prefix="own")
    asyncio.get_running_loop().set_default_executor(own)
    names: list[str] = []

    def node(state: Answer) -> Answer:
        names.append(threading.current_thread().name)
        return {"text": "x"}

    graph = StateGraph(Answer)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    await aevaluate(graph, dataset=NUMBERS, evaluators=["json_valid"])
    assert len(names) == 4
    assert all(name.startswith("own") for name in names)


def telltale(**options: Any) -> Any:
    """A graph that gives away what another case has left on its thread, or in its store."""

    class Memory(TypedDict, total=False):
        n: int
        seen: Annotated[list[int], operator.add]
        out: str

    def node(state: Memory) -> Any:
        left = len(state.get("seen") or [])
        if "store" in options:
            store = get_store()
            left += len(store.search(("notes",)))
            store.put(("notes",), str(state["n"]), {"n": state["n"]})
        return {"seen": [state["n"]], "out": "alone" if not left else "not alone"}

    builder = StateGraph(Memory)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(**options)


FOUR = [{"id": str(n), "inputs": {"n": n}} for n in range(4)]


async def with_thread(thread: Any, **options: Any) -> Any:
    graph = telltale(**options)

    async def target(inputs: dict[str, Any]) -> Any:
        name = thread(inputs)
        return await graph.ainvoke(inputs, {"configurable": {"thread_id": name}} if name else None)

    report = await aevaluate(
        target,
        dataset=FOUR,
        evaluators=[lambda outputs: outputs["out"] == "alone"],
        limits={"concurrency": 1},
    )
    return report.objective, [text for text in report.warnings if "names itself" in text]


async def test_a_thread_that_the_target_names_itself_is_told_where_cases_share_it() -> None:
    objective, (warning,) = await with_thread(lambda inputs: "mine", checkpointer=InMemorySaver())
    assert objective == 0.25
    assert "on the thread 'mine', which it names itself" in warning
    own = await with_thread(lambda inputs: f"t{inputs['n']}", checkpointer=InMemorySaver())
    assert own == (1.0, [])
    left_out = await with_thread(lambda inputs: None, checkpointer=InMemorySaver())
    assert left_out == (1.0, [])


async def test_a_thread_of_its_own_that_brings_the_graphs_own_store_is_told() -> None:
    objective, (_,) = await with_thread(lambda inputs: f"t{inputs['n']}", store=InMemoryStore())
    assert objective == 0.25
    assert await with_thread(lambda inputs: None, store=InMemoryStore()) == (1.0, [])


async def test_a_key_of_a_node_cache_that_reads_the_state_can_be_drawn_or_not() -> None:
    class Keyed(TypedDict, total=False):
        n: int
        out: str

    builder = StateGraph(Keyed)
    policy: Any = CachePolicy(key_func=lambda state: str(state["n"]))
    builder.add_node("node", lambda state: {"out": get_prompt("p")}, cache_policy=policy)
    builder.add_edge(START, "node")
    graph = builder.compile(cache=InMemoryCache())
    for text in ("bad", "good"):
        report = await aevaluate(
            graph,
            dataset=FOUR,
            evaluators=[lambda outputs: outputs["out"] == "good"],
            prompts={"p": text},
        )
        assert report.objective == float(text == "good")
