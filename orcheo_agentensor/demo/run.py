"""The arms of the demo's comparison: what each one is, and how it is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.options import store_option
from orcheo_agentensor.cli.output import interval, number, show_diff, show_next, show_table
from orcheo_agentensor.cli.progress import progress
from orcheo_agentensor.datasets import Case, Dataset
from orcheo_agentensor.demo.proposer import one_shot_fill
from orcheo_agentensor.demo.workflow import POLICY, seed_prompts
from orcheo_agentensor.evaluation import EvaluationReport, Limits, aevaluate
from orcheo_agentensor.evaluation.results import summarize
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.redaction import redact_url
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.training import MaxSteps, TrainingResult, atrain
from orcheo_agentensor.training.decision import prompt_diff

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


async def run_demo(
    *,
    store_url: str | None,
    memorise: bool,
    seed: int,
    settings: Settings,
    console: Console,
) -> int:
    """Train the bundled workflow beside its control arms and print what came of it.

    With `memorise`, train it with a proposer that learns tickets by heart, to see the guardrail
    refuse the result. Returns the exit code.
    """
    shared = await asyncio.to_thread(set_up, settings)
    _introduce(console, shared)
    async with Store.from_url(store_url) as store:
        run = _Demo(shared, store=store, settings=settings, seed=seed, console=console)
        if memorise:
            trained = await run.train("textgrad", "proposer:MemorisingProposer", "memorised")
            arms = await run.arms(trained, "memorised")
        else:
            searched = await run.train("random_search", "proposer:ParaphraseProposer", "random")
            trained = await run.train("textgrad", "proposer:LexicalProposer", "trained")
            baseline, best = await run.arms(trained, "trained")
            _same, guessed = await run.arms(searched, "random search")
            arms = [baseline, await run.one_shot(), guessed, best]
    _show_arms(arms)
    _show_decision(console, trained)
    show_diff(prompt_diff(_texts(trained.baseline.prompts), _texts(trained.best.prompts)))
    at = "" if store_url == settings.database_url else store_option(store_url)
    _show_where(console, trained, store_url, at=at)
    return 0


class _Demo:
    """The arms of one demo, on one store."""

    def __init__(
        self, shared: Setup, *, store: Store, settings: Settings, seed: int, console: Console
    ) -> None:
        self._shared = shared
        self._store = store
        self._settings = settings
        self._seed = seed
        self._console = console

    async def train(self, optimizer: str, proposer: str, name: str) -> TrainingResult:
        """One search under the shared budget; only the trained arm may be promoted."""
        self._console.print(f"\nSearching: {name}", style="bold")
        with progress(silent=not self._console.is_terminal) as hear:
            return await atrain(
                TARGET,
                prompts=seed_prompts(),
                dataset=self._shared.dataset,
                evaluators=self._shared.evaluators,
                optimizer=self._shared.optimizer(optimizer, proposer),
                budget=self._shared.budget,
                stop=[MaxSteps(self._shared.steps)] if optimizer == "textgrad" else [],
                promote="never" if optimizer == "random_search" else "auto",
                limits=self._shared.limits,
                seed=self._seed,
                workflow_id=WORKFLOW if name == "trained" else f"{WORKFLOW}-{name}",
                store=self._store,
                settings=self._settings,
                on_event=hear,
            )

    async def arms(self, result: TrainingResult, name: str) -> list[Arm]:
        """The baseline and the best of a search, on every split."""
        return [
            await self._measure(label, version.prompts, reuse=result.run_id, rollouts=rollouts)
            for label, version, rollouts in (
                ("baseline", result.baseline, None),
                (name, result.best, result.usage.rollouts),
            )
        ]

    async def one_shot(self) -> Arm:
        """Every line filled once from all training tickets, under the same cap."""
        prompts = seed_prompts()
        cases = [
            (case.inputs["ticket"], case.expected_output["queue"])
            for case in self._shared.dataset.split("train")
        ]
        filled = one_shot_fill(prompts["triage"].text, cases)
        prompts["triage"] = prompts["triage"].with_text(filled)
        return await self._measure("one-shot fill", prompts)

    async def _measure(
        self,
        name: str,
        prompts: Any,
        *,
        reuse: str | None = None,
        rollouts: int | None = None,
    ) -> Arm:
        return await measure(
            name,
            prompts,
            shared=self._shared,
            store=self._store,
            settings=self._settings,
            reuse=reuse,
            rollouts=rollouts,
        )


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


def _show_arms(arms: Sequence[Arm]) -> None:
    rows = []
    for arm in arms:
        held = arm.splits["holdout"]
        latency = held["latency_ms"]["p50"]
        rows.append(
            (
                arm.name,
                number(arm.mean("train")),
                number(arm.mean("validation")),
                number(arm.mean("holdout")),
                interval(held["evaluators"]["queue_accuracy"]["ci95"]),
                number(arm.mean("holdout", "reply_policy")),
                f"{latency:.1f} ms",
                arm.rollouts,
            )
        )
    show_table(
        (
            "queue accuracy",
            ">train",
            ">validation",
            ">holdout",
            ">95 % interval",
            ">reply policy",
            ">p50",
            ">rollouts",
        ),
        rows,
    )


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


def _texts(prompts: Any) -> dict[str, str]:
    return {name: tensor.text for name, tensor in prompts.items()}
