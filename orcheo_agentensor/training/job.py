"""`TrainingJob`: one model for the job file, the graph's input and the server's input."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from orcheo_agentensor.evaluation.job import Job
from orcheo_agentensor.training.budget import Budget
from orcheo_agentensor.training.stop import StopCondition


class TrainingJob(Job):
    """Train the prompts of a workflow on a dataset."""

    model_config = ConfigDict(title="Training job")

    optimizer: str | dict[str, Any] | None = Field(
        None,
        title="Optimizer",
        description="A name, or {name, …options}; the default when empty.",
        examples=[
            {"name": "textgrad", "proposer": "orcheo_agentensor.demo.proposer:LexicalProposer"},
            "reflective",
            "textgrad",
            "random_search",
        ],
    )
    budget: Budget | None = Field(
        None,
        title="Budget",
        description="What the run may spend; computed from the split sizes when left out.",
    )
    stop: list[StopCondition] = Field(
        [],
        title="Stop conditions",
        description='Such as {"type": "target_score", "score": 1.0}; the budget always counts.',
        examples=[[{"type": "max_steps", "steps": 2}]],
    )
    checkpoint_every: int = Field(
        1, ge=1, title="Checkpoint interval", description="In optimizer steps."
    )
    promote: Literal["auto", "ask", "never"] = Field(
        "never",
        title="Promotion",
        description="auto: promote what is proved; ask: pause for a person; never: only store.",
    )
    publish: dict[str, Any] | None = Field(
        None,
        title="Publish",
        description="Where a promoted version is published: {url, assistant, api_key_env, graph, "
        "create}.",
    )
    seed: int = Field(
        0, title="Seed", ge=0, le=2**53, description="The same seed gives the same search."
    )
