"""A flag that is off refuses training by every door of its store; phases say what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import (
    MaxSteps,
    Settings,
    TextGrad,
    atrain,
    create_training_graph,
    get_prompt,
    training_node,
)
from orcheo_agentensor.errors import BadInput, ConfigError
from orcheo_agentensor.storage import Store

CASES = [{"inputs": "?", "expected_output": "yes"}]
CALLS: list[str] = []


def target(inputs: str) -> str:
    CALLS.append(inputs)
    return str(get_prompt("answer"))


class Yes:
    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "yes" for component in request.components}


JOB: dict[str, Any] = {
    "dataset": CASES,
    "evaluators": ["exact_match"],
    "optimizer": TextGrad(proposer=Yes()),
}


class Shared(TypedDict, total=False):
    workflow_id: str
    prompts: Any
    stop: Any
    decision: Any


async def by_function(store: Store, **options: Any) -> Any:
    return await atrain(
        target, **JOB, prompts={"answer": "no"}, stop=[MaxSteps(1)], store=store, **options
    )


async def by_host(store: Store, **options: Any) -> Any:
    host = StateGraph(Shared)
    host.add_node("train", training_node(create_training_graph(target, **JOB, store=store)))
    host.add_edge(START, "train")
    return await host.compile().ainvoke(
        {"prompts": {"answer": "no"}, "stop": [{"type": "max_steps", "steps": 1}], **options}
    )


@pytest.mark.parametrize("train", [by_function, by_host])
@pytest.mark.requirement("training.flag")
async def test_a_flag_that_is_off_refuses_training_before_anything_is_paid(
    store: Store, train: Any
) -> None:
    CALLS.clear()
    await store.workflows.set_flags("w", {"agent_trainer_enabled": False})
    with pytest.raises(ConfigError, match="agent_trainer_enabled"):
        await train(store, workflow_id="w")
    assert not CALLS
    assert not await store.runs.list(workflow_id="w")
    await store.workflows.set_flags("w", {"agent_trainer_enabled": True})
    assert await train(store, workflow_id="w")


@pytest.mark.requirement("training.flag")
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"agent_trainer_enabled": "off"}, "flags.agent_trainer_enabled: 'off' must be True or"),
        ({"agent_trainer_enabled": 0}, "flags.agent_trainer_enabled: 0 must be True or False"),
        ({"agent_training": False}, "flags.agent_training: False is not a flag of a workflow"),
        ({"phase": "wide"}, "flags.phase: 'wide' must be 'dev' or 'pilot' or 'broad', or None"),
        ({"phase": ["dev"]}, "flags.phase"),
    ],
)
async def test_a_flag_that_would_not_forbid_is_refused(flags: dict[str, Any], told: str) -> None:
    store = Store.from_url(None)
    with pytest.raises(BadInput) as refused:
        await store.workflows.set_flags("w", flags)
    assert refused.value.message.startswith(told)
    assert await store.workflows.get("w") is None


async def test_an_operator_who_switched_training_off_is_heeded_in_process(store: Store) -> None:
    off = Settings(agent_trainer_enabled=False)
    with pytest.raises(ConfigError, match="operator"):
        await by_function(store, settings=off, workflow_id="w")
    await store.workflows.set_flags("w", {"agent_trainer_enabled": True})
    assert await by_function(store, settings=off, workflow_id="w")


async def test_a_run_that_began_is_not_trained_on_with_the_flag_off(store: Store) -> None:
    first = await by_function(store, workflow_id="w", run_id="done")
    await store.workflows.set_flags("w", {"agent_trainer_enabled": False})
    again = await by_function(store, workflow_id="w", run_id="done")
    assert again.best.config_version == first.best.config_version


@pytest.mark.requirement("training.flag-overridden")
async def test_whoever_overrides_the_flag_is_in_the_record(store: Store) -> None:
    await store.workflows.set_flags("w", {"agent_trainer_enabled": False})
    graph = create_training_graph(target, **JOB, store=store, overrides_flag="ana")
    stop = [{"type": "max_steps", "steps": 1}]
    job = {"workflow_id": "w", "prompts": {"answer": "no"}, "stop": stop, "run_id": "forced"}
    await graph.compile().ainvoke(job)
    assert (await store.runs.get("forced")).refs["agent_trainer_enabled_overridden_by"] == "ana"


@pytest.mark.parametrize(
    ("phase", "promote", "allowed"),
    [
        ("dev", "never", True),
        ("dev", "ask", False),
        ("dev", "auto", False),
        ("pilot", "ask", True),
        ("pilot", "auto", False),
        ("broad", "auto", True),
    ],
)
@pytest.mark.requirement("kpi.phases")
async def test_a_phase_says_how_trainings_may_promote(
    store: Store, phase: str, promote: Any, allowed: bool
) -> None:
    await store.workflows.set_flags("w", {"phase": phase})
    if allowed:
        assert await by_function(store, workflow_id="w", promote=promote)
        return
    with pytest.raises(ConfigError, match=f"phase '{phase}'"):
        await by_function(store, workflow_id="w", promote=promote)
    assert not await store.runs.list(workflow_id="w")
