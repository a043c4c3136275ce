"""LangGraph's prebuilt agents of several agents, as targets."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm

from orcheo_agentensor import aevaluate
from orcheo_agentensor.testing import RuleChatModel

compat = pytest.mark.compat


def call(name: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": "1", "type": "tool_call"}])


def supervisor() -> Any:
    def decide(messages: Any) -> Any:
        asked = messages[-1].type == "human"
        return call("transfer_to_clerk") if asked else AIMessage("Refunded.")

    clerk = create_agent(
        model=RuleChatModel(rule=lambda messages: "It is refunded."), tools=[], name="clerk"
    )
    return create_supervisor([clerk], model=RuleChatModel(rule=decide))


def swarm() -> Any:
    to_clerk = create_handoff_tool(agent_name="clerk")
    greeter = create_agent(
        model=RuleChatModel(rule=lambda messages: call("transfer_to_clerk")),
        tools=[to_clerk],
        name="greeter",
    )
    clerk = create_agent(
        model=RuleChatModel(rule=lambda messages: "Refunded."), tools=[], name="clerk"
    )
    return create_swarm([greeter, clerk], default_active_agent="greeter")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(supervisor, marks=compat("targets", "agent", "langgraph-supervisor")),
        pytest.param(swarm, marks=compat("targets", "agent", "langgraph-swarm")),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
async def test_a_prebuilt_team_is_evaluated(make: Any, compiled: bool) -> None:
    graph = make()
    report = await aevaluate(
        graph.compile() if compiled else graph,
        dataset=[{"inputs": {"messages": [{"role": "user", "content": "Refund me."}]}}],
        evaluators=[{"type": "contains", "value": "Refunded.", "field": "messages.-1.content"}],
    )
    assert report.objective == 1.0, report.cases[0]
    assert report.usage.calls >= 2


def echo(name: str) -> Any:
    """An agent that answers with its system prompt."""
    model = RuleChatModel(rule=lambda messages: f"{name}: {messages[0].text}")
    return create_agent(model=model, tools=[], name=name, system_prompt=f"You are the {name}.")


def led() -> Any:
    def decide(messages: Any) -> Any:
        asked = messages[-1].type == "human"
        return call("transfer_to_clerk") if asked else AIMessage(f"lead: {messages[0].text}")

    lead = RuleChatModel(rule=decide)
    return create_supervisor([echo("clerk")], model=lead, prompt="You lead a team.")


@pytest.mark.parametrize(
    ("make", "prompts", "replies"),
    [
        pytest.param(
            led,
            {"supervisor.system_prompt": "You lead it well.", "clerk.system_prompt": "You file."},
            ["clerk: You file.", "lead: You lead it well."],
            marks=compat("targets", "agent", "langgraph-supervisor, prompts found"),
        ),
        pytest.param(
            lambda: create_swarm([echo("clerk")], default_active_agent="clerk"),
            {"clerk.system_prompt": "You are one of the swarm."},
            ["clerk: You are one of the swarm."],
            marks=compat("targets", "agent", "langgraph-swarm, prompts found"),
        ),
    ],
)
async def test_the_system_prompts_of_a_prebuilt_team_are_reached(
    make: Any, prompts: dict[str, str], replies: list[str]
) -> None:
    report = await aevaluate(
        make().compile(),
        dataset=[{"inputs": {"messages": [{"role": "user", "content": "Refund me."}]}}],
        evaluators=[
            {"type": "contains", "value": reply, "field": "messages", "name": reply[:5]}
            for reply in replies
        ],
        prompts={
            bind.partition(".")[0]: {"text": text, "bind": bind} for bind, text in prompts.items()
        },
    )
    assert report.objective == 1.0, report.cases[0]
    assert "no node read" not in str(report.warnings)
