from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import Field, ValidationError

from orcheo_agentensor import (
    Budget,
    Limits,
    Store,
    TargetScore,
    TextGrad,
    TrainablePrompt,
    TrainingJob,
    get_prompt,
)
from orcheo_agentensor.errors import ConfigError, PromptNotFound
from orcheo_agentensor.nodes import AgentensorNode, State, registry
from orcheo_agentensor.tape import record_tape

# Case `n` is solved by a prompt that holds the word `w{n % 2}`.
CASES = [
    {
        "id": f"{split}-{n}",
        "split": split,
        "inputs": {"word": f"w{n % 2}", "case": f"{split}-{n}"},
        "expected_output": True,
    }
    for split in ("train", "validation", "holdout")
    for n in range(8)
]


async def solve(inputs: dict[str, Any]) -> bool:
    return inputs["word"] in get_prompt("words", default="w0").split()


class Teacher:
    """A proposer that adds both words."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: f"{component.text} w0 w1" for component in request.components}


def host(node: AgentensorNode, **options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("measure", node)
    graph.add_edge(START, "measure")
    return graph.compile(**options)


def training(**changes: Any) -> AgentensorNode:
    fields: dict[str, Any] = {
        "mode": "train",
        "target": solve,
        "dataset": CASES,
        "evaluators": ["exact_match"],
        "prompts": {"words": "Find {{inputs.word}}:"},
        "workflow_id": "w",
        "optimizer": TextGrad(minibatch=4, proposer=Teacher()),
        "stop": [TargetScore(1.0)],
        "budget": Budget(rollouts=500),
        **changes,
    }
    return AgentensorNode(name="measure", **fields)


def test_the_nodes_fields_are_the_jobs() -> None:
    own = {"name", "mode", "store", "settings"}
    assert set(AgentensorNode.model_fields) == own | set(TrainingJob.model_fields)
    for name, field in TrainingJob.model_fields.items():
        assert AgentensorNode.model_fields[name].title == field.title


async def test_what_is_to_be_published_reaches_the_job() -> None:
    with pytest.raises(ConfigError, match="publish"):
        await host(training(publish={"assistent": "triage"})).ainvoke({})


async def test_a_workflow_holds_an_evaluation_as_a_node() -> None:
    store = Store.from_url(None)
    node = AgentensorNode(
        name="measure",
        target=solve,
        dataset="{{inputs.cases}}",
        evaluators=["exact_match"],
        prompts="{{config.prompts}}",
        run_id="{{inputs.run}}",
        limits=Limits(concurrency=2),
        min_coverage=0.9,
        store=store,
    )
    config: Any = {"configurable": {"prompts": {"words": {"type": "TextTensor", "text": "w0 w1"}}}}
    out = await host(node).ainvoke({"inputs": {"cases": CASES, "run": "r1"}}, config)
    result = out["results"]["measure"]
    assert (result["run_id"], result["status"]) == ("r1", "finished")
    assert result["summary"]["objective"] == 1.0
    run = await store.runs.get("r1")
    assert run.job["job"]["limits"]["concurrency"] == 2
    assert run.config["configurable"]["prompts"]["words"]["text"] == "w0 w1"


async def test_the_progress_of_the_subgraph_is_streamed_through_the_host() -> None:
    node = AgentensorNode(
        name="measure", target=solve, dataset=CASES[:3], evaluators=["exact_match"]
    )
    events = [
        event["type"]
        async for _, event in host(node).astream(
            {"inputs": {}}, stream_mode="custom", subgraphs=True
        )
    ]
    assert events[0] == "run_started"
    assert events.count("case_finished") == 3
    assert events[-1] == "run_finished"


async def test_a_workflow_holds_a_training_as_a_node() -> None:
    out = await host(training(promote="auto")).ainvoke({"inputs": {}})
    result = out["results"]["measure"]
    assert result["decision"]["status"] == "promoted"
    assert result["holdout"]["gain"] > 0


async def test_braces_inside_prompts_and_cases_are_left_alone() -> None:
    node = training()
    store = node._opened
    await host(node).ainvoke({"inputs": {}})
    (baseline, *_) = sorted(await store.checkpoints.list("w"), key=lambda v: v.config_version)
    assert baseline.prompts["words"].text == "Find {{inputs.word}}:"


async def test_a_training_that_asks_pauses_and_resumes_the_host() -> None:
    node = training(promote="ask")
    graph = host(node, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    paused = await graph.ainvoke({"inputs": {}}, config)
    assert "__interrupt__" in paused
    answer = {"approve": True, "actor": "ann", "reason": "looks good"}
    out = await graph.ainvoke(Command(resume=answer), config)
    result = out["results"]["measure"]
    assert result["decision"]["status"] == "promoted"
    version = result["best"]["config_version"]
    assert await node._opened.aliases.resolve("w", "production") == version


async def test_a_bad_job_is_an_error_of_the_node() -> None:
    node = AgentensorNode(name="measure", target=solve, dataset=CASES)
    with pytest.raises(ConfigError, match=r"job\.evaluators"):
        await host(node).ainvoke({"inputs": {}})


def test_training_fields_are_refused_when_evaluating() -> None:
    with pytest.raises(ValidationError, match="does not take budget, promote"):
        AgentensorNode(name="n", budget={"rollouts": 5}, promote="auto")


def test_it_is_registered() -> None:
    assert registry.get("AgentensorNode") is AgentensorNode
    assert [node.name for node in registry.list()] == ["AgentNode", "AgentensorNode"]


# -- The middleware --------------------------------------------------------------------------------


class Echo(FakeListChatModel):
    """Notes what it was sent."""

    sent: list[list[BaseMessage]] = Field(default_factory=list)

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        self.sent.append(list(messages))
        return super()._call(messages, *args, **kwargs)


ASKED: Any = {"messages": [HumanMessage("hi")]}
WITH_TONE: Any = {"configurable": {"prompts": {"tone": {"type": "TextTensor", "text": "Be kind."}}}}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("config", "default", "system"),
    [(WITH_TONE, None, "Be kind."), ({}, "Default.", "Default."), ({}, None, "Created with.")],
)
async def test_the_middleware_gives_an_agent_the_prompt_of_the_run(
    config: Any, default: str | None, system: str, is_async: bool
) -> None:
    model = Echo(responses=["hello"])
    agent: Any = create_agent(
        model, system_prompt="Created with.", middleware=[TrainablePrompt("tone", default=default)]
    )
    with record_tape() as tape:
        if is_async:
            await agent.ainvoke(ASKED, config)
        else:
            agent.invoke(ASKED, config)
    assert [message.text for message in model.sent[0]] == [system, "hi"]
    assert ["tone"] in [run.prompts for run in tape.runs.values()]


def test_a_prompt_that_nobody_gives_is_an_error() -> None:
    agent: Any = create_agent(Echo(responses=["x"]), middleware=[TrainablePrompt("tone")])
    with pytest.raises(PromptNotFound, match="'tone'"):
        agent.invoke(ASKED)
