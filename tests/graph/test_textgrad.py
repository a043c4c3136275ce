"""What `textgrad` shows its proposer, and what its backward pass asks a critic."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import START, StateGraph
from pydantic import PrivateAttr
from rule_task import PROMPTS, Target, Teacher, dataset, done

from orcheo_agentensor import (
    Budget,
    MaxSteps,
    TextGrad,
    TextTensor,
    abackward,
    aevaluate,
    atrain,
    get_prompt,
)
from orcheo_agentensor.optimizers import ProposalRequest
from orcheo_agentensor.testing import SimulatedChatModel


class Clumsy(Teacher):
    """A proposer whose first two texts are of no use."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        if len(self.requests) <= 2:
            return {"planner": f"Plan. try {len(self.requests)}"}
        return super().texts(request)


async def trained(proposer: Any, **options: Any) -> Any:
    return await atrain(
        Target(),
        prompts=PROMPTS,
        dataset=dataset(),
        evaluators=[done],
        optimizer=TextGrad(proposer=proposer, **{"minibatch": 4, **options}),
        budget=Budget(rollouts=300),
    )


async def test_momentum_shows_past_edits_newest_last() -> None:
    clumsy = Clumsy()
    await trained(clumsy)
    shown = [
        [(edit.text, edit.accepted, edit.before, edit.after) for edit in c.history]
        for request in clumsy.requests[:3]
        for c in request.components
        if c.name == "planner"
    ]
    first, second = ("Plan. try 1", False, 0.0, 0.0), ("Plan. try 2", False, 0.0, 0.0)
    assert shown == [[], [first], [first, second]]


@pytest.mark.parametrize(("momentum", "most"), [(0, 0), (1, 1)])
async def test_momentum_is_how_many_are_shown(momentum: int, most: int) -> None:
    clumsy = Clumsy()
    result = await trained(clumsy, momentum=momentum)
    assert max(len(c.history) for r in clumsy.requests for c in r.components) == most
    assert result.best.metrics["objective"] == 1.0


class Critic(SimulatedChatModel):
    """Says the same of everything, and keeps what it was shown."""

    _asked: list[str] = PrivateAttr(default_factory=list)

    def reply(self, messages: list[BaseMessage]) -> str:
        self._asked.append("\n".join(message.text for message in messages))
        return "name the rule"


class State(TypedDict, total=False):
    rule: str
    plan: str
    text: str


def chain() -> Any:
    """plan -> write, each with a prompt of its own."""

    async def plan(state: State) -> dict[str, str]:
        return {"plan": f"{get_prompt('planner')} for {state['rule']}"}

    async def write(state: State) -> dict[str, str]:
        return {"text": f"{get_prompt('writer')} by {state['plan']}"}

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("write", write)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "write")
    return graph


@pytest.mark.requirement("training.optimizers")
async def test_with_a_model_each_edge_is_criticised_once() -> None:
    """Three edges: writer -> write, plan -> write, planner -> plan."""
    critic, teacher = Critic(), Teacher()
    cases = [
        {"id": f"{split}{i}", "split": split, "inputs": {"rule": f"{split}{i}"}}
        for split in ("train", "validation", "holdout")
        for i in range(3)
    ]
    await atrain(
        chain(),
        prompts=PROMPTS,
        dataset=cases,
        evaluators=[lambda outputs: 1.0 if outputs["plan"].endswith("train2") else 0.0],
        optimizer=TextGrad(proposer=teacher, model=critic, minibatch=3),
        stop=[MaxSteps(2)],
    )
    wrong = 2  # the case that is right costs nothing; the second step finds all answers recorded
    assert len(critic._asked) == 3 * wrong == len(set(critic._asked))
    upstream = ["prompt 'writer'", "node 'plan'", "prompt 'planner'"]
    for name in upstream:
        assert sum(f"should change in {name}" in text for text in critic._asked) == wrong
    (planner,) = (c for c in teacher.requests[0].components if c.name == "planner")
    feedback = [record.feedback for record in planner.feedback if record.score == 0]
    assert feedback == ["name the rule"] * wrong


class Tempered(SimulatedChatModel):
    """Criticises and proposes; notes its temperature at each call about a prompt."""

    temperature: float = 1.0
    _asked: list[tuple[str, str, float]] = PrivateAttr(default_factory=list)

    def reply(self, messages: list[BaseMessage]) -> str:
        text = "\n".join(message.text for message in messages)
        for name in PROMPTS:
            if f"should change in prompt '{name}'" in text:
                self._asked.append(("criticism", name, self.temperature))
                return f"of {name}: name the rule"
            if f"# Prompt '{name}'" in text:
                self._asked.append(("proposal", name, self.temperature))
                return json.dumps({name: f"{name} names the rule"})
        return "name the rule"


@pytest.mark.requirement("training.tensors", "training.blame", "training.model")
async def test_each_prompt_is_criticised_for_itself_by_its_model_with_its_settings() -> None:
    """`model_kwargs` go to each call about that prompt, of the optimizer's model or its own."""
    shared, own = Tempered(), Tempered(temperature=0.5)
    teacher = Teacher()
    job: dict[str, Any] = {
        "dataset": [{"id": f"c{n}", "inputs": {"rule": f"r{n}"}} for n in range(2)],
        "evaluators": [lambda outputs: 0.0],
        "stop": [MaxSteps(1)],
    }
    cool, warm = {"temperature": 0.2}, {"temperature": 0.7}
    for prompts in (
        {"planner": TextTensor("Plan.", model_kwargs=cool), "writer": TextTensor("Write.")},
        {
            "planner": TextTensor("Plan.", model=own),
            "writer": TextTensor("Write.", model=own, model_kwargs=warm),
        },
    ):
        await atrain(chain(), prompts=prompts, optimizer=TextGrad(model=shared), **job)
    assert sorted(set(shared._asked)) == [
        ("criticism", "planner", 0.2),
        ("criticism", "writer", 1.0),
        ("proposal", "planner", 0.2),
        ("proposal", "writer", 1.0),
    ]
    assert sorted(set(own._asked)) == [
        ("criticism", "planner", 0.5),
        ("criticism", "writer", 0.7),
        ("proposal", "planner", 0.5),
        ("proposal", "writer", 0.7),
    ]
    prompts = {"planner": TextTensor("Plan."), "writer": TextTensor("Write.", model=own)}
    optimizer = TextGrad(proposer=teacher, model=shared)
    await atrain(chain(), prompts=prompts, optimizer=optimizer, **job)
    for component in teacher.requests[0].components:
        said = {record.feedback for record in component.feedback}
        assert said == {f"of {component.name}: name the rule"}


async def test_settings_of_a_prompt_reach_the_critic_of_a_loop_by_hand() -> None:
    model = Tempered()
    prompts = {"planner": TextTensor("Plan.", model_kwargs={"temperature": 0.2})}
    prompts["writer"] = TextTensor("Write.")
    report = await aevaluate(
        chain(),
        dataset=[{"inputs": {"rule": "r"}}],
        evaluators=[lambda outputs: 0.0],
        prompts=prompts,
        tape=True,
    )
    await abackward(report, prompts, model=model)
    assert sorted(model._asked) == [("criticism", "planner", 0.2), ("criticism", "writer", 1.0)]


async def test_without_a_model_the_feedback_is_handed_on_as_it_is() -> None:
    teacher = Teacher()
    await trained(teacher)
    said = {r.feedback for c in teacher.requests[0].components for r in c.feedback}
    assert all(text.startswith("done: 0 (needs R") for text in said)
