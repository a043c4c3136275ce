"""What the guards refuse in a training: one prompt at a time, and in linear time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from rule_task import PROMPTS, Target, Teacher, dataset, done, trained

from orcheo_agentensor import BadInput, MaxSteps, TextGrad, TextTensor, atrain, get_prompt
from orcheo_agentensor.optimizers import ProposalRequest


class HalfBad(Teacher):
    """Improves the planner; every text for the writer is empty."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        return {**super().texts(request), "writer": "", "nobody": "asked"}


@pytest.mark.requirement("training.guards")
async def test_a_refusal_hits_one_prompt_and_the_other_lives_on() -> None:
    events: list[Any] = []
    half = HalfBad()
    await trained(proposer=half, on_event=events.append, stop=[MaxSteps(3)])
    accepted = [event for event in events if event["type"] == "candidate_accepted"]
    assert accepted[0]["components"] == ["nobody", "planner", "writer"]
    assert accepted[0]["refused"] == {"writer": "empty", "nobody": "was not asked for"}
    shown = [
        (edit.text, edit.accepted, edit.reason)
        for request in half.requests[1:]
        for component in request.components
        if component.name == "writer"
        for edit in component.history
    ]
    assert shown[0] == ("", False, "empty")


LABELS = [f"the customer asks about {what} of an account that is theirs" for what in ("a", "b")]


def labelled() -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{n}",
            "split": split,
            "inputs": f"{split} case {n} says something of its own, at some length",
            "expected_output": LABELS[n % 2],
        }
        for split in ("train", "validation", "holdout")
        for n in range(8)
    ]


async def quoting(text: str, **metadata: Any) -> tuple[Any, list[str]]:
    """A training whose proposer gives `text`; (result, why proposals were refused)."""

    class Quoting:
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            return {"p": text}

    events: list[Any] = []
    result = await atrain(
        lambda inputs: LABELS[int(inputs.split()[2]) % 2] if LABELS[0] in get_prompt("p") else "",
        prompts={"p": TextTensor("Classify.", metadata=metadata)},
        dataset=labelled(),
        evaluators=["exact_match"],
        optimizer=TextGrad(proposer=Quoting(), minibatch=4),
        stop=[MaxSteps(1)],
        on_event=events.append,
    )
    rejected = [event for event in events if event["type"] == "proposal_rejected"]
    return result, [event["reason"] for event in rejected if event["status"] == "refused"]


async def test_long_class_labels_can_be_learnt() -> None:
    result, refused = await quoting(f"Answer one of: {'; '.join(LABELS)}")
    assert refused == []
    assert result.best.metrics["objective"] == 1.0


@pytest.mark.parametrize("split", ["validation", "holdout"])
async def test_a_quote_of_a_held_case_is_refused(split: str) -> None:
    _, refused = await quoting(
        f"{LABELS[0]}: {split} case 3 says something of its own, at some length"
    )
    assert refused[0].startswith("p: copies a case: ")


async def test_training_cases_may_be_quoted_unless_the_prompt_says_no() -> None:
    text = f"{LABELS[0]}: train case 3 says something of its own, at some length"
    assert (await quoting(text))[1] == []
    assert (await quoting(text, no_quotes=True))[1][0].startswith("p: copies a case: ")


async def test_a_megabyte_from_a_proposer_costs_little_and_is_not_kept(
    processor_time: Callable[[], AbstractContextManager[list[float]]],
) -> None:
    class Flooding(Teacher):
        times = 0

        def texts(self, request: ProposalRequest) -> dict[str, str]:
            return {c.name: "flood {x} " * self.times for c in request.components}

    cost = []
    for times in (1_000, 100_000):  # both over the cap
        proposer = Flooding()
        proposer.times = times
        with processor_time() as seconds:
            await atrain(
                Target(),
                prompts=PROMPTS,
                dataset=dataset(),
                evaluators=[done],
                optimizer=TextGrad(proposer=proposer, minibatch=4),
                stop=[MaxSteps(2)],
            )
        cost += seconds
        (edit,) = proposer.requests[1].components[0].history
        assert "over the cap of 4000" in edit.reason
        assert len(edit.text) < 4_100
    assert cost[1] < 5 * cost[0] + 0.5


async def test_the_template_language_is_said_and_an_unknown_one_refused() -> None:
    events: list[Any] = []
    job: dict[str, Any] = {
        "dataset": dataset(),
        "evaluators": [done],
        "optimizer": TextGrad(proposer=Teacher(), minibatch=4),
        "stop": [MaxSteps(0)],
    }
    prompts = {"planner": "Plan {x}.", "writer": "Write."}
    await atrain(Target(), prompts=prompts, on_event=events.append, **job)
    assert events[0]["templates"] == {"planner": "f-string", "writer": "none"}
    wrong = {"planner": TextTensor("Plan.", metadata={"template": "erb"}), "writer": "Write."}
    with pytest.raises(BadInput, match=r"template.*must be one of f-string"):
        await atrain(Target(), prompts=wrong, **job)
