"""One trial: roll out the parent, learn, propose, guard, test, validate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.evaluation.progress import CaseProgress
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.runner import Candidate, Draining
from orcheo_agentensor.evaluation.workbench import Session
from orcheo_agentensor.optimizers import Edit, FeedbackRecord, Trial, TrialOutcome
from orcheo_agentensor.training.acceptance import paired_sums, reasons_against
from orcheo_agentensor.training.backward import feedback_records
from orcheo_agentensor.training.budget import BudgetMeter
from orcheo_agentensor.training.job import TrainingJob
from orcheo_agentensor.training.memory import Memory, Pool
from orcheo_agentensor.training.plan import Plan
from orcheo_agentensor.training.propose import edge_critic, proposal_request, propose


@dataclass(kw_only=True)
class Training:
    """A training session at work: what the functions of a step share."""

    session: Session[TrainingJob]
    plan: Plan
    meter: BudgetMeter
    memory: Memory
    pool: Pool

    @property
    def weights(self) -> dict[str, float]:
        """Evaluator weights."""
        return self.session.runner.weights

    async def measure(
        self, cases: Sequence[Case], candidate: Candidate, *, phase: str
    ) -> list[CaseResult]:
        """Run (or replay) cases, with progress events for what really runs."""
        progress = CaseProgress(
            self.session.events,
            self.weights,
            total=len(cases),
            phase=phase,
            step=self.memory.step,
            candidate=candidate.hash[:12],
        )

        def heard(result: CaseResult) -> None:
            if not result.replayed:
                progress.case_finished(result)

        return await self.session.runner.run(cases, candidate, phase=phase, on_case=heard)


async def run_trials(training: Training, trials: Sequence[Trial]) -> list[TrialOutcome]:
    """All trials of a step at once; their outcomes in the order asked for.

    When one cannot go on, the others end first: what they have begun is paid for and recorded.
    """
    if len(trials) == 1:
        return [await run_trial(training, trials[0])]
    tasks = [asyncio.create_task(run_trial(training, trial)) for trial in trials]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [one for one in ended if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda one: isinstance(one, BudgetExhausted | Draining)):
        raise error
    return [one for one in ended if isinstance(one, TrialOutcome)]


async def run_trial(training: Training, trial: Trial) -> TrialOutcome:
    """Make one trial. Raises `BudgetExhausted` when the budget ends in the middle of it."""
    parent = training.pool[trial.parent]
    wanted = set(trial.case_ids)
    cases = [case for case in training.plan.train if case.id in wanted]
    before = await training.measure(cases, parent, phase="train")
    scores = _scores(before, training.weights)
    records = await _learn(training, cases, before)
    names = [name for name in trial.components if _teaches(records.get(name), trial)]
    if not names:
        return TrialOutcome(
            status="nothing_to_learn",
            parent=trial.parent,
            case_scores=scores,
            parent_score=_mean(scores.values()),
            reason="the minibatch blames no prompt",
        )
    request = proposal_request(
        trial,
        parent=parent.prompts,
        initial=training.session.prepared.prompts,
        records=records,
        names=names,
        memory=training.memory,
        momentum=int(getattr(training.plan.optimizer, "momentum", 0)),
    )
    texts, reasons = await propose(
        request,
        plan=training.plan,
        ledger=training.session.ledger,
        meter=training.meter,
        timeout=training.session.prepared.job.limits.case_timeout,
    )
    if reasons:
        return TrialOutcome(
            status="refused",
            parent=trial.parent,
            prompts=texts,
            case_scores=scores,
            parent_score=_mean(scores.values()),
            reason="; ".join(reasons),
        )
    child = training.pool.with_texts(
        {**{name: tensor.text for name, tensor in parent.prompts.items()}, **texts}
    )
    return await _test(training, trial, cases, before, parent, child, texts)


async def _test(
    training: Training,
    trial: Trial,
    cases: Sequence[Case],
    before: Sequence[CaseResult],
    parent: Candidate,
    child: Candidate,
    texts: dict[str, str],
) -> TrialOutcome:
    outcome: dict[str, Any] = {"parent": trial.parent, "child": child.hash, "prompts": texts}
    if trial.gated:
        after = await training.measure(cases, child, phase="train")
        sums = paired_sums(before, after, training.weights)
        if sums[2]:
            outcome |= {"parent_score": sums[0] / sums[2], "child_score": sums[1] / sums[2]}
        outcome["case_scores"] = _scores(after, training.weights)
        against = reasons_against(before, after, weights=training.weights, strictly=True)
        if against:
            return TrialOutcome(status="worse_on_minibatch", reason="; ".join(against), **outcome)
    validation = training.plan.validation
    held = await training.measure(validation, parent, phase="validation")
    reached = await training.measure(validation, child, phase="validation")
    outcome["validation"] = _mean(_scores(reached, training.weights).values())
    against = reasons_against(held, reached, weights=training.weights, strictly=not trial.gated)
    if against:
        return TrialOutcome(status="worse_on_validation", reason="; ".join(against), **outcome)
    return TrialOutcome(status="accepted", **outcome)


async def _learn(
    training: Training, cases: Sequence[Case], results: Sequence[CaseResult]
) -> dict[str, list[FeedbackRecord]]:
    critic = edge_critic(
        training.plan,
        ledger=training.session.ledger,
        meter=training.meter,
        timeout=training.session.prepared.job.limits.case_timeout,
    )
    return await feedback_records(
        cases,
        results,
        weights=training.weights,
        trainable=training.plan.trainable,
        critic=critic,
    )


def _teaches(records: list[FeedbackRecord] | None, trial: Trial) -> bool:
    """A rewrite needs a case that went wrong; a paraphrase only a prompt that is read."""
    if not records:
        return False
    return trial.purpose == "paraphrase" or any(r.score is None or r.score < 1.0 for r in records)


def _scores(results: Sequence[CaseResult], weights: dict[str, float]) -> dict[str, float]:
    found = {result.case_id: result.objective(weights) for result in results}
    return {case_id: score for case_id, score in found.items() if score is not None}


def _mean(values: Any) -> float | None:
    import math

    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


def edits_of(outcome: TrialOutcome) -> dict[str, Edit]:
    """The edits of an outcome by prompt, for the proposer's memory."""
    return {
        name: Edit(
            text=text,
            accepted=outcome.status == "accepted",
            before=outcome.parent_score,
            after=outcome.child_score,
            reason=outcome.reason or outcome.status,
        )
        for name, text in outcome.prompts.items()
        if isinstance(text, str)
    }
