"""Progress on stderr: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orcheo_agentensor.cli.output import console, say, version_sentence
from orcheo_agentensor.display import clean, number

if TYPE_CHECKING:
    from rich.progress import Progress

    from orcheo_agentensor.events import Event, EventWriter

_QUARTERS = 4


@contextmanager
def progress(*, silent: bool) -> Iterator[EventWriter]:
    """A function that shows the events of a run, unless `silent`."""
    if silent:
        yield lambda _event: None
    elif console(stderr=True).is_terminal:
        with _bar() as bar:
            yield Live(bar)
    else:
        yield Lines()


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )


class Lines:
    """Plain lines, for logs: the start, each quarter of the cases, each training step."""

    def __init__(self) -> None:
        self._training = False
        self._budget: int | None = None
        self._quarter = 0

    def __call__(self, event: Event) -> None:
        """Show one event."""
        kind = event["type"]
        if kind == "run_started":
            self._training = event["mode"] == "train"
            self._budget = (event.get("budget") or {}).get("rollouts")
            say(_started(event))
        elif kind == "evaluation_progress" and not self._training:
            quarter = event["done"] * _QUARTERS // event["total"]
            if quarter > self._quarter:
                self._quarter = quarter
                score = f"score {number(event['mean'])}, {event['failed']} failed"
                say(f"{event['done']}/{event['total']} cases, {score}")
        elif kind == "training_progress":
            outcomes = ", ".join(name.replace("_", " ") for name in event["outcomes"])
            limit = "" if self._budget is None else f"/{self._budget}"
            say(
                f"step {event['step']}: {outcomes}; best {number(event['best'])}, "
                f"{event['usage']['rollouts']}{limit} rollouts"
            )
        elif text := _news(event):
            say(text)


class Live:
    """A bar: cases of an evaluation, or rollouts of a training against its budget."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, note="")
        self._training = False
        self._failed = 0
        self._mean = "score -"

    def __call__(self, event: Event) -> None:
        """Show one event."""
        kind = event["type"]
        if kind == "run_started":
            self._training = event["mode"] == "train"
            total = (event.get("budget") or {}).get("rollouts", event.get("cases"))
            name = "training" if self._training else "evaluating"
            self._bar.update(self._task, description=name, total=total)
            self._print(_started(event))
        elif kind == "case_finished":
            self._failed += not event["ok"]
            if self._training:
                note = f"{self._mean}, {event.get('phase', '')}"
                self._bar.update(self._task, advance=1, note=note)
            else:
                note = f"{self._mean}, {self._failed} failed"
                self._bar.update(self._task, completed=event["done"], note=note)
        elif kind == "evaluation_progress" and not self._training:
            self._mean = f"score {number(event['mean'])}"
        elif kind == "training_progress":
            self._mean = f"step {event['step']}, best {number(event['best'])}"
            self._bar.update(self._task, completed=event["usage"]["rollouts"], note=self._mean)
        elif text := _news(event):
            self._print(text)

    def _print(self, text: str) -> None:
        self._bar.console.print(clean(text), style="dim", soft_wrap=True)


_BUDGETS = (
    ("rollouts", "{} rollouts"),
    ("calls", "{} model calls"),
    ("tokens", "{} tokens"),
    ("cost", "${}"),
)


def _started(event: Event) -> str:
    if event["mode"] != "train":
        return (
            f"run {event['run_id']}: evaluating {event['target']} on {event['cases']} cases "
            f"with {', '.join(event['evaluators'])}{_bindings(event)}"
        )
    splits = ", ".join(f"{count} {name}" for name, count in event["splits"].items() if count)
    budget = event["budget"]
    limits = [form.format(budget[k]) for k, form in _BUDGETS if budget.get(k) is not None]
    computed = " (computed)" if budget.get("computed") else ""
    return (
        f"run {event['run_id']}: training {', '.join(event['prompts'])} of {event['target']} "
        f"with {event['optimizer']}; cases: {splits}; "
        f"budget: {', '.join(limits) or 'no limit'}{computed}; "
        f"versions {version_sentence(event['checkpoints'])}{_bindings(event)}"
    )


def _bindings(event: Event) -> str:
    return "".join(f"\n  {name}: {how}" for name, how in event.get("bindings", {}).items())


def _news(event: Event) -> str | None:
    """The line that an event in the middle of a run gets; None for most events."""
    kind = event["type"]
    if kind == "warning":
        return f"warning: {event['message']}"
    if kind == "candidate_accepted":
        parts = [", ".join(event["components"])] if event["components"] else []
        if event["validation"] is not None:
            parts.append(f"validation {number(event['validation'])}")
        return f"{'new best' if event['new_best'] else 'accepted'}: {', '.join(parts)}"
    if kind == "proposal_rejected":
        return f"not kept ({event['status'].replace('_', ' ')}): {event['reason']}"
    if kind == "checkpoint_saved":
        objective = number(event["objective"])
        return f"version {event['version']} stored ({event['reason']}), validation {objective}"
    if kind == "holdout_summary":
        return (
            f"holdout: gain {event['gain']:+.3f} on {event['n']} cases, p = {event['p_value']:.4f}"
        )
    return None
