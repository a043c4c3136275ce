"""Workflows of Orcheo's own nodes, evaluated and trained by `AgentensorNode` inside Orcheo."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import orcheo.nodes.ai
import pytest
from agentensor.tensor import TextTensor as TheirTensor
from langgraph.graph import END, START, StateGraph
from orcheo.agentensor.prompts import TrainablePrompt
from orcheo.edges import Condition, IfElseEdge
from orcheo.graph.state import State
from orcheo.nodes import AgentNode, SetVariableNode
from simulated_clerk import SimulatedClerk

from orcheo_agentensor import ContentTensor, Store, TextGrad, TextTensor, get_prompt
from orcheo_agentensor.errors import BadInput, ConfigError, PromptNotFound, TemplateError
from orcheo_agentensor.integrations.orcheo import AgentensorNode, OrcheoPrompt
from orcheo_agentensor.optimizers import ProposalRequest
from orcheo_agentensor.prompts import as_prompts

KINDS = ("card", "login", "refund")
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


def knows(outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any]) -> dict[str, Any]:
    """1.0 where the reply names the kind asked for."""
    right = reference_outputs["answer"] in outputs["reply"]["known"].split()
    return {"key": "knows", "score": float(right), "comment": "" if right else "unknown kind"}


def answered(outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any]) -> bool:
    """Whether the agent's last message is the kind asked for."""
    return outputs["messages"][-1]["content"] == reference_outputs["answer"]


class Tutor:
    """A proposer that adds the first kind found lacking."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        texts = {}
        for component in request.components:
            lacking = sorted(
                str(record.expected_output["answer"])
                for record in component.feedback
                if record.score != 1.0
            )
            if lacking:
                texts[component.name] = f"{component.text} {lacking[0]}"
        return texts


def workflow(*nodes: Any) -> StateGraph[Any]:
    """Orcheo's nodes in a row."""
    graph = StateGraph(State)
    names = [node.name for node in nodes]
    for node in nodes:
        graph.add_node(node.name, node)
    for one, next_one in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, next_one)
    return graph


def clerk() -> StateGraph[Any]:
    """Two nodes of Orcheo's: the first takes the whole prompt, the second a text out of it."""
    return workflow(
        SetVariableNode(name="draft", variables={"prompt": "{{config.prompts.skills}}"}),
        SetVariableNode(name="reply", variables={"known": "known: {{draft.prompt.text}}"}),
    )


async def run_in_orcheo(node: AgentensorNode, prompts: Any = None, **inputs: Any) -> dict[str, Any]:
    """The node's payload from a workflow that Orcheo's state travels through."""
    given = prompts or {"skills": TrainablePrompt(text="card", requires_grad=True)}
    state = {"messages": [], "inputs": inputs, "node_results": {}, "config": {"prompts": given}}
    found = await workflow(node).compile().ainvoke(state)
    payload: dict[str, Any] = found["node_results"][node.name]
    return payload


TRAINING: dict[str, Any] = {
    "name": "train",
    "mode": "train",
    "dataset": CASES,
    "prompts": {"skills": "{{config.prompts.skills}}"},
    "optimizer": TextGrad(proposer=Tutor()),
    "stop": [{"type": "target_score", "score": 1.0}],
    "promote": "auto",
    "workflow_id": "clerk",
    "limits": {"concurrency": 1},
}


async def test_a_workflow_of_orcheos_nodes_is_evaluated() -> None:
    node = AgentensorNode(
        name="evaluate",
        target=clerk(),
        dataset=CASES,
        evaluators=[knows],
        prompts={"skills": "{{config.prompts.skills}}"},
    )
    found = await run_in_orcheo(node)
    assert found["status"] == "finished"
    assert found["summary"]["objective"] == pytest.approx(1 / 3)
    again = await run_in_orcheo(node, {"skills": {"text": "card login", "model_kwargs": {}}})
    assert again["summary"]["objective"] == pytest.approx(2 / 3)


@pytest.mark.requirement("door.orcheo")
async def test_a_workflow_of_orcheos_nodes_is_trained_and_promoted() -> None:
    store = Store.from_url(None)
    node = AgentensorNode(**TRAINING, target=clerk().compile(), evaluators=[knows], store=store)
    found = await run_in_orcheo(node)
    assert found["decision"]["status"] == "promoted", found["decision"]
    assert set(found["best"]["prompts"]["skills"]["text"].split()) == set(KINDS)
    version = await store.aliases.resolve("clerk", "production")
    assert version == found["best"]["config_version"]


async def test_an_agent_of_orcheos_is_trained_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orcheo.nodes.ai, "init_chat_model", lambda *_a, **_k: SimulatedClerk())
    agent = AgentNode(
        name="agent", ai_model="openai:simulated", system_prompt="{{config.prompts.skills}}"
    )
    node = AgentensorNode(**TRAINING, target=agent, evaluators=[answered])
    found = await run_in_orcheo(node)
    assert set(found["best"]["prompts"]["skills"]["text"].split()) == set(KINDS)
    assert found["holdout"]["gain"] == pytest.approx(2 / 3)
    assert found["decision"]["status"] == "promoted", found["decision"]
    assert agent.system_prompt == "{{config.prompts.skills}}"


async def test_a_stored_workflow_is_a_target() -> None:
    source = """
        from langgraph.graph import END, START, StateGraph
        from orcheo.graph.state import State
        from orcheo.nodes import SetVariableNode

        reply = SetVariableNode(name="reply", variables={"known": "{{config.prompts.skills.text}}"})
        graph = StateGraph(State)
        graph.add_node("reply", reply)
        graph.add_edge(START, "reply")
        graph.add_edge("reply", END)
    """
    stored = {"format": "langgraph-script", "source": textwrap.dedent(source)}
    node = AgentensorNode(
        name="evaluate",
        target=stored,
        dataset="{{inputs.cases}}",
        evaluators=["exact_match"],
        output="reply.known",
        prompts="{{config.prompts}}",
    )
    cases = [{"id": "one", "inputs": {}, "expected_output": "card"}]
    assert (await run_in_orcheo(node, cases=cases))["summary"]["objective"] == 1.0


def test_orcheos_decoding_gives_a_text_tensor() -> None:
    prompt = OrcheoPrompt(text="Be brief.", metadata={"max_chars": 20})
    state: Any = {"config": {"prompts": {"tone": prompt}}}
    node = AgentNode(name="agent", ai_model="openai:x", system_prompt="{{config.prompts.tone}}")
    node.decode_variables(state)
    assert isinstance(node.system_prompt, TextTensor)
    assert isinstance(node.system_prompt, TheirTensor)
    assert node._system_prompt_text == "Be brief."

    own = AgentensorNode(name="own", prompts={"tone": "{{config.prompts.tone}}"})
    resolved = own.resolved_for_run(state)
    assert resolved.prompts["tone"] is prompt
    assert own.prompts == {"tone": "{{config.prompts.tone}}"}
    own.decode_variables(state)
    assert own.prompts["tone"] is prompt


async def test_cases_keep_their_braces() -> None:
    seen: list[Any] = []

    async def target(inputs: dict[str, str]) -> str:
        seen.append(inputs["text"])
        return inputs["text"]

    cases = [{"id": "a", "inputs": {"text": "{{inputs.x}}"}, "expected_output": "{{inputs.x}}"}]
    node = AgentensorNode(name="evaluate", target=target, dataset=cases, evaluators=["exact_match"])
    found = await run_in_orcheo(node, x="resolved")
    assert found["summary"]["objective"] == 1.0
    assert seen == ["{{inputs.x}}"]


async def test_a_reference_that_leads_nowhere_says_what_there_is() -> None:
    node = AgentensorNode(
        name="evaluate",
        target=clerk(),
        dataset=CASES,
        evaluators=[knows],
        prompts={"skills": "{{config.prompts.skils}}"},
    )
    with pytest.raises(TemplateError, match=r"no 'skils' in config\.prompts, which has skills"):
        await run_in_orcheo(node)


async def test_prompts_keep_their_braces() -> None:
    node = AgentensorNode(
        name="evaluate",
        target=clerk(),
        dataset=[{"id": "a", "inputs": {}, "expected_output": "known: Ask {{inputs.x}}."}],
        evaluators=["exact_match"],
        output="reply.known",
        prompts={"skills": "Ask {{inputs.x}}."},
    )
    assert (await run_in_orcheo(node, x="resolved"))["summary"]["objective"] == 1.0


def asks_in_an_edge() -> StateGraph[Any]:
    graph = workflow(SetVariableNode(name="a"))
    condition = Condition(left="{{config.prompts.other.text}}", operator="is_truthy")
    graph.add_conditional_edges(
        "a", IfElseEdge(name="if", conditions=[condition]), {"true": END, "false": END}
    )
    return graph


ASKS = {
    "node": lambda: workflow(
        SetVariableNode(name="a", variables={"x": ["{{ config.prompts.other }}"]})
    ),
    "edge": asks_in_an_edge,
    "nested graph": lambda: (
        StateGraph(State).add_node("inner", asks_in_an_edge().compile()).add_edge(START, "inner")
    ),
}


@pytest.mark.parametrize("where", ASKS)
async def test_a_target_that_asks_for_a_prompt_nobody_gives_is_refused(where: str) -> None:
    node = AgentensorNode(
        name="evaluate",
        target=ASKS[where](),
        dataset=CASES,
        evaluators=[knows],
        prompts={"skills": "card"},
    )
    with pytest.raises(PromptNotFound, match=r"'a'.*config\.prompts\.other.*\(there: skills\)"):
        await run_in_orcheo(node)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"format": "langgraph-script", "source": "x = ("}, "never closed"),
        ({"format": "langgraph-script", "source": "1 / 0"}, "division by zero"),
        ({"format": "langgraph-script"}, "non-empty source"),
        ({"format": "n8n"}, "Unsupported workflow graph format 'n8n'"),
    ],
)
async def test_a_stored_workflow_that_does_not_build_is_refused(
    stored: dict[str, str], said: str
) -> None:
    node = AgentensorNode(name="evaluate", target=stored, dataset=CASES, evaluators=[knows])
    with pytest.raises(ConfigError, match=f"target: .*{said}"):
        await run_in_orcheo(node)


async def test_output_is_for_workflows_of_orcheos_nodes() -> None:
    async def target(inputs: dict[str, str]) -> str:
        return ""

    node = AgentensorNode(
        name="evaluate", target=target, dataset=CASES, evaluators=["exact_match"], output="a.b"
    )
    with pytest.raises(BadInput, match="output"):
        await run_in_orcheo(node)


@pytest.mark.requirement("orcheo.frozen")
def test_a_prompt_without_a_word_on_it_is_frozen_as_in_orcheo() -> None:
    from orcheo.runtime.runnable_config import RunnableConfigModel

    from orcheo_agentensor.integrations.orcheo import _prompts

    stored = RunnableConfigModel.model_validate(
        {
            "prompts": {
                "kept": {"text": "card"},
                "trained": {
                    "text": "card",
                    "requires_grad": True,
                    "model_kwargs": {"temperature": 0.2, "base_url": "http://there"},
                },
            }
        }
    ).model_dump(mode="json")
    for given in (
        stored["prompts"],
        {"kept": {"text": "card"}, "trained": stored["prompts"]["trained"]},
    ):
        found = as_prompts(_prompts(given))
        assert not found["kept"].requires_grad
        assert found["trained"].requires_grad
        assert found["trained"].model_kwargs == {"temperature": 0.2}
        assert found["trained"].metadata["model_kwargs"] == {"base_url": "http://there"}


async def test_a_prompt_with_an_image_is_refused_by_name_where_orcheos_nodes_read_it() -> None:
    logo = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    look = ContentTensor(blocks=[{"type": "text", "text": "card "}, logo])
    node = AgentensorNode(
        name="evaluate",
        mode="evaluate",
        target=clerk(),
        dataset=CASES[:1],
        evaluators=[knows],
        prompts={"skills": look},
    )
    with pytest.raises(ConfigError, match=r"prompts.skills: 'card .* has images or files"):
        await node(State(messages=[], inputs={}), {})
    elsewhere = node.model_copy(update={"target": read, "evaluators": [saw]})
    found = await elsewhere(State(messages=[], inputs={}), {})
    assert found["node_results"]["evaluate"]["summary"]["objective"] == 1.0


def read(inputs: Any) -> Any:
    """A target of no node."""
    _text, *others = get_prompt("skills").content
    return {"others": [block["type"] for block in others if isinstance(block, dict)]}


def saw(outputs: Any) -> bool:
    """Whether it read the image."""
    return bool(outputs["others"] == ["image"])
