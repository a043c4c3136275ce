"""The arms of the demo's comparison: what each one is, and how it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orcheo_agentensor.datasets import Case, Dataset
from orcheo_agentensor.demo.prompts import POLICY
from orcheo_agentensor.evaluation import EvaluationReport, Limits, aevaluate
from orcheo_agentensor.evaluation.results import summarize
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.tensor import TextTensor

DATA = Path(__file__).parent / "data" / "banking_tickets.jsonl"
TARGET = "orcheo_agentensor.demo.workflow:create_support_triage"
WORKFLOW = "support_triage"
SPLITS = ("train", "validation", "holdout")

_HERE = "orcheo_agentensor.demo"
_QUEUE = f"{_HERE}.evaluators:queue_accuracy"
_EVERY_WITH_A_MODEL = 6
"""A paid model sees every sixth case, so that a look at the demo costs cents."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all arms share: the cases, the evaluators, and how hard the workflow may be pushed.

    `proposer` options make an optimizer's `proposer` or `model`.
    """

    dataset: Dataset
    evaluators: list[Any]
    limits: Limits
    minibatch: int
    rollouts: int
    steps: int
    model: str | None

    def optimizer(self, name: str, proposer: str) -> dict[str, Any]:
        """The job form of an optimizer; a configured model replaces the offline proposer."""
        by = {"model": self.model} if self.model else {"proposer": f"{_HERE}.{proposer}"}
        return {"name": name, "minibatch": self.minibatch, **by}

    @property
    def budget(self) -> dict[str, int]:
        """The same for every search."""
        return {"rollouts": self.rollouts}


def set_up(settings: Settings) -> Setup:
    """The whole data with the simulated model, a part of it with a configured one; blocking."""
    dataset = Dataset.load(DATA)
    if settings.model is None:
        # The simulated model is pure computation: more cases at once would only wait for it.
        return Setup(
            dataset=dataset,
            evaluators=[_QUEUE, f"{_HERE}.evaluators:reply_policy"],
            limits=Limits(concurrency=2),
            minibatch=150,
            rollouts=3_600,
            steps=12,
            model=None,
        )
    judge = {
        "type": "llm_judge",
        "name": "reply_policy",
        "model": settings.model,
        "rubric": f"The share of these rules that the reply keeps.\n{POLICY}",
    }
    part = Dataset(id=dataset.id, cases=dataset.cases[::_EVERY_WITH_A_MODEL])
    sizes = part.splits()
    return Setup(
        dataset=part,
        evaluators=[_QUEUE, judge],
        limits=Limits(concurrency=8),
        minibatch=10,
        rollouts=2 * sizes["holdout"] + 5 * (sizes["validation"] + 20),
        steps=4,
        model=settings.model,
    )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the comparison: scores by split, and what its search took."""

    name: str
    splits: Mapping[str, Mapping[str, Any]]
    rollouts: int | None
    prompts: Mapping[str, TextTensor]

    def mean(self, split: str, evaluator: str = "queue_accuracy") -> float | None:
        """An evaluator's mean on a split."""
        found: float | None = self.splits[split]["evaluators"][evaluator]["mean"]
        return found


async def measure(
    name: str,
    prompts: Mapping[str, TextTensor],
    *,
    shared: Setup,
    store: Store,
    settings: Settings,
    reuse: str | None = None,
    rollouts: int | None = None,
) -> Arm:
    """Score a prompt set on all splits; what the run `reuse` has recorded is not run again."""
    report = await aevaluate(
        TARGET,
        dataset=shared.dataset,
        evaluators=shared.evaluators,
        prompts=prompts,
        limits=shared.limits,
        min_coverage=0.0,
        workflow_id=WORKFLOW,
        store=store,
        settings=settings,
        reuse=reuse,
    )
    return Arm(
        name=name,
        splits=_by_split(report, shared.dataset.cases),
        rollouts=rollouts,
        prompts=prompts,
    )


def _by_split(report: EvaluationReport, cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    split_of = {case.id: case.split for case in cases}
    return {
        split: summarize([r for r in report.cases if split_of[r.case_id] == split], weights={})
        for split in SPLITS
    }
