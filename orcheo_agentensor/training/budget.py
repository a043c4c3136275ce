"""The budget: reserved before spending, never overshot, and exact over resumes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.errors import BudgetExhausted, BudgetTooSmall
from orcheo_agentensor.usage import NOTHING, Usage


class Budget(BaseModel):
    """What a training run may spend, its holdout measurement included.

    `rollouts` are executions of the target, `calls` model calls (of the target, of judges and of
    the proposer), `tokens` input and output tokens, `cost` US dollars. None means no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, title="Budget")

    rollouts: int | None = Field(None, ge=0, description="Most executions of the target.")
    calls: int | None = Field(None, ge=0, description="Most model calls.")
    tokens: int | None = Field(None, ge=0, description="Most tokens, in and out.")
    cost: float | None = Field(None, ge=0, description="Most US dollars.")


def default_budget(*, train: int, validation: int, holdout: int, minibatch: int) -> Budget:
    """A budget computed from the split sizes, for jobs that give none.

    Enough for the baseline, twenty tries of which about one in two reaches validation, and the
    holdout measurement of two candidates.
    """
    batch = min(minibatch, train)
    return Budget(rollouts=2 * holdout + validation + 20 * (2 * batch) + 10 * validation)


class BudgetMeter:
    """Keeps what is spent and reserved.

    `reserved` rollouts are set aside from the start for the holdout measurement; the search cannot
    touch them until `release`. What a rollout takes of the other limits is known only afterwards:
    those in flight and those set aside count as much as one did on average so far. `spent` starts
    at what the ledger says an earlier process of the same run has spent.
    """

    def __init__(self, budget: Budget, *, spent: Usage = NOTHING, reserved: int = 0) -> None:
        self.budget = budget
        self.usage = spent
        self._reserved = reserved
        self._in_flight = 0
        self._halted: str | None = None

    def release(self) -> None:
        """The search is over: what was set aside may be used."""
        self._reserved = 0

    def reserve_rollout(self) -> None:
        """Reserve one execution of the target; raises `BudgetExhausted`."""
        if self._halted is not None:
            raise BudgetExhausted(self._halted)
        self._check_others(rollouts=1)
        limit = self.budget.rollouts
        if limit is not None and self.usage.rollouts + self._in_flight + self._reserved >= limit:
            raise BudgetExhausted(f"the budget of {limit} rollouts is spent")
        self._in_flight += 1

    @property
    def aside(self) -> _Aside:
        return _Aside(self)

    def set_aside(self, rollouts: int) -> None:
        """Change how many rollouts are kept from the search."""
        self._reserved = rollouts

    def halt(self, reason: str) -> None:
        """The search is over: whatever it still has in flight begins nothing more."""
        self._halted = reason

    def reserve_call(self) -> None:
        """Ask before a proposer's or critic's call; raises `BudgetExhausted`."""
        self._check_others(rollouts=0)

    def spent(self, usage: Usage) -> None:
        """Settle what really was used; executions leave the reservation."""
        self._in_flight = max(0, self._in_flight - usage.rollouts)
        self.usage = self.usage + usage

    def _check_others(self, *, rollouts: int) -> None:
        budget, usage = self.budget, self.usage
        share = (self._in_flight + self._reserved + rollouts) / max(1, usage.rollouts)
        for limit, used, words in (
            (budget.calls, usage.calls, f"{budget.calls} model calls"),
            (budget.tokens, usage.tokens, f"{budget.tokens} tokens"),
            (budget.cost, usage.cost or 0.0, f"${budget.cost or 0.0:g}"),
        ):
            if limit is None:
                continue
            if used >= limit:
                raise BudgetExhausted(f"the budget of {words} is spent")
            if used * (1 + share) > limit * (1 + 1e-9):
                kept = ", but for what the holdout measurement needs" if self._reserved else ""
                raise BudgetExhausted(f"the budget of {words} is spent{kept}")


class _Aside:
    def __init__(self, meter: BudgetMeter) -> None:
        self._meter = meter

    def reserve_rollout(self) -> None:
        meter = self._meter
        meter._check_others(rollouts=1)
        limit = meter.budget.rollouts
        if limit is not None and meter.usage.rollouts + meter._in_flight >= limit:
            raise BudgetExhausted(f"the budget of {limit} rollouts is spent")
        meter._in_flight += 1
        meter._reserved = max(0, meter._reserved - 1)

    def spent(self, usage: Usage) -> None:
        self._meter.spent(usage)


def check_budget(budget: Budget, *, validation: int, holdout: int) -> None:
    """Raise `BudgetTooSmall` when the fixed part of the job does not fit the budget."""
    fixed = validation + 2 * holdout
    if budget.rollouts is not None and budget.rollouts < fixed:
        raise BudgetTooSmall(
            f"budget.rollouts: {budget.rollouts} is too small: the baseline on {validation} "
            f"validation cases and the holdout measurement (2 x {holdout}) alone take {fixed}",
            field="budget.rollouts",
            value=budget.rollouts,
            rule=f"must be at least {fixed}",
        )
