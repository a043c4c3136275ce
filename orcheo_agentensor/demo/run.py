"""`agentensor demo`: the whole comparison, from bare prompts to a promoted version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.output import interval, number, show_diff, show_next, show_table
from orcheo_agentensor.cli.progress import progress
from orcheo_agentensor.cli.stores import store_option
from orcheo_agentensor.demo.arms import TARGET, WORKFLOW, Arm, Setup, measure, set_up
from orcheo_agentensor.demo.controls import one_shot_fill
from orcheo_agentensor.demo.prompts import seed_prompts
from orcheo_agentensor.redaction import redact_url
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.training import MaxSteps, TrainingResult, atrain
from orcheo_agentensor.training.decide import prompt_diff

if TYPE_CHECKING:
    from rich.console import Console


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
            trained = await run.train("textgrad", "memorise:MemorisingProposer", "memorised")
            arms = await run.arms(trained, "memorised")
        else:
            searched = await run.train("random_search", "controls:ParaphraseProposer", "random")
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
