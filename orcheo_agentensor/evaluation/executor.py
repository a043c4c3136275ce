"""One rollout, one scoring: what runs, how often it is tried again, and what it has cost."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import AgentensorError, BudgetExhausted
from orcheo_agentensor.evaluation.attempt import Attempt, execute
from orcheo_agentensor.evaluation.candidate import Candidate
from orcheo_agentensor.evaluation.concurrency import Share
from orcheo_agentensor.evaluation.deadlines import TimeLimits
from orcheo_agentensor.evaluation.job import Limits
from orcheo_agentensor.evaluation.meter import Meter
from orcheo_agentensor.evaluation.retry import retried
from orcheo_agentensor.evaluation.rows import storable
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.evaluators.bound import Scoring
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.metering import UsageRecorder
from orcheo_agentensor.storage import RolloutRow
from orcheo_agentensor.storage.records import CANCELLED
from orcheo_agentensor.targets import ConnectedTarget, Target
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Ledger


BROKEN_OFF = "broken_off"
"""The kind of call under which the ledger keeps what work has cost that could not go on."""

OUTAGES = 3  # of a remote server that one case may meet before it is to blame itself


class Draining(Exception):
    """A graceful stop was asked for; no further case is begun."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What all rollouts of one call of `run` have in common."""

    candidate: Candidate
    config: dict[str, Any]
    phase: str
    meter: Meter


class Executor:
    """Calls the target and the evaluators of one run, within its limits and its budget.

    What broke off or was cancelled has no row; what it took is recorded all the same.
    """

    def __init__(
        self,
        *,
        target: Target,
        ledger: Ledger,
        limits: Limits,
        slots: Share,
        taped: bool,
        draining: Callable[[], bool],
    ) -> None:
        self.target = target
        self._elsewhere = target if isinstance(target, ConnectedTarget) else None
        self._ledger = ledger
        self._limits = limits
        self._time_limits = TimeLimits(limits.case_timeout)
        self._slots = slots
        self._taped = taped
        self._draining = draining

    async def rollout(self, key: str, case: Case, replicate: int, shared: Pass) -> RolloutRow:
        """Run the target on a case, as often as it takes. Raises `BudgetExhausted`, `Draining`."""
        meter, made = shared.meter, [0]
        spent = NOTHING

        async def attempt() -> Attempt:
            nonlocal spent
            recorder = UsageRecorder(meter.gate)
            async with self._slots:
                if not made[0] and self._draining():
                    raise Draining
                meter.reserve_rollout()
                made[0] += 1
                try:
                    return await execute(
                        self.target,
                        case.inputs,
                        shared.config,
                        rollout_id=key,
                        limits=self._time_limits,
                        taped=self._taped,
                        recorder=recorder,
                    )
                finally:
                    usage = recorder.total + ONE_ROLLOUT
                    spent = spent + usage
                    meter.spent(usage, refused=recorder.refused is not None)

        try:
            last = await retried(attempt, retries=self._limits.retries)
            if last.transient and self._elsewhere is not None:
                last = await _outlasting(self._elsewhere, attempt, last)
        except BaseException as error:
            self._note_lost(key, spent, error)
            raise
        return RolloutRow(
            key=key,
            case_id=case.id,
            candidate_hash=shared.candidate.hash,
            replicate=replicate,
            phase=shared.phase,
            output=last.output,
            tape=last.tape,
            usage=spent,
            latency_ms=last.latency_ms,
            attempts=made[0],
            failure=None if last.failure is None else storable(last.failure),
        )

    async def outcomes(
        self, evaluator: BoundEvaluator, key: str, context: EvaluatorContext, meter: Meter
    ) -> tuple[Sequence[Outcome], Usage]:
        """What an evaluator says about a rollout, and what that cost."""
        limit, retries = self._limits.case_timeout, self._limits.retries
        if evaluator.inline:
            found = await evaluator.attempt(context, timeout=limit, recorder=None)
            return found.outcomes, NOTHING
        spent = NOTHING

        async def attempt() -> Scoring:
            nonlocal spent
            recorder = UsageRecorder(meter.gate)
            try:
                return await evaluator.attempt(context, timeout=limit, recorder=recorder)
            finally:
                spent = spent + recorder.total
                meter.spent(recorder.total)

        try:
            last = await retried(attempt, retries=retries)
        except BaseException as error:
            self._note_lost(key, spent, error)
            raise
        return last.outcomes, spent

    def _note_lost(self, key: str, spent: Usage, error: BaseException) -> None:
        """What broke off has no row of its own; what it took is recorded all the same."""
        if spent != NOTHING:
            kind = BROKEN_OFF if isinstance(error, Exception) else CANCELLED
            with contextlib.suppress(AgentensorError):  # a ledger that is gone tells the others
                self._ledger.put_call(f"{key}:{uuid.uuid4().hex}", kind, {}, spent)


async def _outlasting(
    target: ConnectedTarget, attempt: Callable[[], Awaitable[Attempt]], last: Attempt
) -> Attempt:
    """What further attempts come to, where `target` was away during the `last` one."""
    for _ in range(OUTAGES):
        if not last.transient or not await target.came_back(lost=last.lost):
            break
        try:
            last = await attempt()
        except BudgetExhausted:  # what the attempts so far came to is still recorded
            break
    return last
