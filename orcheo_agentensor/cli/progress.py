"""Progress on stderr: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orcheo_agentensor.cli.output import console, say, version_sentence
from orcheo_agentensor.display import clean, number, p_equals
from orcheo_agentensor.logs import logs_json

if TYPE_CHECKING:
    from rich.progress import Progress

    from orcheo_agentensor.events import Event, EventWriter

_QUARTERS = 4
_SILENCE = 5.0
"""Seconds after which a log gets a line with counts and the time left."""
_STILL = 30.0
"""Seconds after which a log is told that nothing has finished."""


@contextmanager
def progress(*, silent: bool) -> Iterator[EventWriter]:
    """A function that shows the events of a run, unless `silent`; a log in JSON has them anyway."""
    if silent or logs_json():
        yield lambda _event: None
    elif console(stderr=True).is_terminal:
        with _bar() as bar:
            yield Live(bar)
    else:
        lines = Lines()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_SILENCE):
                lines.still()

        watching = threading.Thread(target=watch, name="agentensor-progress", daemon=True)
        watching.start()
        try:
            yield lines
        finally:
            ended.set()
            watching.join()


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
    """Plain lines, for logs: the start, each quarter of the cases or each training step, and a line
    with counts and the time left when there has been none for a while."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = Told()
        self._training = False
        self._total: int | None = None
        self._done = self._failed = self._quarter = 0
        self._mean = ""
        self._began = self._last = clock()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        kind = event["type"]
        if kind == "run_started":
            self._training = event["mode"] == "train"
            self._total = (event.get("budget") or {}).get("rollouts", event.get("cases"))
            self._say(_started(event))
        elif kind == "evaluation_progress" and not self._training:
            self._mean = f", score {number(event['mean'])}"
            quarter = event["done"] * _QUARTERS // event["total"]
            if quarter > self._quarter:
                self._quarter = quarter
                self._done, self._failed = event["done"], event["failed"]
                self._say(self._counts())
        elif kind == "training_progress":
            self._done, self._mean = event["usage"]["rollouts"], f", best {number(event['best'])}"
            outcomes = ", ".join(map(_outcome, event["outcomes"]))
            self._say(f"step {event['step']}: {outcomes}; {self._counts()}")
        elif kind == "case_finished":
            self._failed += not event["ok"]
            self._done += 1
            if self._clock() - self._last >= _SILENCE:
                self._say(self._counts())
        elif text := self._told.news(event):
            self._say(text)

    def still(self) -> None:
        """Say so where no line came for a while, as with a model that is slow; from any thread."""
        silent = self._clock() - self._last
        if silent >= _STILL:
            self._say(f"nothing has finished for {silent:.0f} s; {self._counts()}")

    def _say(self, text: str) -> None:
        self._last = self._clock()
        say(text)

    def _counts(self) -> str:
        what = "rollouts" if self._training else "cases"
        of = "" if self._total is None else f"/{self._total}"
        return f"{self._done}{of} {what}{self._mean}, {self._failed} failed{self._left()}"

    def _left(self) -> str:
        """The time left at the pace so far; a training may end before its budget does."""
        if self._total is None or not 0 < self._done < self._total:
            return ""
        left = (self._clock() - self._began) / self._done * (self._total - self._done)
        if left < 1:
            return ""
        shown = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        return f", {'at most ' if self._training else 'about '}{shown} left"


class Live:
    """A bar: cases of an evaluation, or rollouts of a training against its budget."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, note="")
        self._told = Told()
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
        elif text := self._told.news(event):
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


def _outcome(status: str) -> str:
    """What became of a step, in words: a rewrite has to be better, not only no worse."""
    return status.replace("worse_on", "no_better_on").replace("_", " ")


class Told:
    """The lines that events in the middle of a run get; it remembers the best score told."""

    def __init__(self) -> None:
        self._best: float | None = None

    def news(self, event: Event) -> str | None:
        """The line of an event; None for most."""
        kind = event["type"]
        if kind == "warning":
            return f"warning: {event['message']}"
        if kind == "candidate_accepted":
            return self._accepted(event)
        if kind == "proposal_rejected":
            names = ", ".join(event["components"]) or "prompts"
            return f"{names} not changed ({_outcome(event['status'])}): {event['reason']}"
        if kind == "checkpoint_saved":
            objective = number(event["objective"])
            return f"version {event['version']} stored ({event['reason']}), validation {objective}"
        if kind == "fold_started":
            return f"fold {event['fold']} of run {event['of']}: searching without it"
        if kind == "holdout_summary":
            return (
                f"holdout: gain {event['gain']:+.3f} on {event['n']} cases, "
                f"{p_equals(event['p_value'])}"
            )
        return None

    def _accepted(self, event: Event) -> str:
        validation, names = event["validation"], ", ".join(event["components"])
        score = "" if validation is None else f", validation {number(validation)}"
        if not names:
            self._best = validation
            return f"baseline measured{score}"
        if event["new_best"]:
            self._best = validation
            return f"new best: {names} rewritten{score}"
        best = "" if self._best is None else f"; the best stays at {number(self._best)}"
        return f"{names} rewritten, better on its cases and kept to build on{score}{best}"
