"""Going back in the state history of a training: what it gives, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from rule_task import PROMPTS, Target, dataset, done
from test_steps import Slow

from orcheo_agentensor import BadInput, Reflective, Store, create_training_graph

CASES = dataset(rules=16, train=32, validation=16, holdout=8)
JOB: dict[str, Any] = {"prompts": PROMPTS, "dataset": CASES, "run_id": "r", "workflow_id": "w"}
THREAD: Any = {"configurable": {"thread_id": "t"}}


class Search:
    """A finished training, and the events of what is done with its history."""

    def __init__(self) -> None:
        self.target, self.store, self.saver = Target(), Store.from_url(None), InMemorySaver()
        self.graph = self.rebuilt()
        self.events: list[dict[str, Any]] = []

    def rebuilt(self) -> Any:
        """The graph as another process would build it."""
        return create_training_graph(
            self.target,
            evaluators=[done],
            optimizer=Reflective(minibatch=4, proposer=Slow(), chain=8),
            store=self.store,
        ).compile(checkpointer=self.saver)

    async def run(self, given: Any, config: Any = THREAD) -> dict[str, Any]:
        self.events = []
        options: dict[str, Any] = {"stream_mode": ["custom", "values"]}
        found: dict[str, Any] = {}
        async for mode, part in self.graph.astream(given, config, **options):
            if mode == "custom":
                self.events.append(part)
            else:
                found = part
        return found

    async def at(self, step: int) -> Any:
        """The config of the state after a step, where another step comes next."""
        async for past in self.graph.aget_state_history(THREAD):
            if past.values.get("step") == step and past.next == ("step",):
                return past.config
        raise AssertionError(step)

    def told(self, kind: str) -> dict[str, Any]:
        (event,) = [event for event in self.events if event["type"] == kind]
        return event


@pytest.fixture
async def search() -> Search:
    found = Search()
    await found.run(JOB)
    return found


@pytest.mark.requirement("checkpoint.travel")
async def test_a_replay_gives_the_recorded_result_and_says_that_it_costs_nothing(
    search: Search,
) -> None:
    before, calls = await search.graph.aget_state(THREAD), len(search.target.calls)
    search.graph = search.rebuilt()
    again = await search.run(None, await search.at(2))
    assert again["best"] == before.values["best"]
    assert len(search.target.calls) == calls
    assert search.told("replayed")["rollouts"] == 0
    assert "has ended" in search.told("replayed")["message"]


@pytest.mark.requirement("checkpoint.travel")
async def test_a_changed_seed_searches_on_from_that_step_in_a_run_of_its_own(
    search: Search,
) -> None:
    calls, first = len(search.target.calls), await search.store.runs.get("r")
    changed = await search.graph.aupdate_state(await search.at(3), {"seed": 11})
    search.graph = search.rebuilt()
    forked = await search.run(None, changed)
    told = search.told("forked")
    assert (told["from_run"], told["from_step"], told["changed"]) == ("r", 3, {"seed": 11})
    assert told["rollouts_recorded"] == calls
    assert told["rollouts_at_most"] == search.told("run_started")["budget"]["rollouts"]
    assert forked["run_id"] == told["run_id"] != "r"
    assert forked["status"] == "finished"
    assert forked["best"]["objective"] == 1.0
    # what the first run has paid for was not paid again, and the first run is as it was
    record = await search.store.runs.get(forked["run_id"])
    assert record.seed == 11
    assert search.target.repeated() == 0
    assert await search.store.runs.get("r") == first
    steps = [event["step"] for event in search.events if event["type"] == "step_started"]
    assert steps[0] == 3
    # the same fork again is the same run, at no cost
    calls = len(search.target.calls)
    again = await search.run(None, changed)
    assert again["best"] == forked["best"]
    assert len(search.target.calls) == calls


async def test_a_fork_has_versions_and_a_budget_of_its_own(search: Search) -> None:
    budget = {"rollouts": 40}
    changed = await search.graph.aupdate_state(
        await search.at(1), {"budget": budget, "checkpoint_every": 1}
    )
    calls = len(search.target.calls)
    forked = await search.run(None, changed)
    assert search.told("forked")["rollouts_at_most"] == 40
    assert len(search.target.calls) - calls <= 40
    mine = await search.store.checkpoints.list("w", run_id=forked["run_id"])
    assert forked["best"]["config_version"] in {version.config_version for version in mine}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"name": "textgrad"}}, "optimizer: .* cannot be changed in the middle"),
        ({"prompts": {"planner": "Mine.", "writer": "Write."}}, "prompts: .* cannot be changed"),
        ({"config": {"tags": ["x"]}}, "config: .* cannot be changed"),
        ({"budget": {"rollouts": 3}}, "budget.rollouts: 3 is too small"),
    ],
)
@pytest.mark.requirement("checkpoint.travel")
async def test_what_cannot_be_changed_there_is_refused_and_nothing_is_paid(
    search: Search, change: dict[str, Any], message: str
) -> None:
    calls, runs = len(search.target.calls), await search.store.runs.list()
    changed = await search.graph.aupdate_state(await search.at(2), change)
    with pytest.raises(BadInput, match=message):
        await search.run(None, changed)
    assert len(search.target.calls) == calls
    assert await search.store.runs.list() == runs
