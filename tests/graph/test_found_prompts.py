"""A training that is given no prompts takes those that the graph holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, Field

from orcheo_agentensor import AgentNode, BadInput, TextGrad, TextTensor, TrainablePrompt, atrain
from orcheo_agentensor.nodes import State as TemplateState
from orcheo_agentensor.testing import RuleChatModel

CASES = [{"id": str(n), "inputs": {"text": str(n)}} for n in range(3)]


class Kind:
    """Makes every prompt that it is asked for kind."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "Be kind." for component in request.components}


def echoing() -> Any:
    return RuleChatModel(rule=lambda messages: messages[0].text)


async def learnt(target: Any, evaluator: Any, **job: Any) -> dict[str, str]:
    started: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        if event["type"] == "run_started":
            started.append(event)

    result = await atrain(
        target,
        dataset=CASES,
        evaluators=[evaluator],
        optimizer=TextGrad(proposer=Kind()),
        on_event=hear,
        **job,
    )
    trained = [name for name, tensor in result.best.prompts.items() if tensor.requires_grad]
    assert started[0]["prompts"] == sorted(trained)
    assert result.best.metrics["objective"] == 1.0
    return {name: tensor.text for name, tensor in result.best.prompts.items()}


@pytest.mark.requirement("training.found")
async def test_fields_of_our_nodes_are_found_and_trained_where_they_require_grad() -> None:
    graph = StateGraph(TemplateState)
    graph.add_node(
        "answer",
        AgentNode(
            name="answer",
            model=echoing(),
            system_prompt=TextTensor("Be curt."),
            user_prompt=TextTensor("Frozen.", requires_grad=False),
        ),
    )
    graph.add_edge(START, "answer")

    def kind(outputs: dict[str, Any]) -> bool:
        return bool(outputs["results"]["answer"] == "Be kind.")

    found = await learnt(graph, kind)
    assert found == {"answer.system_prompt": "Be kind.", "answer.user_prompt": "Frozen."}


@pytest.mark.requirement("training.found")
async def test_middleware_is_found_in_an_agent() -> None:
    agent = create_agent(echoing(), middleware=[TrainablePrompt("tone", default="Be curt.")])

    def kind(outputs: dict[str, Any]) -> bool:
        return bool(outputs["messages"][-1]["content"] == "Be kind.")

    cases = [{"id": "a", "inputs": {"messages": [{"role": "user", "content": "hello"}]}}]
    result = await atrain(
        agent, dataset=cases, evaluators=[kind], optimizer=TextGrad(proposer=Kind())
    )
    assert {n: t.text for n, t in result.best.prompts.items()} == {"tone": "Be kind."}


class Said(TypedDict, total=False):
    text: str
    answer: str


@dataclass
class Plain:
    """A context with a marked field, a field that is not, and one that is no text."""

    tone: str = field(default="Be curt.", metadata={"langgraph_type": "prompt"})
    model: str = "small"
    turns: int = field(default=3, metadata={"langgraph_type": "prompt"})


class Pydantic(BaseModel):
    """The same as LangGraph's templates have it."""

    tone: str = Field(default="Be curt.", json_schema_extra={"langgraph_type": "prompt"})
    model: str = "small"


@dataclass
class Templated:
    """The same as LangGraph's templates have it in a dataclass."""

    tone: str = field(
        default="Be curt.", metadata={"json_schema_extra": {"langgraph_type": "prompt"}}
    )


@pytest.mark.requirement("training.found")
@pytest.mark.parametrize("schema", [Plain, Pydantic, Templated])
async def test_marked_fields_of_the_context_are_found(schema: Any) -> None:
    async def answer(state: Said, runtime: Runtime[Any]) -> dict[str, str]:
        return {"answer": (runtime.context or schema()).tone}

    graph = StateGraph(Said, context_schema=schema)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")

    def kind(outputs: dict[str, Any]) -> bool:
        return bool(outputs["answer"] == "Be kind.")

    assert await learnt(graph, kind) == {"tone": "Be kind."}


async def test_prompts_that_are_given_are_the_only_ones() -> None:
    graph = StateGraph(TemplateState)
    node = AgentNode(name="answer", model=echoing(), system_prompt="{{config.prompts.tone}}")
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")

    def kind(outputs: dict[str, Any]) -> bool:
        return bool(outputs["results"]["answer"] == "Be kind.")

    assert await learnt(graph, kind, prompts={"tone": "Be curt."}) == {"tone": "Be kind."}
    with pytest.raises(BadInput, match="the graph holds none"):
        await learnt(lambda inputs: inputs, kind)
