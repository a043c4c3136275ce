"""Several proposals in flight at once, through `atrain`. Events order things: nothing sleeps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rule_task import NAMES, PROMPTS, Target, Teacher, dataset, done, outcome_of, trained

from orcheo_agentensor import Budget, Limits, MaxSteps, RandomSearch
from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.optimizers import ProposalRequest, Trial, TrialOutcome


class Together(Teacher):
    """A proposer whose first `count` calls only return once all of them have begun."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count
        self._all_here = asyncio.Event()

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        self._left -= 1
        if self._left <= 0:
            self._all_here.set()
        await self._all_here.wait()
        return await super().propose(request)


@pytest.mark.parametrize("parallel", [2, 4])
async def test_proposer_calls_overlap(parallel: int) -> None:
    options = {"parallel": parallel, "minibatch": 4, "opening": False}  # a pass has one at a time
    result = await trained(proposer=Together(parallel), options=options)
    assert result.best.metrics["objective"] == 1.0


async def test_calls_of_random_search_overlap_as_well() -> None:
    await trained(
        optimizer=RandomSearch(minibatch=4, parallel=3, proposer=Together(3)),
        stop=[MaxSteps(1)],
    )


class Reversed(Teacher):
    """A proposer that answers the calls it has at once in the reverse order of their coming."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[asyncio.Event] = []

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        mine = asyncio.Event()
        self._waiting.append(mine)
        for _ in range(50):  # until the others that can come have come
            await asyncio.sleep(0)
        while self._waiting[-1] is not mine:
            self._waiting[-1].set()
            mine.clear()
            await mine.wait()
        self._waiting.remove(mine)
        if self._waiting:
            self._waiting[-1].set()
        return await super().propose(request)


async def test_outcomes_are_told_in_order_whoever_is_faster() -> None:
    job: dict[str, Any] = {
        "options": {"parallel": 4, "minibatch": 3, "opening": False},
        "workflow_id": "w",
    }
    breaks = {0: {1}, 2: {3}}
    plain = await trained(Target(breaks=breaks), Teacher(), **job)
    backwards = await trained(Target(breaks=breaks), Reversed(), **job)
    one_by_one = await trained(
        Target(breaks=breaks), Teacher(), limits=Limits(concurrency=1), **job
    )
    assert outcome_of(backwards) == outcome_of(plain) == outcome_of(one_by_one)


class Endless:
    """A pipelined search that asks for `parallel` trials of one case each, and writes down what
    it is told of."""

    name = "endless"
    pipelined = True
    parallel = 3
    minibatch = 1
    proposer: Any = Teacher()

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def start(self, space: Any) -> dict[str, Any]:
        return {"step": 0, "cases": list(space.case_ids), "base": space.baseline}

    def ask(self, state: dict[str, Any]) -> list[Trial]:
        cases = state["cases"][state["step"] :][: self.parallel]
        return [
            Trial(
                parent=state["base"],
                case_ids=(case,),
                components=NAMES,
                seed=state["cases"].index(case),
                validated=False,
            )
            for case in cases
        ]

    def tell(self, state: dict[str, Any], outcomes: list[TrialOutcome]) -> dict[str, Any]:
        self.told += [tuple(one.parent_scores) for one in outcomes]
        return {**state, "step": state["step"] + len(outcomes)}


async def test_a_slow_case_holds_nobody_but_itself() -> None:
    """The first trial's case ends only when later trials that are in flight are through."""
    gone, seen = asyncio.Event(), set[str]()

    async def hook(inputs: dict[str, Any]) -> None:
        if inputs["split"] != "train":
            return
        seen.add(str(inputs["i"]))
        if inputs["i"] == 0:
            await gone.wait()
        elif {"1", "2"} <= seen:
            gone.set()

    optimizer = Endless()
    result = await trained(Target(hook=hook), optimizer=optimizer)
    assert optimizer.told == [(f"train-{i}",) for i in range(12)]
    assert result.decision.stopped == "endless has nothing more to try"


async def test_an_optimizer_that_forgets_its_open_trials_is_told_so() -> None:
    class Forgetful(Endless):
        def ask(self, state: dict[str, Any]) -> list[Trial]:
            return super().ask({**state, "step": 3 * state["step"]})

    with pytest.raises((RunFailed, RuntimeError), match=r"ask\(\) must give the open trials first"):
        await trained(optimizer=Forgetful())


@pytest.mark.parametrize("rollouts", [26, 31, 40, 57])
@pytest.mark.parametrize("parallel", [1, 4])
async def test_a_budget_that_ends_in_flight_is_spent_and_not_overshot(
    rollouts: int, parallel: int
) -> None:
    target = Target(breaks={0: {1}, 1: {2}, 2: {3}, 3: {0}})
    result = await trained(
        target,
        options={"parallel": parallel, "minibatch": 3, "opening": False},
        dataset=dataset(train=30, validation=8, holdout=8),
        budget=Budget(rollouts=rollouts),
    )
    assert len(target.calls) == result.usage.rollouts <= rollouts
    assert result.holdout is not None
    assert result.holdout["n"] == 8


async def test_a_broken_proposal_ends_the_flight_cleanly() -> None:
    calls: list[int] = []

    class OneBreaks(Teacher):
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            calls.append(1)
            if len(calls) >= 2:
                raise ValueError("no JSON")
            return await super().propose(request)

    before = asyncio.all_tasks()
    with pytest.raises(RunFailed, match="proposer failed: ValueError: no JSON"):
        await trained(
            proposer=OneBreaks(), options={"parallel": 4}, prompts=PROMPTS, evaluators=[done]
        )
    assert asyncio.all_tasks() == before
