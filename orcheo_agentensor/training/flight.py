"""Trials in flight: run at once, told in the order they were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from orcheo_agentensor.errors import BudgetExhausted, RunFailed
from orcheo_agentensor.evaluation.executor import Draining
from orcheo_agentensor.optimizers import Optimizer, Trial, TrialOutcome
from orcheo_agentensor.training.trial import run_trial
from orcheo_agentensor.training.work import Training


def pipelined(optimizer: Optimizer) -> bool:
    """Whether an optimizer is told of its trials one at a time."""
    return bool(getattr(optimizer, "pipelined", False))


class Flight:
    """The open trials of a search, oldest first.

    A pipelined optimizer is told of its oldest trial as soon as that has landed, and has its next
    one launched while the others go on; any other is told of all its trials together. What a trial
    may know is fixed by its place in the order, so that the result does not depend on which of
    them is faster, nor on where a killed run was resumed.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._pipelined = pipelined(training.plan.optimizer)
        self._open: list[tuple[Trial, asyncio.Task[TrialOutcome]]] = []

    @property
    def open(self) -> int:
        """How many trials are in flight."""
        return len(self._open)

    def launch(self, trials: Sequence[Trial]) -> None:
        """Start those of `trials` that are not in flight yet: all but the first `open` ones."""
        told = self._training.memory.told
        width = int(getattr(self._training.plan.optimizer, "parallel", len(trials)))
        for place, trial in enumerate(trials):
            if place < len(self._open):
                if self._open[place][0] != trial:
                    name = self._training.plan.optimizer.name
                    raise RunFailed(
                        f"optimizer {name!r}: ask() must give the open trials first, in their order"
                    )
                continue
            known = max(0, told + place - width + 1) if self._pipelined else told
            task = asyncio.create_task(run_trial(self._training, trial, known=known))
            self._open.append((trial, task))

    async def land(self) -> list[TrialOutcome]:
        """The outcomes to be told next.

        Raises what the first of their trials ended with that could not go on, `BudgetExhausted`
        among others, once what the others had begun is finished: it is paid for.
        """
        landing = self._open[:1] if self._pipelined else self._open
        tasks = [task for _trial, task in landing]
        await asyncio.wait(tasks)
        errors = [error for task in tasks if (error := task.exception()) is not None]
        if errors:
            self._training.meter.halt("the search is over")
            await asyncio.wait([task for _trial, task in self._open])
            raise min(errors, key=lambda error: isinstance(error, BudgetExhausted | Draining))
        self._open = self._open[len(tasks) :]
        return [task.result() for task in tasks]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what is still in flight: rollouts that have begun are finished, none is begun."""
        tasks = [task for _trial, task in self._open]
        if kind is not None and not issubclass(kind, Exception):
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open = []
