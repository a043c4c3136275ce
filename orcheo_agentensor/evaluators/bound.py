"""`BoundEvaluator`: one evaluator at work, whatever form it was given in."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field

from orcheo_agentensor.errors import is_transient
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import Adapter
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.evaluators.returns import failure
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.metering import UsageRecorder
from orcheo_agentensor.usage import Usage


@dataclass(slots=True)
class Scoring:
    """What one attempt of an evaluator came to. `transient` trouble is worth another attempt."""

    outcomes: list[Outcome]
    transient: bool = False


@dataclass(frozen=True, kw_only=True)
class BoundEvaluator:
    """An evaluator ready to score, whatever form it was given in.

    `binding` says in words which form was recognised; `fingerprint` changes when the evaluator
    does; `weight` is its share in a weighted mean.
    """

    name: str
    weight: float = 1.0
    fingerprint: str
    binding: str
    adapter: Adapter = field(repr=False, compare=False)

    async def score(
        self, ctx: EvaluatorContext, *, timeout: float | None = None
    ) -> tuple[list[Outcome], Usage]:
        """Score one rollout: the outcomes, and what the models called for them used.

        Never raises but `CancelledError`: whatever goes wrong is an `EvaluatorFailure`. Outcomes
        are named after the evaluator, or `name.metric` where it gives several. `timeout` is in
        seconds.
        """
        recorder = UsageRecorder()
        scoring = await self.attempt(ctx, timeout=timeout, recorder=recorder)
        return scoring.outcomes, recorder.total

    @property
    def inline(self) -> bool:
        """Whether it answers at once and calls no model: then no recorder is looked at."""
        return self.adapter.inline is not None

    async def attempt(
        self, ctx: EvaluatorContext, *, timeout: float | None, recorder: UsageRecorder | None
    ) -> Scoring:
        """As `score`, for a caller that tries again after a passing trouble.

        `recorder` knows afterwards, whatever happens, what its model calls took. Raises
        `BudgetExhausted` too, where a model call was refused.
        """
        inline = self.adapter.inline
        if inline is not None:
            try:
                return Scoring([inline(ctx)])
            except Exception as error:  # noqa: BLE001 - a failure is a value
                return Scoring([failure(self.name, "exception", _told(error))])
        with recorder or UsageRecorder() as recorder:
            scoring = await self._outcomes(ctx, timeout)
        if recorder.refused is not None:
            raise recorder.refused
        return scoring

    async def _outcomes(self, ctx: EvaluatorContext, timeout: float | None) -> Scoring:
        adapter = self.adapter
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                if adapter.threaded:
                    value = await run_in_thread(adapter.call, ctx)
                else:
                    value = adapter.call(ctx)
                while inspect.isawaitable(value):
                    value = await value
            return Scoring(adapter.read(self.name, value))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Scoring([failure(self.name, "exception", _told(error))])  # its own, not ours
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a failure is a value
            if limit.expired() and isinstance(error, TimeoutError):
                late = failure(self.name, "timeout", f"took longer than {timeout:g} s")
                return Scoring([late], transient=True)
            passing = is_transient(error) or isinstance(error, TimeoutError)
            return Scoring([failure(self.name, "exception", _told(error))], transient=passing)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
