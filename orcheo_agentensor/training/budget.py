"""The budget: what a run may spend, what it takes at least, and what it gets by default."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.errors import BudgetTooSmall
from orcheo_agentensor.evaluation.job import as_form


class Budget(BaseModel):
    """What a training run may spend, its holdout measurement included.

    `rollouts` are executions of the target, `calls` model calls (of the target, of judges and of
    the proposer), `tokens` input and output tokens, `cost` US dollars. None means no limit.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="Budget", json_schema_extra=as_form
    )

    rollouts: int | None = Field(
        None, ge=0, title="Rollouts", description="Most executions of the target."
    )
    calls: int | None = Field(None, ge=0, title="Calls", description="Most model calls.")
    tokens: int | None = Field(None, ge=0, title="Tokens", description="Most tokens, in and out.")
    cost: float | None = Field(None, ge=0, title="Cost", description="Most US dollars.")


def required_rollouts(*, validation: int, holdout: int, replicates: int = 1) -> int:
    """The rollouts that a training job takes at least.

    The baseline's validation and the holdout measurement of two candidates are fixed; with one
    more the search can begin.
    """
    return (validation + 2 * holdout) * replicates + 1


def check_budget(budget: Budget, *, validation: int, holdout: int, replicates: int = 1) -> None:
    """Raise `BudgetTooSmall` when the fixed part of the job does not fit the budget."""
    least = required_rollouts(validation=validation, holdout=holdout, replicates=replicates)
    if budget.rollouts is not None and budget.rollouts < least:
        times = f", each {replicates} times" if replicates > 1 else ""
        raise BudgetTooSmall(
            f"budget.rollouts: {budget.rollouts} is too small: the baseline on {validation} "
            f"validation cases and the holdout measurement (2 x {holdout}){times} alone take "
            f"{least - 1}, and a search at least one more; it must be at least {least}",
            field="budget.rollouts",
            value=budget.rollouts,
            rule=f"must be at least {least}",
        )


def default_budget(
    *, train: int, validation: int, holdout: int, minibatch: int, replicates: int = 1
) -> Budget:
    """A budget computed from the split sizes, for jobs that give none.

    Enough for the baseline, twenty tries of which about one in two reaches validation, and the
    holdout measurement of two candidates.
    """
    batch = min(minibatch, train)
    once = 2 * holdout + validation + 20 * (2 * batch) + 10 * validation
    return Budget(rollouts=once * replicates)
