"""What a trial learns about a prompt is its gradients: seen in events and in the result."""

from __future__ import annotations

from typing import Any

import pytest
from rule_task import NAMES, Target, Teacher, dataset, done, trained

from orcheo_agentensor import (
    Budget,
    FeedbackRecord,
    MaxSteps,
    Store,
    TextGrad,
    TextTensor,
    astep,
    atrain,
    step,
)
from orcheo_agentensor.optimizers import ProposalRequest


async def test_events_show_what_each_trial_learnt_worst_first_and_few() -> None:
    events: list[Any] = []
    teacher = Teacher()
    await trained(proposer=teacher, on_event=events.append)
    told = [e for e in events if e["type"] in ("candidate_accepted", "proposal_rejected")]
    learnt = [event["gradients"] for event in told if event["gradients"]]
    assert learnt
    for gradients, request in zip(learnt, teacher.requests, strict=False):
        for component in request.components:
            shown = gradients[component.name]
            assert shown[0]["score"] == min(record.score for record in component.feedback)
            assert {one["feedback"] for one in shown} <= {str(r) for r in component.feedback}
            assert 1 <= len(shown) <= 5


class Clumsy(Teacher):
    """Improves nothing."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        return {c.name: f"{c.text} try{len(self.requests)}" for c in request.components}


async def test_the_result_has_what_is_still_wrong_with_the_best() -> None:
    job: dict[str, Any] = {
        "prompts": dict.fromkeys(NAMES, "Go."),
        "dataset": dataset(),
        "evaluators": [done],
        "optimizer": TextGrad(minibatch=4, proposer=Clumsy()),
        "budget": Budget(rollouts=300),
    }
    async with Store.from_url(None) as store:
        result = await atrain(Target(), **job, stop=[MaxSteps(2)], store=store, run_id="r")
        again = await atrain(Target(), **job, stop=[MaxSteps(2)], store=store, run_id="r")
    assert result.best == result.baseline
    assert set(result.gradients) == set(NAMES)
    for name, found in result.gradients.items():
        assert all(isinstance(one, FeedbackRecord) for one in found)
        assert (found[0].score, "needs R" in str(found[0])) == (0.0, True)
        assert result.to_json()["gradients"][name][0]["feedback"] == str(found[0])
    assert again.gradients == result.gradients


async def test_a_long_feedback_is_short_in_events_and_whole_for_the_proposer() -> None:
    events: list[Any] = []
    teacher = Clumsy()
    said = "x" * 5_000
    await atrain(
        Target(),
        prompts=dict.fromkeys(NAMES, "Go."),
        dataset=dataset(),
        evaluators=[lambda outputs: {"key": "done", "score": 0.0, "comment": said}],
        optimizer=TextGrad(minibatch=4, proposer=teacher),
        stop=[MaxSteps(1)],
        on_event=events.append,
    )
    (rejected,) = [e for e in events if e["type"] == "proposal_rejected"]
    assert all(
        len(one["feedback"]) < 400 for shown in rejected["gradients"].values() for one in shown
    )
    assert said in str(teacher.requests[0].components[0].feedback[0])


class Obedient:
    """Appends its gradients."""

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        return {c.name: " ".join([c.text, *map(str, c.feedback)]) for c in request.components}


@pytest.mark.requirement("training.by-hand")
async def test_a_step_by_hand_rewrites_in_place_and_leaves_the_gradients() -> None:
    plan, reply, fixed = (
        TextTensor("Plan."),
        TextTensor("Reply."),
        TextTensor("F", requires_grad=False),
    )
    for tensor in (plan, fixed):
        tensor.backward("Be brief.")
    tensors = {"plan": plan, "reply": reply, "fixed": fixed}
    assert await astep(tensors, optimizer=TextGrad(proposer=Obedient())) == {}
    assert [t.text for t in tensors.values()] == ["Plan. Be brief.", "Reply.", "F"]
    assert len(plan.gradients) == 1
    plan.zero_grad()
    assert await astep(tensors, optimizer=TextGrad(proposer=Obedient())) == {}
    assert plan.text == "Plan. Be brief."


def test_a_step_refuses_what_a_training_would_refuse() -> None:
    plan, reply = TextTensor("Plan {x}."), TextTensor("Reply.", metadata={"max_chars": 8})
    for tensor in (plan, reply):
        tensor.backward("Be brief.")
    refused = step({"plan": plan, "reply": reply}, optimizer=TextGrad(proposer=Obedient()))
    assert list(refused) == ["reply"]
    assert "over the cap of 8" in refused["reply"]
    assert (plan.text, reply.text) == ("Plan {x}. Be brief.", "Reply.")
