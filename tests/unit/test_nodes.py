from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel, Field, ValidationError

from orcheo_agentensor.errors import BadInput, NotFound, TemplateError
from orcheo_agentensor.nodes import (
    NodeMetadata,
    NodeRegistry,
    State,
    TaskNode,
    register_node,
    registry,
)
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.tape import record_tape


class Say(TaskNode):
    """Gives its text back."""

    text: str | TextTensor
    parts: list[Any] = Field(default_factory=list)

    async def run(self, state: Mapping[str, Any], config: RunnableConfig) -> Any:
        """The text and the parts, as they are by now."""
        await asyncio.sleep(0)
        return {"text": str(self.text), "parts": self.parts}


class Box(BaseModel):
    """A model inside a node's field."""

    label: str


def workflow(*nodes: TaskNode) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(State)
    last = START
    for node in nodes:
        graph.add_node(node.name, node)
        graph.add_edge(last, node.name)
        last = node.name
    graph.add_edge(last, END)
    return graph


PROMPTS = {"configurable": {"prompts": {"tone": TextTensor("Be kind.").to_json()}}}


async def test_a_node_reads_prompts_inputs_and_earlier_results() -> None:
    graph = workflow(
        Say(name="first", text="{{config.prompts.tone}} Hello {{inputs.name}}."),
        Say(name="second", text="<{{results.first.text}}>", parts=["{{inputs}}"]),
    ).compile()
    out = await graph.ainvoke({"inputs": {"name": "Ada"}}, PROMPTS)
    assert out["results"] == {
        "first": {"text": "Be kind. Hello Ada.", "parts": []},
        "second": {"text": "<Be kind. Hello Ada.>", "parts": [{"name": "Ada"}]},
    }


async def test_prompts_in_the_state_come_before_those_in_the_runnable_config() -> None:
    node = Say(name="n", text="{{config.prompts.tone}} {{config.prompts.other}}")
    config: RunnableConfig = {"configurable": {"prompts": {"tone": "config", "other": "config"}}}
    out = await workflow(node).compile().ainvoke({"config": {"prompts": {"tone": "state"}}}, config)
    assert out["results"]["n"]["text"] == "state config"


async def test_the_rest_of_the_state_config_can_be_referred_to() -> None:
    node = Say(name="n", text="{{config.metadata.team}}")
    out = await workflow(node).compile().ainvoke({"config": {"metadata": {"team": "support"}}})
    assert out["results"]["n"]["text"] == "support"


async def test_a_prompt_that_is_not_there_is_an_error_with_what_is() -> None:
    graph = workflow(Say(name="n", text="{{config.prompts.tune}}")).compile()
    with pytest.raises(TemplateError, match="which has tone"):
        await graph.ainvoke({"inputs": {}}, PROMPTS)


async def test_nothing_is_resolved_into_the_node_itself() -> None:
    node = Say(
        name="n", text="{{inputs.x}}", parts=[Box(label="{{inputs.x}}"), {"k": ["{{inputs.x}}"]}]
    )
    before = node.model_dump()
    graph = workflow(node).compile()
    for x in ("1", "2"):
        out = await graph.ainvoke({"inputs": {"x": x}})
        assert out["results"]["n"] == {"text": x, "parts": [Box(label=x), {"k": [x]}]}
    assert node.model_dump() == before


def test_decoding_gives_a_copy_with_plain_values() -> None:
    node = Say(name="n", text="{{config.prompts.tone}}")
    decoded = node.decode_variables({"config": {"prompts": {"tone": TextTensor("T")}}})
    assert decoded.text == TextTensor("T")
    assert node.text == "{{config.prompts.tone}}"
    plain = Say(name="n", text="no template")
    assert plain.decode_variables({}) is not plain


async def test_one_node_may_run_many_times_at_once() -> None:
    graph = workflow(Say(name="n", text="{{inputs.i}}!")).compile()
    outs = await asyncio.gather(*(graph.ainvoke({"inputs": {"i": str(i)}}) for i in range(50)))
    assert [out["results"]["n"]["text"] for out in outs] == [f"{i}!" for i in range(50)]


async def test_a_templated_name_keeps_every_output_of_a_fan_out() -> None:
    graph = StateGraph(State)
    graph.add_node("grade", Say(name="grade_{{inputs.id}}", text="{{config.prompts.tone}}"))
    graph.add_conditional_edges(
        START, lambda state: [Send("grade", {"inputs": {"id": i}}) for i in state["inputs"]["ids"]]
    )
    out = await graph.compile().ainvoke({"inputs": {"ids": [1, 2, 3]}}, PROMPTS)
    assert sorted(out["results"]) == ["grade_1", "grade_2", "grade_3"]
    assert out["results"]["grade_2"]["text"] == "Be kind."


async def test_nested_subgraphs_see_the_prompts_of_the_run() -> None:
    inner = workflow(Say(name="inner", text="{{config.prompts.tone}}")).compile()
    middle = StateGraph(State)
    middle.add_node("inner_graph", inner)
    middle.add_edge(START, "inner_graph")
    outer = StateGraph(State)
    outer.add_node("middle", middle.compile())
    outer.add_edge(START, "middle")
    out = await outer.compile(checkpointer=InMemorySaver()).ainvoke(
        {"inputs": {}}, {"configurable": {**PROMPTS["configurable"], "thread_id": "1"}}
    )
    assert out["results"]["inner"]["text"] == "Be kind."


async def test_a_node_fits_a_host_whose_state_has_more_keys() -> None:
    class HostState(State):
        ticket: str

    graph = StateGraph(HostState)
    graph.add_node("n", Say(name="n", text="{{ticket}} {{inputs.x}}"))
    graph.add_edge(START, "n")
    out = await graph.compile().ainvoke({"ticket": "T1", "inputs": {"x": 1}})
    assert out["results"]["n"]["text"] == "T1 1"


async def test_reads_of_prompts_are_taped_for_the_node_that_reads() -> None:
    graph = workflow(
        Say(name="one", text="{{config.prompts.tone}}"), Say(name="two", text="nothing")
    ).compile()
    with record_tape() as tape:
        await graph.ainvoke({"inputs": {}}, PROMPTS)
    assert {run.node: run.prompts for run in tape.runs.values()} == {"one": ["tone"], "two": []}


def test_a_workflow_can_tell_its_schemas() -> None:
    graph = workflow(Say(name="n", text="x")).compile()
    assert set(graph.get_input_jsonschema()["properties"]) == set(State.__annotations__)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="txt"):
        Say(name="n", txt="x")  # type: ignore[call-arg]


# -- The registry ----------------------------------------------------------------------------------


def test_nodes_are_registered_by_name_with_metadata() -> None:
    nodes = NodeRegistry()
    nodes.register(NodeMetadata(name="Say", description="Says it.", category="text"), Say)
    assert nodes.get("Say") is Say
    assert nodes.metadata("Say").category == "text"
    assert nodes.list() == [NodeMetadata(name="Say", description="Says it.", category="text")]


def test_an_unknown_node_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match="'Sai'; registered: AgentNode"):
        registry.get("Sai")


def test_a_name_is_taken_once_but_a_class_may_be_registered_again() -> None:
    class Other(Say):
        """Another class."""

    nodes = NodeRegistry()
    nodes.register(NodeMetadata(name="Say"), Say)
    nodes.register(NodeMetadata(name="Say", category="again"), Say)
    assert nodes.metadata("Say").category == "again"
    with pytest.raises(BadInput, match="is taken by"):
        nodes.register(NodeMetadata(name="Say"), Other)


def test_the_decorator_registers_and_hands_the_class_back() -> None:
    try:
        decorated = register_node("SayForTest", description="d")(Say)
        assert decorated is Say
        assert registry.get("SayForTest") is Say
    finally:
        registry._nodes.pop("SayForTest")
