"""Stored workflows that use the node by its registered name, run the way Orcheo's backend does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orcheo.nodes.ai
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from orcheo.graph.builder import build_graph
from orcheo.graph.ir import compile_workflow_to_ir
from orcheo.graph.ir.exceptions import WorkflowValidationError
from orcheo.graph.ir.node_policy import check_node_type_allowed
from orcheo.nodes.registry import registry
from orcheo.plugins import PluginAPI
from orcheo.runtime.credentials import CredentialReference, credential_resolution
from orcheo.runtime.runnable_config import parse_runnable_config
from orcheo.runtime.state_builder import build_initial_state
from simulated_clerk import SimulatedClerk

from orcheo_agentensor.integrations.orcheo import NODE_NAME, register

KINDS = ("card", "login", "refund")
TRAINED = """
    from typing import Any

    from langgraph.graph import END, START, StateGraph
    from orcheo.edges import Condition, IfElseEdge
    from orcheo.graph.state import State
    from orcheo.nodes import AgentNode, CodeNode, SetVariableNode
    from orcheo.nodes.registry import registry

    from orcheo_agentensor import TextGrad


    class Count(CodeNode):
        rules: Any = "{{config.prompts.counted.text}}"

        async def run(self, state, config):
            return {"words": len(self.rules.split())}


    def clerk():
        nested = StateGraph(State)
        nested.add_node("note", SetVariableNode(
            name="note", variables={"tone": "{{config.prompts.tone.text}}"}))
        nested.add_edge(START, "note")

        graph = StateGraph(State)
        graph.add_node("agent", AgentNode(
            name="agent", ai_model="openai:x", system_prompt="{{config.prompts.skills}}"))
        graph.add_node("count", Count(name="count"))
        graph.add_node("nested", nested.compile())
        graph.add_node("rare", SetVariableNode(
            name="rare", variables={"x": "{{config.prompts.unread.text}}"}))
        graph.add_edge(START, "agent")
        graph.add_edge("agent", "count")
        graph.add_conditional_edges("count", IfElseEdge(name="long", conditions=[
            Condition(left="{{count.words}}", operator="greater_than", right=100)]),
            {"true": "rare", "false": "nested"})
        return graph


    def answered(outputs, reference_outputs):
        right = outputs["messages"][-1]["content"] == reference_outputs["answer"]
        return {"score": float(right), "comment": "" if right else "unknown kind"}


    class Tutor:
        async def propose(self, request):
            texts = {}
            for component in request.components:
                lacking = sorted(str(record.expected_output["answer"])
                    for record in component.feedback if record.score != 1.0)
                if lacking:
                    texts[component.name] = component.text + " " + lacking[0]
            return texts


    def orcheo_workflow():
        graph = StateGraph(State)
        graph.add_node("train", registry.get_node("orcheo_agentensor.AgentensorNode")(
            name="train", mode="train", target=clerk(), dataset="{{inputs.cases}}",
            prompts="{{config.prompts}}", evaluators=[answered],
            optimizer=TextGrad(proposer=Tutor()), stop=[{"type": "target_score", "score": 1.0}],
            promote="auto", workflow_id="clerk", limits={"concurrency": 1}))
        graph.add_node("after", SetVariableNode(
            name="after", variables={"status": "{{train.decision.status}}"}))
        graph.add_edge(START, "train")
        graph.add_edge("train", "after")
        return graph
"""
RESTRICTED = """
    from orcheo.graph.state import State
    from orcheo.nodes import CodeNode, SetVariableNode

    class Known(CodeNode):
        rules: str = "{{config.prompts.skills.text}}"

        def run(self, state, config):
            return {"kinds": self.rules.split(), "asked": state["inputs"]["message"]}

    def orcheo_workflow():
        graph = StateGraph(State)
        graph.add_node("known", Known(name="known"))
        graph.add_node("where", SetVariableNode(
            name="where", variables={"region": "{{config.configurable.region}}"}))
        graph.add_edge(START, "known")
        graph.add_edge("known", "where")
        graph.add_edge("where", END)
        return graph
"""
HOST = """
    from orcheo.graph.state import State
    from orcheo.nodes import SetVariableNode

    def orcheo_workflow():
        graph = StateGraph(State)
        graph.add_node("evaluate", SetVariableNode(name="evaluate"))
        graph.add_edge(START, "evaluate")
        graph.add_edge("evaluate", END)
        return graph
"""


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The node, in Orcheo's registry for as long as a test runs."""
    api = PluginAPI()
    register(api)
    yield
    for name in api.registrations.nodes:
        registry.unregister(name)


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Orcheo wants to be told before it runs a restricted workflow."""
    monkeypatch.setenv("ORCHEO_POSTGRES_DSN", "postgresql://localhost/none")
    monkeypatch.setenv("ORCHEO_VAULT_ENCRYPTION_KEY", "not-used")


CASES = [
    {
        "id": f"{split}-{number}",
        "split": split,
        "inputs": {"message": KINDS[number % 3], "ticket": f"{split}-{number}"},
        "expected_output": {"answer": KINDS[number % 3]},
    }
    for split, count in (("train", 6), ("validation", 6), ("holdout", 30))
    for number in range(count)
]
PROMPTS = {"skills": "card", "counted": "one two", "tone": "Be brief.", "unread": "Never."}


def started(
    stored: dict[str, Any], inputs: dict[str, Any], prompts: dict[str, str]
) -> tuple[Any, Any]:
    """State and config of an execution, as Orcheo's backend makes them."""
    given = {name: {"text": text, "requires_grad": True} for name, text in prompts.items()}
    config = parse_runnable_config({"prompts": given})
    state = build_initial_state(stored, inputs, config.to_state_config("e-1"))
    return state, config.to_runnable_config("e-1")


async def executed(
    stored: dict[str, Any], inputs: dict[str, Any], prompts: dict[str, str]
) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """`node_results` of one execution, and which nodes' updates Orcheo's history was given."""
    state, runnable = started(stored, inputs, prompts)
    graph = build_graph(stored).compile(checkpointer=InMemorySaver())
    seen = [
        (len(namespace), node)
        async for namespace, update in graph.astream(
            state, runnable, stream_mode="updates", subgraphs=True
        )
        for node in update
    ]
    found = await graph.aget_state(runnable)
    return found.values["node_results"], seen


def ir_of(source: str) -> dict[str, Any]:
    return compile_workflow_to_ir(textwrap.dedent(source)).model_dump(mode="json")


async def test_training_improves_the_prompt_that_an_agent_of_orcheos_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orcheo.nodes.ai, "init_chat_model", lambda *_a, **_k: SimulatedClerk())
    stored = {"format": "langgraph-script", "source": textwrap.dedent(TRAINED)}
    results, seen = await executed(stored, {"cases": CASES}, PROMPTS)

    trained = results["train"]
    assert results["after"]["status"] == "promoted", trained["decision"]
    texts = {name: prompt["text"] for name, prompt in trained["best"]["prompts"].items()}
    assert set(texts["skills"].split()) == set(KINDS)
    assert texts["unread"] == "Never."  # a prompt that nothing read gets no feedback
    assert trained["holdout"]["gain"] == pytest.approx(2 / 3)
    assert {node for depth, node in seen if depth == 0} == {"train", "after"}
    assert len(seen) < 20  # our steps, none of the rollouts'


async def test_an_approval_finds_its_run_though_orcheo_builds_the_workflow_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(orcheo.nodes.ai, "init_chat_model", lambda *_a, **_k: SimulatedClerk())
    source = textwrap.dedent(TRAINED).replace(
        'promote="auto"', f'promote="ask", store="sqlite:///{tmp_path}/agentensor.db"'
    )
    stored = {"format": "langgraph-script", "source": source}
    state, config = started(stored, {"cases": CASES}, PROMPTS)
    saver = InMemorySaver()
    paused = await build_graph(stored).compile(checkpointer=saver).ainvoke(state, config)
    [asked] = paused["__interrupt__"]
    assert asked.value["type"] == "approval"
    again = build_graph(stored).compile(checkpointer=saver)
    found = await again.ainvoke(Command(resume={"approve": True}), config)
    assert found["node_results"]["after"]["status"] == "promoted"


@pytest.mark.usefixtures("restricted")
async def test_a_restricted_workflow_is_a_target_and_may_hold_the_node() -> None:
    host = ir_of(HOST)
    [node] = host["nodes"]
    node |= {"type": NODE_NAME, "config": evaluation(ir_of(RESTRICTED))}
    results, _ = await executed({"format": "frozen-ir", "ir": host}, {}, {"skills": "card login"})
    assert results["evaluate"]["summary"]["objective"] == 1.0


@pytest.mark.usefixtures("restricted")
async def test_a_step_of_a_sub_workflow_may_be_the_node() -> None:
    host = ir_of(HOST)
    [node] = host["nodes"]
    steps = [{"type": NODE_NAME, "name": "inside", **evaluation(ir_of(RESTRICTED))}]
    node |= {"type": "SubWorkflowNode", "config": {"steps": steps}}
    results, _ = await executed({"format": "frozen-ir", "ir": host}, {}, {"skills": "card login"})
    assert results["evaluate"]["result"]["summary"]["objective"] == 1.0


def evaluation(ir: dict[str, Any]) -> dict[str, Any]:
    """A job that is all data, for a target whose nodes read a prompt and the configurable."""
    return {
        "target": {"format": "frozen-ir", "ir": ir},
        "dataset": [
            {
                "id": kind,
                "inputs": {"message": kind},
                "expected_output": {
                    "known": {"kinds": ["card", "login"], "asked": kind},
                    "where": {"region": "eu"},
                },
            }
            for kind in KINDS
        ],
        "evaluators": ["exact_match"],
        "prompts": {"skills": "{{config.prompts.skills}}"},
        "config": {"configurable": {"region": "eu"}},
    }


def test_authors_who_are_not_trusted_may_not_use_it() -> None:
    with pytest.raises(WorkflowValidationError, match="restricted"):
        check_node_type_allowed(NODE_NAME, "evaluate")


@pytest.mark.usefixtures("restricted")
async def test_a_store_may_be_one_of_orcheos_credentials(tmp_path: Path) -> None:
    file = tmp_path / "agentensor.db"

    class Vault:
        def resolve(self, reference: CredentialReference) -> str:
            assert reference.identifier == "agentensor_store"
            return f"sqlite:///{file}"

    host = ir_of(HOST)
    [node] = host["nodes"]
    node |= {
        "type": NODE_NAME,
        "config": evaluation(ir_of(RESTRICTED)) | {"store": "[[agentensor_store]]"},
    }
    with credential_resolution(Vault()):  # type: ignore[arg-type]
        await executed({"format": "frozen-ir", "ir": host}, {}, {"skills": "card login"})
    assert file.exists()
