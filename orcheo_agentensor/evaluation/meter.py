"""What the runner asks before it spends."""

from __future__ import annotations

from typing import Protocol

from orcheo_agentensor.metering import CallGate
from orcheo_agentensor.usage import Usage


class Meter(Protocol):
    """What the runner asks before it spends; see `training.budget`."""

    @property
    def gate(self) -> CallGate | None:
        """What is asked before each model call; None where nobody needs to be."""

    def reserve_rollout(self) -> None:
        """Reserve one execution of the target; raises `BudgetExhausted`."""

    def spent(self, usage: Usage, *, refused: bool = False) -> None:
        """An execution or a scoring is over, and came to this; `refused` where it was refused a
        call."""


class Unmetered:
    """No budget: an evaluation runs what it was asked to run."""

    gate: CallGate | None = None

    def reserve_rollout(self) -> None:
        """Always granted."""

    def spent(self, usage: Usage, *, refused: bool = False) -> None:
        """Nothing to settle."""
