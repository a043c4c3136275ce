"""The search: optimizer steps, with trials in flight, until a checkpoint is due."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, get_args

from orcheo_agentensor.config.model import RunConfig
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BudgetExhausted, RunFailed, RunPaused, shorten
from orcheo_agentensor.evaluation.results import numeric_of, settled
from orcheo_agentensor.evaluation.work import nothing_scored, summary_of, unread_warnings
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.optimizers import Edit, SearchSpace, Trial, TrialOutcome
from orcheo_agentensor.optimizers.proposer import ReplyTruncated
from orcheo_agentensor.optimizers.protocol import State, TrialKind
from orcheo_agentensor.prompts import Candidate, complete_config, prompts_to_json
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.runs.active import ActiveRun, Draining, current_checkpoint
from orcheo_agentensor.storage.records import PASSING, RETRIED
from orcheo_agentensor.tape import prompt_reads
from orcheo_agentensor.targets.context import context_fields
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.comparison import validate_against
from orcheo_agentensor.training.feedback import only_in_excluded
from orcheo_agentensor.training.job import (
    Progress,
    TargetScore,
    TrainingJob,
    TrainingPlan,
    stop_reason,
)
from orcheo_agentensor.training.objective import total_chars
from orcheo_agentensor.training.state import SearchState
from orcheo_agentensor.training.trial import MOST_CUTS, run_trial

KINDS = get_args(TrialKind)
WITHOUT_CASES = ("merge", "validate")
IDLE_STEPS = 10


def ask(training: Training) -> list[Trial]:
    """The trials the optimizer wants. Raises `RunFailed` for one that cannot be made."""
    plan = training.plan
    with _calling(plan, "ask"):
        found: Any = plan.optimizer.ask(training.state.optimizer)
        if isinstance(found, str | Mapping | Trial):
            raise _wrong(plan, "ask", f"gave {shorten(found)}, not a list of trials")
        trials = list(found or ())
    cases = {case.id for case in plan.train}
    for trial in trials:
        if problem := _problem(training, trial, cases=cases):
            raise _wrong(plan, "ask", problem)
    return trials


def finalists(training: Training) -> list[str]:
    """Candidates that are worth validating once the search is over. Raises `RunFailed`."""
    plan = training.plan
    method = getattr(plan.optimizer, "finalists", None)
    if method is None:
        return []
    with _calling(plan, "finalists"):
        found = list(method(training.state.optimizer))
    for candidate in found:
        if candidate not in training.candidates:
            raise _wrong(plan, "finalists", f"names no known candidate: {shorten(candidate)}")
    return found


def _problem(training: Training, trial: Any, *, cases: set[str]) -> str | None:
    if not isinstance(trial, Trial):
        return f"gave {shorten(trial)}, not a Trial"
    if trial.purpose not in KINDS:
        return f"has a trial of purpose {trial.purpose!r}; known: {', '.join(KINDS)}"
    demos = [demo for held in trial.demos.values() for demo in held]
    sources = {demo.candidate for demo in demos}
    named = (trial.rival or trial.parent, *trial.donors.values(), *trial.remembered, *sources)
    for candidate in (trial.parent, *named):
        if candidate not in training.candidates:
            return f"has a trial with no known candidate: {shorten(candidate)}"
    shown = {*trial.recalled, *(case for held in trial.remembered.values() for case in held)}
    shown |= {case for demo in demos for case in (demo.case_id, demo.like)}
    if unknown := sorted({*trial.case_ids, *shown} - cases):
        return f"has a trial on {unknown[0]!r}, which is no training case"
    changed = {*trial.components, *trial.donors, *trial.demos}
    if unknown := sorted(changed - {*training.plan.trainable}):
        return f"has a trial on the component {unknown[0]!r}, which is no trainable prompt"
    learnt_from = trial.case_ids or (trial.remembered and not trial.gated) or demos
    if trial.purpose not in WITHOUT_CASES and not (learnt_from and trial.components):
        missing = "components" if learnt_from else "case_ids"
        return f"has a {trial.purpose!r} trial without {missing}"
    return None


def _as_stored(plan: TrainingPlan, method: str, state: Any) -> State:
    """An optimizer's state as a resumed run reads it. Raises `RunFailed` if it cannot be stored."""
    if not isinstance(state, dict):
        raise _wrong(plan, method, f"gave {shorten(state)}, not a dict as its state")
    try:
        kept: State = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(plan, method, f"gave a state that is not JSON: {error}") from None
    if not isinstance(kept.get("epoch", 0), int):
        raise _wrong(plan, method, f"gave the epoch {shorten(kept['epoch'])}, not an integer")
    if not isinstance(kept.get("current", ""), str):
        raise _wrong(plan, method, f"gave {shorten(kept['current'])} as current, not a candidate")
    return kept


@contextmanager
def _calling(plan: TrainingPlan, method: str) -> Iterator[None]:
    try:
        yield
    except RunFailed:
        raise
    except Exception as error:
        raise _wrong(plan, method, f"failed: {type(error).__name__}: {error}") from error


def _wrong(plan: TrainingPlan, method: str, what: str) -> RunFailed:
    return RunFailed(f"optimizer {plan.optimizer.name!r}: {method}() {what}")


class TrialQueue:
    """The open trials of a search, oldest first.

    A pipelined optimizer is told of its oldest trial as soon as that has ended, and has its next
    one launched while the others go on; any other is told of all its trials together. What a trial
    may know is fixed by its place in the order, so that the result does not depend on which of
    them is faster, nor on where a killed run was resumed.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._pipelined = training.plan.pipelined
        self._open: list[tuple[Trial, asyncio.Future[TrialOutcome]]] = []
        for trial, ended in training.landed:  # an earlier execution of the node has waited for it
            future = asyncio.get_running_loop().create_future()
            if isinstance(ended, BaseException):
                future.set_exception(ended)
            else:
                future.set_result(ended)
            self._open.append((trial, future))
        training.landed = []

    @property
    def open(self) -> int:
        """How many trials are in flight."""
        return len(self._open)

    def launch(self, trials: Sequence[Trial], *, none: bool = False) -> None:
        """Start those of `trials` that are not in flight yet, all but the first `open` ones; `none`
        of them where the node is to end before."""
        told, width = self._training.state.told, self._training.plan.parallel or len(trials)
        if any(one != trial for (one, _task), trial in zip(self._open, trials, strict=False)):
            problem = "must give the open trials first, in their order"
            raise _wrong(self._training.plan, "ask", problem)
        for place in range(len(self._open), 0 if none else len(trials)):
            known = max(0, told + place - width + 1) if self._pipelined else told
            task = asyncio.create_task(run_trial(self._training, trials[place], known=known))
            self._open.append((trials[place], task))

    async def land(self) -> list[TrialOutcome]:
        """Wait for the oldest trial (all of them, when not pipelined); take it from the queue.

        Where a trial could not go on, raises the exception that it ended with, `BudgetExhausted`
        among others, once the others have finished what they had begun: it is paid for.
        """
        tasks = [task for _trial, task in (self._open[:1] if self._pipelined else self._open)]
        await asyncio.wait(tasks)
        errors = [error for task in tasks if (error := task.exception()) is not None]
        if errors:
            self._training.meter.halt("the search is over")
            await asyncio.wait([task for _trial, task in self._open])
            raise min(errors, key=lambda error: isinstance(error, BudgetExhausted | Draining))
        self._open = self._open[len(tasks) :]
        return [task.result() for task in tasks]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Wait for what is still in flight, and keep what came of it for the next execution.

        Where the search is over, rollouts that have begun are finished, and none is begun.
        """
        tasks = [task for _trial, task in self._open]
        if kind is not None and not issubclass(kind, Exception):
            for task in tasks:
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        trials = [trial for trial, _task in self._open]
        self._training.landed = list(zip(trials, ended, strict=True))
        self._open = []


def search_rollouts(plan: TrainingPlan, *, replicates: int) -> int | None:
    """Cases that the search may run, what the baseline and the holdout take left out."""
    if plan.budget.rollouts is None:
        return None
    fixed = len(plan.validation) + 2 * len(plan.holdout)
    return max(0, plan.budget.rollouts // replicates - fixed)


async def begin(training: Training) -> SearchState:
    """Begin the search at the prompts of the job. Nothing is measured yet.

    The baseline is measured on the cases that the search needs, and on all validation cases before
    the first version is stored.
    """
    run, plan = training.run, training.plan
    candidate = Candidate.of(run.prompts)
    training.state = state = SearchState(
        baseline=candidate.hash, best=candidate.hash, retried=training.state.retried
    )
    space = SearchSpace(
        components=plan.trainable,
        case_ids=tuple(case.id for case in plan.train),
        baseline=candidate.hash,
        seed=run.job.seed,
        rollouts=search_rollouts(plan, replicates=run.job.replicates),
        validation=len(plan.validation),
        labels=_labels(plan.train),
    )
    with _calling(plan, "start"):
        state.optimizer = _as_stored(plan, "start", plan.optimizer.start(space))
    state.stopped = _stop(training)
    training.candidates.add(candidate, parent=None, status="accepted", step=0, info={})
    await state.save(run, training.candidates)
    return state


def _labels(cases: Sequence[Case]) -> dict[str, int]:
    """A number for each case that expects an output, the same for those that expect the same."""
    numbers: dict[str, int] = {}
    expected = {
        c.id: content_hash(c.expected_output) for c in cases if c.expected_output is not None
    }
    return {case: numbers.setdefault(key, len(numbers)) for case, key in expected.items()}


async def follow_retry(training: Training) -> None:
    """Take in what a retry of failures that were no prompt's doing has changed, once.

    A search that they had stopped begins anew. Of any other the steps stand: its validated
    candidates are measured where they had failed, the best of them is the best, and those with new
    metrics are stored as new versions.
    """
    run, state = training.run, training.state
    retried = run.record.refs.get(RETRIED, 0)
    if retried == state.retried or not state.baseline:
        state.retried = retried
        return
    if state.blocked is not None:
        await run.store.training.restart(run.record.run_id, lease=run.lease)
        training.state = SearchState(retried=retried)
        return
    ranks = {}
    for candidate_hash in state.validated:
        summary, failures = await _validated(training, candidate_hash)
        ranks[candidate_hash] = _rank(failures, summary["objective"]), summary, failures
        number = state.versions.get(candidate_hash)
        if number is not None:
            stored = await run.store.checkpoints.get(run.record.workflow_id, number)
            if stored.metrics["n_ok"] != summary["n_ok"]:
                del state.versions[candidate_hash]
                state.make_due(candidate_hash, "failures tried again")
    for candidate_hash, (rank, summary, failures) in ranks.items():
        if state.best in ranks and rank < ranks[state.best][0]:
            state.best, state.objective, state.failures = (
                candidate_hash,
                summary["objective"],
                failures,
            )
            state.make_due(candidate_hash, "new best")
    state.retried = retried
    await state.save(run, training.candidates)


async def begin_again(training: Training, *, seed: bool) -> None:
    """Let a search that was taken over from another run go on, with versions of its own."""
    state = training.state
    state.versions, state.due, state.idle = {}, [], 0
    state.stopped, state.settled = None, False
    if seed and "seed" in state.optimizer:
        state.optimizer["seed"] = training.run.job.seed
    state.make_due(state.best, "baseline" if state.best == state.baseline else "new best")
    await state.save(training.run, training.candidates)


async def validate(training: Training, candidate: Candidate) -> dict[str, Any]:
    """The evaluation summary of a candidate on the validation cases: the metrics of a version."""
    cases: Sequence[Case] = training.plan.validation
    if training.state.blocked is not None:  # nothing more is paid for
        unrecorded = training.runner.unrecorded
        cases = [case for case in cases if not await unrecorded([case], candidate)]
    measured = await training.measure_all(cases, candidate, phase="validation")
    results = settled(measured, numeric=training.state.numeric)
    summary = await summary_of(training.run, results)
    if len(cases) < len(training.plan.validation):
        summary["complete"] = False
    return summary


def _blocked(training: Training) -> str | None:
    """Why the search is in vain, by the first rollouts of the baseline; None where it is not."""
    run, names = training.run, training.plan.trainable
    rows = [*run.ledger.rollouts.values()]
    tapes = [row.tape for row in rows if row.tape is not None]
    failures = [row.failure for row in rows]
    limit = run.job.objective.cost
    costs = [row.usage.cost for row in rows if row.failure is None]  # failures are not compared
    for found in run.ledger.scores.values():
        costs += [row.usage.cost for row in found if row.failure is None]
    if limit is not None and None in costs:
        return (
            f"objective.cost: {limit} cannot be kept: the price of a model that was called is not "
            "known, or it does not report its tokens"
        )
    if rows and None in failures:
        excluded = excluded_warnings(run, names, tapes)
        if len(excluded) == len(names):
            return "; ".join(excluded)
        for warning in excluded:
            run.events.emit("warning", message=warning)
        read = prompt_reads(names, tapes)
        if not any(read.values()):
            return "; ".join(unread_warnings(run, names, tapes))
    return None


def _check_scored(training: Training) -> None:
    """Raise `RunPaused`, or `RunFailed`, where not one of the first rollouts could be scored."""
    ledger = training.run.ledger
    failures = [row.failure for row in ledger.rollouts.values()]
    if None in failures:
        failures = [one.failure for scores in ledger.scores.values() for one in scores]
    known = [failure for failure in failures if failure is not None]
    if known and len(known) == len(failures):
        told = nothing_scored(one["reason"] for one in known)
        told = told.replace("nothing could", "the baseline could not", 1)
        raise (RunPaused if all(PASSING in one for one in known) else RunFailed)(told)


def excluded_warnings(
    run: ActiveRun[TrainingJob], names: Sequence[str], tapes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A sentence on each prompt that is not trained, because only excluded nodes read it."""
    found = only_in_excluded(names, tapes, run.job.exclude_nodes)
    return [
        f"prompt {name!r} is read in excluded nodes only ({', '.join(nodes)}): it is not trained"
        for name, nodes in found.items()
    ]


async def take_steps(training: Training) -> None:
    """Make `steps_per_node` optimizer steps, fewer where a checkpoint is due or the search is over.

    The state after each step is stored before its event is sent. Of several trials in flight none
    is launched that would end after the last of these steps, unless none is in flight: what ends
    later is waited for, because the run may be let go of, and taken in by the steps to come.
    """
    state = training.state
    if state.stopped is None:
        async with TrialQueue(training) as queue:
            for left in range(training.run.job.steps_per_node, 0, -1):
                await _one_step(training, queue, launching=left > queue.open or not queue.open)
                if state.due or state.stopped is not None:
                    break
            if state.stopped is not None:
                training.meter.halt(state.stopped)
    if state.stopped is not None and not state.settled:
        await _settle(training)


async def _one_step(training: Training, queue: TrialQueue, *, launching: bool) -> None:
    run, plan, state = training.run, training.plan, training.state
    events = run.events
    trials = ask(training)
    if not trials:
        state.stopped = f"{plan.optimizer.name} has nothing more to try"
        await state.save(run, training.candidates)
        return
    events.emit("step_started", step=state.step, epoch=state.epoch, trials=len(trials))
    queue.launch(trials, none=not launching)
    try:
        outcomes = await queue.land()
    except BudgetExhausted as spent:
        state.stopped = spent.message
        await state.save(run, training.candidates)
        return
    blocked = _blocked(training) if state.step == 0 else None
    tested = all(trial.gated or trial.validated for trial in trials)
    untested = not tested and any(one.child for one in outcomes)
    if blocked is None and (state.step == 1 or (state.step == 0 and not untested)):
        _check_scored(training)  # an edit that nothing was run with yet may mend it
    for outcome in outcomes:
        await _take_in(training, outcome)
        state.told += 1
    made = [outcome.child for outcome in outcomes if outcome.child]
    fresh = any(training.candidates.is_new(child, step=state.step) for child in made)
    state.idle = 0 if fresh else state.idle + 1
    with _calling(plan, "tell"):
        told = plan.optimizer.tell(state.optimizer, outcomes)
        state.optimizer = _as_stored(plan, "tell", told)
    state.step += 1
    state.epoch = int(state.optimizer.get("epoch", 0))
    current = state.current
    if run.job.checkpoint_every and state.step % run.job.checkpoint_every == 0:
        try:
            await _validate_current(training, current)
        except BudgetExhausted as spent:
            state.stopped = spent.message
    if state.step == 1:
        await _learn_numeric(training, trials[0].case_ids)
    if blocked is not None:
        state.blocked = blocked
        events.emit("warning", message=blocked)
    state.stopped = state.blocked or state.stopped or _stop(training)
    await state.save(run, training.candidates)
    events.emit(
        "training_progress",
        step=state.step,
        epoch=state.epoch,
        best=state.objective,
        current=current[:12],
        outcomes=[outcome.status for outcome in outcomes],
        usage=training.meter.usage.to_json(),
        stopped=state.stopped,
    )


async def _learn_numeric(training: Training, case_ids: Sequence[str]) -> None:
    """Note which metrics gave numbers for the baseline on the cases of the first trial."""
    state, wanted = training.state, set(case_ids)
    cases = [case for case in training.plan.train if case.id in wanted]
    baseline = training.candidates[state.baseline]
    if not await training.runner.unrecorded(cases, baseline):
        results = await training.measure(cases, baseline, phase="train")
        state.numeric = sorted(numeric_of(results))


async def _validate_current(training: Training, current: str) -> None:
    """Let the candidate that the search stands at be stored, measured on all validation cases.

    The search's part of the budget pays; raises `BudgetExhausted` where that does not do.
    """
    state = training.state
    if current not in state.validated:
        candidate = training.candidates[current]
        await training.measure(training.plan.validation, candidate, phase="validation")
        await _validated(training, state.best)  # which the first version takes anyway
        await _compare(training, current, won=False)
    state.make_due(current, "interval")


async def _take_in(training: Training, outcome: TrialOutcome) -> None:
    """Learn from an outcome: its candidate, its edits, and whether it is the new best."""
    plan, state, candidates = training.plan, training.state, training.candidates
    accepted, child = outcome.status == "accepted", outcome.child
    tested = outcome.child_score is not None or outcome.validation_scores
    told_of = outcome.reason or (outcome.status if tested else "not tested by itself")
    tried = [(name, text, told_of) for name, text in outcome.prompts.items()]
    tried += [(name, text, reason) for name, (text, reason) in outcome.refused.items()]
    for name, text, reason in tried:
        edit = Edit(
            text=text,
            accepted=accepted and name in outcome.prompts,
            before=outcome.parent_score,
            after=outcome.child_score if name in outcome.prompts else None,
            reason=reason,
            why=outcome.why.get(name, ""),
        )
        if name in plan.trainable:
            # A trial may look back past as many outcomes as there are trials in flight.
            keep = plan.momentum + (plan.parallel or 1)
            if reason == ReplyTruncated().message:
                keep += MOST_CUTS
            state.remember(name, edit, keep=keep)
    if outcome.gradients:
        state.learn(outcome.parent, outcome.gradients)
    for candidate, means in outcome.means.items():
        state.note(candidate, "train", means)
    scores = {
        "parent_score": outcome.parent_score,
        "child_score": outcome.child_score,
        "validation": outcome.validation,
    }
    better = False
    if child is not None:
        if child != outcome.parent:
            candidates.add(
                candidates.child(candidates[outcome.parent], outcome.prompts),
                parent=outcome.parent,
                status=(
                    "accepted"
                    if accepted
                    else "measured"
                    if outcome.status == "measured"
                    else "rejected"
                ),
                step=state.step,
                info={**scores, "reason": outcome.reason},
            )
        state.refused = None
        if outcome.prompts:
            state.refusals, state.refusal = 0, ""
        if outcome.validation is not None:
            better = await _compare(training, child, won=accepted)
    elif outcome.status == "refused":
        state.refusals, state.refusal = state.refusals + 1, outcome.reason
        if len(candidates) == 1:
            state.refused = outcome.reason
    components = sorted({*outcome.prompts, *outcome.refused})
    if (
        not components and child is not None and child in candidates
    ):  # measured only: named by what it is, if not new
        texts = {name: one.text for name, one in candidates[state.baseline].prompts.items()}
        found = candidates[child].prompts.items()
        components = sorted(name for name, one in found if one.text != texts[name])
    told = {
        "step": state.step,
        "components": components,
        "gradients": outcome.gradients,
        "refused": {name: reason[:300] for name, (_, reason) in outcome.refused.items()},
        **scores,
    }
    if accepted and child is not None:
        training.run.events.emit(
            "candidate_accepted", candidate=child[:12], new_best=better, **told
        )
    elif outcome.status not in ("nothing_to_learn", "measured"):
        training.run.events.emit(
            "proposal_rejected", status=outcome.status, reason=outcome.reason, **told
        )


async def _compare(training: Training, candidate_hash: str, *, won: bool) -> bool:
    """Whether a complete validation makes the candidate the new best; if so, it becomes it.

    The best is the candidate with the fewest failures and then the highest objective. A best that
    was not measured on all cases (the baseline) is replaced by one that has `won` against it.
    """
    state = training.state
    known = state.best in state.validated
    summary, failures = await _validated(training, candidate_hash)
    if candidate_hash == state.best:
        return False
    objective = summary["objective"]
    if known:
        # Of equally good candidates the shorter one; the baseline where that is asked for.
        alike = state.best == state.baseline and not training.run.job.objective.prefers_short
        both = (training.candidates[one].prompts for one in (candidate_hash, state.best))
        chars = [0, 0] if alike else [total_chars(prompts) for prompts in both]
        mine = (*_rank(failures, objective), chars[0])
        won = mine < (*_rank(state.failures, state.objective), chars[1])
    if won and await training.limits_broken(training.candidates[candidate_hash]):
        won = False
    if won:
        state.best, state.objective, state.failures = candidate_hash, objective, failures
        state.best_step = state.step + 1
        state.make_due(candidate_hash, "new best")
    return won


async def _validated(training: Training, candidate_hash: str) -> tuple[dict[str, Any], int]:
    """Validate a candidate and note it in the state; its summary and how many cases it fails on."""
    state = training.state
    state.validated.setdefault(candidate_hash, state.told)
    summary = await validate(training, training.candidates[candidate_hash])
    failures = summary["n_target_failed"] + summary["n_evaluator_failed"]
    means = {name: entry["mean"] for name, entry in summary["evaluators"].items()}
    cases = summary["cases"]
    state.note(candidate_hash, "validation", {"cases": cases, "evaluators": means})
    if candidate_hash == state.best:
        state.objective, state.failures = summary["objective"], failures
    return summary, failures


def _rank(failures: int, objective: float | None) -> tuple[int, float]:
    return failures, math.inf if objective is None else -objective


async def _settle(training: Training) -> None:
    """End the search: validate the optimizer's finalists, and make the baseline due."""
    state, run, best = training.state, training.run, training.state.objective
    targets = [one.score for one in run.job.stop if isinstance(one, TargetScore)]
    if state.blocked is None and (best is None or not targets or best < min(targets)):
        training.meter.release_last()
        for candidate_hash in finalists(training):
            if state.objective is not None and state.objective >= 1.0:
                break
            try:
                comparison = await validate_against(
                    training,
                    training.candidates[candidate_hash],
                    training.candidates[state.best],
                    rival_known=state.best in state.validated,
                    strictly=True,
                )
            except BudgetExhausted:
                break
            if comparison.complete:
                await _compare(training, candidate_hash, won=comparison.won)
            state.told += 1
    state.make_due(state.baseline, "baseline")
    state.settled = True
    await state.save(run, training.candidates)


def _stop(training: Training) -> str | None:
    run, plan, state = training.run, training.plan, training.state
    progress = Progress(
        step=state.step,
        epoch=state.epoch,
        best=state.objective,
        steps_since_best=state.step - state.best_step,
        elapsed=(run.store.clock() - run.record.started_at).total_seconds(),
    )
    if asked := stop_reason(run.job.stop, progress):
        return asked
    if state.objective is not None and state.objective >= 1.0 and not state.failures:
        reason = f"the validation objective is {state.objective:g}: nothing can beat it"
        if state.best == state.baseline:  # perhaps a scale of which 1 is the worst score
            reason += "; an evaluator whose scores go beyond 1 has to be given its `scale`"
        return reason
    passes = 4 if getattr(plan.optimizer, "opening", False) else 1
    limit = IDLE_STEPS + math.ceil(passes * len(plan.train) / plan.minibatch)
    limit *= (plan.parallel or 1) if plan.pipelined else 1
    return f"no new candidate in {limit} steps" if state.idle >= limit else None


async def store_versions(training: Training) -> None:
    """Write every candidate that is due as an immutable version with its validation metrics.

    The baseline is the first version of a run.
    """
    state, run, at = training.state, training.run, current_checkpoint()
    if state.due and state.baseline not in state.versions:
        state.due = [
            [state.baseline, "baseline"],
            *(entry for entry in state.due if entry[0] != state.baseline),
        ]
    for candidate_hash, reason in state.due:
        candidate = training.candidates[candidate_hash]
        summary, _failures = await _validated(training, candidate_hash)
        parent = training.candidates.parent(candidate_hash)
        first = state.versions.get(state.baseline, run.base_version)
        version = await run.store.checkpoints.save(
            workflow_id=run.record.workflow_id,
            runnable_config=version_config(run.job_config, candidate),
            metrics=summary,
            metadata={
                "reason": reason,
                "step": state.step,
                "epoch": state.epoch,
                "optimizer": training.plan.optimizer.name,
                "split": "validation",
                "candidate": candidate_hash,
                **({} if at is None else {"langgraph": at}),
                **({"context_fields": fields} if (fields := context_fields(run.target)) else {}),
            },
            parent_version=state.versions.get(parent, first) if parent else first,
            run_id=run.record.run_id,
            dataset_version=run.record.dataset_version,
            evaluator_set=run.record.evaluator_set,
            lease=run.lease,
        )
        state.versions[candidate_hash] = version.config_version
        shown = ("mean", "ci95", "n")
        run.events.emit(
            "checkpoint_saved",
            version=version.config_version,
            reason=reason,
            step=state.step,
            objective=summary["objective"],
            evaluators={
                name: {key: entry[key] for key in shown}
                for name, entry in summary["evaluators"].items()
            },
            coverage=summary["coverage"],
            content_hash=version.content_hash,
        )
    state.due = []
    await state.save(run, training.candidates)


def version_config(job_config: RunConfig, candidate: Candidate) -> dict[str, Any]:
    """A version's `runnable_config`: what the job itself set, and the candidate's prompts.

    Secrets, the request for a stored version, and what belongs to one run are left out.
    """
    plain = job_config.model_copy(update={"prompts": {}, "run_id": None}).to_json()
    plain = _without_secrets(redact(plain))
    configurable = dict(plain.get("configurable") or {})
    for key in ("agentensor", "thread_id"):
        configurable.pop(key, None)
    configurable["prompts"] = prompts_to_json(candidate.prompts)
    return {**plain, "configurable": configurable}


def _without_secrets(redacted: Any) -> Any:
    if not isinstance(redacted, dict):
        return redacted
    return {
        key: _without_secrets(entry)
        for key, entry in redacted.items()
        if not (isinstance(entry, str) and REDACTED in entry)
    }


async def version_record(training: Training, candidate_hash: str) -> dict[str, Any]:
    """A stored candidate as the graph's output shows it: a complete `RunnableConfig`, and more."""
    candidate = training.candidates[candidate_hash]
    summary = await validate(training, candidate)
    run = training.run
    config = version_config(run.job_config, candidate)
    config = complete_config(config, context_fields(run.target))
    config["configurable"].pop("prompts")  # LangGraph takes them from `prompts`, below
    return {
        **config,
        "config_version": training.state.versions.get(candidate_hash),
        "candidate": candidate_hash[:12],
        "objective": summary["objective"],
        "scores": {name: entry["mean"] for name, entry in summary["evaluators"].items()},
        "prompts": prompts_to_json(candidate.prompts),
        "gradients": training.state.gradients.get(candidate_hash, {}).get("prompts", {}),
    }
