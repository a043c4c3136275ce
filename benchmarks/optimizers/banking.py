"""Real bank messages, the bundled workflow and its word-matching model: holdout accuracy."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch
from gepa.core.result import GEPAResult
from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr

from benchmarks.optimizers.peer import Quiet
from benchmarks.optimizers.play import spread
from benchmarks.optimizers.results import Plan, Result, Row
from benchmarks.optimizers.tasks import Texts
from orcheo_agentensor import Budget, Dataset, Limits, atrain
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.demo.evaluators import queue_accuracy, reply_policy
from orcheo_agentensor.demo.model import LexicalChatModel
from orcheo_agentensor.demo.proposer import LexicalProposer
from orcheo_agentensor.demo.run import DATA, SPLITS
from orcheo_agentensor.demo.workflow import seed_prompts, support_triage
from orcheo_agentensor.optimizers.protocol import (
    ComponentRequest,
    FeedbackRecord,
    ProposalRequest,
    derive_seed,
)

Score: TypeAlias = tuple[float, float, str, dict[str, Any]]
"""Accuracy, objective, feedback and output of one rollout."""

BUDGET = 3_000
SEEDS = 5
CAP = 4_000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Who searches: `optimizer` of ours, or gepa where that is None."""

    name: str
    optimizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


ARMS = (
    Arm(name="gepa"),
    Arm(name="gepa, all, 30", options={"components": "all", "minibatch": 30}),
    Arm(name="gepa, all, 150", options={"components": "all", "minibatch": 150}),
    Arm(name="random_search", optimizer="random_search", options={"minibatch": 150}),
    Arm(name="textgrad", optimizer="textgrad", options={"minibatch": 150}),
    Arm(name="reflective", optimizer="reflective"),
    Arm(name="reflective, 150", optimizer="reflective", options={"minibatch": 150}),
)


def run(plan: Plan) -> Result:
    """Every arm, a few seeds."""
    seeds = range(min(plan.seeds, SEEDS))
    budget = max(600, plan.size(BUDGET))
    jobs = [(arm, seed, budget) for arm in ARMS for seed in seeds]
    scored = iter(spread(_search, jobs))
    found = {arm.name: [next(scored) for _ in seeds] for arm in ARMS}

    def means(name: str) -> dict[str, float]:
        return {key: statistics.fmean(one[key] for one in found[name]) for key in found[name][0]}

    table = {name: means(name) for name in found}
    best_peer = max(table[arm.name]["holdout"] for arm in ARMS if arm.optimizer is None)
    ours = max(table[arm.name]["holdout"] for arm in ARMS if arm.optimizer == "reflective")
    rows = [
        Row(
            name=f"{split} accuracy",
            cells={name: f"{row[split]:.3f}" for name, row in table.items()},
            target="holdout above gepa" if split == "holdout" else "",
            met=ours > best_peer if split == "holdout" else None,
            numbers={name: [one[split] for one in scores] for name, scores in found.items()},
        )
        for split in SPLITS
    ]
    rows.append(
        Row(
            name="rollouts",
            cells={name: f"{row['rollouts']:,.0f}" for name, row in table.items()},
            numbers={name: [one["rollouts"] for one in scores] for name, scores in found.items()},
        )
    )
    return Result(
        setup="420 bank messages to ten queues (BANKING77), the bundled workflow with its "
        f"simulated model and the demo's proposer for all; means of {len(seeds)} seeds, at "
        f"most {budget:,} rollouts. Ours pays for its holdout measurement of 2 x 180 out of these, "
        "gepa searches with all of them. A number after the name is the minibatch.",
        rows=tuple(rows),
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


@dataclass(frozen=True)
class Bank:
    """The workflow, its model, and the data."""

    model: CountedModel
    graph: Any
    data: Dataset

    def scores(self, texts: Texts, cases: Iterable[Case]) -> list[Score]:
        """One rollout per case, blocking."""

        async def every() -> list[Score]:
            return [await self._score(texts, case) for case in cases]

        return asyncio.run(every())

    async def _score(self, texts: Texts, case: Case) -> Score:
        config = {"configurable": {"prompts": dict(texts)}}
        output = await self.graph.ainvoke(case.inputs, config)
        routed = queue_accuracy(output, case.expected_output)
        replied = reply_policy(output)
        feedback = "\n".join(
            f"{one['key']}: {one['score']:g} ({one['comment']})" for one in (routed, replied)
        )
        return routed["score"], (routed["score"] + replied["score"]) / 2, feedback, output


def _search(job: tuple[Arm, int, int]) -> dict[str, float]:
    arm, seed, budget = job
    model = CountedModel()
    bank = Bank(model, support_triage(model).compile(), Dataset.load(DATA))
    if arm.optimizer is None:
        texts = _gepa(bank, seed, budget, **arm.options)
    else:
        texts = asyncio.run(_ours(bank, seed, budget, arm.optimizer, arm.options))
    used = model.rollouts
    return {"rollouts": used} | {
        split: statistics.fmean(score[0] for score in bank.scores(texts, bank.data.split(split)))
        for split in SPLITS
    }


async def _ours(
    bank: Bank, seed: int, budget: int, optimizer: str, options: Mapping[str, Any]
) -> Texts:
    result = await atrain(
        bank.graph,
        prompts=seed_prompts(),
        dataset=bank.data,
        evaluators=[queue_accuracy, reply_policy],
        optimizer={"name": optimizer, "proposer": LexicalProposer(), **options},
        budget=Budget(rollouts=budget),
        limits=Limits(concurrency=2),
        seed=seed,
    )
    return {name: tensor.text for name, tensor in result.best.prompts.items()}


def _gepa(
    bank: Bank, seed: int, budget: int, *, components: str = "round_robin", minibatch: int = 3
) -> Texts:
    seeds = seed_prompts()
    frozen = {name: tensor.text for name, tensor in seeds.items() if not tensor.requires_grad}
    trained = {name: tensor.text for name, tensor in seeds.items() if tensor.requires_grad}
    adapter: Any = Adapter(bank, frozen, seed)
    result: GEPAResult[Any, Any] = optimize(
        seed_candidate=trained,
        trainset=list(bank.data.split("train")),
        valset=list(bank.data.split("validation")),
        adapter=adapter,
        module_selector=components,
        reflection_minibatch_size=minibatch,
        max_metric_calls=budget,
        logger=Quiet(),
        seed=seed,
    )
    assert isinstance(result.best_candidate, dict)
    return {**result.best_candidate, **frozen}


class Adapter:
    """The workflow as gepa calls it; the demo's proposer in place of a reflection model."""

    def __init__(self, bank: Bank, frozen: Texts, seed: int) -> None:
        self._bank = bank
        self._frozen = frozen
        self._seed = seed
        self._asked = 0

    def evaluate(
        self, batch: list[Case], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Objectives of a batch."""
        texts = {**candidate, **self._frozen}
        found = self._bank.scores(texts, batch)
        records = [
            FeedbackRecord(
                case_id=case.id,
                inputs=case.inputs,
                output=output,
                expected_output=case.expected_output,
                score=objective,
                feedback=feedback,
            )
            for case, (_accuracy, objective, feedback, output) in zip(batch, found, strict=True)
        ]
        return EvaluationBatch(
            outputs=[record.output for record in records],
            scores=[objective for _accuracy, objective, _feedback, _output in found],
            trajectories=records if capture_traces else None,
        )

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: EvaluationBatch[Any, Any],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Any]]:
        """The batch's records, the same for each component."""
        records = [{"record": record} for record in eval_batch.trajectories or []]
        return dict.fromkeys(components_to_update, records)

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Any]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """One request to the demo's proposer; gepa keeps no past edits to show it."""
        self._asked += 1
        metadata = seed_prompts()
        request = ProposalRequest(
            components=tuple(
                ComponentRequest(
                    name=name,
                    text=candidate[name],
                    feedback=tuple(entry["record"] for entry in reflective_dataset[name]),
                    siblings={**candidate, **self._frozen},
                    history=(),
                    max_chars=CAP,
                    placeholders=(),
                    metadata=dict(metadata[name].metadata),
                )
                for name in components_to_update
            ),
            seed=derive_seed(self._seed, self._asked, "propose"),
        )
        new = asyncio.run(LexicalProposer().propose(request))
        return {name: new.get(name, candidate[name]) for name in components_to_update}
