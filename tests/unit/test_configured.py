from __future__ import annotations

import asyncio
import operator
import threading
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from orcheo_agentensor import Manifest, aevaluate, configure, serve
from orcheo_agentensor.config import RunConfig
from orcheo_agentensor.errors import ConfigError, NotFound, StoreError
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import RunRecord, Store
from orcheo_agentensor.tape import get_prompt
from orcheo_agentensor.targets.served import ServedGraph

SETTINGS = Settings(max_recursion_limit=100, max_target_concurrency=8)


class Number(TypedDict, total=False):
    """A state of one number."""

    n: int


class Numbers(Number, total=False):
    """A state of numbers."""

    seen: Annotated[list[int], operator.add]


class Spy:
    """Nodes that note the config they are given."""

    def __init__(self) -> None:
        self.configs: dict[str, list[RunnableConfig]] = {}
        self.active = self.most_active = 0
        self._lock = threading.Lock()

    def note(self, name: str, config: RunnableConfig) -> None:
        with self._lock:
            self.configs.setdefault(name, []).append(config)

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        """plain -> nested graph -> three Send tasks."""

        def plain(state: Numbers, config: RunnableConfig) -> Numbers:
            self.note("plain", config)
            return {"n": state["n"] + 1}

        def inner(state: Numbers, config: RunnableConfig) -> Numbers:
            self.note("inner", config)
            return {"n": state["n"] * 2}

        async def sent(state: Numbers, config: RunnableConfig) -> Numbers:
            self.note("sent", config)
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            await asyncio.sleep(0.005)
            self.active -= 1
            return {"seen": [state["n"]]}

        nested = StateGraph(Numbers)
        nested.add_node("inner", inner)
        nested.add_edge(START, "inner")
        graph = StateGraph(Numbers)
        graph.add_node("plain", plain)
        graph.add_node("nested", nested.compile())
        graph.add_node("sent", sent)
        graph.add_edge(START, "plain")
        graph.add_edge("plain", "nested")
        graph.add_conditional_edges(
            "nested", lambda state: [Send("sent", {"n": state["n"] + i}) for i in range(6)]
        )
        return graph


def counting(**compile_options: Any) -> Any:
    """A sync graph that adds what `configurable.by` says; negative numbers are an error."""

    def add(state: Number, config: RunnableConfig) -> Number:
        if state["n"] < 0:
            raise ValueError("negative")
        return {"n": state["n"] + config["configurable"].get("by", 1)}

    def double(state: Number) -> Number:
        return {"n": state["n"] * 2}

    graph = StateGraph(Number)
    graph.add_node("add", add)
    graph.add_node("double", double)
    graph.add_edge(START, "add")
    graph.add_edge("add", "double")
    return graph.compile(**compile_options)


class Listens(BaseCallbackHandler):
    """A live callback."""


def asking(**compile_options: Any) -> Any:
    """A graph that pauses to ask a person."""

    def ask(state: Number) -> Number:
        return {"n": state["n"] + interrupt("how many?")}

    graph = StateGraph(Number)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    return graph.compile(**compile_options)


def configured(graph: Any, **options: Any) -> ServedGraph:
    return configure(graph, workflow_id="w", settings=SETTINGS, **options)


async def runs_of(store: Store) -> list[RunRecord]:
    return await store.runs.list(workflow_id="w")


# -- Without any config ----------------------------------------------------------------------------


def comparable(config: RunnableConfig) -> dict[str, Any]:
    """A config as a node sees it, without what differs between any two runs."""
    own = {"langgraph_checkpoint_ns", "checkpoint_ns"}
    metadata = {k: v for k, v in config["metadata"].items() if k not in own}
    return {
        **{k: v for k, v in config.items() if k not in ("callbacks", "configurable", "metadata")},
        "metadata": metadata,
        "configurable": sorted(config["configurable"]),
        "handlers": [type(h) for h in config["callbacks"].handlers],  # type: ignore[union-attr]
    }


@pytest.mark.parametrize("config", [None, {}])
@pytest.mark.parametrize("with_store", [False, True])
@pytest.mark.requirement("config.unchanged")
async def test_without_a_config_nodes_see_what_they_see_in_the_bare_graph(
    config: Any, with_store: bool
) -> None:
    bare, ours = Spy(), Spy()
    expected = await bare.graph().compile().ainvoke({"n": 1}, config)
    store = Store.from_url(None) if with_store else None
    assert await configured(ours.graph(), store=store).ainvoke({"n": 1}, config) == expected
    assert bare.configs.keys() == ours.configs.keys()
    for name, seen in bare.configs.items():
        assert [comparable(c) for c in ours.configs[name]] == [comparable(c) for c in seen]


# -- The config reaches everything -----------------------------------------------------------------


@pytest.mark.requirement("config.propagated")
async def test_the_config_reaches_every_node_nested_graph_and_send_task() -> None:
    spy = Spy()
    run_id = uuid4()
    await configured(spy.graph()).ainvoke(
        {"n": 1},
        {
            "tags": ["a", "b", "a"],
            "metadata": {"team": "support"},
            "configurable": {"tone": "kind"},
            "prompts": {"answer": "Be brief."},  # type: ignore[typeddict-unknown-key]
            "recursion_limit": 40,
            "max_concurrency": 2,
            "run_name": "nightly",
            "run_id": run_id,
        },
    )
    assert {name: len(seen) for name, seen in spy.configs.items()} == {
        "plain": 1,
        "inner": 1,
        "sent": 6,
    }
    for config in [config for seen in spy.configs.values() for config in seen]:
        assert config["tags"][:2] == ["a", "b"]
        assert config["metadata"]["team"] == "support"
        assert config["configurable"]["tone"] == "kind"
        assert config["configurable"]["prompts"] == {"answer": TextTensor("Be brief.").to_json()}
        assert config["recursion_limit"] == 40
        assert config["max_concurrency"] == 2
        assert config.get("run_name") != "nightly"  # LangGraph does not hand it down
    assert spy.most_active == 2


@pytest.mark.requirement("config.propagated")
async def test_live_callbacks_reach_every_node_and_are_not_stored() -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.nodes: list[str] = []

        def on_chain_start(self, *args: Any, metadata: Any = None, **kwargs: Any) -> None:
            self.nodes.append((metadata or {}).get("langgraph_node", "root"))

    by_default, by_request, store = Listener(), Listener(), Store.from_url(None)
    graph = configured(Spy().graph(), defaults={"callbacks": [by_default]}, store=store)
    await graph.ainvoke({"n": 1}, {"callbacks": [by_request], "tags": ["t"]})
    assert {"root", "plain", "nested", "inner", "sent"} <= set(by_request.nodes)
    assert by_default.nodes == by_request.nodes
    (run,) = await runs_of(store)
    assert run.config == {"tags": ["t"]}


def test_prompts_of_the_run_are_read_with_get_prompt() -> None:
    graph = StateGraph(dict)
    graph.add_node("n", lambda _: {"text": get_prompt("answer")})
    graph.add_edge(START, "n")
    ours = configured(graph, defaults={"prompts": {"answer": "default"}})
    assert ours.invoke({})["text"] == "default"
    request: Any = {"prompts": {"answer": TextTensor("request")}}
    assert ours.invoke({}, request)["text"] == "request"


async def test_concurrent_runs_do_not_see_each_others_config() -> None:
    ours = configured(counting(), defaults={"configurable": {"by": 0}})
    outs = await asyncio.gather(
        *(ours.ainvoke({"n": 0}, {"configurable": {"by": by}}) for by in range(50))
    )
    assert [out["n"] for out in outs] == [2 * by for by in range(50)]


def test_a_node_that_changes_its_config_does_not_change_the_next_run() -> None:
    def spoil(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        before = list(config["configurable"]["list"])
        config["configurable"]["list"].append("spoilt")
        return {"list": before}

    graph = StateGraph(dict)
    graph.add_node("spoil", spoil)
    graph.add_edge(START, "spoil")
    ours = configured(graph, defaults={"configurable": {"list": ["clean"]}})
    for _ in range(2):
        assert ours.invoke({})["list"] == ["clean"]


# -- Merging and checking --------------------------------------------------------------------------


@pytest.mark.requirement("config.merged")
async def test_request_over_version_over_stored_defaults_over_defaults_then_caps() -> None:
    store = Store.from_url(None)
    await store.workflows.set_defaults(
        "w", {"configurable": {"b": "stored", "c": "stored", "d": "stored"}}, actor="me"
    )
    version = await store.checkpoints.save(
        workflow_id="w",
        runnable_config=RunConfig.parse(
            {"configurable": {"c": "version", "d": "version"}, "prompts": {"p": "trained"}}
        ).to_json(),
        metrics={},
    )
    await store.aliases.move("w", "production", to=version.config_version, actor="me", reason="")
    spy = Spy()
    ours = configured(
        spy.graph(),
        defaults={"configurable": dict.fromkeys("abcd", "default"), "prompts": {"p": "default"}},
        store=store,
    )
    request: Any = {
        "configurable": {"d": "request", "agentensor": {"use": "production"}},
        "recursion_limit": 5_000,
    }
    await ours.ainvoke({"n": 1}, request)
    (config,) = spy.configs["plain"]
    assert {k: config["configurable"][k] for k in "abcd"} == {
        "a": "default",
        "b": "stored",
        "c": "version",
        "d": "request",
    }
    assert config["configurable"]["prompts"]["p"]["text"] == "trained"
    assert config["recursion_limit"] == 100
    (run,) = await runs_of(store)
    assert run.refs == {"base_version": 1}
    assert run.config["configurable"]["c"] == "version"


async def test_a_default_may_name_the_version_to_use_and_a_request_another() -> None:
    store = Store.from_url(None)
    for by in (10, 20):
        await store.checkpoints.save(
            workflow_id="w", runnable_config={"configurable": {"by": by}}, metrics={}
        )
    ours = configured(
        counting(), defaults={"configurable": {"agentensor": {"use": 1}}}, store=store
    )
    assert (await ours.ainvoke({"n": 0}))["n"] == 20
    request: Any = {"configurable": {"agentensor": {"use": "latest"}}}
    assert (await ours.ainvoke({"n": 0}, request))["n"] == 40
    with pytest.raises(NotFound):
        await ours.ainvoke({"n": 0}, {"configurable": {"agentensor": {"use": "nope"}}})


def test_asking_for_a_version_needs_a_store() -> None:
    use: Any = {"configurable": {"agentensor": {"use": "production"}}}
    with pytest.raises(ConfigError, match="without a store"):
        configured(counting()).invoke({"n": 1}, use)
    with pytest.raises(ConfigError, match=r"defaults\.configurable\.agentensor\.use"):
        configured(counting(), defaults=use)


@pytest.mark.parametrize("with_store", [False, True])
@pytest.mark.requirement("config.validated")
async def test_a_bad_config_is_refused_before_anything_runs(with_store: bool) -> None:
    spy, store = Spy(), Store.from_url(None) if with_store else None
    ours = configured(spy.graph(), store=store)
    bad: Any = {"max_concurrency": "a", "tagz": []}

    with pytest.raises(ConfigError) as caught:
        await ours.ainvoke({"n": 1}, bad)
    assert {p["field"] for p in caught.value.problems} == {"config.max_concurrency", "config.tagz"}
    with pytest.raises(ConfigError):
        ours.invoke({"n": 1}, bad)
    with pytest.raises(ConfigError):
        list(ours.stream({"n": 1}, bad))
    with pytest.raises(ConfigError):
        [chunk async for chunk in ours.astream({"n": 1}, bad)]
    with pytest.raises(ConfigError):
        [event async for event in ours.astream_events({"n": 1}, bad, version="v2")]
    with pytest.raises(ConfigError):
        ours.batch([{"n": 1}, {"n": 2}], [{}, bad])
    with pytest.raises(ConfigError):
        await ours.abatch([{"n": 1}], bad, return_exceptions=True)
    assert spy.configs == {}
    assert store is None or await runs_of(store) == []


def test_bad_defaults_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"defaults\.tagz"):
        configured(counting(), defaults={"tagz": []})


# -- Otherwise it is the graph ---------------------------------------------------------------------

CONFIG: Any = {"configurable": {"by": 5}, "tags": ["t"]}


@pytest.mark.parametrize("with_store", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream_mode": "values"},
        {"stream_mode": ["updates", "values"], "subgraphs": True},
        {"stream_mode": "updates", "version": "v2"},
    ],
)
@pytest.mark.requirement("config.unchanged")
async def test_outputs_and_streams_are_those_of_the_graph(
    options: dict[str, Any], with_store: bool
) -> None:
    bare = counting()
    ours = configured(counting(), store=Store.from_url(None) if with_store else None)
    inputs = {"n": 1}
    assert ours.invoke(inputs, CONFIG) == bare.invoke(inputs, CONFIG) == {"n": 12}
    assert await ours.ainvoke(inputs, CONFIG) == {"n": 12}
    expected = list(bare.stream(inputs, CONFIG, **options))
    assert list(ours.stream(inputs, CONFIG, **options)) == expected
    assert [chunk async for chunk in ours.astream(inputs, CONFIG, **options)] == expected


@pytest.mark.parametrize("with_store", [False, True])
async def test_events_are_those_of_the_graph(with_store: bool) -> None:
    async def names(runnable: Any) -> list[tuple[str, str]]:
        events = runnable.astream_events({"n": 1}, CONFIG, version="v2")
        return [(event["event"], event["name"]) async for event in events]

    ours = configured(counting(), store=Store.from_url(None) if with_store else None)
    assert await names(ours) == await names(counting())


@pytest.mark.filterwarnings("ignore:Provided run_id")
@pytest.mark.parametrize("with_store", [False, True])
@pytest.mark.parametrize(
    "config", [None, CONFIG, [CONFIG, {}, {"configurable": {"by": 0}}], {"run_id": uuid4()}]
)
async def test_batches_are_those_of_the_graph(config: Any, with_store: bool) -> None:
    bare = counting()
    store = Store.from_url(None) if with_store else None
    ours = configured(counting(), store=store)
    inputs = [{"n": 1}, {"n": 2}, {"n": 3}]
    assert ours.batch(inputs, config) == bare.batch(inputs, config)
    assert await ours.abatch(inputs, config) == await bare.abatch(inputs, config)
    assert ours.batch([]) == await ours.abatch([]) == []
    mixed = await ours.abatch([{"n": 1}, {"n": -1}], return_exceptions=True)
    assert mixed[0] == {"n": 4}
    assert isinstance(mixed[1], ValueError)
    assert [type(out) for out in ours.batch([{"n": -1}], return_exceptions=True)] == [ValueError]
    with pytest.raises(ValueError, match="negative"):
        ours.batch([{"n": 1}, {"n": -1}])
    with pytest.raises(ValueError, match="negative"):
        await ours.abatch([{"n": 1}, {"n": -1}])
    if store is not None:
        statuses = [run.status for run in await runs_of(store)]
        assert len(statuses) == 13
        assert statuses.count("failed") == 4


def test_a_batch_wants_one_config_or_one_for_each_input() -> None:
    with pytest.raises(ConfigError, match="2 configs for 1 inputs"):
        configured(counting()).batch([{"n": 1}], [{}, {}])


async def test_exceptions_are_those_of_the_graph() -> None:
    ours = configured(counting(), defaults={"tags": ["t"]})
    with pytest.raises(ValueError, match="negative"):
        ours.invoke({"n": -1})
    with pytest.raises(ValueError, match="negative"):
        await ours.ainvoke({"n": -1})


@pytest.mark.parametrize("with_store", [False, True])
async def test_interrupts_and_resuming_work_as_in_the_graph(with_store: bool) -> None:
    store = Store.from_url(None) if with_store else None
    ours = configured(
        asking(checkpointer=InMemorySaver()), defaults={"metadata": {"m": 1}}, store=store
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    paused = await ours.ainvoke({"n": 1}, config)
    assert paused["__interrupt__"][0].value == "how many?"
    assert (await ours.aget_state(config)).next == ("ask",)
    assert await ours.ainvoke(Command(resume=4), config) == {"n": 5}
    if store is not None:
        assert [run.status for run in await runs_of(store)] == ["finished", "paused"]
        assert {run.thread_id for run in await runs_of(store)} == {"t"}


@pytest.mark.parametrize("mode", ["values", "updates", "custom"])
def test_a_pause_is_noticed_whatever_is_streamed(mode: str) -> None:
    store = Store.from_url(None)
    ours = configured(asking(checkpointer=InMemorySaver()), store=store)
    config: Any = {"configurable": {"thread_id": "t"}}
    list(ours.stream({"n": 1}, config, stream_mode=mode))
    assert [run.status for run in asyncio.run(runs_of(store))] == ["paused"]
    list(ours.stream(Command(resume=1), config, stream_mode=mode))
    assert [run.status for run in asyncio.run(runs_of(store))] == ["finished", "paused"]


def test_a_trusted_caller_can_travel_in_time() -> None:
    ours = configured(counting(checkpointer=InMemorySaver()), defaults={"tags": ["t"]})
    thread: Any = {"configurable": {"thread_id": UUID(int=1)}}
    assert ours.invoke({"n": 1}, thread) == {"n": 4}
    before_double = next(s for s in ours.get_state_history(thread) if s.next == ("double",))
    forked = ours.update_state(before_double.config, {"n": 10})
    assert ours.invoke(None, forked) == {"n": 20}


async def test_it_can_be_a_node_of_a_host_graph() -> None:
    spy, store = Spy(), Store.from_url(None)
    inner = configured(spy.graph(), defaults={"metadata": {"inner": True}}, store=store)
    host = StateGraph(Numbers)
    host.add_node("inner", inner)
    host.add_edge(START, "inner")
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "t", "tone": "kind"}, "tags": ["host"]}
    out = await host.compile(checkpointer=saver).ainvoke({"n": 1, "seen": []}, config)
    assert sorted(out["seen"]) == [4, 5, 6, 7, 8, 9]
    (seen,) = spy.configs["plain"]
    assert seen["metadata"]["inner"] is True
    assert seen["configurable"]["tone"] == "kind"
    assert "host" in seen["tags"]
    assert seen["metadata"]["langgraph_checkpoint_ns"].startswith("inner:")
    assert [run.status for run in await runs_of(store)] == ["finished"]


async def test_an_interrupt_inside_a_host_graph_pauses_and_resumes_the_host() -> None:
    store = Store.from_url(None)
    host = StateGraph(Numbers)
    host.add_node("inner", configured(asking(), defaults={"tags": ["t"]}, store=store))
    host.add_edge(START, "inner")
    graph = host.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    assert "__interrupt__" in await graph.ainvoke({"n": 1}, config)
    assert (await graph.ainvoke(Command(resume=2), config))["n"] == 3
    assert [run.status for run in await runs_of(store)] == ["finished", "paused"]


def test_what_is_not_about_running_is_the_graphs_own() -> None:
    graph = counting(checkpointer=InMemorySaver(), name="counter")
    ours = configured(graph)
    assert ours.checkpointer is graph.checkpointer
    assert ours.get_name() == ours.name == "counter"
    assert ours.get_graph().to_json() == graph.get_graph().to_json()
    assert ours.get_input_jsonschema() == graph.get_input_jsonschema()
    assert ours.get_output_jsonschema() == graph.get_output_jsonschema()
    with pytest.raises(AttributeError):
        ours.no_such_thing  # noqa: B018


def test_it_composes_as_any_runnable() -> None:
    ours = configured(counting(), defaults={"configurable": {"by": 3}})
    assert (ours | (lambda out: out["n"])).invoke({"n": 1}) == 8
    assert ours.with_config({"configurable": {"by": 4}}).invoke({"n": 1}) == {"n": 10}


def test_an_uncompiled_graph_is_compiled_once() -> None:
    graph = Spy().graph()
    ours = configured(graph)
    assert isinstance(ours, CompiledStateGraph)
    assert ours.builder is graph


async def test_a_functional_workflow_is_served_as_it_is() -> None:
    @entrypoint(checkpointer=InMemorySaver())
    def add(n: int, *, previous: Any = None, config: RunnableConfig) -> int:
        return n + (previous or 0) + int(config["configurable"]["by"])

    store = Store.from_url(None)
    ours = configured(add, defaults={"configurable": {"by": 100}}, store=store)
    thread: Any = {"configurable": {"thread_id": "t"}}
    assert [await ours.ainvoke(1, thread), ours.invoke(2, thread)] == [101, 203]
    assert ours.get_state(thread).values == 203
    assert ours.get_input_jsonschema() == add.get_input_jsonschema()
    assert ours.get_output_jsonschema() == add.get_output_jsonschema()
    assert [run.status for run in await runs_of(store)] == ["finished"] * 2


@pytest.mark.parametrize("given", ["a", None, {}, [1], 0])
async def test_a_runnable_that_is_no_graph_becomes_one(given: Any) -> None:
    store = Store.from_url(None)
    heard: list[Any] = []

    def note(value: Any, config: RunnableConfig) -> Any:
        heard.append((value, get_prompt("tone"), config["configurable"]["by"]))
        return value

    ours = configured(RunnableLambda(note), defaults={"prompts": {"tone": "Kindly."}}, store=store)
    config: Any = {"configurable": {"by": 3}}
    assert ours.invoke(given, config) == await ours.ainvoke(given, config) == given
    assert ours.batch([given, given], config) == [given, given]
    assert heard == [(given, "Kindly.", 3)] * 4
    assert ours.get_name() == "note"
    assert list(ours.nodes) == ["note"]
    assert [run.status for run in await runs_of(store)] == ["finished"] * 4


def test_outputs_are_models_of_the_state_where_the_graphs_are() -> None:
    class Model(BaseModel):
        n: int = 0

    graph = StateGraph(Model)
    graph.add_node("add", lambda state: {"n": state.n + 1})
    graph.add_edge(START, "add")
    for ours in (configured(graph), configured(graph).copy(), configured(graph.compile())):
        assert ours.invoke({"n": 1}, version="v2").value == Model(n=2)


async def test_a_configured_graph_can_be_configured_again() -> None:
    spy, store = Spy(), Store.from_url(None)
    inner = configured(spy.graph(), defaults={"tags": ["inner"]}, store=store)
    outer = configure(inner, workflow_id="outer", defaults={"tags": ["outer"]}, store=store)
    await outer.ainvoke({"n": 1})
    (config,) = spy.configs["plain"]
    assert {"inner", "outer"} <= set(config["tags"] or [])
    tags = {run.workflow_id: (run.config or {})["tags"] for run in await store.runs.list()}
    assert tags == {"w": ["inner", "outer"], "outer": ["outer"]}


def test_a_host_sees_the_graph_in_it() -> None:
    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "t"}}
    host = StateGraph(Number)
    host.add_node("inner", configured(asking(), defaults={"tags": ["t"]}))
    host.add_edge(START, "inner")
    graph: Any = host.compile(checkpointer=saver)
    assert [name for name, _graph in graph.get_subgraphs()] == ["inner"]
    assert "ask" in graph.get_graph(xray=True).draw_mermaid()
    graph.invoke({"n": 1}, thread)
    (task,) = graph.get_state(thread, subgraphs=True).tasks
    assert task.state.next == ("ask",)
    parts = list(graph.stream(Command(resume=2), thread, subgraphs=True))
    assert [[*update] for _namespace, update in parts] == [["ask"], ["inner"]]


@pytest.mark.parametrize("called", [False, True])
async def test_a_call_in_a_host_is_recorded_with_what_it_inherits(called: bool) -> None:
    spy, store = Spy(), Store.from_url(None)
    inner = configured(spy.graph(), store=store)

    async def call(state: Numbers) -> Numbers:
        found: Numbers = await inner.ainvoke(state)
        return found

    host = StateGraph(Numbers)
    host.add_node("inner", call if called else inner)
    host.add_edge(START, "inner")
    config: Any = {"configurable": {"tone": "kind"}, "tags": ["host"], "recursion_limit": 50}
    live = {**config, "configurable": {"tone": "kind", "live": object()}} if called else config
    await host.compile().ainvoke({"n": 1}, live)
    (seen,) = spy.configs["plain"]
    (run,) = await runs_of(store)
    stored = run.config or {}
    assert seen["configurable"]["tone"] == stored["configurable"]["tone"] == "kind"
    assert ("live" in seen["configurable"]) is called
    assert "live" not in stored["configurable"]
    assert "host" in stored["tags"]
    assert seen["recursion_limit"] == stored["recursion_limit"] == 50


async def test_a_call_with_a_thread_of_its_own_inherits_nothing() -> None:
    spy, store = Spy(), Store.from_url(None)
    inner = configured(spy.graph(), store=store)

    async def call(state: Numbers) -> Numbers:
        found: Numbers = await inner.ainvoke(state, {"configurable": {"thread_id": "own"}})
        return found

    host = StateGraph(Numbers)
    host.add_node("call", call)
    host.add_edge(START, "call")
    await host.compile().ainvoke({"n": 1}, {"configurable": {"tone": "kind"}})
    (seen,) = spy.configs["plain"]
    assert "tone" not in seen["configurable"]
    (run,) = await runs_of(store)
    assert run.config == {"configurable": {"thread_id": "own"}}


@dataclass
class Voice:
    """A context schema."""

    tone: str = "plain"
    model: str = "small"


def speaking() -> StateGraph[Any, Any, Any, Any]:
    """A graph that says what its context holds."""

    def speak(state: dict[str, Any], runtime: Runtime[Voice]) -> dict[str, Any]:
        return vars(runtime.context)

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(dict, context_schema=Voice)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    return graph


async def test_a_context_as_a_server_gives_it_has_beneath_it_what_the_config_says() -> None:
    store = Store.from_url(None)
    await store.workflows.set_defaults("w", {"configurable": {"model": "large"}}, actor="t")
    ours = serve(
        speaking(), workflow_id="w", store=store, settings=Settings(runnable_config_enabled=True)
    )
    from_server: Any = {"configurable": {"assistant_id": "a", "graph_id": "w"}}
    assert await ours.ainvoke({}, from_server, context={}) == {"tone": "plain", "model": "large"}
    given = await ours.ainvoke({}, from_server, context={"tone": "kind", "model": "tiny"})
    assert given == {"tone": "kind", "model": "tiny"}
    assert ours.invoke({}, context=Voice("own")) == {"tone": "own", "model": "small"}
    prompt = {"text": "bound", "bind": "context.tone"}
    bound: Any = {"prompts": {"tone": prompt}}
    assert ours.invoke({}, bound, context=Voice("own")) == {"tone": "bound", "model": "small"}


async def test_a_server_is_told_of_no_version_but_the_one_it_asks_for() -> None:
    store = Store.from_url(None)
    await store.checkpoints.save(workflow_id="secret", runnable_config={}, metrics={})
    ours = configured(counting(), store=store)
    use: Any = {"agentensor": {"use": "nope"}}
    with pytest.raises(ConfigError, match="'nope' is no stored version or alias of 'w'"):
        await ours.ainvoke({}, {"configurable": {**use, "assistant_id": "a", "graph_id": "w"}})
    with pytest.raises(NotFound, match="secret"):
        await ours.ainvoke({}, {"configurable": use})


async def test_a_limit_that_a_server_sets_is_beneath_those_of_the_workflow() -> None:
    spy = Spy()
    ours = configured(spy.graph(), defaults={"recursion_limit": 40})
    by_server: Any = {"configurable": {"assistant_id": "a", "graph_id": "w"}, "recursion_limit": 25}
    await ours.ainvoke({"n": 1}, by_server)
    await configured(spy.graph()).ainvoke({"n": 1}, by_server)
    await ours.ainvoke({"n": 1}, {"recursion_limit": 30})
    assert [seen["recursion_limit"] for seen in spy.configs["plain"]] == [40, 25, 30]


@pytest.mark.parametrize("form", ["compiled", "uncompiled"])
async def test_a_served_graph_whose_flag_is_off_is_the_bare_graph(form: str) -> None:
    bare, spy, store = Spy(), Spy(), Store.from_url(None)
    graph = spy.graph()
    ours = serve(
        graph.compile() if form == "compiled" else graph,
        workflow_id="w",
        store=store,
        settings=Settings(runnable_config_enabled=False),
    )
    assert ours.get_name() == "w"
    config: Any = {"tags": ["t"], "configurable": {"top": 3}}
    expected = await bare.graph().compile().ainvoke({"n": 1}, config)
    assert await ours.ainvoke({"n": 1}, config) == expected
    assert await ours.abatch([{"n": 1}], config) == [expected]
    assert comparable(spy.configs["plain"][0]) == comparable(bare.configs["plain"][0])
    assert await runs_of(store) == []
    use: Any = {"configurable": {"agentensor": {"use": "nope"}}}
    with pytest.raises(ConfigError, match="runnable_config_enabled is off for 'w'"):
        await ours.ainvoke({"n": 1}, use)
    await store.workflows.set_flags("w", {"runnable_config_enabled": True})
    with pytest.raises(NotFound):
        await ours.ainvoke({"n": 1}, use)


async def test_a_version_may_be_asked_for_before_there_is_one() -> None:
    store = Store.from_url(None)
    ours = configured(counting(), store=store)

    def asking(**use: Any) -> Any:
        return {"configurable": {"agentensor": {"use": use}}}

    first = asking(alias="production", otherwise="baseline")
    bare = await counting().ainvoke({"n": 1})
    assert await ours.ainvoke({"n": 1}, first) == bare
    with pytest.raises(NotFound, match="no versions"):
        await ours.ainvoke({"n": 1}, asking(alias="production", otherwise="best"))
    await store.checkpoints.save(
        workflow_id="w",
        runnable_config={"configurable": {"by": 5}},
        metrics={"objective": 1.0, "complete": True},
    )
    await ours.ainvoke({"n": 1}, asking(alias="production", otherwise="best"))
    assert await ours.ainvoke({"n": 1}, first) == bare
    await store.aliases.move("w", "production", to=1, actor="a", reason="r")
    await ours.ainvoke({"n": 1}, first)
    versions = [run.refs.get("base_version") for run in await runs_of(store)]
    assert sorted(versions, key=str) == [1, 1, None, None]
    for wrong in ({"alias": "production"}, {"alias": "production", "otherwise": None}):
        with pytest.raises(ConfigError, match=r"agentensor\.use.* must be an alias"):
            await ours.ainvoke({"n": 1}, asking(**wrong))


# -- Records ---------------------------------------------------------------------------------------


@pytest.mark.requirement("config.recorded")
async def test_a_finished_run_is_recorded_with_its_config() -> None:
    store = Store.from_url(None)
    run_id = uuid4()
    config: Any = {"configurable": {"by": 2, "api_key": "hush"}, "tags": ["t"], "run_id": run_id}
    await configured(counting(), store=store).ainvoke({"n": 1}, config)
    (run,) = await runs_of(store)
    assert (run.mode, run.status, run.error) == ("run", "finished", None)
    assert run.config == {
        "tags": ["t"],
        "configurable": {"by": 2, "api_key": "[redacted]"},
        "run_id": str(run_id),
    }
    assert run.refs == {"trace_id": str(run_id)}
    assert run.ended_at is not None


@pytest.mark.requirement("audit.manifest")
async def test_a_run_keeps_a_manifest_with_its_graph_the_origin_of_its_config_and_its_thread() -> (
    None
):
    store, saver = Store.from_url(None), InMemorySaver()
    await store.workflows.set_defaults("w", {"configurable": {"by": 3}}, actor="t")
    ours = configured(counting(checkpointer=saver), store=store)
    config: Any = {"configurable": {"thread_id": "a", "api_key": "hush"}, "callbacks": [Listens()]}
    await ours.ainvoke({"n": 1}, config)
    ours.invoke({"n": 1}, {"configurable": {"thread_id": "b"}})
    asynchronous, synchronous = reversed(
        [Manifest.parse(await store.runs.manifest(run.run_id)) for run in await runs_of(store)]
    )
    assert asynchronous.mode == synchronous.mode == "run"
    assert asynchronous.config.sources == {
        "configurable.by": "default",
        "configurable.thread_id": "request",
        "configurable.api_key": "request",
    }
    assert asynchronous.config.resolved["configurable"]["api_key"] == "[redacted]"
    assert asynchronous.config.defaults_version == 1
    [live] = asynchronous.config.callbacks
    assert (live.type, live.module) == ("Listens", __name__)
    for found, thread in ((asynchronous, "a"), (synchronous, "b")):
        at = ours.get_state({"configurable": {"thread_id": thread}}).config["configurable"]
        assert found.checkpoints.langgraph == {
            "thread_id": thread,
            "checkpoint_ns": "",
            "last_checkpoint_id": at["checkpoint_id"],
        }
    report = await aevaluate(counting(), dataset=[{"inputs": {"n": 1}}], evaluators=["json_valid"])
    evaluated = Manifest.parse(report.manifest)
    assert evaluated.target == asynchronous.target == synchronous.target
    assert asynchronous.target.graph is not None
    assert asynchronous.environment is not None
    assert "langgraph" in asynchronous.environment.packages


async def test_a_rollout_has_the_manifest_of_its_job() -> None:
    store = Store.from_url(None)
    ours = configured(counting(), store=store)
    report = await aevaluate(
        ours, dataset=[{"inputs": {"n": 1}}], evaluators=["json_valid"], store=store, run_id="job"
    )
    assert report.coverage == 1
    [rollout] = await store.runs.list(mode="run")
    with pytest.raises(NotFound, match="it is a rollout of run 'job', whose manifest"):
        await store.runs.manifest(rollout.run_id)


async def test_a_failed_run_is_recorded_with_its_error_and_no_secret() -> None:
    def fail(state: Any) -> Any:
        raise ConnectionError("postgresql://me:hush@host is down")

    graph = StateGraph(dict)
    graph.add_node("fail", fail)
    graph.add_edge(START, "fail")
    store = Store.from_url(None)
    with pytest.raises(ConnectionError):
        await configured(graph, store=store).ainvoke({})
    (run,) = await runs_of(store)
    assert run.status == "failed"
    assert run.error == "ConnectionError('postgresql://me:[redacted]@host is down')"


async def test_a_stream_left_early_and_a_cancelled_run_are_interrupted() -> None:
    store = Store.from_url(None)
    ours = configured(counting(), store=store)
    async for _ in (stream := ours.astream({"n": 1})):
        break
    await stream.aclose()  # type: ignore[attr-defined]
    chunks = ours.stream({"n": 1})
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]

    begun = asyncio.Event()

    async def slow(state: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    graph = StateGraph(dict)
    graph.add_node("slow", slow)
    graph.add_edge(START, "slow")
    running = asyncio.ensure_future(configured(graph, store=store).ainvoke({}))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [run.status for run in await runs_of(store)] == ["interrupted"] * 3


async def test_sync_calls_are_recorded_inside_a_running_loop_too() -> None:
    store = Store.from_url(None)
    assert configured(counting(), store=store).invoke({"n": 1}) == {"n": 4}
    assert [run.status for run in await runs_of(store)] == ["finished"]


def test_a_store_may_be_named_by_its_url(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    configured(counting(), store=url).invoke({"n": 1})
    assert len(asyncio.run(runs_of(Store.from_url(url)))) == 1


async def test_a_run_outlives_trouble_with_its_record(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.from_url(None)

    async def update(*args: Any, **kwargs: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(store.runs, "update", update)
    assert await configured(counting(), store=store).ainvoke({"n": 1}) == {"n": 4}
    assert "could not be stored: disk full" in caplog.text
