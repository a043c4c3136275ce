"""The budget of a training: what it may spend, what it takes at least, and how it is kept."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ConfigDict, Field

from orcheo_agentensor.errors import BudgetExhausted, BudgetTooSmall
from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.runs.schema import as_form
from orcheo_agentensor.usage import NOTHING, Usage


class Budget(StrictNumbers):
    """What a training run may spend, its holdout measurement included.

    `rollouts` are executions of the target, `calls` model calls (of the target, of judges and of
    the proposer), `tokens` input and output tokens, `cost` US dollars. None means no limit.

    Example:
        >>> from orcheo_agentensor import Budget
        >>> Budget(rollouts=400, cost=2.5).tokens is None
        True
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, title="Budget", json_schema_extra=as_form
    )

    rollouts: int | None = Field(
        default=None, ge=0, title="Rollouts", description="Most executions of the target."
    )
    calls: int | None = Field(default=None, ge=0, title="Calls", description="Most model calls.")
    tokens: int | None = Field(
        default=None, ge=0, title="Tokens", description="Most tokens, in and out."
    )
    cost: float | None = Field(default=None, ge=0, title="Cost", description="Most US dollars.")


def required_rollouts(*, validation: int, holdout: int, replicates: int = 1) -> int:
    """The rollouts that a training job takes at least.

    They are the baseline's validation, the holdout measurement of two candidates, and one to
    search with.
    """
    return (validation + 2 * holdout) * replicates + 1


def check_budget(budget: Budget, *, validation: int, holdout: int, replicates: int = 1) -> None:
    """Raise `BudgetTooSmall` when the budget cannot pay for `required_rollouts`."""
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
    *,
    train: int,
    validation: int,
    holdout: int,
    minibatch: int,
    replicates: int = 1,
    every: int | None = None,
) -> Budget:
    """A budget computed from the split sizes, for jobs that give none.

    It pays for the baseline, twenty trials of which about one in two reaches validation, the
    versions stored after `every` so many of them, and the holdout measurement of two candidates.
    """
    batch, intervals = min(minibatch, train), 0 if every is None else 20 // every
    once = 2 * holdout + validation + 20 * (2 * batch) + (10 + intervals) * validation
    return Budget(rollouts=once * replicates)


ASKED = ("proposal", "criticism")
"""The kinds of recorded calls that belong to no rollout."""

MEASURED = 5  # rollouts after which their average is used
KINDS = ("calls", "tokens", "cost")


def unknown(reserved: int, spent: Usage) -> Usage | None:
    """What a process that died may have spent beyond what it has recorded.

    It had `reserved` that many rollouts, earlier ones included; what is not recorded counts as
    `spent`, each with what a rollout took on average so far.
    """
    lost = reserved - spent.rollouts
    if lost <= 0:
        return None
    share = lost / spent.rollouts if spent.rollouts else 0.0
    return Usage(
        rollouts=lost,
        calls=math.ceil(spent.calls * share),
        input_tokens=math.ceil(spent.input_tokens * share),
        output_tokens=math.ceil(spent.output_tokens * share),
        cost=None if spent.cost is None else spent.cost * share,
    )


@dataclass(slots=True)
class _Sum:
    """Calls, tokens and known cost."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def add(self, usage: Usage, sign: int = 1) -> None:
        self.calls += sign * usage.calls
        self.tokens += sign * usage.reported_tokens
        self.cost += sign * (usage.cost or 0.0)

    def take(self, usage: Usage) -> None:
        """Subtract, but not below 0: sums of floats are not exact."""
        self.add(usage, -1)
        self.calls, self.tokens = max(0, self.calls), max(0, self.tokens)
        self.cost = max(0.0, self.cost) if self.calls else 0.0


class BudgetMeter:
    """Counts what is spent, reserved and set aside, and refuses what goes over the budget.

    Rollouts are reserved one by one before they run, and model calls one by one as they start, so
    that what is spent, in flight and asked for never exceeds the budget. A call's tokens and cost
    are reserved at their maximum and settled when it ends.

    `set_aside` rollouts are kept from the search, for the baseline's validation and the holdout;
    `aside` draws from them. Of the other limits, the average of a rollout so far is kept for each
    of these. A rollout begins only where that average is left, because one that is refused in the
    middle has been paid for in vain.

    `spent` is what earlier processes of the same run have spent by the ledger, `asked` the part of
    it that proposers and critics took.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        spent: Usage = NOTHING,
        asked: Usage = NOTHING,
        set_aside: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.budget = budget
        self.usage = spent
        self._unpriced = spent.cost is None
        self._uncounted = spent.tokens is None
        self._done = _Sum()  # rollouts, scorings and proposals that have ended
        self._done.add(spent)
        self._asked = _Sum()
        self._asked.add(asked)
        self._set_aside = set_aside
        self._wished = 0  # of these, those kept only where there is room
        self._fixed = set_aside  # rollouts that the job takes whatever the search does
        self._refused = 0  # rollouts in which a model call was refused
        self._refused_took = _Sum()
        self._deadline: datetime | None = None
        self._too_late = ""
        self._clock = clock
        self._halted: str | None = None
        self._rollouts = 0  # in flight
        self._calls = 0  # in flight
        self._held = _Sum()  # the most that the calls in flight can take
        self._open = _Sum()  # ended calls whose rollout, scoring or proposal goes on
        self._most_calls = 0
        self._excess = _Sum()  # the most by which a call took less than was held for it
        self._lock = threading.Lock()  # sync targets call models from threads
        self.aside = Aside(self)

    def set_aside(self, rollouts: int, *, wished: int = 0, fixed: int = 0) -> None:
        """Keep so many rollouts from the search, and `wished` ones where there is room beside the
        `fixed` ones that the whole job takes."""
        with self._lock:
            self._set_aside = rollouts + wished
            self._wished, self._fixed = wished, fixed

    def end_at(self, deadline: datetime, *, reason: str) -> None:
        """Let the search begin nothing more from `deadline` on, for this reason."""
        self._deadline, self._too_late = deadline, reason

    def resume(self) -> None:
        """Let the search, halted or out of time in an earlier node, ask again."""
        self._halted = self._deadline = None

    def release_last(self) -> None:
        """End the search but for the validation of a last candidate: what was kept for that may be
        used, and no deadline holds. What the baseline and the holdout need stays set aside."""
        self.resume()
        with self._lock:
            self._set_aside -= self._wished
            self._wished = 0

    def release(self) -> None:
        """End the search: what was set aside may be used, and no deadline holds."""
        self._halted = self._deadline = None
        self.set_aside(0)

    @property
    def unmeasured(self) -> bool:
        """Whether calls, tokens or cost are limited and no rollout has shown yet what one takes."""
        return bool(self._limits()) and self.usage.rollouts == 0

    @property
    def begun(self) -> int:
        """Executions of the target that have begun, in all processes of the run."""
        return self.usage.rollouts + self._rollouts

    def halt(self, reason: str) -> None:
        """Let the search begin nothing more, whatever it still has in flight."""
        self._halted = reason

    def reserve_rollout(self, *, again: bool = False) -> None:
        """Reserve one execution of the target for the search, the first or one `again` after a
        passing trouble; raises `BudgetExhausted`."""
        with self._lock:
            self._check_time()
            self._check_average(rollouts=1, aside=False)
            self._check_rollouts(self._set_aside)
            self._rollouts += 1

    def return_rollout(self, *, again: bool = False) -> None:
        """Give back an execution that a server refused."""
        with self._lock:
            self._rollouts -= 1

    def require_call(self) -> None:
        """Raise `BudgetExhausted` where nothing is left for a call of a proposer or critic."""
        with self._lock:
            self._check_time()
            self._check_average(rollouts=0, aside=False)
            for kind, limit in self._limits():
                if 0 < self._taken(kind) >= limit:
                    raise BudgetExhausted(f"{self._words(kind)} is spent")

    def call_started(self, most: Callable[[], Usage]) -> Usage:
        """Reserve a model call of the search; raises `BudgetExhausted`."""
        return self._start_call(most, aside=False)

    def call_ended(self, reserved: Usage, used: Usage) -> None:
        """Settle a model call."""
        with self._lock:
            self._calls -= 1
            self._held.take(reserved)
            self._open.add(used)
            self._unpriced = self._unpriced or used.cost is None
            self._uncounted = self._uncounted or used.tokens is None
            excess = self._excess
            excess.tokens = max(excess.tokens, reserved.reported_tokens - used.reported_tokens)
            excess.cost = max(excess.cost, (reserved.cost or 0.0) - (used.cost or 0.0))

    def spent(self, usage: Usage, *, asked: bool = False, refused: bool = False) -> None:
        """Record that a rollout, a scoring or (`asked`) a proposer's or critic's call has ended.

        Its model calls were settled one by one. A rollout in which a call was `refused` does not
        count towards the average.
        """
        with self._lock:
            if refused and usage.rollouts:
                self._refused += usage.rollouts
                self._refused_took.add(usage)
            # One was reserved; the server of a target may have made more of it by itself.
            self._rollouts = max(0, self._rollouts - min(usage.rollouts, 1))
            self._open.take(usage)
            self._done.add(usage)
            self.usage = self.usage + usage
            if asked:
                self._asked.add(usage)

    def _reserve_aside(self, *, again: bool) -> None:
        with self._lock:
            self._check_fixed()
            self._check_average(rollouts=1, aside=True)
            # A second attempt at a case must not take the first one of another.
            self._check_rollouts(self._set_aside - self._wished if again else 0)
            if not again:
                self._set_aside = max(0, self._set_aside - 1)
                self._wished = min(self._wished, self._set_aside)
            self._rollouts += 1

    def _start_call(self, most: Callable[[], Usage], *, aside: bool) -> Usage:
        bounded = self.budget.tokens is not None or self.budget.cost is not None
        reserved, needed = most() if bounded else Usage(calls=1), _Sum()
        needed.add(reserved)
        with self._lock:
            for kind, limit in self._limits():
                taken = self._taken(kind) + getattr(needed, kind)
                self._check_room(kind, limit, taken, aside=aside)
            self._check_known()
            self._held.add(reserved)
            self._calls += 1
            self._most_calls = max(self._most_calls, self._calls)
        return reserved

    def _check_time(self) -> None:
        if self._halted is not None:
            raise BudgetExhausted(self._halted)
        if self._deadline is not None and self._clock() >= self._deadline:
            raise BudgetExhausted(self._too_late)

    def _check_rollouts(self, kept: int) -> None:
        limit = self.budget.rollouts
        if limit is not None and self.usage.rollouts + self._rollouts + kept >= limit:
            raise BudgetExhausted(f"the budget of {limit} rollouts is spent")

    def _check_average(self, *, rollouts: int, aside: bool) -> None:
        """Check that there is room for so many more rollouts of average usage."""
        for kind, limit in self._limits():
            each = self._each(kind)
            planned = getattr(self._done, kind) + self._rollouts * each
            taken = max(self._taken(kind), planned) + rollouts * each
            self._check_room(kind, limit, taken, aside=aside)
        self._check_known()

    def _check_room(self, kind: str, limit: float, taken: float, *, aside: bool) -> None:
        most = limit * (1 + 1e-9)  # sums of floats are not exact
        if taken > most:
            if self._fixed and self._taken(kind) == 0:
                raise BudgetExhausted(
                    f"{self._words(kind)} is too small: not one model call fits in it, and the "
                    f"baseline and the holdout measurement take {self._fixed} rollouts"
                )
            self._check_fixed(measured=1)
            raise BudgetExhausted(f"{self._words(kind)} is spent")
        if not aside and taken + self._kept(kind) > most:
            self._check_fixed(measured=1)  # the same average ends the search here
            raise BudgetExhausted(
                f"{self._words(kind)} is spent, but for what the holdout measurement needs"
            )

    def _check_fixed(self, *, measured: int = MEASURED) -> None:
        """Check that what is set aside fits, once a few rollouts have shown what one takes."""
        needed = self._set_aside - self._wished
        if not measured <= self.usage.rollouts - self._refused <= needed:
            return
        for kind, limit in self._limits():
            each = self._each(kind)
            whole = getattr(self._done, kind) + each * (self._rollouts + needed)
            if whole > limit * (1 + 1e-9):
                shown = f"${whole:.2g}" if kind == "cost" else f"{math.ceil(whole)}"
                raise BudgetExhausted(
                    f"{self._words(kind)} is too small: the baseline and the holdout measurement "
                    f"take about {shown}, at {each:.3g} per rollout so far"
                )

    def _check_known(self) -> None:
        if self.budget.tokens is not None and self._uncounted:
            raise BudgetExhausted(
                f"{self._words('tokens')} cannot be kept: a model that was called does not report "
                "its tokens (a streaming model may need stream_usage=True); give a budget of calls"
            )
        if self.budget.cost is not None and self._unpriced:
            raise BudgetExhausted(
                f"{self._words('cost')} cannot be kept: the price of a model that was called is "
                "not known, or it does not report its tokens; give a budget of tokens or calls"
            )

    def _limits(self) -> list[tuple[str, float]]:
        found = ((kind, getattr(self.budget, kind)) for kind in KINDS)
        return [(kind, limit) for kind, limit in found if limit is not None]

    def _taken(self, kind: str) -> float:
        return float(sum(getattr(part, kind) for part in (self._done, self._open, self._held)))

    def _each(self, kind: str) -> float:
        """What a rollout took on average so far, its scoring included."""
        own = float(
            getattr(self._done, kind)
            - getattr(self._asked, kind)
            - getattr(self._refused_took, kind)
        )
        return max(0.0, own) / max(1, self.usage.rollouts - self._refused)

    def _kept(self, kind: str) -> float:
        """What the search has to leave: the average of each rollout set aside, and room for its
        calls, which reserve more than they will take."""
        if self._set_aside <= 0:
            return 0.0
        each = self._each(kind)
        limit: float = getattr(self.budget, kind)
        room = max(0.0, limit - self._fixed * each) / 2
        kept: float = (self._set_aside - self._wished) * each + min(self._wished * each, room)
        return kept + min(self._most_calls, self._set_aside) * float(getattr(self._excess, kind))

    def _words(self, kind: str) -> str:
        limit = getattr(self.budget, kind)
        shown = {"calls": f"{limit} model calls", "tokens": f"{limit} tokens"}
        return f"the budget of {shown.get(kind, f'${limit:g}')}"


class Aside:
    """A `BudgetMeter` for the baseline's validation and the holdout.

    It draws on what the other one sets aside, and no deadline ends it.
    """

    def __init__(self, meter: BudgetMeter) -> None:
        self._meter = meter

    @property
    def begun(self) -> int:
        """Executions of the target that have begun, in all processes of the run."""
        return self._meter.begun

    def reserve_rollout(self, *, again: bool = False) -> None:
        """Reserve one execution of the target; raises `BudgetExhausted`. One that is made `again`
        after a passing trouble leaves what is set aside."""
        self._meter._reserve_aside(again=again)

    def return_rollout(self, *, again: bool = False) -> None:
        """Give back an execution that a server refused, to be made later."""
        self._meter.return_rollout()
        if not again:
            with self._meter._lock:
                self._meter._set_aside += 1

    def call_started(self, most: Callable[[], Usage]) -> Usage:
        """Reserve a model call; raises `BudgetExhausted`."""
        return self._meter._start_call(most, aside=True)

    def call_ended(self, reserved: Usage, used: Usage) -> None:
        """Settle a model call."""
        self._meter.call_ended(reserved, used)

    def spent(self, usage: Usage, *, refused: bool = False, asked: bool = False) -> None:
        """Record that a rollout or a scoring has ended."""
        self._meter.spent(usage, refused=refused, asked=asked)
