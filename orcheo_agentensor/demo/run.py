"""`agentensor demo`: train the bundled workflow beside control arms, and compare them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.execution import Ending, JobRunner, Mode, Stopper
from orcheo_agentensor.cli.options import store_option
from orcheo_agentensor.cli.output import show_diff, show_next, show_table
from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.demo.pace import Pace, measure_pace
from orcheo_agentensor.demo.proposer import one_shot_fill
from orcheo_agentensor.demo.workflow import create_support_triage, seed_prompts
from orcheo_agentensor.display import interval, number
from orcheo_agentensor.evaluation import Limits
from orcheo_agentensor.evaluation.api import stored_cases
from orcheo_agentensor.evaluation.results import summarize
from orcheo_agentensor.optimizers.registry import DEFAULT
from orcheo_agentensor.prompts import TextTensor, prompts_to_json
from orcheo_agentensor.redaction import redact_url
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.training import TrainingResult
from orcheo_agentensor.training.api import read_result

if TYPE_CHECKING:
    from rich.console import Console


DATA = Path(__file__).parent / "data" / "banking_tickets.jsonl"
TARGET = "orcheo_agentensor.demo.workflow:create_support_triage"
WORKFLOW = "support_triage"
SPLITS = ("train", "validation", "holdout")

_HERE = "orcheo_agentensor.demo"
_EVALUATORS = (f"{_HERE}.evaluators:queue_accuracy", f"{_HERE}.evaluators:reply_policy")
_EVERY_WITH_A_MODEL = (6, 9, 14, 20)
"""A configured model sees every sixth case, so that a look at the demo costs cents; a slow one
fewer, so that it takes no more than about"""
_PATIENCE = 900.0
"""seconds."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every search and measurement of the demo shares: cases, limits, budget."""

    dataset: Dataset
    limits: Limits
    minibatch: int
    budget: dict[str, int]
    steps: int
    model: str | None
    evaluators: tuple[str, ...] = _EVALUATORS

    def optimizer(self, name: str, proposer: str) -> dict[str, Any]:
        """The job form of an optimizer; a configured model replaces the offline proposer."""
        by = {"model": self.model} if self.model else {"proposer": f"{_HERE}.proposer:{proposer}"}
        return {"name": name, "minibatch": self.minibatch, **by}

    @property
    def most_rollouts(self) -> int:
        """Of two searches, of the arm that needs none, and of what the searches have not measured
        of their ends: the training cases."""
        sizes = self.dataset.splits()
        return 2 * self.budget["rollouts"] + len(self.dataset) + 3 * sizes["train"]


def set_up(settings: Settings, pace: Pace | None = None) -> Setup:
    """All cases for the simulated model, a part for a configured one, the smaller the slower it is;
    blocks to read them."""
    dataset = Dataset.load(DATA)
    if settings.model is None:
        return Setup(
            dataset=dataset,
            limits=Limits(concurrency=2),  # the simulated model computes: more would only wait
            minibatch=150,
            budget={"rollouts": 3_600},
            steps=12,
            model=None,
        )
    parts = (_part(settings.model, dataset, pace, every=every) for every in _EVERY_WITH_A_MODEL)
    for part in parts:
        if pace is None or part.most_rollouts * pace.a_rollout <= _PATIENCE:
            break
    return part


def _part(model: str, dataset: Dataset, pace: Pace | None, *, every: int) -> Setup:
    part = Dataset(id=dataset.id, cases=dataset.cases[::every])
    sizes = part.splits()
    minibatch = min(10, sizes["train"])
    limits: dict[str, Any] = (
        {}
        if pace is None
        else {"concurrency": pace.at_once, "case_timeout": min(86_400.0, pace.case_timeout)}
    )
    return Setup(
        dataset=part,
        limits=Limits(**limits),
        minibatch=minibatch,
        budget={"rollouts": 2 * sizes["holdout"] + 5 * (sizes["validation"] + 2 * minibatch)},
        steps=4,
        model=model,
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
    pace = await _pace(console, settings)
    shared = await asyncio.to_thread(set_up, settings, pace)
    _introduce(console, shared, pace)
    stopper = Stopper()
    async with Store.from_url(store_url) as store:
        demo = _DemoRun(
            shared=shared,
            store=store,
            store_url=store_url if store_url != settings.database_url else None,
            settings=settings,
            stopper=stopper,
            seed=seed,
            console=console,
        )
        try:
            with stopper.listening():
                trained, arms = await demo.every_arm(memorise=memorise)
        except _Interrupted:
            return ExitCode.INTERRUPTED
    _show_arms(console, arms)
    _show_decision(console, trained)
    show_diff(trained.diff)
    at = "" if store_url == settings.database_url else store_option(store_url)
    _show_where(console, trained, store_url, at=at)
    return 0


class _Interrupted(Exception):
    """A signal has stopped a run of the demo."""


async def _pace(console: Console, settings: Settings) -> Pace | None:
    if settings.model is None:
        return None
    console.print(f"Model: {settings.model}. Its first cases are timed.")
    cases = (await asyncio.to_thread(Dataset.load, DATA)).cases
    texts = {name: one.text for name, one in seed_prompts().items() if one.requires_grad}
    graph = await asyncio.to_thread(lambda: create_support_triage().compile())
    return await measure_pace(settings.model, graph, cases, texts)


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
    store_url: str | None
    settings: Settings
    stopper: Stopper
    seed: int
    console: Console

    async def every_arm(self, *, memorise: bool) -> tuple[TrainingResult, list[Arm]]:
        """The training that the demo is about, and the arms of its table.

        Raises `_Interrupted` after a signal.
        """
        if memorise:
            trained = await self.train(DEFAULT, "MemorisingProposer", "memorised")
            return trained, [
                await self.measure_baseline(trained),
                await self.measure_best(trained, "memorised"),
            ]
        searched = await self.train("random_search", "ParaphraseProposer", "random search")
        trained = await self.train(DEFAULT, "LexicalProposer", "trained")
        return trained, [
            await self.measure_baseline(trained),
            await self.measure("one-shot fill", self.one_shot()),
            await self.measure_best(searched, "random search"),
            await self.measure_best(trained, "trained"),
        ]

    async def train(self, optimizer: str, proposer: str, name: str) -> TrainingResult:
        """One search under the shared budget; only the trained arm may be promoted."""
        self.console.print(f"\nSearching: {name} ({_ARMS[name]})", style="bold")
        found = await self._run(
            "train",
            {
                "prompts": prompts_to_json(seed_prompts()),
                "optimizer": self.shared.optimizer(optimizer, proposer),
                "budget": self.shared.budget,
                "stop": [{"type": "max_steps", "steps": self.shared.steps}]
                if optimizer == DEFAULT
                else [],
                "promote": "never" if optimizer == "random_search" else "auto",
                "seed": self.seed,
                "workflow_id": WORKFLOW
                if name == "trained"
                else f"{WORKFLOW}-{name.replace(' ', '-')}",
            },
        )
        return await read_result(self.store, found["run_id"], found)

    async def _run(self, mode: Mode, job: Mapping[str, Any]) -> dict[str, Any]:
        """A job as the command line runs it; a signal stops it and names its `resume`."""
        runner = JobRunner(
            mode=mode,
            store=self.store,
            settings=self.settings,
            stopper=self.stopper,
            silent=False,
        )
        whole = {
            "target": TARGET,
            "dataset": self.shared.dataset,
            "evaluators": [*self.shared.evaluators],
            "limits": self.shared.limits.model_dump(),
            **job,
        }
        checked = await runner.manager(self.store).check(whole)
        found = await runner.start(checked, whole, folder=str(Path.cwd()))
        if found["status"] == "interrupted":
            record = await self.store.runs.get(found["run_id"])
            Ending(mode=mode, as_json=False, store_url=self.store_url).report(found, record)
            raise _Interrupted
        return found

    async def measure_baseline(self, result: TrainingResult) -> Arm:
        """The prompts as they were written, on every split."""
        return await self.measure("baseline", result.baseline.prompts, reuse=result.run_id)

    async def measure_best(self, result: TrainingResult, name: str) -> Arm:
        """The best prompts of a search, on every split."""
        best, used = result.best.prompts, result.usage.rollouts
        return await self.measure(name, best, reuse=result.run_id, rollouts=used)

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
        self.console.print(f"\nMeasuring: {name} ({_ARMS[name]})", style="bold")
        found = await self._run(
            "evaluate",
            {
                "prompts": prompts_to_json(prompts),
                "min_coverage": 0.0,
                "workflow_id": WORKFLOW,
                "reuse": reuse,
            },
        )
        cases = await stored_cases(self.store, found["run_id"])
        split_of = {case.id: case.split for case in self.shared.dataset}
        splits = {
            split: summarize([r for r in cases if split_of[r.case_id] == split], weights={})
            for split in SPLITS
        }
        return Arm(name=name, splits=splits, rollouts=rollouts)


def _introduce(console: Console, shared: Setup, pace: Pace | None) -> None:
    sizes = shared.dataset.splits()
    console.print(
        "Support triage: two agents route a bank customer's message to one of ten queues and write"
        "\nthe first reply. Two prompts are trained, the policy is frozen. Messages: BANKING77 "
        f"(CC BY 4.0):\n{sizes['train']} to learn from (train), {sizes['validation']} to choose "
        f"the best prompts by (validation), and {sizes['holdout']} that no\nsearch sees, to prove "
        "the gain on (holdout)."
    )
    if shared.model is None:
        console.print(
            "Model: a simulated one that matches words, so all of this is offline and free; "
            "AGENTENSOR_MODEL\nnames a real one. The proposer is offline as well."
        )
    if pace is not None:
        minutes = max(1, round(shared.most_rollouts * pace.a_rollout / 60))
        console.print(
            f"{pace.sentence()}\nAt that pace the demo takes at most about {minutes} "
            f"minute{'' if minutes == 1 else 's'}, for {shared.most_rollouts:,} rollouts, "
            f"{shared.limits.concurrency} at once; what the model\nneeds to write new prompts "
            "comes on top. Ctrl-C stops it, and names the command that goes on.",
            soft_wrap=True,
        )
    console.print(
        "A search counts the mean of two scores: whether the queue is right, and the share of the "
        "policy's\nrules that the reply keeps. The table at the end has both."
    )


_ARMS = {
    "baseline": "the prompts as they were written",
    "one-shot fill": "every queue's line filled once with the words of all its training messages",
    "random search": "the best of independent paraphrases, with the same budget",
    "trained": f"the default optimizer, {DEFAULT}: it edits what failed and keeps what holds",
    "memorised": f"{DEFAULT} with a proposer that learns messages by heart",
}


def _show_arms(console: Console, arms: Sequence[Arm]) -> None:
    console.print()
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
                arm.rollouts,
            )
        )
    columns = ("train", "validation", "holdout", "95 % interval", "policy, holdout", "rollouts")
    show_table(("right queue", *(f">{column}" for column in columns)), rows)
    for sentence in _worth(arms):
        console.print(sentence, soft_wrap=True)


def _worth(arms: Sequence[Arm]) -> Iterator[str]:
    """What the last arm is worth beside each of the others, on holdout."""
    *others, last = arms
    best = last.mean("holdout")
    gains = [
        (arm, best - held)
        for arm in others
        if best is not None and (held := arm.mean("holdout")) is not None
    ]
    if gains:
        told = ", ".join(f"{gain:+.3f} over {arm.name}" for arm, gain in gains)
        yield f"Worth of {last.name} in right queues on holdout: {told}."
    if last.rollouts is not None:
        of = [f"{a.name} took {a.rollouts:,}" for a in others if a.rollouts is not None]
        took = [f"{last.name} took {last.rollouts:,}", *of]
        yield f"Rollouts of the search, its proof on holdout included: {', '.join(took)}."
    yield ""


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
    if Store.from_url(store_url).target.in_memory:
        console.print("\nNothing is stored: the store was in memory.")
        return
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
