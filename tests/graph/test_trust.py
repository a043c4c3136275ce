"""Training against parts that misbehave: optimizers, proposers, scales and budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from pydantic import PrivateAttr

from orcheo_agentensor import (
    Budget,
    Limits,
    Reflective,
    TextGrad,
    TrainingResult,
    atrain,
    bind_evaluator,
    get_prompt,
)
from orcheo_agentensor.errors import BudgetExhausted, RunFailed
from orcheo_agentensor.optimizers import ProposalRequest, SearchSpace, Trial, TrialOutcome
from orcheo_agentensor.testing import SimulatedChatModel

CASES = [
    {"id": f"{split}-{n}", "split": split, "inputs": {"rule": f"R{n % 4}", "split": split}}
    for split in ("train", "validation", "holdout")
    for n in range(12)
]


async def target(inputs: dict[str, str]) -> dict[str, bool]:
    return {"done": inputs["rule"] in get_prompt("p").split()}


def scored(low: float, high: float) -> Callable[..., dict[str, Any]]:
    def score(inputs: dict[str, str], outputs: dict[str, bool]) -> dict[str, Any]:
        value = high if outputs["done"] else low
        return {"key": "done", "score": value, "comment": inputs["rule"]}

    return score


class Teacher:
    """Adds the rules that the feedback names and the text lacks."""

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        (component,) = request.components
        wanted = {record.inputs["rule"] for record in component.feedback}
        return {"p": " ".join([component.text, *sorted(wanted - set(component.text.split()))])}


async def trained(run: Any = target, **job: Any) -> TrainingResult:
    given: dict[str, Any] = {
        "prompts": {"p": "Do."},
        "dataset": CASES,
        "evaluators": [scored(0.0, 1.0)],
        "optimizer": Reflective(minibatch=4, proposer=Teacher()),
    }
    return await atrain(run, **{**given, **job})


@pytest.mark.parametrize("optimizer", [Reflective, TextGrad])
@pytest.mark.parametrize(("low", "high"), [(0, 10), (2, 10), (-1, 1), (-10, -1), (0, 0.5)])
async def test_a_scale_of_any_kind_can_be_trained_on(
    optimizer: Any, low: float, high: float
) -> None:
    declared = bind_evaluator(scored(low, high), scale=(low, high))
    result = await trained(evaluators=[declared], optimizer=optimizer(proposer=Teacher()))
    assert result.baseline.metrics["objective"] == 0.0
    assert result.best.metrics["objective"] == 1.0


async def test_half_marks_within_0_and_1_can_be_trained_on_as_they_are() -> None:
    result = await trained(evaluators=[scored(0, 0.5)])
    assert result.baseline.metrics["objective"] == 0.0
    assert result.best.metrics["objective"] == 0.5
    assert "nothing can beat" not in (result.decision.stopped or "")


class Strategy:
    """An optimizer of somebody else, whose one trial or state is wrong."""

    name = "theirs"
    proposer = Teacher()

    def __init__(self, state: Any = None, trials: Any = None, **trial: Any) -> None:
        self.state, self.trials, self.trial = state, trials, trial

    def start(self, space: SearchSpace) -> Any:
        self.space = space
        return {"n": 0, "current": space.baseline}

    def ask(self, state: dict[str, Any]) -> Any:
        made: dict[str, Any] = {
            "parent": state["current"],
            "case_ids": self.space.case_ids[:4],
            "components": self.space.components,
            "seed": state["n"],
        }
        return [Trial(**{**made, **self.trial})] if self.trials is None else self.trials

    def tell(self, state: dict[str, Any], outcomes: Any) -> Any:
        accepted = [one.child for one in outcomes if one.status == "accepted"]
        current = [state["current"], *accepted][-1]
        found = {"n": state["n"] + 1, "current": current, 1: ("as JSON",)}
        return found if self.state is None else self.state


async def test_an_optimizer_that_never_ends_is_ended_by_the_budget() -> None:
    class Endless(Teacher):
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            return {"p": f"Do. {request.seed}"}

    strategy = Strategy()
    strategy.proposer = Endless()
    result = await trained(optimizer=strategy, budget=Budget(rollouts=60))
    assert "60 rollouts is spent" in (result.decision.stopped or "")
    assert result.usage.rollouts <= 60
    assert result.holdout is not None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"parent": "nobody"}, "no known candidate: 'nobody'"),
        ({"rival": "nobody"}, "no known candidate: 'nobody'"),
        ({"purpose": "merge", "donors": {"p": "nobody"}}, "no known candidate: 'nobody'"),
        ({"case_ids": ("validation-1",)}, "'validation-1', which is no training case"),
        ({"recalled": ("holdout-1",)}, "'holdout-1', which is no training case"),
        ({"case_ids": ()}, "a 'rewrite' trial without case_ids"),
        ({"components": ()}, "a 'rewrite' trial without components"),
        ({"components": ("q",)}, "'q', which is no trainable prompt"),
        ({"purpose": "dance"}, "a trial of purpose 'dance'"),
        ({"trials": [{"parent": "x"}]}, "not a Trial"),
        ({"trials": "trial"}, "not a list of trials"),
        ({"trials": 3}, r"ask\(\) failed: TypeError"),
        ({"state": []}, r"tell\(\) gave \[\], not a dict"),
        ({"state": {"x": {1}}}, "a state that is not JSON"),
        ({"state": {"x": float("nan")}}, "a state that is not JSON"),
        ({"state": {"epoch": "last"}}, "the epoch 'last', not an integer"),
        ({"state": {"current": 5}}, "gave 5 as current"),
    ],
)
async def test_what_an_optimizer_gets_wrong_is_said_with_its_name(
    wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(RunFailed, match=f"optimizer 'theirs': .*{told}"):
        await trained(optimizer=Strategy(**wrong))


async def test_a_running_optimizer_sees_the_state_that_a_resumed_one_would() -> None:
    seen: list[Any] = []

    class Looking(Strategy):
        def tell(self, state: dict[str, Any], outcomes: list[TrialOutcome]) -> Any:
            seen.append(state.get("1"))
            return super().tell(state, outcomes)

    await trained(optimizer=Looking(case_ids=("train-0",)))
    assert seen[:2] == [None, ["as JSON"]]


class Sometimes(Teacher):
    """Raises `error` the first `times` times that it is asked."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.asked = error, times, 0

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error
        return await super().propose(request)


async def test_a_proposal_that_broke_is_refused_and_the_search_goes_on() -> None:
    events: list[dict[str, Any]] = []
    proposer = Sometimes(ValueError("no JSON"), 2)
    result = await trained(
        optimizer=Reflective(minibatch=4, proposer=proposer), on_event=events.append
    )
    assert result.best.metrics["objective"] == 1.0
    refused = [e["reason"] for e in events if e["type"] == "proposal_rejected"]
    assert refused[:2] == ["the proposer failed: ValueError: no JSON"] * 2


async def test_a_proposer_that_breaks_again_and_again_fails_the_run() -> None:
    proposer = Sometimes(ValueError("no key"), 99)
    with pytest.raises(RunFailed, match="the proposer failed: ValueError: no key"):
        await trained(optimizer=Reflective(proposer=proposer))
    assert proposer.asked == 3


@pytest.mark.parametrize(("retries", "fails"), [(0, True), (1, False)])
async def test_a_passing_trouble_of_the_proposer_is_retried(retries: int, fails: bool) -> None:
    proposer = Sometimes(ConnectionError("busy"), 1)
    job: dict[str, Any] = {
        "optimizer": Reflective(proposer=proposer),
        "limits": Limits(retries=retries),
    }
    if fails:
        with pytest.raises(RunFailed, match="the proposer failed: ConnectionError: busy"):
            await trained(**job)
    else:
        assert (await trained(**job)).best.metrics["objective"] == 1.0


class Counting(SimulatedChatModel):
    """Counts what it was asked."""

    _calls: int = PrivateAttr(default=0)

    def reply(self, messages: list[BaseMessage]) -> str:
        self._calls += 1
        return "yes"


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("calls", [0, 1, 36, 37])
async def test_a_budget_of_calls_that_is_just_enough_is_enough_and_one_less_says_so(
    calls: int, parallel: int
) -> None:
    model = Counting()

    async def asking(inputs: dict[str, str]) -> dict[str, bool]:
        await model.ainvoke("?")
        return await target(inputs)

    job: dict[str, Any] = {
        "optimizer": Reflective(proposer=Teacher(), parallel=parallel),
        "budget": Budget(calls=calls),
    }
    if calls < 37:  # one of the search, 12 of the baseline, 24 of the holdout
        told = "take 36 rollouts" if calls == 0 else "take about 37"
        with pytest.raises(BudgetExhausted, match=f"{calls} model calls is too small: .*{told}"):
            await trained(asking, **job)
    else:
        result = await trained(asking, **job)
        assert result.holdout is not None
        assert result.usage.calls == model._calls
    assert model._calls <= calls


async def test_the_report_says_what_a_better_score_costs() -> None:
    holdout = (await trained()).holdout
    assert holdout is not None
    assert holdout["ci95"] is not None
    assert holdout["deltas"]["n"] == 12
    assert holdout["deltas"]["latency_ms"]["ci95"] is not None
    assert holdout["deltas"]["cost"]["difference"] == 0.0
