"""Per-node overrides: they reach the node they name, and what cannot be followed is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import Store, configure
from orcheo_agentensor.config import RunConfig, overridden_model
from orcheo_agentensor.errors import ConfigError, RunFailed
from orcheo_agentensor.nodes import AgentNode, State


class Seen(TypedDict, total=False):
    one: dict[str, Any]
    two: dict[str, Any]


class Warm(FakeListChatModel):
    """A simulated chat model with a temperature."""

    temperature: float = 0.7


def two_nodes() -> StateGraph[Seen]:
    """Each node notes the config it saw."""

    def seen(config: RunnableConfig) -> dict[str, Any]:
        metadata = config.get("metadata") or {}
        return {
            "tags": [tag for tag in config.get("tags") or [] if not tag.startswith("graph:")],
            "team": metadata.get("team"),
            "model": config["configurable"].get("model"),
            "temperature": overridden_model(Warm(responses=["x"]), config).temperature,  # type: ignore[attr-defined]
        }

    async def one(state: Seen, config: RunnableConfig) -> Seen:
        return {"one": seen(config)}

    async def two(state: Seen, config: RunnableConfig) -> Seen:
        await asyncio.sleep(0.01)
        return {"two": seen(config)}

    graph = StateGraph(Seen)
    graph.add_node("one", one, metadata={"overrides": ["temperature"]})
    graph.add_node("two", two)
    graph.add_edge(START, "one")
    graph.add_node("deaf", lambda state: {})
    graph.add_edge("one", "two")
    graph.add_edge("two", "deaf")
    graph.add_edge("deaf", END)
    return graph


def overriding(**nodes: Any) -> Any:
    return {"configurable": {"node_overrides": nodes}}


@pytest.mark.requirement("config.overrides")
async def test_an_override_reaches_its_node_and_no_other() -> None:
    graph = configure(two_nodes(), workflow_id="two")
    override = {"tags": ["hot"], "metadata": {"team": "red"}, "temperature": 0.1}
    found = await graph.ainvoke({}, overriding(one=override))
    assert found["one"] == {"tags": ["hot"], "team": "red", "model": None, "temperature": 0.1}
    assert found["two"] == {"tags": [], "team": None, "model": None, "temperature": 0.7}
    streamed = [part async for part in graph.astream({}, overriding(one=override))]
    assert streamed[0]["one"]["one"]["tags"] == ["hot"]
    [batched] = await graph.abatch([{}], overriding(one=override))
    assert batched["one"]["team"] == "red"


async def test_an_override_reaches_a_node_of_a_graph_that_is_a_node() -> None:
    outer = StateGraph(Seen)
    outer.add_node("inner", two_nodes().compile())
    outer.add_edge(START, "inner")
    graph = configure(outer, workflow_id="outer")
    config = overriding(**{"inner|one": {"tags": ["hot"], "temperature": 0.1}})
    found = await graph.ainvoke({}, config)
    assert found["one"] == {"tags": ["hot"], "team": None, "model": None, "temperature": 0.1}
    assert found["two"] == {"tags": [], "team": None, "model": None, "temperature": 0.7}
    parts = [part async for part in graph.astream({}, config, subgraphs=True)]
    assert [[*update] for _namespace, update in parts] == [["one"], ["two"], ["deaf"], ["inner"]]
    with pytest.raises(RunFailed, match="node 'two' took longer"):
        await graph.ainvoke({}, overriding(**{"inner|two": {"timeout": 0.001}}))


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare host", "configured host"])
async def test_a_configured_graph_in_a_host_follows_its_own_and_the_hosts(wrapped: bool) -> None:
    store = Store.from_url(None)
    inner = configure(
        two_nodes(),
        workflow_id="inner",
        defaults=overriding(one={"tags": ["own"]}, two={"metadata": {"team": "own"}}),
        store=store,
    )
    outer = StateGraph(Seen)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    graph = configure(outer, workflow_id="outer") if wrapped else outer.compile()
    found = await graph.ainvoke({}, overriding(**{"inner|one": {"temperature": 0.1}}))
    assert found["one"] == {"tags": ["own"], "team": None, "model": None, "temperature": 0.1}
    assert found["two"] == {"tags": [], "team": "own", "model": None, "temperature": 0.7}
    [run] = await store.runs.list(workflow_id="inner")
    assert (run.config or {})["configurable"]["node_overrides"] == {
        "one": {"tags": ["own"], "temperature": 0.1},
        "two": {"metadata": {"team": "own"}},
    }
    with pytest.raises(ConfigError, match="is not a node of the workflow"):
        await graph.ainvoke({}, overriding(**{"inner|three": {"temperature": 0.1}}))


async def test_a_graph_that_a_node_calls_itself_is_out_of_reach() -> None:
    inner = two_nodes().compile()

    async def call(state: Seen) -> Any:
        return await inner.ainvoke({})

    outer = StateGraph(Seen)
    outer.add_node("call", call)
    outer.add_edge(START, "call")
    with pytest.raises(ConfigError, match="called by a node, not a node itself"):
        await configure(outer, workflow_id="outer").ainvoke(
            {}, overriding(**{"call|two": {"tags": ["hot"]}})
        )


async def test_a_node_that_takes_the_config_finds_its_own_model_there() -> None:
    heard: dict[str, Any] = {}

    def asking(name: str) -> Any:
        async def node(state: Seen, config: RunnableConfig) -> Seen:
            heard[name] = config["configurable"]["model"]
            return {}

        return node

    graph = StateGraph(Seen)
    graph.add_sequence([("one", asking("one")), ("two", asking("two"))])
    graph.add_edge(START, "one")
    config = overriding(two={"model": "fake:other"})
    config["configurable"]["model"] = "fake:usual"
    await configure(graph, workflow_id="asking").ainvoke({}, config)
    assert heard == {"one": "fake:usual", "two": "fake:other"}


async def test_an_override_reaches_a_model_that_the_node_calls_without_the_config() -> None:
    heard: list[tuple[str, bool, Any]] = []

    class Listening(AsyncCallbackHandler):
        async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            metadata = kwargs["metadata"]
            tagged = "hot" in kwargs["tags"]
            heard.append((metadata["langgraph_node"], tagged, metadata.get("team")))

    model = FakeListChatModel(responses=["x"])

    async def call(state: Seen) -> Seen:
        await model.ainvoke("hello")
        return {}

    bare = StateGraph(Seen)
    bare.add_node("one", call)
    bare.add_node("two", call)
    bare.add_edge(START, "one")
    bare.add_edge("one", "two")
    config = overriding(one={"tags": ["hot"], "metadata": {"team": "red"}})
    graph = configure(bare, workflow_id="two")
    await graph.ainvoke({}, {**config, "callbacks": [Listening()]})
    assert heard == [("one", True, "red"), ("two", False, None)]


async def test_a_node_that_takes_too_long_fails_by_name() -> None:
    graph = configure(two_nodes(), workflow_id="two")
    with pytest.raises(RunFailed, match="node 'two' took longer"):
        await graph.ainvoke({}, overriding(two={"timeout": 0.001}))
    assert await graph.ainvoke({}, overriding(two={"timeout": 60}))


@pytest.mark.parametrize(
    ("nodes", "field", "rule"),
    [
        ({"three": {"timeout": 1}}, "node_overrides.three", "its nodes: one, two, deaf"),
        ({"deaf": {"temperature": 0}}, "node_overrides.deaf.temperature", "does not look for it"),
        ({"one": {"model": "x:y"}}, "node_overrides.one.model", "does not look for it"),
    ],
)
@pytest.mark.requirement("config.overrides")
async def test_what_cannot_be_followed_is_refused(
    nodes: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await configure(two_nodes(), workflow_id="two").ainvoke({}, overriding(**nodes))
    assert str(caught.value.field).endswith(field)
    assert rule in str(caught.value.rule)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("fast", "node_overrides.one"),
        ({"colour": "red"}, "node_overrides.one.colour"),
        ({"temperature": "hot"}, "node_overrides.one.temperature"),
        ({"temperature": -1}, "node_overrides.one.temperature"),
        ({"temperature": True}, "node_overrides.one.temperature"),
        ({"timeout": 0}, "node_overrides.one.timeout"),
        ({"tags": "hot"}, "node_overrides.one.tags"),
        ({"metadata": []}, "node_overrides.one.metadata"),
        ({"model": "no such thing!"}, "node_overrides.one.model"),
    ],
)
def test_the_shape_is_checked(override: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(overriding(one=override))
    assert str(caught.value.field) == f"config.configurable.{field}"


async def test_a_template_node_follows_by_itself() -> None:
    model = Warm(responses=["yes"])
    heard: list[float] = []

    class Listening(Warm):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            heard.append(self.temperature)
            return "yes"

    graph = StateGraph(State)
    graph.add_node("first", AgentNode(name="first", model=Listening(responses=["x"])))
    graph.add_node("second", AgentNode(name="second", model=Listening(responses=["x"])))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    await graph.compile().ainvoke(
        {"messages": ["hello"]},
        overriding(second={"temperature": 0.0}),
    )
    assert heard == [model.temperature, 0.0]
