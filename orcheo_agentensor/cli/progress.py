"""Progress on stderr: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.output import clean, console, number, say

if TYPE_CHECKING:
    from rich.progress import Progress

    from orcheo_agentensor.events import Event, EventWriter

_QUARTERS = 4


@contextmanager
def progress(*, silent: bool) -> Iterator[EventWriter]:
    """Something that hears of a run's events and shows them, unless `silent`."""
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
        """Hear of one event."""
        kind = event["type"]
        if kind == "run_started":
            self._training = event["mode"] == "train"
            self._budget = (event.get("budget") or {}).get("rollouts")
            say(started(event))
        elif kind == "evaluation_progress" and not self._training:
            quarter = event["done"] * _QUARTERS // event["total"]
            if quarter > self._quarter:
                self._quarter = quarter
                say(f"{event['done']}/{event['total']} cases, {scored(event)}")
        elif kind == "training_progress":
            say(f"{stepped(event)}, {spent(event['usage']['rollouts'], self._budget)} rollouts")
        elif text := news(event):
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
        """Hear of one event."""
        kind = event["type"]
        if kind == "run_started":
            self._training = event["mode"] == "train"
            total = (event.get("budget") or {}).get("rollouts", event.get("cases"))
            name = "training" if self._training else "evaluating"
            self._bar.update(self._task, description=name, total=total)
            self._bar.console.print(clean(started(event)), style="dim", soft_wrap=True)
        elif kind == "case_finished":
            self._case(event)
        elif kind == "evaluation_progress" and not self._training:
            self._mean = f"score {number(event['mean'])}"
        elif kind == "training_progress":
            self._mean = f"step {event['step']}, best {number(event['best'])}"
            self._bar.update(self._task, completed=event["usage"]["rollouts"], note=self._mean)
        elif text := news(event):
            self._bar.console.print(clean(text), style="dim", soft_wrap=True)

    def _case(self, event: Event) -> None:
        self._failed += not event["ok"]
        if self._training:
            self._bar.advance(self._task)
            self._bar.update(self._task, note=f"{self._mean}, {event.get('phase', '')}")
        else:
            note = f"{self._mean}, {self._failed} failed"
            self._bar.update(self._task, completed=event["done"], note=note)


def started(event: Event) -> str:
    """What has begun, in a line."""
    if event["mode"] == "train":
        splits = ", ".join(f"{count} {name}" for name, count in event["splits"].items() if count)
        budget = event["budget"]
        kinds = {"rollouts": "{} rollouts", "calls": "{} model calls", "tokens": "{} tokens"}
        kinds["cost"] = "${}"
        given = [text.format(budget[k]) for k, text in kinds.items() if budget.get(k) is not None]
        computed = " (computed)" if budget.get("computed") else ""
        limit = f"{', '.join(given) or 'no limit'}{computed}"
        return (
            f"run {event['run_id']}: training {', '.join(event['prompts'])} of {event['target']} "
            f"with {event['optimizer']}; cases: {splits}; budget: {limit}"
        )
    return (
        f"run {event['run_id']}: evaluating {event['target']} on {event['cases']} cases "
        f"with {', '.join(event['evaluators'])}"
    )


def scored(event: Event) -> str:
    """The running score and failures."""
    return f"score {number(event['mean'])}, {event['failed']} failed"


def stepped(event: Event) -> str:
    """What a training step came to."""
    outcomes = ", ".join(name.replace("_", " ") for name in event["outcomes"])
    return f"step {event['step']}: {outcomes}; best {number(event['best'])}"


def spent(used: int, budget: int | None) -> str:
    """Use of a budget."""
    return str(used) if budget is None else f"{used}/{budget}"


def news(event: dict[str, Any]) -> str | None:
    """A line about what is worth one in the middle of a run; None for the other events."""
    kind = event["type"]
    if kind == "candidate_accepted":
        best = "new best" if event["new_best"] else "accepted"
        parts = [", ".join(event["components"])] if event["components"] else []
        if event["validation"] is not None:
            parts.append(f"validation {number(event['validation'])}")
        return f"{best}: {', '.join(parts)}"
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
