"""Prompts that a graph holds itself: in agents, templates, and what models are told of tools."""

from __future__ import annotations

import asyncio
from typing import Any

import kept_agents
import pytest
from langchain_core.messages import HumanMessage

from orcheo_agentensor import Reflective, aevaluate, atrain, configure
from orcheo_agentensor.errors import ConfigError

CASE = {"id": "a", "inputs": {"messages": [{"role": "user", "content": "Hello."}]}}


async def told(target: Any, **binds: str) -> list[str]:
    """The lines of all replies of a rollout in which prompts bind to these places."""
    report = await aevaluate(
        target,
        dataset=[CASE],
        evaluators=[{"type": "length", "at_least": 1}],
        prompts={
            f"p{number}": {"text": text, "bind": bind}
            for number, (bind, text) in enumerate(binds.items())
        },
    )
    assert "no node read" not in str(report.warnings)  # each prompt was seen on the tape
    assert report.cases[0].output is not None, report.cases[0].failure
    messages = report.cases[0].output["messages"]
    return [line for one in messages if one["role"] != "user" for line in lines(one)]


def lines(message: dict[str, Any]) -> list[str]:
    return str(message["content"]).split("\n")


AGENT = [
    "You are an agent.",
    "search: Search the web.",
    "search.query: What to look for.",
    "search.limit: How many pages.",
    "plain: Repeat a text.",
    "plain.text: None",
]
BOUND = [*AGENT[4:], *AGENT[1:4]]


async def test_each_part_of_a_graph_is_reached_and_nothing_else_changes() -> None:
    bare = ["You are Ada, made for this.", *AGENT, *BOUND, *AGENT]
    assert await told(kept_agents.graph) == bare
    first, second = await asyncio.gather(
        told(kept_agents.graph, **{"ask.system_prompt": "You only ask things."}),
        told(
            kept_agents.graph,
            **{"talk.prompt.0": "Be {who} again.", "agent.system_prompt": "You are the last."},
        ),
    )
    assert first == [bare[0], "You only ask things.", *AGENT[1:], *BOUND, *AGENT]
    assert second == ["Be Ada again.", *AGENT, *BOUND, "You are the last.", *AGENT[1:]]
    assert await told(kept_agents.graph) == bare


async def test_models_are_told_of_tools_and_their_arguments_anew() -> None:
    new = {
        "search: Search the web.": "search: Look it up first.",
        "search.query: What to look for.": "search.query: One question only.",
        "plain: Repeat a text.": "plain: Say it again, please.",
    }
    found = await told(
        kept_agents.graph,
        **{
            "tools.search.description": "Look it up first.",
            "tools.search.args.query.description": "One question only.",
            "tools.plain.description": "Say it again, please.",
        },
    )
    changed = [new.get(line, line) for line in [*AGENT, *BOUND, *AGENT]]
    assert found == ["You are Ada, made for this.", *changed]
    assert kept_agents.search.description == "Search the web."


async def test_an_argument_without_a_description_gets_one() -> None:
    found = await told(
        kept_agents.agent, **{"tools.plain.args.text.description": "What to repeat."}
    )
    assert found[-1] == "plain.text: What to repeat."


async def test_an_agent_and_a_chain_are_targets_too() -> None:
    found = await told(kept_agents.agent, **{"model.system_prompt": "You are it yourself."})
    assert found == ["You are it yourself.", *AGENT[1:]]
    report = await aevaluate(
        kept_agents.chain,
        dataset=[{"inputs": {"who": "Bob", "history": []}}],
        evaluators=[{"type": "contains", "value": "You were Bob.", "field": "content"}],
        prompts={"who": {"text": "You were {who}.", "bind": "target.prompt.0"}},
    )
    assert report.objective == 1.0


def react(prompt: Any) -> Any:
    from langgraph.prebuilt import create_react_agent

    return create_react_agent(
        kept_agents.Echo(), [kept_agents.search, kept_agents.plain], prompt=prompt
    )


@pytest.mark.filterwarnings("ignore:create_react_agent")
async def test_the_older_agent_is_reached_as_well() -> None:
    found = await told(
        react("You are an agent."),
        **{
            "agent.system_prompt": "You are an older agent.",
            "tools.search.description": "Look it up first.",
        },
    )
    assert found == ["You are an older agent.", "search: Look it up first.", *AGENT[2:]]


async def test_a_configured_graph_has_the_texts_in_its_parts() -> None:
    app = configure(
        kept_agents.graph,
        workflow_id="kept",
        defaults={"prompts": {"a": {"text": "You ask.", "bind": "ask.system_prompt"}}},
    )
    replies = (await app.ainvoke({"messages": [HumanMessage("Hello.")]}))["messages"]
    assert replies[2].text.startswith("You ask.\n")
    plain = kept_agents.graph.invoke({"messages": [HumanMessage("Hello.")]})["messages"]
    assert plain[2].text.startswith("You are an agent.\n")


class Shorter:
    """Proposes one text."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {one.name: "Look only once." for one in request.components}


async def test_a_description_of_a_tool_trains_like_a_prompt() -> None:
    def once(outputs: Any) -> float:
        return float("search: Look only once." in outputs["messages"][-1]["content"])

    result = await atrain(
        kept_agents.agent,
        prompts={"search": {"text": "Search the web.", "bind": "tools.search.description"}},
        dataset=[
            {**CASE, "id": f"{split}-{n}", "split": split}
            for split in ("train", "validation", "holdout")
            for n in range(4)
        ],
        evaluators=[once],
        optimizer=Reflective(proposer=Shorter()),
    )
    assert result.best.prompts["search"].text == "Look only once."
    assert result.best.metrics["objective"] == 1.0


@pytest.mark.parametrize(
    "bind", ["nobody.system_prompt", "talk.prompt.1", "tools.none.description"]
)
async def test_a_part_that_is_not_there_is_refused_with_those_that_are(bind: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await told(kept_agents.graph, **{bind: "x"})
    assert "there are: talk.prompt.0, talk.prompt.2, ask.system_prompt" in str(refused.value)
    assert "import get_prompt, then get_prompt('p0', default=…)" in str(refused.value)
