"""Stop conditions: small, composable, and part of the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a stop condition may look at.

    `step` counts finished optimizer steps, `epoch` finished passes over the training cases;
    `best` is the highest complete validation objective; `steps_since_best` counts steps without a
    new one; `elapsed` is in seconds since the run began, pauses included.
    """

    step: int
    epoch: int
    best: float | None
    steps_since_best: int
    elapsed: float


class _Stop(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, value: Any = None, /, **data: Any) -> None:
        """Accept the one setting as the only positional argument: `Patience(5)`."""
        if value is not None:
            setting = next(name for name in type(self).model_fields if name != "type")
            data[setting] = value
        super().__init__(**data)


class TargetScore(_Stop):
    """Stop once the best validation objective is at least `score`."""

    type: Literal["target_score"] = "target_score"
    score: float

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        if progress.best is not None and progress.best >= self.score - 1e-12:
            return f"target score {self.score:g} reached"
        return None


class Patience(_Stop):
    """Stop after `steps` steps in a row without a new best."""

    type: Literal["patience"] = "patience"
    steps: int = Field(ge=1)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        if progress.steps_since_best >= self.steps:
            return f"no new best in {self.steps} steps"
        return None


class Deadline(_Stop):
    """Stop `seconds` after the run began."""

    type: Literal["deadline"] = "deadline"
    seconds: float = Field(gt=0)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.seconds:g} s have passed" if progress.elapsed >= self.seconds else None


class MaxSteps(_Stop):
    """Stop after `steps` optimizer steps."""

    type: Literal["max_steps"] = "max_steps"
    steps: int = Field(ge=0)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.steps} steps done" if progress.step >= self.steps else None


class MaxEpochs(_Stop):
    """Stop after `epochs` passes over the training cases."""

    type: Literal["max_epochs"] = "max_epochs"
    epochs: int = Field(ge=0)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.epochs} epochs done" if progress.epoch >= self.epochs else None


StopCondition: TypeAlias = Annotated[
    TargetScore | Patience | Deadline | MaxSteps | MaxEpochs, Field(discriminator="type")
]


def stop_reason(conditions: Sequence[StopCondition], progress: Progress) -> str | None:
    """The reason of the first condition that holds, or None."""
    for condition in conditions:
        if reason := condition.reason(progress):
            return reason
    return None
