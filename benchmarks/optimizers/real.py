"""Searches on real text: what is done, who searches, and what the prompts found are worth."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch
from gepa.core.result import GEPAResult

from benchmarks.optimizers.peer import Quiet
from benchmarks.optimizers.play import spread
from benchmarks.optimizers.results import GOAL_IS, Row
from benchmarks.optimizers.tasks import Texts
from orcheo_agentensor import Budget, Dataset, Limits, TextTensor, atrain
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.demo.proposer import LexicalProposer
from orcheo_agentensor.optimizers.protocol import (
    ComponentRequest,
    FeedbackRecord,
    ProposalRequest,
    derive_seed,
)

CAP = 4_000
GREEDY = "greedy"
PROPOSALS = 40


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One rollout: `accuracy` is what is compared in the end, `objective` what is searched for."""

    accuracy: float
    objective: float
    feedback: str
    output: dict[str, Any]


class Work(Protocol):
    """A task on real text. `data` is what a search is given, `holdout` what it is worth on."""

    data: Dataset
    holdout: Sequence[Case]
    seeds: Mapping[str, TextTensor]
    target: Any
    evaluators: Sequence[Any]

    @property
    def rollouts(self) -> int:
        """Executions of the target so far."""
        ...

    def scores(self, texts: Texts, cases: Sequence[Case]) -> list[Scored]:
        """One rollout per case, blocking."""
        ...


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Who searches: `optimizer` of ours, `GREEDY`, or gepa where that is None. `share` is how much
    of the budget it is given."""

    name: str
    optimizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0


OURS = Arm(name="reflective", optimizer="reflective")
PLAIN = replace(OURS, name="reflective, opening: false", options={"opening": False})
HALF = replace(OURS, name="reflective, half", share=0.5)
ARMS = (OURS, PLAIN, HALF)
TOLD = (
    f'"{OURS.name}" is the default, whose search begins with passes over train; "{HALF.name}" is '
    "the default with half of the budget. Greedy, without a budget, is what the proposer comes to "
    f"by {PROPOSALS} proposals that see all of train, each measured in full."
)

Job: TypeAlias = tuple[Callable[[], Work], Arm, int, int]
Found: TypeAlias = dict[str, list[dict[str, float]]]


def contest(
    work: Callable[[], Work], arms: Sequence[Arm], *, seeds: Sequence[int], budget: int
) -> Found:
    """Every arm with every seed: the accuracies of its prompts by split, and its rollouts."""
    jobs: list[Job] = [(work, arm, seed, budget) for arm in arms for seed in seeds]
    scored = iter(spread(search, jobs))
    return {arm.name: [next(scored) for _ in seeds] for arm in arms}


def rows(found: Found, *, peers: Sequence[Arm], goal: float) -> list[Row]:
    """A row for each split and for the rollouts, and what is compared on the holdout cases."""
    best = max(mean(found, arm.name) for arm in peers)
    made = []
    for key in next(iter(found.values()))[0]:
        compared = key == "holdout"
        made.append(
            Row(
                name=key if key == "rollouts" else f"{key} accuracy",
                cells={name: _cell([one[key] for one in each]) for name, each in found.items()},
                target="no peer above" if compared else "",
                met=mean(found, OURS.name) >= best if compared else None,
                numbers={name: [one[key] for one in each] for name, each in found.items()},
            )
        )
    reached, half = (mean(found, arm.name) for arm in (OURS, HALF))
    return [
        *made,
        Row(
            name="holdout accuracy by default",
            cells={OURS.name: f"{reached:.3f}"},
            target=f"{GOAL_IS}≥ {goal:.2f}",
            met=reached >= goal,
        ),
        Row(
            name="the best peer's holdout accuracy in half of its budget",
            cells={HALF.name: f"{half:.3f}"},
            target=f"{GOAL_IS}≥ {best:.3f}",
            met=half >= best,
        ),
    ]


def mean(found: Found, name: str, key: str = "holdout") -> float:
    """The mean of an arm."""
    return statistics.fmean(one[key] for one in found[name])


def _cell(values: Sequence[float]) -> str:
    average = statistics.fmean(values)
    return f"{average:,.0f}" if average > 1 else f"{average:.3f}"


def search(job: Job) -> dict[str, float]:
    """One search of an arm, and what its prompts are worth on each split."""
    make, arm, seed, budget = job
    work, budget = make(), round(job[3] * arm.share)
    if arm.optimizer is None:
        texts = _gepa(work, seed, budget, **arm.options)
    elif arm.optimizer == GREEDY:
        texts = _greedy(work, seed)
    else:
        texts = asyncio.run(_ours(work, seed, budget, arm.optimizer, arm.options))
    used = work.rollouts
    splits = {split: list(work.data.split(split)) for split in ("train", "validation")}
    return {"rollouts": used} | {
        split: statistics.fmean(one.accuracy for one in work.scores(texts, cases))
        for split, cases in {**splits, "holdout": work.holdout}.items()
    }


def _greedy(work: Work, seed: int) -> Texts:
    """What the proposer comes to without a budget: it is shown all of train each time, and a
    proposal is kept where it scores more on all of validation, or as much and more on train."""
    train, validation = list(work.data.split("train")), list(work.data.split("validation"))
    trained = [name for name, one in work.seeds.items() if one.requires_grad]

    def measured(texts: Texts) -> tuple[tuple[float, float], list[FeedbackRecord]]:
        known, fresh = work.scores(texts, train), work.scores(texts, validation)
        value = tuple(math.fsum(one.objective for one in found) for found in (fresh, known))
        return (value[0], value[1]), [
            record(case, one) for case, one in zip(train, known, strict=True)
        ]

    texts = {name: one.text for name, one in work.seeds.items()}
    best, records = measured(texts)
    for number in range(PROPOSALS):
        shown = dict.fromkeys(trained, records)
        made = proposed(work, texts, shown, seed=derive_seed(seed, number, "propose"))
        value, found = measured({**texts, **made})
        if value > best:
            texts, best, records = {**texts, **made}, value, found
    return texts


async def _ours(
    work: Work, seed: int, budget: int, optimizer: str, options: Mapping[str, Any]
) -> Texts:
    result = await atrain(
        work.target,
        prompts=dict(work.seeds),
        dataset=work.data,
        evaluators=list(work.evaluators),
        optimizer={"name": optimizer, "proposer": LexicalProposer(), **options},
        budget=Budget(rollouts=budget),
        limits=Limits(concurrency=2),
        seed=seed,
    )
    return {name: tensor.text for name, tensor in result.best.prompts.items()}


def _gepa(
    work: Work,
    seed: int,
    budget: int,
    *,
    components: str = "round_robin",
    minibatch: int = 3,
) -> Texts:
    frozen = {name: one.text for name, one in work.seeds.items() if not one.requires_grad}
    trained = {name: one.text for name, one in work.seeds.items() if one.requires_grad}
    adapter: Any = Adapter(work, frozen, seed)
    result: GEPAResult[Any, Any] = optimize(
        seed_candidate=trained,
        trainset=list(work.data.split("train")),
        valset=list(work.data.split("validation")),
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
    """A task as gepa calls it; the demo's proposer in place of a reflection model."""

    def __init__(self, work: Work, frozen: Texts, seed: int) -> None:
        self._work = work
        self._frozen = frozen
        self._seed = seed
        self._asked = 0

    def evaluate(
        self, batch: list[Case], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Objectives of a batch."""
        found = self._work.scores({**candidate, **self._frozen}, batch)
        records = [record(case, one) for case, one in zip(batch, found, strict=True)]
        return EvaluationBatch(
            outputs=[one.output for one in found],
            scores=[one.objective for one in found],
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
        shown = {
            name: [entry["record"] for entry in reflective_dataset[name]]
            for name in components_to_update
        }
        texts = {**candidate, **self._frozen}
        seed = derive_seed(self._seed, self._asked, "propose")
        return proposed(self._work, texts, shown, seed=seed)


def record(case: Case, one: Scored) -> FeedbackRecord:
    """What a proposer is shown of a rollout."""
    return FeedbackRecord(
        case_id=case.id,
        inputs=case.inputs,
        output=one.output,
        expected_output=case.expected_output,
        score=one.objective,
        feedback=one.feedback,
    )


def proposed(
    work: Work, texts: Texts, shown: Mapping[str, Sequence[FeedbackRecord]], *, seed: int
) -> dict[str, str]:
    """What the demo's proposer makes of the prompts named in `shown`, by what it is shown."""
    request = ProposalRequest(
        components=tuple(
            ComponentRequest(
                name=name,
                text=texts[name],
                feedback=tuple(records),
                siblings=dict(texts),
                history=(),
                max_chars=CAP,
                placeholders=(),
                metadata=dict(work.seeds[name].metadata),
            )
            for name, records in shown.items()
        ),
        seed=seed,
    )
    new = asyncio.run(LexicalProposer().propose(request))
    return {name: new.get(name, texts[name]) for name in shown}
