"""Real bank messages, the bundled workflow and its word-matching model: holdout accuracy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr

from benchmarks.optimizers.real import ARMS, GREEDY, TOLD, Arm, Scored, contest, rows
from benchmarks.optimizers.results import Plan, Result
from benchmarks.optimizers.tasks import Texts
from orcheo_agentensor import Dataset
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.demo.evaluators import queue_accuracy, reply_policy
from orcheo_agentensor.demo.model import LexicalChatModel
from orcheo_agentensor.demo.run import DATA
from orcheo_agentensor.demo.workflow import seed_prompts, support_triage

BUDGET = 3_000
SEEDS = 8
GOAL = 0.80

PEERS = (
    Arm(name="gepa"),
    Arm(name="gepa, all, 30", options={"components": "all", "minibatch": 30}),
    Arm(name="gepa, all, 150", options={"components": "all", "minibatch": 150}),
)
OTHERS = (
    Arm(name="greedy, no budget", optimizer=GREEDY),
    Arm(name="textgrad, 150", optimizer="textgrad", options={"minibatch": 150}),
)


def run(plan: Plan) -> Result:
    """Every arm, a few seeds."""
    seeds = range(min(plan.seeds, SEEDS))
    budget = max(1_200, plan.size(BUDGET))
    found = contest(Bank, (*PEERS, *ARMS, *OTHERS), seeds=seeds, budget=budget)
    return Result(
        setup="420 bank messages to ten queues (BANKING77), the bundled workflow with its "
        f"simulated model and the demo's proposer for all; means of {len(seeds)} seeds, at "
        f"most {budget:,} rollouts. Ours pays for its holdout measurement of 2 x 180 out of these, "
        "gepa searches with all of them. A number after the name is the minibatch. "
        f"{TOLD}",
        rows=tuple(rows(found, peers=PEERS, goal=GOAL)),
    )


class CountedModel(LexicalChatModel):
    """The bundled model; counts its calls, of which the workflow makes two per rollout."""

    _calls: int = PrivateAttr(0)

    @property
    def rollouts(self) -> int:
        """Executions of the workflow so far."""
        return -(-self._calls // 2)

    def _generate(self, *arguments: Any, **settings: Any) -> ChatResult:
        self._calls += 1
        return super()._generate(*arguments, **settings)


class Bank:
    """The workflow, its model, and the data."""

    def __init__(self) -> None:
        self._model = CountedModel()
        self.target = support_triage(self._model).compile()
        self.data = Dataset.load(DATA)
        self.holdout = list(self.data.split("holdout"))
        self.seeds = seed_prompts()
        self.evaluators = (queue_accuracy, reply_policy)

    @property
    def rollouts(self) -> int:
        """Executions of the workflow so far."""
        return self._model.rollouts

    def scores(self, texts: Texts, cases: Sequence[Case]) -> list[Scored]:
        """One rollout per case, blocking."""

        async def every() -> list[Scored]:
            return [await self._score(texts, case) for case in cases]

        return asyncio.run(every())

    async def _score(self, texts: Texts, case: Case) -> Scored:
        config = {"configurable": {"prompts": dict(texts)}}
        output = await self.target.ainvoke(case.inputs, config)
        routed = queue_accuracy(output, case.expected_output)
        replied = reply_policy(output)
        feedback = "\n".join(
            f"{one['key']}: {one['score']:g} ({one['comment']})" for one in (routed, replied)
        )
        objective = (routed["score"] + replied["score"]) / 2
        return Scored(
            accuracy=routed["score"], objective=objective, feedback=feedback, output=output
        )
