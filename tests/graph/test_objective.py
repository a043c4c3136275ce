"""The objective of a training: the best score, within limits on cost, time and length."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from rule_task import PROMPTS, Target, Teacher, dataset, done, trained

from orcheo_agentensor import ConfigCheckpoint, Objective, TextTensor, get_prompt
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.optimizers import ProposalRequest, SearchSpace, Trial, TrialOutcome


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


class Scripted:
    """Tries the baseline on a case; then its child, dearly, and the baseline at once on two."""

    name = "scripted"

    def __init__(self) -> None:
        self.proposer = Padding()
        self.told: list[tuple[str, str]] = []

    def start(self, space: SearchSpace) -> dict[str, Any]:
        return {**space.to_json(), "child": None}

    def ask(self, state: dict[str, Any]) -> list[Trial]:
        def trial(seed: int, parent: str, cases: list[str]) -> Trial:
            held, names = tuple(cases), tuple(state["components"])
            return Trial(parent=parent, case_ids=held, components=names, seed=seed, validated=False)

        ids, child, baseline = state["case_ids"], state["child"], state["baseline"]
        if child is None:
            return [trial(0, baseline, ids[:1])]
        return [] if self.told[1:] else [trial(1, child, ids[1:3]), trial(2, baseline, ids[1:3])]

    def tell(self, state: dict[str, Any], outcomes: list[TrialOutcome]) -> dict[str, Any]:
        self.told += [(one.status, one.reason) for one in outcomes]
        return {**state, "child": outcomes[0].child}


class Padding(Teacher):
    def texts(self, request: ProposalRequest) -> dict[str, str]:
        more = " x" * 200 if request.seed == 1 else ""
        return {name: text + more for name, text in super().texts(request).items()}


@pytest.mark.parametrize("baseline_first", [True, False])
async def test_a_limit_is_checked_the_same_whichever_trial_is_faster(baseline_first: bool) -> None:
    left = 2 if baseline_first else 4
    enough = asyncio.Event()

    class Timed(Paid):
        async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
            nonlocal left
            is_baseline = [get_prompt(name) for name in PROMPTS] == [*PROMPTS.values()]
            on_both = inputs["split"] == "train" and inputs["i"] in (1, 2)
            if on_both and is_baseline != baseline_first:
                await enough.wait()
            found = await super().__call__(inputs)
            left -= on_both and is_baseline == baseline_first
            if left == 0:
                enough.set()
            return found

    optimizer = Scripted()
    await trained(Timed(), optimizer=optimizer, objective={"cost": "<= 3x"})
    assert optimizer.told == [("accepted", "")] * 3


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


async def unpriced(outputs: Any) -> Any:
    await FakeListChatModel(responses=["ok"]).ainvoke("hi")
    return done(outputs)


class Unpriced(Target):
    """Calls a model without a price, on every case or before it fails on some."""

    def __init__(self, *, failing: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.failing = failing

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if not self.failing or inputs["i"] in self.failing:
            await FakeListChatModel(responses=["ok"]).ainvoke("hi")
        if inputs["i"] in self.failing:
            raise ValueError("broken")
        return await super().__call__(inputs)


async def test_a_failure_of_unknown_cost_ends_no_search() -> None:
    result = await trained(
        Unpriced(failing=(0, 3, 6, 9)), objective={"cost": "<= 2"}, limits={"retries": 0}
    )
    assert result.best.metrics["objective"] == 1.0
    assert result.best.metrics["n_target_failed"] == 3


@pytest.mark.parametrize(("target", "evaluator"), [(Unpriced(), done), (Target(), unpriced)])
async def test_a_cost_that_nobody_knows_ends_the_search_before_it_is_paid_for(
    target: Target, evaluator: Any
) -> None:
    result = await trained(target, objective={"cost": "<= 1.1x"}, evaluators=[evaluator])
    assert result.decision.status == "kept"
    assert result.decision.reasons[0].startswith(
        "objective.cost: <= 1.1x cannot be kept: the price"
    )
    assert len(target.calls) < 12


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": {"score": "min"}}, r"^atrain\(\): objective\.score: 'min'"),
        ({"objective": {"cost": "1.1x"}}, r'^atrain\(\): objective\.cost: .*must be "<= 1\.1x"'),
        ({"objective": {"latency": "<= 0x"}}, r"^atrain\(\): objective\.latency"),
        (
            {"objective": {"length": "max"}},
            r'^atrain\(\): objective\.length: \'max\' must be "min", "<=',
        ),
        ({"objective": {"tone": "max"}}, r"^atrain\(\): objective\.tone"),
        ({"objective": {"length": "<= 0.01x"}}, r"leaves .* no character; together they have 11"),
        (
            {"objective": {"cost": "<= 2x"}, "guardrail": {"cost": {"ratio": 1.5}}},
            r"^atrain\(\): objective\.cost: '<= 2x' lets a candidate cost 2 times the baseline, "
            r"and guardrail\.cost rejects it from 1\.5 times on",
        ),
    ],
)
async def test_an_objective_that_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        await trained(**changes)
