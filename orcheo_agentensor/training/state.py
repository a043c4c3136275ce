"""What the training graph keeps in its state, and what it gives back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from orcheo_agentensor.evaluation.graph import JobOutput, JobState
from orcheo_agentensor.evaluation.job import shown_as
from orcheo_agentensor.training.job import TrainingJob


class TrainingOutput(JobOutput, total=False):
    """What a training gives back; everything larger is in the side store under `run_id`."""

    summary: Annotated[
        dict[str, Any], Field(title="Summary", description="The best version on validation.")
    ]
    best: Annotated[
        dict[str, Any], Field(title="Best", description="The best version: prompts and scores.")
    ]
    baseline: Annotated[
        dict[str, Any], Field(title="Baseline", description="The version that the run began with.")
    ]
    holdout: Annotated[
        dict[str, Any] | None,
        Field(title="Holdout", description="The gain on cases the search never saw."),
    ]
    decision: Annotated[
        dict[str, Any],
        Field(title="Decision", description="promoted, kept or rejected, and the reasons."),
    ]


class TrainingState(TrainingOutput, JobState, total=False):
    """The job's fields until `prepare` has stored them, then only prompts, numbers and ids.

    `prompts` holds the best prompts so far as `TextTensor`s in JSON form.
    """

    optimizer: Annotated[Any, shown_as(TrainingJob, "optimizer")]
    budget: Annotated[Any, shown_as(TrainingJob, "budget")]
    stop: Annotated[Any, shown_as(TrainingJob, "stop")]
    checkpoint_every: Annotated[int, shown_as(TrainingJob, "checkpoint_every")]
    promote: Annotated[str, shown_as(TrainingJob, "promote")]
    publish: Annotated[Any, shown_as(TrainingJob, "publish")]
    seed: Annotated[int, shown_as(TrainingJob, "seed")]
    step: Annotated[int, Field(title="Step", description="Optimizer steps finished.")]
    epoch: Annotated[
        int, Field(title="Epoch", description="Passes over the training cases finished.")
    ]
    objective: Annotated[
        float | None,
        Field(title="Objective", description="The best complete validation objective so far."),
    ]
    checkpoint_due: Annotated[
        bool,
        Field(
            title="Checkpoint due",
            description="Whether a version is to be stored before the next step.",
        ),
    ]
    stopped: Annotated[
        str | None,
        Field(title="Stopped", description="Why the search is over; empty while it goes on."),
    ]
