"""What a step costs does not grow with the cases there are, nor with the steps behind it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from rule_task import PROMPTS, Target, dataset, done, trained

import orcheo_agentensor
from orcheo_agentensor import MaxSteps, Reflective, create_training_graph
from orcheo_agentensor.optimizers import ProposalRequest

PACKAGE = os.path.dirname(orcheo_agentensor.__file__) + os.sep
SIZE = 16
RECALLED = 200  # at most so many cases are shown again: of earlier minibatches, or of the pass


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
    """With more cases than are shown again: up to so many, each is a few bytes more."""
    _proposer, few = await searched(tmp_path / "few.db", train=RECALLED + 50, steps=20)
    _proposer, many = await searched(tmp_path / "many.db", train=1_000, steps=20)
    assert many[0] > few[0]  # which cases there are is stored, once
    assert max(many[14:]) < 1.2 * max(many[8:14])
    assert max(many[1:]) == pytest.approx(max(few[1:]), rel=0.2)


async def test_a_proposer_is_shown_a_bounded_number_of_cases(tmp_path: Path) -> None:
    proposer, _sizes = await searched(tmp_path / "run.db", train=400, steps=15)
    shown = [len(request.components[0].feedback) for request in proposer.requests]
    assert shown[1] == 2 * shown[0] == 2 * SIZE
    assert max(shown) == shown[-1] == SIZE + RECALLED


async def stepped(file: Path, *, steps: int, per_node: int) -> tuple[int, int]:
    """How often a training took its lease, and how many functions of the package it called on the
    thread of its loop."""
    calls = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(profile)
    try:
        await trained(
            Target(),
            Hopeless(),
            {"minibatch": SIZE},
            dataset=dataset(train=32, validation=4, holdout=0),
            budget={"rollouts": 10**6},
            stop=[MaxSteps(steps)],
            steps_per_node=per_node,
            checkpoint_every=None,
            store=f"sqlite:///{file}",
        )
    finally:
        sys.setprofile(None)
    return leases(file)[0], calls


def leases(file: Path) -> tuple[int, str | None]:
    """How often the lease of the only run in a store was taken, and who holds it."""
    with sqlite3.connect(file) as database:
        found = database.execute("SELECT lease_token, lease_owner FROM agentensor_runs")
        ((taken, owner),) = found
    return taken, owner


async def test_a_step_of_its_own_node_takes_no_lease_and_hardly_more_than_one_of_a_group(
    tmp_path: Path,
) -> None:
    await stepped(tmp_path / "warm.db", steps=2, per_node=1)
    cost = {}
    for per_node in (1, 1000):
        taken, few = await stepped(tmp_path / f"few{per_node}.db", steps=3, per_node=per_node)
        again, many = await stepped(tmp_path / f"many{per_node}.db", steps=7, per_node=per_node)
        assert taken == again == 1
        cost[per_node] = many - few
    assert cost[1] < 1.03 * cost[1000]


def unfinished(file: Path) -> tuple[Any, dict[str, Any]]:
    """A graph, and a job for it that is at work after any number of steps."""
    graph = create_training_graph(
        Target(),
        evaluators=[done],
        optimizer=Reflective(minibatch=4, proposer=Hopeless()),
        store=f"sqlite:///{file}",
    ).compile(checkpointer=InMemorySaver())
    return graph, {
        "prompts": PROMPTS,
        "dataset": dataset(train=32),
        "run_id": "r",
        "stop": [MaxSteps(4).model_dump()],
    }


async def test_a_stream_that_is_left_between_two_nodes_gives_the_lease_back(tmp_path: Path) -> None:
    graph, job = unfinished(tmp_path / "r.db")
    config: Any = {"configurable": {"thread_id": "r"}}
    stream = graph.astream(job, config)
    async for update in stream:
        if "step" in update:
            break
    taken, owner = leases(tmp_path / "r.db")
    assert (taken, owner is not None) == (1, True)  # it is held between two nodes
    await stream.aclose()
    assert leases(tmp_path / "r.db") == (1, None)
    found = await graph.ainvoke(None, config)
    assert found["status"] == "finished"


async def test_a_reader_who_stops_reading_does_not_keep_others_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orcheo_agentensor.runs.active.IDLE_SECONDS", 0.0)
    graph, job = unfinished(tmp_path / "r.db")
    config: Any = {"configurable": {"thread_id": "r"}}
    stream = graph.astream(job, config)
    async for update in stream:
        if "baseline" in update:
            break
    while leases(tmp_path / "r.db")[1] is not None:  # noqa: ASYNC110 - of another thread
        await asyncio.sleep(0)
    async for update in stream:  # and goes on where nobody else has taken it
        if "step" in update:
            break
    assert leases(tmp_path / "r.db")[0] == 2
    await stream.aclose()
