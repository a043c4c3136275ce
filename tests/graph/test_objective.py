"""The objective of a training: the best score, within limits on cost, time and length."""

from __future__ import annotations

import io
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from rule_task import PROMPTS, Target, Teacher, dataset, trained

from orcheo_agentensor import ConfigCheckpoint, Objective, TextTensor, get_prompt
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.optimizers import ProposalRequest


class Paid(Target):
    """Calls a priced model that reads as many tokens as its prompts have characters."""

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        read = sum(len(get_prompt(name)) for name in PROMPTS)
        usage = {"input_tokens": read, "output_tokens": 0, "total_tokens": read}
        told = {"model_name": "gpt-4o-2024-08-06", "model_provider": "openai"}
        reply = AIMessage("ok", usage_metadata=usage, response_metadata=told)  # type: ignore[arg-type]
        await FakeMessagesListChatModel(responses=[reply]).ainvoke("hi")
        return await super().__call__(inputs)


class Verbose(Teacher):
    """Does what the feedback names, and says much beside it at first; brief where it must be."""

    def __init__(self, *, filler: int = 200) -> None:
        super().__init__()
        self.filler = filler

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        found = super().texts(request)
        caps = {one.name: one.max_chars for one in request.components}
        more = "x" * self.filler if len(self.requests) <= 2 else ""
        return {
            name: f"{text} {more}".strip() if len(text) + self.filler < caps[name] else text
            for name, text in found.items()
        }


def chars(version: ConfigCheckpoint) -> int:
    return sum(len(tensor.text) for tensor in version.prompts.values())


@pytest.mark.requirement("training.objective")
async def test_what_costs_too_much_is_never_chosen_and_the_decision_says_what_was() -> None:
    events: list[Any] = []
    job: dict[str, Any] = {
        "dataset": dataset(holdout=16),
        "workflow_id": "w",
        "promote": "auto",
        "guardrail": {"latency": "off"},
    }
    free = await trained(Paid(), Verbose(), **job)
    assert free.decision.objective == {}
    assert chars(free.best) > 200
    limits = {"cost": "<= 5x"}
    result = await trained(Paid(), Verbose(), objective=limits, on_event=events.append, **job)
    assert result.decision.status == "promoted"
    assert chars(result.best) < 60
    rejected = [e["reason"] for e in events if e["type"] == "proposal_rejected"]
    assert any("objective: cost $" in reason and "is above" in reason for reason in rejected)
    found = result.decision.objective
    assert found["stated"] == {"score": "max", "cost": "<= 5x"}
    cost = found["measures"]["cost"]
    assert (found["split"], cost["kept"]) == ("holdout", True)
    assert cost["best"] <= 5 * cost["baseline"] == pytest.approx(cost["allowed"])
    assert "is within" in next(r for r in result.decision.reasons if r.startswith("objective: "))
    (chosen,) = [one for one in found["front"] if one["chosen"]]
    assert (chosen["score"], chosen["length"]) == (1.0, chars(result.best))
    assert [one["dominated"] for one in found["front"] if one["chosen"]] == [False]
    result.print(file=(page := io.StringIO()))
    shown = f"front: version {result.best.config_version} (chosen): score 1.0000, $"
    assert shown in page.getvalue()


async def test_a_length_is_told_to_the_proposer_and_kept() -> None:
    teacher = Verbose(filler=40)
    result = await trained(proposer=teacher, objective=Objective(length="<= 40"))
    assert result.best.metrics["objective"] == 1.0
    assert chars(result.best) <= 40
    caps = {one.max_chars for one in teacher.requests[0].components}
    assert caps == {40 - len("Write."), 40 - len("Plan.")}
    length = result.decision.objective["measures"]["length"]
    assert length == {"limit": "<= 40", "baseline": 11, "best": chars(result.best), "allowed": 40,
                      "kept": True}  # fmt: skip


class Cutting(Teacher):
    """Takes words away that change nothing."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        return {c.name: c.text.replace(" please", "", 1) for c in request.components}


@pytest.mark.parametrize(("objective", "cut"), [({"length": "min"}, True), ({}, False)])
async def test_a_tie_goes_to_the_shorter_prompts_where_that_is_asked_for(
    objective: dict[str, Any], cut: bool
) -> None:
    prompts = {"planner": "Plan R0 please and R2 please now", "writer": TextTensor("R1")}
    result = await trained(proposer=Cutting(), prompts=prompts, objective=objective)
    assert result.best.metrics["objective"] == result.baseline.metrics["objective"]
    assert (chars(result.best) < chars(result.baseline)) == cut


async def test_a_cost_that_nobody_knows_ends_the_search_before_it_is_paid_for() -> None:
    class Unpriced(Target):
        async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
            await FakeListChatModel(responses=["ok"]).ainvoke("hi")
            return await super().__call__(inputs)

    target = Unpriced()
    result = await trained(target, objective={"cost": "<= 1.1x"})
    assert result.decision.status == "kept"
    assert result.decision.reasons[0].startswith(
        "objective.cost: <= 1.1x cannot be kept: the price"
    )
    assert len(target.calls) < 12


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": {"score": "min"}}, r"job\.objective\.score: 'min'"),
        ({"objective": {"cost": "1.1x"}}, r'job\.objective\.cost: .*must be "<= 1\.1x"'),
        ({"objective": {"latency": "<= 0x"}}, r"job\.objective\.latency"),
        ({"objective": {"length": "max"}}, r"job\.objective\.length"),
        ({"objective": {"tone": "max"}}, r"job\.objective\.tone"),
        ({"objective": {"length": "<= 0.01x"}}, r"leaves .* no character; together they have 11"),
        (
            {"objective": {"cost": "<= 2x"}, "guardrail": {"cost": {"ratio": 1.5}}},
            r"job\.objective\.cost: '<= 2x' lets a candidate cost 2 times the baseline, and job\."
            r"guardrail\.cost rejects it from 1\.5 times on",
        ),
    ],
)
async def test_an_objective_that_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        await trained(**changes)
