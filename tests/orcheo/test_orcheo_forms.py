"""What Orcheo's own `AgentensorNode` takes and gives, with ours in its place."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from orcheo.agentensor.checkpoints import AgentensorCheckpoint
from orcheo.agentensor.evaluation import (
    EvaluationCase,
    EvaluationDataset,
    EvaluationRequest,
    EvaluatorDefinition,
)
from orcheo.agentensor.prompts import TrainablePrompt
from orcheo.agentensor.training import OptimizerConfig
from orcheo.graph.state import State
from orcheo.nodes import SetVariableNode
from orcheo.runtime.runnable_config import RunnableConfigModel

from orcheo_agentensor import Settings, TextGrad
from orcheo_agentensor.errors import ConfigError, EntrypointNotAllowed, EvaluatorRefused
from orcheo_agentensor.integrations.orcheo import AgentensorNode

HELPERS = "orcheo_forms_helpers"
SETTINGS = Settings(allowed_modules=(HELPERS,))
STORED = RunnableConfigModel(
    prompts={"seed": TrainablePrompt(text="Hello world")},
    tags=["experiment"],
    run_name="agentensor-eval",
    metadata={"team": "desk"},
    configurable={"region": "eu"},
    recursion_limit=40,
)


class Echo:
    """A graph by its form only, which gives back the prompt it is asked with."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    async def ainvoke(self, state: Any, config: Any) -> dict[str, Any]:
        self.states.append(state)
        return {"node_results": {"echo": state["inputs"]["prompt"]}}


def definition(name: str, id: str = "echo-check", **config: Any) -> EvaluatorDefinition:
    return EvaluatorDefinition(id=id, entrypoint=f"{HELPERS}:{name}", config=config)


def dataset(*prompts: str) -> EvaluationDataset:
    cases = [EvaluationCase(inputs={"prompt": one}, metadata={"idx": 0}) for one in prompts]
    return EvaluationDataset(id="stored", cases=cases)


KEY = {"api_key": "[[openai_api_key]]"}


async def called(node: AgentensorNode, **inputs: Any) -> dict[str, Any]:
    """The payload of a node that is called as Orcheo's backend calls its own."""
    state: Any = {
        "inputs": {"lang": "en", **inputs},
        "messages": [],
        "node_results": {},
        "config": STORED.to_state_config("exec"),
    }
    payload: dict[str, Any] = (await node(state, STORED.to_runnable_config("exec")))[
        "node_results"
    ][node.name]
    return payload


@pytest.mark.requirement("door.orcheo")
async def test_an_evaluation_as_orcheo_calls_its_own_node_has_orcheos_answer() -> None:
    events: list[dict[str, Any]] = []

    async def progress(payload: dict[str, Any]) -> None:
        events.append(payload)

    graph = Echo()
    node = AgentensorNode(
        name="agentensor",
        mode="evaluate",
        dataset=dataset("ping", "pong"),
        evaluators=[definition("echoed"), definition("AtLeast", "long", words=2)],
        prompts={
            "candidate": TrainablePrompt(
                text="{{config.prompts.seed.text}}",
                metadata={"lang": "{{inputs.lang}}"},
                model_kwargs=KEY,
                requires_grad=True,
            )
        },
        compiled_graph=graph,
        graph_config={},
        state_config=STORED.to_state_config("exec"),
        progress_callback=progress,
        settings=SETTINGS,
    )
    payload = await called(node)
    assert payload["summary"]["echo-check"] == 1.0
    assert payload["summary"]["long"] == 0.0
    assert payload["results"][0]["evaluations"]["echo-check"] == {
        "score": 1.0,
        "passed": True,
        "reason": f"match in {payload['results'][0]['duration_ms']} ms",
    }
    assert [one["inputs"]["prompt"] for one in payload["results"]] == ["ping", "pong"]
    assert payload["results"][0]["metadata"] == {"idx": 0}
    assert payload["dataset_id"]
    candidate = payload["prompts"]["candidate"]
    assert (candidate["text"], candidate["metadata"]["lang"]) == ("Hello world", "en")
    assert candidate["model_kwargs"] == KEY
    assert payload["tags"] == ["experiment"]
    names = [event["event"] for event in events]
    assert names == ["evaluation_progress", "evaluation_progress", "evaluation_summary"]
    assert graph.states[0]["inputs"]["lang"] == "en"  # of the workflow's own inputs


async def test_a_state_config_reaches_the_state_of_each_case() -> None:
    graph = Echo()
    node = AgentensorNode(
        name="agentensor",
        dataset=dataset("ping"),
        evaluators=[definition("always")],
        prompts={"seed": TrainablePrompt(text="Hi")},
        compiled_graph=graph,
        state_config=STORED.to_state_config("exec"),
        settings=SETTINGS,
    )
    await called(node)
    [state] = graph.states
    assert state["config"]["configurable"]["region"] == "eu"
    assert "experiment" in state["config"]["tags"]
    assert state["config"]["metadata"]["team"] == "desk"
    assert state["config"]["recursion_limit"] == 40
    assert state["config"]["prompts"]["seed"].text == "Hi"


@pytest.mark.requirement("orcheo.stored")
async def test_only_the_first_cases_are_run_where_a_request_caps_them() -> None:
    request = EvaluationRequest(
        dataset=dataset("first", "second"), evaluators=[definition("always")], max_cases=1
    ).model_dump(mode="json")
    graph = Echo()
    node = AgentensorNode(name="capped", compiled_graph=graph, settings=SETTINGS, **request)
    payload = await called(node)
    assert [state["inputs"]["prompt"] for state in graph.states] == ["first"]
    assert payload["summary"]["cases"] == 1


async def test_a_judge_of_tensors_gets_texts() -> None:
    node = AgentensorNode(
        name="judged",
        dataset=dataset("ping"),
        evaluators=[definition("Judge", "chinese", rubric="Any.")],
        compiled_graph=Echo(),
        settings=SETTINGS,
    )
    payload = await called(node)
    [found] = payload["results"]
    assert found["evaluations"]["chinese"]["passed"] is True
    assert '"prompt":"ping"' in found["evaluations"]["chinese"]["reason"]


class Adds:
    """A proposer that adds a word."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {one.name: f"{one.text} more" for one in request.components}


class Reads:
    """A graph that gives back its prompt."""

    async def ainvoke(self, state: Any, config: Any) -> dict[str, Any]:
        return {"node_results": {"echo": state["config"]["prompts"]["seed"].text}}


class Checkpoints:
    """A store of Orcheo's, in memory, which counts its versions itself."""

    def __init__(self) -> None:
        self.kept: list[AgentensorCheckpoint] = []

    async def record_checkpoint(self, **fields: Any) -> AgentensorCheckpoint:
        self.kept.append(AgentensorCheckpoint(config_version=len(self.kept) + 7, **fields))
        return self.kept[-1]

    async def list_checkpoints(self, workflow_id: str, **_: Any) -> list[AgentensorCheckpoint]:
        return [one for one in self.kept if one.workflow_id == workflow_id]


@pytest.mark.requirement("orcheo.checkpoints")
async def test_versions_are_orcheos_checkpoints_each_once_and_in_the_answer() -> None:
    events: list[dict[str, Any]] = []

    async def progress(payload: dict[str, Any]) -> None:
        events.append(payload)

    checkpoints = Checkpoints()
    node = AgentensorNode(
        name="train",
        mode="train",
        dataset=dataset(*(f"case {n}" for n in range(12))),
        evaluators=[definition("AtLeast", "long", words=2)],
        compiled_graph=Reads(),
        prompts={"seed": TrainablePrompt(text="one", requires_grad=True, model_kwargs=KEY)},
        optimizer=TextGrad(proposer=Adds()),
        stop=[{"type": "max_epochs", "epochs": 2}],
        workflow_id="wf-training",
        run_id="trained",
        checkpoint_store=checkpoints,
        progress_callback=progress,
        settings=SETTINGS,
    )
    payload = await called(node)
    first, best = checkpoints.kept
    assert (first.is_best, best.is_best) == (True, True)
    assert (first.metrics, best.metrics) == ({"long": 0.0}, {"long": 1.0})
    assert best.runnable_config["prompts"]["seed"] == {
        "type": "TextTensor",
        "text": "one more",
        "requires_grad": True,
        "metadata": {},
        "model_kwargs": KEY,
    }
    assert RunnableConfigModel.model_validate(best.runnable_config).tags == ["experiment"]
    assert best.metadata["summary"] == {"long": 1.0}
    assert best.metadata["epoch"] >= 0
    assert payload["checkpoints"] == [one.model_dump(mode="json") for one in checkpoints.kept]
    assert payload["best_checkpoint"] == payload["checkpoints"][1]
    assert payload["dataset_id"]
    assert {one["output"]["echo"] for one in payload["results"]} == {"one more"}
    assert {one["evaluations"]["long"]["passed"] for one in payload["results"]} == {True}
    assert {one["case_index"] for one in payload["results"]} <= set(range(12))
    told = [one["payload"] for one in events if one["event"] == "training_checkpoint"]
    assert [one["id"] for one in told] == [one.id for one in checkpoints.kept]
    again = await called(node)  # as a workflow that is executed anew, on the same run
    assert again["checkpoints"] == payload["checkpoints"]
    assert len(checkpoints.kept) == 2


async def test_a_node_of_prompts_alone_fills_them_in_and_runs_nothing() -> None:
    prompts = {"candidate": TrainablePrompt(text="{{config.prompts.seed.text}}")}
    payload = await called(AgentensorNode(name="only", prompts=prompts, settings=SETTINGS))
    assert payload["prompts"]["candidate"]["text"] == "Hello world"
    assert (payload["mode"], payload["summary"], payload["results"]) == ("evaluate", {}, [])
    assert payload["tags"] == ["experiment"]
    node = AgentensorNode(name="bad", evaluators=[definition("always")], settings=SETTINGS)
    with pytest.raises(ConfigError, match=r"job\.(dataset|target)"):
        await called(node)


async def test_orcheos_optimizer_bounds_a_training() -> None:
    stored = OptimizerConfig(epochs=2, checkpoint_interval=1, max_concurrency=16)
    plain = AgentensorNode(name="train", mode="train", optimizer=stored.model_dump())
    assert plain.limits == {"concurrency": 8, "case_timeout": 30}
    assert plain.stop == [{"type": "max_epochs", "epochs": 2}]
    node = AgentensorNode(
        name="train",
        mode="train",
        dataset=dataset(*(f"case {n}" for n in range(12))),
        evaluators=[definition("AtLeast", "long", words=2)],
        compiled_graph=Reads(),
        prompts={"seed": TrainablePrompt(text="one", requires_grad=True)},
        workflow_id="wf-training",
        settings=SETTINGS,
    )
    trained = node.model_copy(
        update={"optimizer": TextGrad(proposer=Adds()), "stop": plain.stop, "limits": plain.limits}
    )
    payload = await called(trained)
    assert payload["prompts"]["seed"]["text"] == "one more"
    assert payload["summary"]["long"] == 1.0


@pytest.mark.parametrize(
    ("given", "refused", "said"),
    [
        ({"id": "x", "entrypoint": "no_colon"}, EvaluatorRefused, "entrypoint"),
        ({"id": "x", "entrypoint": "os:getcwd"}, EntrypointNotAllowed, "os:getcwd"),
        ({"id": "x", "entrypoint": f"{HELPERS}:always", "extra": 1}, EvaluatorRefused, "extra"),
    ],
)
async def test_a_definition_that_cannot_be_used_is_refused(
    given: dict[str, Any], refused: type[Exception], said: str
) -> None:
    graph = Echo()
    node = AgentensorNode(
        name="bad",
        dataset=dataset("a"),
        evaluators=[given],
        compiled_graph=graph,
        settings=SETTINGS,
    )
    with pytest.raises(refused, match=said):
        await called(node)
    assert graph.states == []


@pytest.mark.requirement("orcheo.stored")
async def test_an_exported_workflow_with_its_stored_config_is_evaluated_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = """
from langgraph.graph import StateGraph
from orcheo.graph.state import State
from orcheo.nodes import SetVariableNode

def orcheo_workflow():
    graph = StateGraph(State)
    graph.add_node("reply", SetVariableNode(name="reply", variables={
        "echo": "{{config.prompts.seed.text}}", "region": "{{config.configurable.region}}",
        "run": "{{config.run_name}}"}))
    graph.set_entry_point("reply")
    graph.set_finish_point("reply")
    return graph
"""
    exported = {"name": "desk", "graph": {"format": "langgraph-script", "source": source}}
    config = STORED.model_dump(mode="json")
    node = AgentensorNode(
        name="evaluate",
        target=exported,
        dataset=[
            {
                "expected_output": {
                    "echo": "Hello world",
                    "region": "eu",
                    "run": "agentensor-eval",
                },
                "inputs": {},
            }
        ],
        evaluators=["exact_match"],
        output="reply",
        prompts=config["prompts"],
        config=config,
    )
    host = StateGraph(State)
    host.add_node("evaluate", node)
    host.add_node("after", SetVariableNode(name="after", variables={"x": 1}))
    host.add_edge(START, "evaluate")
    host.add_edge("evaluate", "after")
    host.add_edge("after", END)
    graph = host.compile(checkpointer=InMemorySaver())
    state: Any = {
        "inputs": {},
        "messages": [],
        "node_results": {},
        "config": STORED.to_state_config("e"),
    }
    thread: Any = {"configurable": {"thread_id": "e"}}
    with caplog.at_level(logging.WARNING, logger="langgraph"):
        found = await graph.ainvoke(state, thread)
        kept = (await graph.aget_state(thread)).values["config"]["prompts"]["seed"]
    assert found["node_results"]["evaluate"]["summary"]["objective"] == 1.0
    assert isinstance(kept, TrainablePrompt)
    assert "unregistered type" not in caplog.text
