"""`agentensor demo`: train the bundled workflow beside control arms, and compare them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.options import store_option
from orcheo_agentensor.cli.output import show_diff, show_next, show_table
from orcheo_agentensor.cli.progress import progress
from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.demo.proposer import one_shot_fill
from orcheo_agentensor.demo.workflow import POLICY, seed_prompts
from orcheo_agentensor.display import interval, number
from orcheo_agentensor.evaluation import Limits, aevaluate
from orcheo_agentensor.evaluation.results import summarize
from orcheo_agentensor.optimizers.registry import DEFAULT
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.redaction import redact_url
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.training import MaxSteps, TrainingResult, atrain

if TYPE_CHECKING:
    from rich.console import Console


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
    """What every search and measurement of the demo shares: cases, evaluators, limits, budget."""

    dataset: Dataset
    evaluators: list[Any]
    limits: Limits
    minibatch: int
    budget: dict[str, int]
    steps: int
    model: str | None

    def optimizer(self, name: str, proposer: str) -> dict[str, Any]:
        """The job form of an optimizer; a configured model replaces the offline proposer."""
        by = {"model": self.model} if self.model else {"proposer": f"{_HERE}.proposer:{proposer}"}
        return {"name": name, "minibatch": self.minibatch, **by}


def set_up(settings: Settings) -> Setup:
    """All cases for the simulated model, every sixth for a configured one; blocks to read them."""
    dataset = Dataset.load(DATA)
    if settings.model is None:
        return Setup(
            dataset=dataset,
            evaluators=[_QUEUE, f"{_HERE}.evaluators:reply_policy"],
            limits=Limits(concurrency=2),  # the simulated model computes: more would only wait
            minibatch=150,
            budget={"rollouts": 3_600},
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
        budget={"rollouts": 2 * sizes["holdout"] + 5 * (sizes["validation"] + 20)},
        steps=4,
        model=settings.model,
    )


async def run_demo(
    *,
    store_url: str | None,
    memorise: bool,
    seed: int,
    settings: Settings,
    console: Console,
) -> int:
    """Train the bundled workflow beside its control arms, print the comparison, give the exit code.

    With `memorise`, train it with a proposer that learns tickets by heart: the guardrail refuses
    the result.
    """
    shared = await asyncio.to_thread(set_up, settings)
    _introduce(console, shared)
    async with Store.from_url(store_url) as store:
        demo = _DemoRun(shared=shared, store=store, settings=settings, seed=seed, console=console)
        if memorise:
            trained = await demo.train(DEFAULT, "MemorisingProposer", "memorised")
            arms = await demo.measure_result(trained, "memorised")
        else:
            searched = await demo.train("random_search", "ParaphraseProposer", "random")
            trained = await demo.train(DEFAULT, "LexicalProposer", "trained")
            baseline, best = await demo.measure_result(trained, "trained")
            _same, guessed = await demo.measure_result(searched, "random search")
            arms = [baseline, await demo.measure("one-shot fill", demo.one_shot()), guessed, best]
    _show_arms(console, arms)
    _show_decision(console, trained)
    show_diff(trained.diff)
    at = "" if store_url == settings.database_url else store_option(store_url)
    _show_where(console, trained, store_url, at=at)
    return 0


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the comparison: scores by split, and how many rollouts the search took."""

    name: str
    splits: Mapping[str, Mapping[str, Any]]
    rollouts: int | None

    def mean(self, split: str, evaluator: str = "queue_accuracy") -> float | None:
        """An evaluator's mean on a split."""
        found: float | None = self.splits[split]["evaluators"][evaluator]["mean"]
        return found


@dataclass(frozen=True, kw_only=True)
class _DemoRun:
    """The searches and measurements of one demo, on one store."""

    shared: Setup
    store: Store
    settings: Settings
    seed: int
    console: Console

    async def train(self, optimizer: str, proposer: str, name: str) -> TrainingResult:
        """One search under the shared budget; only the trained arm may be promoted."""
        self.console.print(f"\nSearching: {name}", style="bold")
        with progress(silent=False) as hear:
            return await atrain(
                TARGET,
                prompts=seed_prompts(),
                dataset=self.shared.dataset,
                evaluators=self.shared.evaluators,
                optimizer=self.shared.optimizer(optimizer, proposer),
                budget=self.shared.budget,
                stop=[MaxSteps(self.shared.steps)] if optimizer == DEFAULT else [],
                promote="never" if optimizer == "random_search" else "auto",
                limits=self.shared.limits,
                seed=self.seed,
                workflow_id=WORKFLOW if name == "trained" else f"{WORKFLOW}-{name}",
                store=self.store,
                settings=self.settings,
                on_event=hear,
            )

    async def measure_result(self, result: TrainingResult, name: str) -> list[Arm]:
        """The baseline and the best of a search, on every split."""
        reuse, used = result.run_id, result.usage.rollouts
        return [
            await self.measure("baseline", result.baseline.prompts, reuse=reuse),
            await self.measure(name, result.best.prompts, reuse=reuse, rollouts=used),
        ]

    def one_shot(self) -> dict[str, TextTensor]:
        """The seed prompts, every line filled once from all training tickets, under the cap."""
        prompts = seed_prompts()
        cases = [
            (case.inputs["ticket"], case.expected_output["queue"])
            for case in self.shared.dataset.split("train")
        ]
        filled = one_shot_fill(prompts["triage"].text, cases)
        return {**prompts, "triage": prompts["triage"].with_text(filled)}

    async def measure(
        self,
        name: str,
        prompts: Mapping[str, TextTensor],
        *,
        reuse: str | None = None,
        rollouts: int | None = None,
    ) -> Arm:
        """Score a prompt set on all splits; what the run `reuse` has recorded is not run again."""
        with progress(silent=False) as hear:
            report = await aevaluate(
                TARGET,
                dataset=self.shared.dataset,
                evaluators=self.shared.evaluators,
                prompts=prompts,
                limits=self.shared.limits,
                min_coverage=0.0,
                workflow_id=WORKFLOW,
                store=self.store,
                settings=self.settings,
                reuse=reuse,
                on_event=hear,
            )
        split_of = {case.id: case.split for case in self.shared.dataset}
        splits = {
            split: summarize([r for r in report.cases if split_of[r.case_id] == split], weights={})
            for split in SPLITS
        }
        return Arm(name=name, splits=splits, rollouts=rollouts)


def _introduce(console: Console, shared: Setup) -> None:
    sizes = shared.dataset.splits()
    console.print(
        "Support triage: two agents route a bank customer's message to one of ten queues and write"
        "\nthe first reply. Two prompts are trained, the policy is frozen. Messages: BANKING77 "
        "(CC BY 4.0),\n"
        + ", ".join(f"{count} {name}" for name, count in sorted(sizes.items(), reverse=True))
        + "."
    )
    console.print(
        f"Model: {shared.model}"
        if shared.model
        else "Model: a simulated one that matches words, so all of this is offline and free; "
        "AGENTENSOR_MODEL\nnames a real one. The proposer is offline as well."
    )


_ARMS = {
    "baseline": "the prompts as they were written",
    "one-shot fill": "every queue's line filled once with the words of all its training tickets",
    "random search": "the best of independent paraphrases, with the same budget",
    "trained": f"the default optimizer, {DEFAULT}: it edits what failed and keeps what holds",
    "memorised": f"{DEFAULT} with a proposer that learns tickets by heart",
}


def _show_arms(console: Console, arms: Sequence[Arm]) -> None:
    console.print()
    for arm in arms:
        console.print(f"{arm.name}: {_ARMS[arm.name]}")
    rows = []
    for arm in arms:
        held = arm.splits["holdout"]
        rows.append(
            (
                arm.name,
                number(arm.mean("train")),
                number(arm.mean("validation")),
                number(arm.mean("holdout")),
                interval(held["evaluators"]["queue_accuracy"]["ci95"]),
                number(arm.mean("holdout", "reply_policy")),
                f"{held['latency_ms']['p50']:.1f} ms",
                arm.rollouts,
            )
        )
    columns = ("train", "validation", "holdout", "95 % interval", "reply policy", "p50", "rollouts")
    show_table(("queue accuracy", *(f">{column}" for column in columns)), rows)


def _show_decision(console: Console, result: TrainingResult) -> None:
    colour = {"promoted": "green", "rejected": "red"}.get(result.decision.status, "yellow")
    console.print(f"Decision: {result.decision.status}", style=f"bold {colour}")
    for reason in result.decision.reasons:
        console.print(f"  - {reason}", soft_wrap=True)
    console.print()


def _show_where(
    console: Console, result: TrainingResult, store_url: str | None, *, at: str
) -> None:
    version, workflow = result.best.config_version, result.best.workflow_id
    console.print(
        f"\nStored: workflow {workflow!r}, version {version}, run {result.run_id}, "
        f"in {redact_url(store_url or 'memory')}\n",
        soft_wrap=True,
    )
    first = result.baseline.config_version
    shown = f"agentensor checkpoints show {workflow} production{at}"
    show_next(
        f"agentensor checkpoints list {workflow}{at}",
        f"agentensor checkpoints diff {workflow} {first} {version}{at}",
        f"agentensor checkpoints export {workflow} {version} --output best.json{at}",
        f"agentensor runs show {result.run_id}{at}",
        *([shown] if result.decision.status == "promoted" else []),
        *([] if workflow.endswith("memorised") else [f"agentensor demo --memorise{at}"]),
    )
