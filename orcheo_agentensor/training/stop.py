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


_TYPE = "Which condition this is."


class _Stop(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)


class TargetScore(_Stop):
    """Stop once the best validation objective is at least `score`."""

    type: Literal["target_score"] = Field("target_score", title="Type", description=_TYPE)
    score: float = Field(title="Score", description="The validation objective to reach.")

    def __init__(self, score: float, **data: Any) -> None:
        """Take the one setting by position too: `TargetScore(0.9)`."""
        super().__init__(score=score, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        if progress.best is not None and progress.best >= self.score - 1e-12:
            return f"target score {self.score:g} reached"
        return None


class Patience(_Stop):
    """Stop after `steps` steps in a row without a new best."""

    type: Literal["patience"] = Field("patience", title="Type", description=_TYPE)
    steps: int = Field(ge=1, title="Steps", description="Steps in a row without a new best.")

    def __init__(self, steps: int, **data: Any) -> None:
        """Take the one setting by position too: `Patience(5)`."""
        super().__init__(steps=steps, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        if progress.steps_since_best >= self.steps:
            return f"no new best in {self.steps} steps"
        return None


class Deadline(_Stop):
    """Stop `seconds` after the run began."""

    type: Literal["deadline"] = Field("deadline", title="Type", description=_TYPE)
    seconds: float = Field(gt=0, title="Seconds", description="Seconds since the run began.")

    def __init__(self, seconds: float, **data: Any) -> None:
        """Take the one setting by position too: `Deadline(5)`."""
        super().__init__(seconds=seconds, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.seconds:g} s have passed" if progress.elapsed >= self.seconds else None


class MaxSteps(_Stop):
    """Stop after `steps` optimizer steps."""

    type: Literal["max_steps"] = Field("max_steps", title="Type", description=_TYPE)
    steps: int = Field(ge=0, title="Steps", description="Most optimizer steps.")

    def __init__(self, steps: int, **data: Any) -> None:
        """Take the one setting by position too: `MaxSteps(5)`."""
        super().__init__(steps=steps, **data)

    def reason(self, progress: Progress) -> str | None:
        """Why to stop now, or None."""
        return f"{self.steps} steps done" if progress.step >= self.steps else None


class MaxEpochs(_Stop):
    """Stop after `epochs` passes over the training cases."""

    type: Literal["max_epochs"] = Field("max_epochs", title="Type", description=_TYPE)
    epochs: int = Field(ge=0, title="Epochs", description="Most passes over the training cases.")

    def __init__(self, epochs: int, **data: Any) -> None:
        """Take the one setting by position too: `MaxEpochs(5)`."""
        super().__init__(epochs=epochs, **data)

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
