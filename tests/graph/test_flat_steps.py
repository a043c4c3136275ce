"""What a step costs does not grow with the cases there are, nor with the steps behind it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from rule_task import Target, dataset, trained

from orcheo_agentensor import MaxSteps
from orcheo_agentensor.optimizers import ProposalRequest

SIZE = 16
RECALLED = 100  # at most so many cases of earlier minibatches are shown again


class Hopeless:
    """Never finds anything: every minibatch is learnt from in vain."""

    def __init__(self) -> None:
        self.requests: list[ProposalRequest] = []

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        self.requests.append(request)
        return {"planner": f"Plan {len(self.requests):04d}."}


async def searched(file: Path, *, train: int, steps: int) -> tuple[Hopeless, list[int]]:
    """The proposer, and the bytes that each step has stored."""
    proposer = Hopeless()
    await trained(
        Target(),
        proposer,
        {"minibatch": SIZE},
        dataset=dataset(train=train, validation=4, holdout=0),
        budget={"rollouts": 10**6},
        stop=[MaxSteps(steps)],
        store=f"sqlite:///{file}",
    )
    with sqlite3.connect(file) as database:
        query = "SELECT LENGTH(state) FROM agentensor_optimizer_state ORDER BY step"
        return proposer, [size for (size,) in database.execute(query)]


async def test_a_step_stores_as_much_with_many_cases_and_steps_as_with_few(tmp_path: Path) -> None:
    _proposer, few = await searched(tmp_path / "few.db", train=150, steps=20)
    _proposer, many = await searched(tmp_path / "many.db", train=600, steps=20)
    assert many[0] > few[0]  # which cases there are is stored, once
    assert max(many[14:]) < 1.2 * max(many[8:14])
    assert max(many[1:]) == pytest.approx(max(few[1:]), rel=0.2)


async def test_a_proposer_is_shown_a_bounded_number_of_cases(tmp_path: Path) -> None:
    proposer, _sizes = await searched(tmp_path / "run.db", train=400, steps=15)
    shown = [len(request.components[0].feedback) for request in proposer.requests]
    assert shown[1] == 2 * shown[0] == 2 * SIZE
    assert max(shown) == shown[-1] == SIZE + RECALLED
