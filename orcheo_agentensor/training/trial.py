"""One trial of a training: feedback for the prompts of a parent, a proposal, and its test."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import takewhile
from statistics import fmean
from typing import Any

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BadInput, BudgetExhausted, NoReply, describe, is_transient
from orcheo_agentensor.evaluation.paid_calls import traced
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.optimizers import Edit, ProposalRequest, Purpose, Trial, TrialOutcome
from orcheo_agentensor.optimizers.edits import as_proposed, why_of
from orcheo_agentensor.optimizers.guards import texts_in, through_guards
from orcheo_agentensor.optimizers.proposer import ProposalRefused, ReplyTruncated
from orcheo_agentensor.optimizers.protocol import Asking
from orcheo_agentensor.optimizers.update import proposal_request
from orcheo_agentensor.prompts import Candidate, FeedbackRecord, without_middle
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.storage.tables import clean_text
from orcheo_agentensor.tape import NodeRun
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.comparison import Comparison, gate, validate_against
from orcheo_agentensor.training.demos import demonstrated
from orcheo_agentensor.training.feedback import (
    EdgeCritic,
    briefly,
    case_feedback,
    critic_for,
    critic_messages,
    teach,
)
from orcheo_agentensor.training.objective import limits_broken, room, too_long, total_chars


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """New texts that passed the guards, refused ones with the reason, and why none passed.

    `why` is what the proposer took to be wrong, by prompt.
    """

    texts: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    reason: str = ""


async def propose(request: ProposalRequest, training: Training, *, base: Candidate) -> Proposal:
    """Ask the proposer, and pass each of its texts through the guards.

    The answer is recorded under the content of the request, so that a resume does not ask again. A
    transient error of the proposer (a lost connection, a busy service, a timeout) is retried as
    often as the job's limits say. After any other exception this one proposal is refused, and the
    search goes on. Raises `BudgetExhausted`, and `RunFailed` where the retries are used up or the
    proposer has failed `BROKEN_IN_A_ROW` times in a row.
    """
    plan, broken, calls = training.plan, training.plan.broken, training.runner.calls
    key = content_hash(["proposal", type(plan.proposer).__qualname__, request.to_json()])

    async def recorded(content: Any, part: Asking) -> Mapping[str, Any]:
        within = content_hash(["part", key, content])
        return await calls.part(within, "proposal", part, meter=training.meter)

    async def ask() -> dict[str, Any]:
        try:
            shown = replace(await with_images(request, training), recorded=recorded)
            given: Any = plan.proposer.propose(shown)
            if not inspect.isawaitable(given):
                name, rule = type(plan.proposer).__name__, "must have async propose(request)"
                raise BadInput(field="optimizer.proposer", value=name, rule=rule)
            texts = await given
            # Read inside the try: any mapping may be returned, and reading it may raise.
            texts = dict(texts) if isinstance(texts, Mapping) else texts
        except ProposalRefused as error:
            return {"refused": error.message, "truncated": isinstance(error, ReplyTruncated)}
        except (BadInput, BudgetExhausted, TimeoutError):
            raise
        except Exception as error:
            if is_transient(error):
                raise
            broken.append(describe(error))
            if len(broken) >= BROKEN_IN_A_ROW:
                raise
            return {"refused": f"the proposer failed: {clean_text(broken[-1])}"}
        broken.clear()
        if not isinstance(texts, Mapping):
            return {"refused": f"the proposer returned {type(texts).__name__}, not a mapping"}
        texts = {str(name): as_proposed(value) for name, value in texts.items()}
        # The ledger would store other characters, and the text would pass after a resume.
        unfit = [
            name
            for name, value in texts.items()
            if any(clean_text(text) != text for text in texts_in(value))
        ]
        return {"texts": texts | dict.fromkeys(unfit), "unfit": unfit}

    with traced(training.runner.labels(base, "proposal")):
        answer = await calls.answer(key, "proposal", ask, meter=training.meter, who="proposer")
    if "refused" in answer:
        why = answer["refused"]
        # Remembered for each prompt, so that the next request asks for less.
        cut = request.components if answer.get("truncated") else ()
        return Proposal(refused={one.name: ("", why) for one in cut}, reason=why)
    texts = answer["texts"]
    passed, found = await asyncio.to_thread(through_guards, request, texts, cases=plan.texts)
    found |= {name: [UNFIT] for name in answer.get("unfit", ())}
    if not passed and not found:
        return Proposal(reason="identical to its parent")
    caps = {component.name: component.max_chars for component in request.components}
    refused = {
        name: (without_middle(_shown(texts[name]), limit=caps.get(name, 0)), "; ".join(reasons))
        for name, reasons in found.items()
    }
    why = {name: said for name, value in texts.items() if name in caps and (said := why_of(value))}
    told = [f"{name}: {reason}" for name, reasons in found.items() for reason in reasons]
    reason = "" if passed else "; ".join(told)
    return Proposal(texts=passed, why=why, refused=refused, reason=reason)


def _shown(proposed: Any) -> str:
    """What was proposed for a prompt, as its history shows it where it was refused."""
    if not isinstance(proposed, Mapping):
        return proposed or ""
    edits = proposed.get("edits")
    return json.dumps(edits, ensure_ascii=False) if edits else proposed.get("text", "")


async def with_images(request: ProposalRequest, training: Training) -> ProposalRequest:
    """`request` with the media that its cases refer to, for a proposer that sees."""
    restored = training.run.store.media.restored

    async def filled(record: FeedbackRecord) -> FeedbackRecord:
        names = ("inputs", "output", "expected_output")
        found = {name: await restored(getattr(record, name)) for name in names}
        same = all(found[name] is getattr(record, name) for name in names)
        return record if same else replace(record, **found)

    components = [
        replace(one, feedback=tuple([await filled(record) for record in one.feedback]))
        for one in request.components
    ]
    return replace(request, components=tuple(components))


BROKEN_IN_A_ROW = 3
MOST_CUTS = 3
"""Most truncated replies in a row that are remembered: each halves what is asked for."""
UNFIT = "holds characters that cannot be stored"


def edge_critic(training: Training, candidate: Candidate) -> EdgeCritic | None:
    """A critic that asks about one edge of a tape: the model that the prompt upstream has for
    itself, or the plan's. None without any model."""
    plan = training.plan
    if plan.critic_model is None and not plan.critics:
        return None

    async def criticise(run: NodeRun, upstream: str, feedback: str) -> str:
        model = critic_for(upstream, plan.critics, plan.critic_model)
        if model is None:
            return feedback
        messages = critic_messages(run, upstream, feedback)

        async def ask() -> dict[str, Any]:
            try:
                reply = await model.ainvoke(messages)
            except NoReply:  # then the feedback is handed on as it is
                return {"text": feedback}
            return {"text": str(reply.text)}

        key = content_hash(["criticism", *(text for _role, text in messages)])
        with traced(training.runner.labels(candidate, "criticism")):
            answer = await training.runner.calls.answer(
                key, "criticism", ask, meter=training.meter, who="critic"
            )
        return str(answer["text"])

    return criticise


async def run_trial(training: Training, trial: Trial, *, known: int) -> TrialOutcome:
    """Make one trial, knowing the outcomes of the first `known` trials and no others.

    Raises `BudgetExhausted` when the budget ends in the middle of it.
    """
    with traced({}, config=training.runner.calls_config):
        return await _TrialRun(training, trial, known).run()


class _TrialRun:
    """A trial under way."""

    def __init__(self, training: Training, trial: Trial, known: int) -> None:
        self.training = training
        self.trial = trial
        self.known = known
        self.candidate = training.candidates[trial.parent]
        # Copies: what a trial learns is its own, whatever is learnt about the parent beside it.
        self.tensors = {
            name: tensor.with_text(tensor.text) for name, tensor in self.candidate.prompts.items()
        }

    async def run(self) -> TrialOutcome:
        """Roll out the parent, learn, propose, and test the child."""
        training, trial = self.training, self.trial
        parent = training.candidates[trial.parent]
        if trial.purpose == "validate":
            outcome = TrialOutcome(status="accepted", parent=trial.parent, child=trial.parent)
            return await self._validate(outcome, parent)
        if trial.purpose == "measure":
            return await self._measure(parent)
        wanted = set(trial.case_ids)
        by_id = {case.id: case for case in training.plan.train}
        # In the order of the trial, which differs from trial to trial: so does what is shown first.
        cases = [by_id[case_id] for case_id in dict.fromkeys(trial.case_ids)]
        before = await training.measure(cases, parent, phase="train")
        scores = _scores(before, training.weights)
        if not scores and not self.known and any(result.ok for result in before):
            given = ", ".join(repr(one.name) for one in training.run.evaluators)
            raise BadInput(
                f"job.evaluators: {given} gave labels and no score on {len(before)} cases; a"
                " training compares scores: let one give a number or a bool",
                field="job.evaluators",
                rule="must give scores",
            )
        outcome = TrialOutcome(
            status="accepted",
            parent=trial.parent,
            parent_score=_mean(scores),
            parent_scores=scores,
            case_scores=scores,
            means={trial.parent: _evaluator_means(before)},
        )
        if trial.purpose == "merge":
            texts = {
                name: training.candidates[donor].prompts[name].text
                for name, donor in trial.donors.items()
            }
            return await self._test(outcome, cases, before, parent, texts)
        recalled = set(trial.recalled) - wanted
        known = [case for case in training.plan.train if case.id in recalled]
        replayed = await training.measure(known, parent, phase="train") if known else []
        await self._learn([*cases, *known], [*before, *replayed])
        await self._remember(wanted | recalled)
        gradients = {name: t.gradients for name, t in self.tensors.items() if t.gradients}
        outcome = replace(
            outcome,
            blamed=tuple(sorted(gradients)),
            gradients={name: briefly(found) for name, found in gradients.items()},
        )
        if not self._to_rewrite():
            reason = "the minibatch blames no prompt"
            return replace(outcome, status="nothing_to_learn", reason=reason)
        proposal = await propose(self._request(), training, base=self.candidate)
        outcome = replace(outcome, refused=proposal.refused, why=proposal.why)
        if proposal.reason:
            return replace(outcome, status="refused", reason=proposal.reason)
        return await self._test(outcome, cases, before, parent, proposal.texts)

    async def _measure(self, parent: Candidate) -> TrialOutcome:
        """Run the parent, with worked examples in its prompts where there are any, on all cases."""
        training, trial = self.training, self.trial
        outcome = TrialOutcome(status="measured", parent=parent.hash, child=parent.hash)
        if trial.demos:
            made = await demonstrated(training, parent, trial)
            outcome = replace(
                outcome,
                prompts=made.texts,
                shown=made.shown,
                unfit=made.unfit,
                refused=made.refused,
                reason=made.reason,
            )
            if made.reason:
                return replace(outcome, status="refused", child=None)
        child = self._step(parent, outcome.prompts)
        if trial.demos and (reason := self._too_long(child)):
            return replace(outcome, status="refused", child=None, reason=reason)
        wanted = set(trial.case_ids)
        cases = [case for case in training.plan.train if case.id in wanted]
        found = await training.measure(cases, child, phase="train") if cases else []
        scores = _scores(found, training.weights)
        outcome = replace(
            outcome,
            child=child.hash,
            child_score=_mean(scores),
            case_scores=scores,
            means={child.hash: _evaluator_means(found)} if found else {},
        )
        if trial.validated:
            return await self._validate(replace(outcome, status="accepted"), child)
        return outcome

    async def _test(
        self,
        outcome: TrialOutcome,
        cases: Sequence[Case],
        before: Sequence[CaseResult],
        parent: Candidate,
        texts: dict[str, str],
    ) -> TrialOutcome:
        training, trial = self.training, self.trial
        child = self._step(parent, texts)
        if reason := self._too_long(child):
            told = {name: (text, reason) for name, text in texts.items()}
            return replace(outcome, status="refused", refused=told, reason=reason)
        outcome = replace(outcome, child=child.hash, prompts=texts)
        if trial.gated:
            strictly = not self._is_preferred(child, parent)
            comparison = await gate(training, cases, before, child, strictly=strictly)
            if not comparison.won and trial.refined:
                better = await self._refine(cases, before, parent, child, texts, comparison)
                if better is not None:
                    child, texts, comparison = better
                    outcome = replace(outcome, child=child.hash, prompts=texts, refined=True)
            mean_before, mean_after = comparison.means(training.weights)
            if mean_before is not None:
                outcome = replace(outcome, parent_score=mean_before, child_score=mean_after)
            outcome = replace(
                outcome,
                case_scores=_scores(comparison.after, training.weights),
                means={**outcome.means, child.hash: _evaluator_means(comparison.after)},
            )
            reasons = comparison.reasons or await self._limits_broken(parent, comparison)
            if reasons:
                return replace(outcome, status="worse_on_minibatch", reason="; ".join(reasons))
        return await self._validate(outcome, child) if trial.validated else outcome

    def _too_long(self, child: Candidate) -> str | None:
        """Why the job's objective refuses a child for its length."""
        run = self.training.run
        return too_long(run.job.objective, Candidate.of(run.prompts), child)

    def _is_preferred(self, child: Candidate, other: Candidate) -> bool:
        """Whether a child wins where it is only as good as another candidate: by its length."""
        shorter = total_chars(child.prompts) < total_chars(other.prompts)
        return self.training.run.job.objective.prefers_short and shorter

    async def _limits_broken(self, parent: Candidate, tested: Comparison) -> list[str]:
        """What of the job's objective a child breaks on the cases that it was compared on, where
        its parent is the baseline; the child of another parent is looked at on validation.

        What else of the baseline is recorded by now depends on how fast other trials are: a resumed
        run would find more of it.
        """
        training = self.training
        job = training.run.job
        if not job.objective.is_measured or parent.hash != training.state.baseline:
            return []
        return await limits_broken(job.objective, tested.before, tested.after, seed=job.seed)

    async def _validate(self, outcome: TrialOutcome, child: Candidate) -> TrialOutcome:
        training, trial = self.training, self.trial
        rival = training.candidates[trial.rival or trial.parent]
        if rival.hash == child.hash:
            held = await training.measure(
                training.plan.validation, child, phase="validation", meter=training.meter.aside
            )
            scores = _scores(held, training.weights)
            return replace(outcome, validation=_mean(scores), validation_scores=scores)
        comparison = await validate_against(
            training,
            child,
            rival,
            rival_known=training.state.knows_validation(rival.hash, known=self.known),
            strictly=(not trial.gated or trial.purpose == "validate")
            and not self._is_preferred(child, rival),
        )
        scores = _scores(comparison.reached, training.weights)
        outcome = replace(outcome, validation_scores=scores)
        if comparison.complete:
            outcome = replace(outcome, validation=_mean(scores))
        reasons = comparison.reasons or await training.limits_broken(child)
        if not reasons:
            return outcome
        return replace(outcome, status="worse_on_validation", reason="; ".join(reasons))

    async def _refine(
        self,
        cases: Sequence[Case],
        before: Sequence[CaseResult],
        parent: Candidate,
        child: Candidate,
        texts: dict[str, str],
        comparison: Comparison,
    ) -> tuple[Candidate, dict[str, str], Comparison] | None:
        """One more proposal for a rejected child, from its own new failures.

        New failures are cases that it breaks, and cases that fail in another way than before. None
        where there are none, where they blame no prompt, and where this proposal is refused too.
        """
        weights = self.training.weights
        by_id = {case.id: case for case in cases}
        new = 0
        for one, other in zip(comparison.before, comparison.after, strict=True):
            case, score = by_id[one.case_id], other.objective(weights)
            new += score is None or (
                score < 1.0
                and (
                    score < (one.objective(weights) or 0.0)
                    or case_feedback(case, one) != case_feedback(case, other)
                )
            )
        if not new:
            return None
        await self._learn([by_id[result.case_id] for result in comparison.after], comparison.after)
        if not self._to_rewrite():
            return None
        mean_before, mean_after = comparison.means(weights)
        tried = Edit(
            text="",
            accepted=False,
            before=mean_before,
            after=mean_after,
            reason=f"{new} new failures",
        )
        proposal = await propose(self._request(tried=tried), self.training, base=self.candidate)
        if proposal.reason:
            return None
        both = {**texts, **proposal.texts}
        refined = self._step(parent, both)
        if refined.hash in (parent.hash, child.hash) or self._too_long(refined):
            return None
        return refined, both, await gate(self.training, cases, before, refined)

    async def _remember(self, without: Set[str]) -> None:
        """Show what came of cases that other candidates were run on; no critic is asked again."""
        training = self.training
        for candidate, held in self.trial.remembered.items():
            wanted = set(held) - without
            cases = [case for case in training.plan.train if case.id in wanted]
            found = await training.measure(cases, training.candidates[candidate], phase="train")
            await teach(
                self.tensors,
                cases,
                found,
                weights=training.weights,
                exclude=training.run.job.exclude_nodes,
                earlier=True,
            )

    async def _learn(self, cases: Sequence[Case], results: Sequence[CaseResult]) -> None:
        await teach(
            self.tensors,
            cases,
            results,
            weights=self.training.weights,
            critic=edge_critic(self.training, self.candidate),
            exclude=self.training.run.job.exclude_nodes,
        )

    def _step(self, parent: Candidate, texts: Mapping[str, str]) -> Candidate:
        """Change the tensors to these texts, and forget what was learnt about the old ones."""
        for name, tensor in self.tensors.items():
            tensor.text = texts.get(name, tensor.text)
            tensor.zero_grad()
        self.candidate = self.training.candidates.child(parent, texts)
        return self.candidate

    def _to_rewrite(self) -> list[str]:
        """A rewrite needs a case that went wrong; a paraphrase only a prompt that is read."""
        trial = self.trial

        def counts(record: FeedbackRecord) -> bool:
            wrong = record.score is None or record.score < 1.0
            return wrong and not (record.earlier and trial.case_ids)

        return [
            name
            for name in trial.components
            if (found := self.tensors[name].gradients)
            and (trial.purpose == "paraphrase" or any(map(counts, found)))
        ]

    def _request(self, *, tried: Edit | None = None) -> ProposalRequest:
        """What the proposer is shown; `tried` is the edit that made the texts, to be refined."""
        training, trial = self.training, self.trial
        purpose: Purpose = "rewrite" if tried is None else "refine"
        if tried is None and trial.purpose in ("paraphrase", "restart"):
            purpose = trial.purpose

        def history(name: str) -> tuple[Edit, ...]:
            newest, told = training.plan.momentum, ReplyTruncated().message
            known = training.state.history(name, newest=newest + MOST_CUTS, known=self.known)
            # So that it asks for less, whatever else the proposer is shown.
            cut = sum(1 for _ in takewhile(lambda edit: edit.reason == told, reversed(known)))
            edits = known[-max(newest, cut) :] if max(newest, cut) else ()
            last = () if tried is None else (replace(tried, text=self.tensors[name].text),)
            return (*edits, *last)

        return proposal_request(
            self.tensors,
            self._to_rewrite(),
            seed=trial.seed,
            purpose=purpose,
            initial=training.run.prompts,
            history=history,
            task=redact(training.run.job.task or ""),
            dataset=redact(dict(training.run.dataset.metadata)),
            caps=room(training.run.job.objective, Candidate.of(training.run.prompts), self.tensors),
        )


def _scores(results: Sequence[CaseResult], weights: Mapping[str, float]) -> dict[str, float]:
    found = {result.case_id: result.objective(weights) for result in results}
    return {case_id: score for case_id, score in found.items() if score is not None}


def _evaluator_means(results: Sequence[CaseResult]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for result in results:
        for name, score in result.scores.items():
            found.setdefault(name, []).append(score)
    means = {name: fmean(scores) for name, scores in sorted(found.items())}
    return {"cases": len(results), "evaluators": means}


def _mean(scores: Mapping[str, float]) -> float | None:
    return fmean(scores.values()) if scores else None
