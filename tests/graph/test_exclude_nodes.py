"""Nodes that a training leaves out, and overrides that no node can follow."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import MaxSteps, TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.errors import ConfigError


class Ticket(TypedDict, total=False):
    text: str
    kind: str
    answer: str


async def triage(state: Ticket) -> Ticket:
    return {"kind": get_prompt("triage")}


async def reply(state: Ticket) -> Ticket:
    return {"answer": f"{state['kind']} {get_prompt('reply')}"}


def desk() -> Any:
    inner = StateGraph(Ticket)
    inner.add_node("reply", reply)
    inner.add_edge(START, "reply")
    graph = StateGraph(Ticket)
    graph.add_node("triage", triage)
    graph.add_node("desk", inner.compile())
    graph.add_edge(START, "triage")
    graph.add_edge("triage", "desk")
    return graph.compile()


class Asked:
    """A proposer that notes which prompts it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    async def propose(self, request: Any) -> dict[str, str]:
        self.names |= {component.name for component in request.components}
        return {component.name: f"{component.text}!" for component in request.components}


async def trained(**job: Any) -> tuple[Any, set[str], list[str]]:
    asked, events = Asked(), []
    result = await atrain(
        desk(),
        prompts={"triage": "t", "reply": "r"},
        dataset=[{"id": f"c{n}", "inputs": {"text": str(n)}} for n in range(3)],
        evaluators=[lambda ctx: 0.0],
        optimizer=TextGrad(proposer=asked),
        stop=[MaxSteps(3)],
        on_event=events.append,
        **job,
    )
    return result, asked.names, [e["message"] for e in events if e["type"] == "warning"]


async def test_without_exclusions_both_prompts_are_to_blame() -> None:
    _, asked, _ = await trained()
    assert asked == {"triage", "reply"}


@pytest.mark.parametrize("node", ["desk|reply", "desk"])
@pytest.mark.requirement("config.excluded")
async def test_a_prompt_read_in_excluded_nodes_only_is_not_trained_and_named(node: str) -> None:
    result, asked, told = await trained(exclude_nodes=[node])
    assert asked == {"triage"}
    assert result.best.prompts["reply"].text == "r"
    assert any("'reply' is read in excluded nodes only (desk|reply)" in one for one in told)


async def test_a_training_of_excluded_nodes_alone_ends_and_says_so() -> None:
    result, asked, _ = await trained(exclude_nodes=["triage", "desk"])
    assert asked == set()
    assert "excluded" in result.decision.reasons[0]


@pytest.mark.requirement("config.excluded")
async def test_an_unknown_node_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"atrain\(\): exclude_nodes.*triage, desk, desk\|reply"):
        await trained(exclude_nodes=["reply"])


def overriding(node: str, **override: Any) -> dict[str, Any]:
    return {"configurable": {"node_overrides": {node: override}}}


@pytest.mark.parametrize("target", [lambda inputs: inputs, desk().with_retry()])
async def test_overrides_of_what_has_no_nodes_are_refused(target: Any) -> None:
    with pytest.raises(ConfigError, match="is not a node"):
        await aevaluate(
            target,
            dataset=[{"inputs": {"text": "a"}}],
            evaluators=[lambda ctx: 1.0],
            config=overriding("triage", temperature=0.0),
        )


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.requirement("config.overrides")
async def test_a_temperature_that_a_node_can_never_read_is_told(reads: bool) -> None:
    async def tenant(state: Ticket, config: RunnableConfig) -> Ticket:
        return {"answer": str(config["configurable"].get("tenant"))}

    async def warm(state: Ticket, config: RunnableConfig) -> Ticket:
        return {"answer": str(config["configurable"].get("temperature"))}

    graph = StateGraph(Ticket)
    graph.add_node("node", warm if reads else tenant)
    graph.add_edge(START, "node")
    report = await aevaluate(
        graph,
        dataset=[{"inputs": {"text": "a"}}],
        evaluators=[lambda ctx: 1.0],
        config=overriding("node", temperature=0.0),
    )
    told = [one for one in report.warnings if "node_overrides.node.temperature" in one]
    assert bool(told) is not reads
    assert report.cases[0].output["answer"] == ("0.0" if reads else "None")


async def test_what_is_no_graph_runs_without_overrides() -> None:
    chain = RunnableLambda(lambda value: value)
    report = await aevaluate(chain, dataset=[{"inputs": "a"}], evaluators=[lambda ctx: 1.0])
    assert report.objective == 1.0
