"""An optimizer step is an execution of a node; versions come at intervals as they are asked for."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from rule_task import PROMPTS, Target, Teacher, dataset, done, outcome_of, trained

from orcheo_agentensor import (
    BadInput,
    Budget,
    MaxSteps,
    Reflective,
    Store,
    TextGrad,
    TextTensor,
    create_training_graph,
)
from orcheo_agentensor.optimizers import ProposalRequest


class Slow(Teacher):
    """Teaches one rule at a time, so that a search takes several steps."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        found = super().texts(request)
        return {
            component.name: " ".join(
                [component.text, *found[component.name].split()[len(component.text.split()) :][:1]]
            )
            for component in request.components
            if component.name in found
        }


CASES = dataset(rules=16, train=32, validation=16, holdout=8)
JOB: dict[str, Any] = {"prompts": PROMPTS, "dataset": CASES, "seed": 3}


def training(**options: Any) -> Any:
    return create_training_graph(
        Target(),
        evaluators=[done],
        optimizer=Reflective(minibatch=4, proposer=Slow(), chain=8, **options),
    )


async def history(graph: Any, thread: str) -> list[Any]:
    """The states of a thread after each optimizer step, in order."""
    config = {"configurable": {"thread_id": thread}}
    found = [snapshot async for snapshot in graph.aget_state_history(config)]
    return [one for one in reversed(found) if one.values.get("step") is not None]


def nodes_of(updates: list[Mapping[str, Any]]) -> list[str]:
    return [name for update in updates for name in update]


@pytest.mark.requirement("checkpoint.steps")
async def test_each_optimizer_step_is_an_execution_of_the_node_and_a_checkpoint() -> None:
    graph = training().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    updates = [update async for update in graph.astream({**JOB, "run_id": "t"}, config)]
    steps = nodes_of(updates).count("step")
    last = (await graph.aget_state(config)).values
    assert last["step"] == steps > 3
    # the edge from `step` to itself is taken, and every step is in the history once
    assert "step, step" in ", ".join(nodes_of(updates))
    edges = {(edge.source, edge.target) for edge in graph.get_graph().edges}
    assert ("step", "step") in edges
    seen = [one.values["step"] for one in await history(graph, "t")]
    assert list(dict.fromkeys(seen)) == list(range(steps + 1))


@pytest.mark.parametrize("parallel", [1, 4])
async def test_the_result_does_not_depend_on_how_many_steps_a_node_makes(parallel: int) -> None:
    job: dict[str, Any] = {
        "proposer": Slow(),
        "options": {"parallel": parallel},
        "dataset": CASES,
        "workflow_id": "w",
        "checkpoint_every": 2,
    }
    one_by_one = await trained(Target(breaks={0: {1}}), **job)
    grouped = await trained(Target(breaks={0: {1}}), **job, steps_per_node=1000)
    in_threes = await trained(Target(breaks={0: {1}}), **job, steps_per_node=3)
    assert outcome_of(one_by_one) == outcome_of(grouped) == outcome_of(in_threes)


async def test_trials_in_flight_overlap_in_steps_of_their_own() -> None:
    """Four proposals are asked for before the first is answered, and each is a step of its own."""
    steps: list[int] = []

    def hear(event: dict[str, Any]) -> None:
        if event["type"] == "step_started":
            steps.append(event["trials"])

    target = Target()
    options = {"parallel": 4, "opening": False}
    await trained(target, options=options, on_event=hear, stop=[MaxSteps(6)])
    assert target.repeated() == 0
    assert len(steps) <= 6
    assert steps[0] == 4


@pytest.mark.requirement("checkpoint.interval")
@pytest.mark.parametrize("every", [1, 2, 3])
async def test_what_the_search_stands_at_is_stored_at_every_interval(every: int) -> None:
    events: list[dict[str, Any]] = []
    result = await trained(
        Target(),
        Slow(),
        {"chain": 8},
        dataset=CASES,
        checkpoint_every=every,
        on_event=events.append,
        stop=[MaxSteps(6)],
    )
    saved = [event for event in events if event["type"] == "checkpoint_saved"]
    at = [event["step"] for event in saved if event["version"] > 1]
    assert at == [step for step in range(1, 7) if step % every == 0]
    assert {event["reason"] for event in saved} <= {"baseline", "new best", "interval"}
    for event, version in zip(saved, result.checkpoints, strict=True):
        assert event["version"] == version.config_version
        assert event["reason"] == version.metadata["reason"]
        assert event["content_hash"] == version.content_hash
        assert event["coverage"] == version.metrics["coverage"] == 1.0
        found = version.metrics["evaluators"]["done"]
        assert event["evaluators"]["done"] == {key: found[key] for key in ("mean", "ci95", "n")}
        assert found["n"] == 16  # all validation cases


async def test_a_version_that_loses_is_stored_at_its_interval_and_the_best_stays() -> None:
    class Spoiler(Teacher):
        """Teaches rules of the training cases that break those of validation."""

        def texts(self, request: ProposalRequest) -> dict[str, str]:
            found = super().texts(request)
            return {name: f"{text} BAD" for name, text in found.items()}

    class Fragile(Target):
        async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
            found = await super().__call__(inputs)
            spoilt = inputs["split"] == "validation" and "BAD" in self.calls[-1][0][0]
            return {"score": 0.0, "feedback": "spoilt"} if spoilt else found

    events: list[dict[str, Any]] = []
    result = await trained(
        Fragile(),
        Spoiler(),
        {"chain": 8, "opening": False},
        prompts={"planner": "Plan. R0", "writer": "Write."},
        checkpoint_every=1,
        on_event=events.append,
        stop=[MaxSteps(2)],
    )
    assert result.best == result.baseline
    (interval,) = [one for one in result.checkpoints if one.metadata["reason"] == "interval"]
    assert interval.metrics["objective"] < result.best.metrics["objective"]


@pytest.mark.requirement("checkpoint.plan")
async def test_by_default_versions_cost_no_rollouts_and_intervals_what_the_plan_says() -> None:
    events: list[dict[str, Any]] = []
    job: dict[str, Any] = {"dataset": CASES, "stop": [MaxSteps(5)], "on_event": events.append}

    def plans() -> list[dict[str, Any]]:
        return [event["checkpoints"] for event in events if event["type"] == "run_started"]

    plain = await trained(Target(), Slow(), {"chain": 8}, **job)
    off = await trained(Target(), Slow(), {"chain": 8}, **job, checkpoint_every="none")
    every = await trained(Target(), Slow(), {"chain": 8}, **job, checkpoint_every=1)
    assert outcome_of(plain)[1:] == outcome_of(off)[1:]
    free, same, asked = plans()
    assert (
        free
        == same
        == {"every": None, "steps_per_node": 1, "rollouts_each": 0, "rollouts_at_most": 0}
    )
    assert asked["rollouts_each"] == 16
    assert asked["rollouts_at_most"] == 80
    assert plain.usage.rollouts < every.usage.rollouts <= plain.usage.rollouts + 80


async def test_intervals_are_paid_by_the_search_and_leave_the_holdout_alone() -> None:
    for rollouts in (34, 60, 90):
        target = Target()
        result = await trained(
            target,
            Slow(),
            {"chain": 8},
            dataset=CASES,
            checkpoint_every=1,
            budget=Budget(rollouts=rollouts),
        )
        assert len(target.calls) == result.usage.rollouts <= rollouts
        assert result.best.metrics["coverage"] == 1.0
        if result.best != result.baseline:
            assert result.holdout is not None


@pytest.mark.parametrize("wrong", [0, -1, "often", 1.5, True])
async def test_a_wrong_interval_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(BadInput, match="checkpoint_every"):
        await trained(checkpoint_every=wrong)
    with pytest.raises(BadInput, match="steps_per_node"):
        await trained(steps_per_node=wrong)


@pytest.mark.requirement("training.tensors")
async def test_the_state_holds_tensors_with_gradients_and_scores_from_the_first_step_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    saver = InMemorySaver()  # which knows nothing of ours
    graph = training(opening=False).compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}}
    given = {"planner": TextTensor("Plan."), "writer": TextTensor("Write.")}
    with caplog.at_level(logging.WARNING):
        await graph.ainvoke({**JOB, "prompts": given, "run_id": "t"}, config)
        states = await history(graph, "t")
    assert "unregistered" not in caplog.text
    first = next(one.values for one in states if one.values["step"] == 1)
    for key in ("prompts", "current"):
        assert all(isinstance(tensor, TextTensor) for tensor in first[key].values())
    assert first["prompts"]["planner"].text == "Plan."
    assert first["current"]["planner"].text != "Plan."
    (gradient, *_rest) = first["prompts"]["planner"].gradients
    assert gradient.case_id.startswith("train-")
    assert "needs R" in gradient.feedback
    assert len(first["prompts"]["planner"].gradients) <= 5
    scores = first["scores"]
    assert scores["best"]["split"] == scores["current"]["split"] == "train"
    assert scores["current"]["evaluators"]["done"] > scores["best"]["evaluators"]["done"]
    last = states[-1].values
    assert last["scores"]["best"] == {
        "split": "validation",
        "cases": 16,
        "evaluators": {"done": 1.0},
    }
    assert not graph.get_state(config).next


class Endless:
    """Finds nothing, and fills the prompt as far as it may."""

    def __init__(self) -> None:
        self.calls = 0

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        self.calls += 1
        return {c.name: f"{self.calls:04d} " + "word " * 199 for c in request.components}


@pytest.mark.requirement("checkpoint.small")
async def test_a_step_checkpoints_at_most_20_kb_and_no_more_after_many(tmp_path: Path) -> None:
    """With 2 KB of prompts: bytes of all checkpoints and writes of LangGraph, step by step."""
    text = "word " * 200
    await trained(
        Target(),
        optimizer=TextGrad(minibatch=4, proposer=Endless()),
        dataset=dataset(train=40, validation=4, holdout=0),
        prompts={"planner": text, "writer": text},
        budget={"rollouts": 10**6},
        stop=[MaxSteps(60)],
        store=f"sqlite:///{tmp_path / 'agentensor.db'}",
    )
    query = """
    SELECT LENGTH(checkpoint) + LENGTH(metadata) + (
        SELECT COALESCE(SUM(LENGTH(value)), 0) FROM writes
        WHERE writes.checkpoint_id = checkpoints.checkpoint_id
    ) FROM checkpoints ORDER BY checkpoint_id
    """
    with sqlite3.connect(tmp_path / "agentensor.langgraph.db") as database:
        sizes = [size for (size,) in database.execute(query)]
    assert len(sizes) >= 60
    steps = sizes[3:-3]
    assert max(steps) <= 20_000
    assert max(steps[30:]) <= 1.05 * max(steps[:30])


class Asked(TypedDict, total=False):
    rule: int
    split: str
    i: int
    score: float
    feedback: str


@dataclass
class Context:
    """What the graph below reads besides its config."""

    writer: str = "Write."
    tone: str = "plain"


async def answer(state: Asked, config: RunnableConfig, runtime: Runtime[Context]) -> dict[str, Any]:
    context = runtime.context or Context()
    texts = {"planner": config["configurable"].get("planner", ""), "writer": context.writer}
    if context.tone != "kind":
        return {"score": 0.0, "feedback": "the tone is not kind"}
    return Target().judge(texts, state["rule"])


def bare_graph() -> Any:
    graph = StateGraph(Asked, context_schema=Context)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph.compile()


@pytest.mark.requirement("checkpoint.complete")
async def test_best_and_every_downloaded_version_run_in_a_graph_that_knows_nothing_of_ours() -> (
    None
):
    async with Store.from_url(None) as store:
        graph = create_training_graph(
            bare_graph(),
            evaluators=[done],
            optimizer=Reflective(minibatch=4, proposer=Teacher()),
            store=store,
        ).compile()
        prompts = {
            "planner": {"text": "Plan.", "bind": "configurable.planner"},
            "writer": {"text": "Write.", "bind": "context.writer"},
        }
        found = await graph.ainvoke(
            {
                "prompts": prompts,
                "dataset": dataset(),
                "config": {"configurable": {"tone": "kind"}, "tags": ["nightly"]},
                "workflow_id": "w",
            }
        )
        versions = await store.checkpoints.list("w")
        assert found["best"]["objective"] == 1.0
        assert len(versions) == 2
        best = next(v for v in versions if v.config_version == found["best"]["config_version"])
        baseline = next(v for v in versions if v is not best)
        for config, score in (
            (found["best"], 1.0),
            (best.to_runnable(), 1.0),
            (found["baseline"], 0.0),
            (baseline.to_runnable(), 0.0),
        ):
            assert config["tags"] == ["nightly"]
            for rule in range(4):
                state = await bare_graph().ainvoke(
                    {"rule": rule}, config, context=config["context"]
                )
                assert state["score"] == score
        # and the same file is a config for a job of ours
        again = await graph.ainvoke(
            {"dataset": dataset(), "config": best.to_runnable(), "workflow_id": "again"}
        )
        assert again["baseline"]["objective"] == 1.0
