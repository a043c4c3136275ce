"""A training run at work: what all of its steps share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BadInput, BudgetExhausted
from orcheo_agentensor.evaluation.paid_calls import Meter
from orcheo_agentensor.evaluation.results import (
    CaseProgress,
    CaseResult,
    outside_scores,
    settled,
)
from orcheo_agentensor.evaluation.runner import Runner
from orcheo_agentensor.optimizers import Trial, TrialOutcome
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.runs.active import ActiveRun
from orcheo_agentensor.training.budget import BudgetMeter
from orcheo_agentensor.training.job import Deadline, TrainingJob, TrainingPlan
from orcheo_agentensor.training.objective import limits_broken
from orcheo_agentensor.training.state import CandidateStore, SearchState


@dataclass(kw_only=True)
class Training:
    """A training run at work with its runner, plan, budget, search state and candidates.

    `landed` are the open trials of the search between two executions of a node, which have ended
    and whose outcomes were not taken in yet. `unmeasured` are the keys of the rollouts that the
    baseline's validation lacked at the last look; None before the first.
    """

    run: ActiveRun[TrainingJob]
    runner: Runner
    plan: TrainingPlan
    meter: BudgetMeter
    state: SearchState
    candidates: CandidateStore
    landed: list[tuple[Trial, TrialOutcome | BaseException]] = field(default_factory=list)
    unmeasured: list[str] | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Evaluator weights."""
        return self.runner.weights

    async def measure(
        self,
        cases: Sequence[Case],
        candidate: Candidate,
        *,
        phase: str,
        meter: Meter | None = None,
    ) -> list[CaseResult]:
        """Run (or replay) cases, with progress events for what really runs.

        The search's part of the budget pays, or `meter` where one is given. Raises `BadInput` where
        a score that counts is outside [0, 1].
        """
        progress = CaseProgress(
            self.run.events,
            self.weights,
            total=len(cases),
            phase=phase,
            step=self.state.step,
            candidate=candidate.hash[:12],
        )

        def heard(result: CaseResult) -> None:
            if not result.replayed:
                progress.case_finished(result)

        if self.meter.unmeasured:  # one alone shows what a rollout takes, before many begin
            await self.runner.run(cases[:1], candidate, phase=phase, on_case=heard, meter=meter)
        found = settled(
            await self.runner.run(cases, candidate, phase=phase, on_case=heard, meter=meter)
        )
        if outside := outside_scores(found, self.weights):
            raise BadInput(
                "; ".join(outside), field="job.evaluators", rule="must score from 0 to 1"
            )
        return found

    async def measure_all(
        self, cases: Sequence[Case], candidate: Candidate, *, phase: str
    ) -> list[CaseResult]:
        """`measure` for what is set aside.

        Calls in flight hold the most they can take. Where the budget seems spent for that alone,
        the rest is run one case at a time.
        """
        meter = self.meter.aside
        try:
            return await self.measure(cases, candidate, phase=phase, meter=meter)
        except BudgetExhausted:
            return [
                result
                for case in cases
                for result in await self.measure([case], candidate, phase=phase, meter=meter)
            ]

    async def measure_beside(
        self, cases: Sequence[Case], candidates: Sequence[Candidate], *, phase: str
    ) -> list[list[CaseResult]]:
        """`measure_all` for several candidates in one pass, so that a slow minute hits all."""
        meter = self.meter.aside
        found = await asyncio.gather(
            *(self.measure(cases, one, phase=phase, meter=meter) for one in candidates),
            return_exceptions=True,
        )
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, BudgetExhausted):
                raise one
        measured = [one for one in found if not isinstance(one, BaseException)]
        if len(measured) < len(found):  # what is measured by now is replayed
            return [await self.measure_all(cases, one, phase=phase) for one in candidates]
        return measured

    async def limits_broken(self, candidate: Candidate) -> list[str]:
        """What of the job's objective a validated candidate breaks, beside the baseline, which is
        validated to its end for it."""
        job, cases = self.run.job, self.plan.validation
        if not job.objective.is_measured or candidate.hash == self.state.baseline:
            return []
        baseline, meter = self.candidates[self.state.baseline], self.meter.aside
        before, after = [
            await self.measure(cases, one, phase="validation", meter=meter)
            for one in (baseline, candidate)
        ]
        return await limits_broken(job.objective, before, after, seed=job.seed)

    async def open_budget(self) -> None:
        """Keep from the search what comes after it: the holdout measurement of two candidates, the
        rest of the baseline's validation, and that of a last candidate where there is room.

        Where the budget does not pay for a whole one beside something to search with, half of what
        is left is kept: validation cases that the search runs as training cases are paid for.

        A `Deadline` among the stop conditions ends a step in its middle.
        """
        plan, limit = self.plan, self.plan.budget.rollouts
        times = self.run.job.replicates
        validation, holdout = len(plan.validation) * times, len(plan.holdout) * times
        if self.unmeasured is None:
            baseline = Candidate.of(self.run.prompts)
            self.unmeasured = await self.runner.unrecorded(plan.validation, baseline)
        recorded = self.run.ledger.rollouts
        self.unmeasured = [key for key in self.unmeasured if key not in recorded]
        missing = 0 if self.state.baseline in self.state.validated else len(self.unmeasured)
        fixed = validation + 2 * holdout
        room = None if limit is None else max(0, limit - fixed)
        last = validation if room is None or room > validation else room // 2
        wished = 0 if self.state.settled else last
        self.meter.set_aside(2 * holdout + missing, wished=wished, fixed=fixed)
        seconds = [one.seconds for one in self.run.job.stop if isinstance(one, Deadline)]
        if seconds and not self.state.settled:
            self.meter.end_at(
                self.run.record.started_at + timedelta(seconds=min(seconds)),
                reason=f"{min(seconds):g} s have passed",
            )
