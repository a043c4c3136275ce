"""One trial: roll out the parent, learn, propose, guard, test, validate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.evaluation.candidate import Candidate
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.optimizers import Edit, FeedbackRecord, Trial, TrialOutcome
from orcheo_agentensor.training.acceptance import outside
from orcheo_agentensor.training.backward import case_feedback, feedback_records
from orcheo_agentensor.training.contest import Verdict, gate, validate_against
from orcheo_agentensor.training.propose import edge_critic, proposal_request, propose
from orcheo_agentensor.training.work import Training


@dataclass(frozen=True)
class Proposal:
    """New texts for some prompts, and why they are refused, if they are."""

    texts: dict[str, str]
    reasons: tuple[str, ...] = ()


async def run_trial(training: Training, trial: Trial, *, known: int) -> TrialOutcome:
    """Make one trial, knowing the outcomes of the first `known` trials and no others.

    Raises `BudgetExhausted` when the budget ends in the middle of it.
    """
    return await _Attempt(training, trial, known).run()


@dataclass
class _Attempt:
    training: Training
    trial: Trial
    known: int

    def __post_init__(self) -> None:
        self.full = self.training.memory.full_marks(known=self.known)

    async def run(self) -> TrialOutcome:
        training, trial = self.training, self.trial
        parent = training.pool[trial.parent]
        if trial.purpose == "validate":
            outcome = TrialOutcome(status="accepted", parent=trial.parent, child=trial.parent)
            return await self._validate(outcome, parent)
        wanted = set(trial.case_ids)
        cases = [case for case in training.plan.train if case.id in wanted]
        before = await training.measure(cases, parent, phase="train")
        if outside(before, training.weights):
            self.full = math.inf
        scores = _scores(before, training.weights)
        if not scores and not self.known and any(result.ok for result in before):
            given = ", ".join(repr(one.name) for one in training.session.runner.evaluators)
            raise BadInput(
                f"job.evaluators: {given} gave labels and no score on {len(before)} cases; a"
                " training compares scores: let one give a number or a bool",
                field="job.evaluators",
                rule="must give scores",
            )
        outcome = TrialOutcome(
            status="accepted",
            parent=trial.parent,
            parent_score=_mean(scores.values()),
            parent_scores=scores,
            case_scores=scores,
        )
        if trial.purpose == "merge":
            texts = {
                name: training.pool[donor].prompts[name].text
                for name, donor in trial.donors.items()
            }
            return await self._test(outcome, cases, before, parent, texts)
        recalled = set(trial.recalled) - wanted
        known = [case for case in training.plan.train if case.id in recalled]
        replayed = await training.measure(known, parent, phase="train") if known else []
        records = await self._learn([*cases, *known], [*before, *replayed])
        outcome = replace(outcome, blamed=tuple(sorted(records)))
        names = [name for name in trial.components if self._teaches(records.get(name))]
        if not names:
            reason = "the minibatch blames no prompt"
            return replace(outcome, status="nothing_to_learn", reason=reason)
        proposal = await self._propose(parent, records, names)
        if proposal.reasons:
            reason = "; ".join(proposal.reasons)
            return replace(outcome, status="refused", prompts=proposal.texts, reason=reason)
        return await self._test(outcome, cases, before, parent, proposal.texts)

    async def _test(
        self,
        outcome: TrialOutcome,
        cases: Sequence[Case],
        before: Sequence[CaseResult],
        parent: Candidate,
        texts: dict[str, str],
    ) -> TrialOutcome:
        training, trial = self.training, self.trial
        child = self._child(parent, texts)
        outcome = replace(outcome, child=child.hash, prompts=texts)
        if trial.gated:
            verdict = await gate(training, cases, before, child, full=self.full)
            if not verdict.won and trial.refined:
                better = await self._refine(cases, before, parent, child, texts, verdict)
                if better is not None:
                    child, texts, verdict = better
                    outcome = replace(outcome, child=child.hash, prompts=texts, refined=True)
            means = verdict.means(training.weights)
            if means[0] is not None:
                outcome = replace(outcome, parent_score=means[0], child_score=means[1])
            outcome = replace(outcome, case_scores=_scores(verdict.after, training.weights))
            if not verdict.won:
                reason = "; ".join(verdict.reasons)
                return replace(outcome, status="worse_on_minibatch", reason=reason)
        return await self._validate(outcome, child) if trial.validated else outcome

    async def _validate(self, outcome: TrialOutcome, child: Candidate) -> TrialOutcome:
        training, trial = self.training, self.trial
        memory, meter = training.memory, training.meter
        rival = training.pool[trial.rival or trial.parent]
        if rival.hash == child.hash:
            held = await training.measure(
                training.plan.validation, child, phase="validation", meter=meter.aside
            )
            scores = _scores(held, training.weights)
            return replace(outcome, validation=_mean(scores.values()), validation_scores=scores)
        verdict = await validate_against(
            training,
            child,
            rival,
            rival_known=memory.knows_validation(rival.hash, known=self.known),
            strictly=not trial.gated or trial.purpose == "validate",
            full=self.full,
        )
        scores = _scores(verdict.reached, training.weights)
        outcome = replace(outcome, validation_scores=scores)
        if verdict.complete:
            outcome = replace(outcome, validation=_mean(scores.values()))
        if verdict.won:
            return outcome
        return replace(outcome, status="worse_on_validation", reason="; ".join(verdict.reasons))

    async def _refine(
        self,
        cases: Sequence[Case],
        before: Sequence[CaseResult],
        parent: Candidate,
        child: Candidate,
        texts: dict[str, str],
        verdict: Verdict,
    ) -> tuple[Candidate, dict[str, str], Verdict] | None:
        """One more proposal for a rejected child, on its own new failures.

        New failures are cases that it breaks, and cases that fail in another way than before. None
        where there are none, and where the second proposal is refused as well.
        """
        weights = self.training.weights
        by_id = {case.id: case for case in cases}
        new = [
            after
            for one, after in zip(verdict.before, verdict.after, strict=True)
            if (score := after.objective(weights)) is None
            or (score < self.full and score < (one.objective(weights) or 0.0))
            or (
                score < self.full
                and case_feedback(by_id[one.case_id], one)
                != case_feedback(by_id[one.case_id], after)
            )
        ]
        if not new:
            return None
        tested = [by_id[result.case_id] for result in verdict.after]
        records = await self._learn(tested, verdict.after)
        names = [name for name in self.trial.components if self._teaches(records.get(name))]
        if not names:
            return None
        tried = Edit(
            text="",
            accepted=False,
            before=verdict.means(weights)[0],
            after=verdict.means(weights)[1],
            reason=f"{len(new)} new failures",
        )
        proposal = await self._propose(child, records, names, tried=tried)
        if proposal.reasons:
            return None
        both = {**texts, **proposal.texts}
        refined = self._child(parent, both)
        if refined.hash in (parent.hash, child.hash):
            return None
        return refined, both, await gate(self.training, cases, before, refined, full=self.full)

    async def _learn(
        self, cases: Sequence[Case], results: Sequence[CaseResult]
    ) -> dict[str, list[FeedbackRecord]]:
        training = self.training
        critic = edge_critic(
            training.plan,
            ledger=training.session.ledger,
            meter=training.meter,
            limits=training.session.prepared.job.limits,
        )
        return await feedback_records(
            cases,
            results,
            weights=training.weights,
            trainable=training.plan.trainable,
            critic=critic,
            full=self.full,
        )

    async def _propose(
        self,
        base: Candidate,
        records: Mapping[str, list[FeedbackRecord]],
        names: list[str],
        *,
        tried: Edit | None = None,
    ) -> Proposal:
        training = self.training
        history = {
            name: training.memory.history(
                name,
                newest=int(getattr(training.plan.optimizer, "momentum", 0)),
                known=self.known,
            )
            for name in names
        }
        if tried is not None:
            history = {
                name: (*edits, replace(tried, text=base.prompts[name].text))
                for name, edits in history.items()
            }
        request = proposal_request(
            self.trial,
            parent=base.prompts,
            initial=training.session.prepared.prompts,
            records=records,
            names=names,
            history=history,
            refining=tried is not None,
        )
        texts, reasons = await propose(
            request,
            plan=training.plan,
            ledger=training.session.ledger,
            meter=training.meter,
            limits=training.session.prepared.job.limits,
        )
        return Proposal(texts, tuple(reasons))

    def _child(self, parent: Candidate, texts: Mapping[str, str]) -> Candidate:
        held = {name: tensor.text for name, tensor in parent.prompts.items()}
        return self.training.pool.with_texts({**held, **texts})

    def _teaches(self, records: list[FeedbackRecord] | None) -> bool:
        """A rewrite needs a case that went wrong; a paraphrase only a prompt that is read."""
        if not records:
            return False
        if self.trial.purpose == "paraphrase":
            return True
        return any(record.score is None or record.score < self.full for record in records)


def _scores(results: Sequence[CaseResult], weights: dict[str, float]) -> dict[str, float]:
    found = {result.case_id: result.objective(weights) for result in results}
    return {case_id: score for case_id, score in found.items() if score is not None}


def _mean(values: Iterable[Any]) -> float | None:
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
