"""The search: optimizer steps, with trials in flight, until a checkpoint is due."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, get_args

from orcheo_agentensor.config.model import RunConfig
from orcheo_agentensor.errors import BudgetExhausted, RunFailed, shorten
from orcheo_agentensor.evaluation.graph import summary_of
from orcheo_agentensor.optimizers import Optimizer, SearchSpace, Trial, TrialOutcome
from orcheo_agentensor.optimizers.protocol import State, TrialKind
from orcheo_agentensor.prompts import Candidate, prompts_to_json
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.runs.manager import Draining
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.comparison import validate_against
from orcheo_agentensor.training.job import Progress, TargetScore, TrainingPlan, stop_reason
from orcheo_agentensor.training.state import CandidateStore, SearchState
from orcheo_agentensor.training.trial import edits_of, run_trial

KINDS = get_args(TrialKind)
WITHOUT_CASES = ("merge", "validate")

T = TypeVar("T")


def start(plan: TrainingPlan, space: SearchSpace) -> State:
    """The optimizer's first state. Raises `RunFailed` for one that cannot be kept."""
    return _state(plan, "start", _called(plan, "start", lambda: plan.optimizer.start(space)))


def tell(plan: TrainingPlan, state: State, outcomes: Sequence[TrialOutcome]) -> State:
    """The optimizer's next state. Raises `RunFailed` for one that cannot be kept."""
    found = _called(plan, "tell", lambda: plan.optimizer.tell(state, outcomes))
    return _state(plan, "tell", found)


def ask(plan: TrainingPlan, state: State, candidates: CandidateStore) -> list[Trial]:
    """The trials the optimizer wants. Raises `RunFailed` for one that cannot be made."""

    def asked() -> list[Any]:
        found: Any = plan.optimizer.ask(state)
        if isinstance(found, str | Mapping | Trial):
            raise _wrong(plan, "ask", f"gave {shorten(found)}, not a list of trials")
        return list(found or ())

    trials = _called(plan, "ask", asked)
    cases = {case.id for case in plan.train}
    for trial in trials:
        if reason := _objection(
            trial, candidates=candidates, cases=cases, components=set(plan.trainable)
        ):
            raise _wrong(plan, "ask", reason)
    return trials


def finalists(plan: TrainingPlan, state: State, candidates: CandidateStore) -> list[str]:
    """Candidates that are worth validating once the search is over. Raises `RunFailed`."""
    method = getattr(plan.optimizer, "finalists", None)
    if method is None:
        return []
    found = _called(plan, "finalists", lambda: list(method(state)))
    for candidate in found:
        if candidate not in candidates:
            raise _wrong(plan, "finalists", f"names no known candidate: {shorten(candidate)}")
    return found


def _objection(
    trial: Any, *, candidates: CandidateStore, cases: set[str], components: set[str]
) -> str | None:
    if not isinstance(trial, Trial):
        return f"gave {shorten(trial)}, not a Trial"
    if trial.purpose not in KINDS:
        return f"has a trial of purpose {trial.purpose!r}; known: {', '.join(KINDS)}"
    for candidate in (trial.parent, trial.rival or trial.parent, *trial.donors.values()):
        if candidate not in candidates:
            return f"has a trial with no known candidate: {shorten(candidate)}"
    if unknown := sorted({*trial.case_ids, *trial.recalled} - cases):
        return f"has a trial on {unknown[0]!r}, which is no training case"
    if unknown := sorted({*trial.components, *trial.donors} - components):
        return f"has a trial on the component {unknown[0]!r}, which is no trainable prompt"
    if trial.purpose in WITHOUT_CASES:
        return None
    if not trial.case_ids or not trial.components:
        missing = "components" if trial.case_ids else "case_ids"
        return f"has a {trial.purpose!r} trial without {missing}"
    return None


def _state(plan: TrainingPlan, method: str, state: Any) -> State:
    if not isinstance(state, dict):
        raise _wrong(plan, method, f"gave {shorten(state)}, not a dict as its state")
    try:
        # As it will be read back: a resumed run must see the same state as one that went on.
        kept: State = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(plan, method, f"gave a state that is not JSON: {error}") from None
    if not isinstance(kept.get("epoch", 0), int):
        raise _wrong(plan, method, f"gave the epoch {shorten(kept['epoch'])}, not an integer")
    if not isinstance(kept.get("current", ""), str):
        raise _wrong(plan, method, f"gave {shorten(kept['current'])} as current, not a candidate")
    return kept


def _called(plan: TrainingPlan, method: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except RunFailed:
        raise
    except Exception as error:
        raise _wrong(plan, method, f"failed: {type(error).__name__}: {error}") from error


def _wrong(plan: TrainingPlan, method: str, what: str) -> RunFailed:
    return RunFailed(f"optimizer {plan.optimizer.name!r}: {method}() {what}")


def pipelined(optimizer: Optimizer) -> bool:
    """Whether an optimizer is told of its trials one at a time."""
    return bool(getattr(optimizer, "pipelined", False))


class TrialQueue:
    """The open trials of a search, oldest first.

    A pipelined optimizer is told of its oldest trial as soon as that has landed, and has its next
    one launched while the others go on; any other is told of all its trials together. What a trial
    may know is fixed by its place in the order, so that the result does not depend on which of
    them is faster, nor on where a killed run was resumed.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._pipelined = pipelined(training.plan.optimizer)
        self._open: list[tuple[Trial, asyncio.Task[TrialOutcome]]] = []

    @property
    def open(self) -> int:
        """How many trials are in flight."""
        return len(self._open)

    def launch(self, trials: Sequence[Trial]) -> None:
        """Start those of `trials` that are not in flight yet: all but the first `open` ones."""
        told = self._training.state.told
        width = int(getattr(self._training.plan.optimizer, "parallel", len(trials)))
        for place, trial in enumerate(trials):
            if place < len(self._open):
                if self._open[place][0] != trial:
                    name = self._training.plan.optimizer.name
                    raise RunFailed(
                        f"optimizer {name!r}: ask() must give the open trials first, in their order"
                    )
                continue
            known = max(0, told + place - width + 1) if self._pipelined else told
            task = asyncio.create_task(run_trial(self._training, trial, known=known))
            self._open.append((trial, task))

    async def land(self) -> list[TrialOutcome]:
        """The outcomes to be told next.

        Raises what the first of their trials ended with that could not go on, `BudgetExhausted`
        among others, once what the others had begun is finished: it is paid for.
        """
        landing = self._open[:1] if self._pipelined else self._open
        tasks = [task for _trial, task in landing]
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what is still in flight: rollouts that have begun are finished, none is begun."""
        tasks = [task for _trial, task in self._open]
        if kind is not None and not issubclass(kind, Exception):
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open = []


IDLE_STEPS = 10


async def begin(training: Training) -> SearchState:
    """Begin the search at the prompts of the job. Nothing is measured yet.

    The baseline is measured on the cases that the search needs, and on all validation cases before
    the first version is stored.
    """
    run, plan, job = training.run, training.plan, training.run.job
    candidate = Candidate.of(run.prompts)
    state = SearchState(baseline=candidate.hash, best=candidate.hash)
    state.optimizer = start(
        plan,
        SearchSpace(
            components=plan.trainable,
            case_ids=tuple(case.id for case in plan.train),
            baseline=candidate.hash,
            seed=job.seed,
        ),
    )
    training.state = state
    state.stopped = _stop(training)
    await training.candidates.save(
        run.store,
        run.record.run_id,
        candidate,
        parent=None,
        status="accepted",
        step=0,
        info={},
        lease=run.lease,
    )
    await state.save(run.store, run.record.run_id, lease=run.lease)
    return state


async def validate(training: Training, candidate: Candidate) -> dict[str, Any]:
    """The evaluation summary of a candidate on the validation cases: what a version carries."""
    results = await training.measure_all(training.plan.validation, candidate, phase="validation")
    return await summary_of(training.run, results)


async def take_steps(training: Training) -> None:
    """Optimizer steps until a checkpoint is due or the search is over.

    The state after each step is stored before anything is said about it.
    """
    state = training.state
    if state.stopped is None:
        async with TrialQueue(training) as queue:
            while not state.due and state.stopped is None:
                await _one_step(training, queue)
            while state.stopped is None and queue.open:
                await _one_step(training, queue, last=True)
            if state.stopped is not None:
                training.meter.halt(state.stopped)
    if state.stopped is not None and not state.settled:
        await _settle(training)


async def _one_step(training: Training, queue: TrialQueue, *, last: bool = False) -> None:
    run, plan, state = training.run, training.plan, training.state
    run_id, events = run.record.run_id, run.events
    trials = ask(plan, state.optimizer, training.candidates)
    if not trials:
        state.stopped = f"{plan.optimizer.name} has nothing more to try"
        await state.save(run.store, run_id, lease=run.lease)
        return
    if not last:
        events.emit("step_started", step=state.step, epoch=state.epoch, trials=len(trials))
        queue.launch(trials)
    try:
        outcomes = await queue.land()
    except BudgetExhausted as spent:
        state.stopped = spent.message
        await state.save(run.store, run_id, lease=run.lease)
        return
    for outcome in outcomes:
        await _take_in(training, outcome)
        state.told += 1
    made = [o.child for o in outcomes if o.child]
    fresh = any(training.candidates.is_new(child, step=state.step) for child in made)
    state.idle = 0 if fresh else state.idle + 1
    state.optimizer = tell(plan, state.optimizer, outcomes)
    state.step += 1
    state.epoch = int(state.optimizer.get("epoch", 0))
    current = state.optimizer.get("current", state.best)
    if state.step % run.job.checkpoint_every == 0 and current in state.validated:
        _make_due(state, current, "interval")
    state.stopped = _stop(training)
    await state.save(run.store, run_id, lease=run.lease)
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


async def _take_in(training: Training, outcome: TrialOutcome) -> None:
    """Remember an outcome: candidate, edits, and whether it is the new best."""
    state, events = training.state, training.run.events
    seen = (outcome.parent_scores, outcome.case_scores, outcome.validation_scores)
    if state.beyond is None and any(
        not 0.0 <= score <= 1.0 for scores in seen for score in scores.values()
    ):
        state.beyond = state.told
    optimizer = training.plan.optimizer
    # A trial may look back past as many outcomes as there are trials in flight.
    shown = getattr(optimizer, "momentum", 0) + getattr(optimizer, "parallel", 1)
    for name, edit in edits_of(outcome).items():
        state.remember(name, edit, keep=int(shown))
    scores = {
        "parent_score": outcome.parent_score,
        "child_score": outcome.child_score,
        "validation": outcome.validation,
    }
    if outcome.child is not None:
        await _keep(training, outcome, scores)
        state.refused = None
    elif outcome.status == "refused" and len(training.candidates) == 1:
        state.refused = outcome.reason
    better = False
    if outcome.child is not None and outcome.validation is not None:
        better = await _compare(training, outcome.child, won=outcome.status == "accepted")
    if outcome.status == "accepted" and outcome.child is not None:
        events.emit(
            "candidate_accepted",
            step=state.step,
            candidate=outcome.child[:12],
            components=sorted(outcome.prompts),
            new_best=better,
            **scores,
        )
    elif outcome.status != "nothing_to_learn":
        events.emit(
            "proposal_rejected",
            step=state.step,
            status=outcome.status,
            components=sorted(outcome.prompts),
            reason=outcome.reason,
            **scores,
        )


async def _keep(training: Training, outcome: TrialOutcome, scores: dict[str, Any]) -> None:
    """Store the candidate of an outcome."""
    assert outcome.child is not None
    if outcome.child == outcome.parent:
        return
    parent = training.candidates[outcome.parent]
    texts = {name: tensor.text for name, tensor in parent.prompts.items()}
    await training.candidates.save(
        training.run.store,
        training.run.record.run_id,
        training.candidates.with_texts({**texts, **outcome.prompts}),
        parent=outcome.parent,
        status="accepted" if outcome.status == "accepted" else "rejected",
        step=training.state.step,
        info={**scores, "reason": outcome.reason},
        lease=training.run.lease,
    )


async def _compare(training: Training, candidate_hash: str, *, won: bool) -> bool:
    """Take in a complete validation; whether it makes the candidate the new best.

    Best is who fails least and then scores highest. A best that was not measured on all cases
    (the baseline) has to be beaten in a contest, which `won` tells of.
    """
    state = training.state
    state.validated.setdefault(candidate_hash, state.told)
    summary = await validate(training, training.candidates[candidate_hash])
    failures = len(training.plan.validation) - summary["n_ok"]
    if candidate_hash == state.best:
        state.objective, state.failures = summary["objective"], failures
        return False
    if state.best in state.validated:
        rank = (failures, -_number(summary["objective"]))
        better = rank < (state.failures, -_number(state.objective))
    else:
        better = won
    if better:
        state.best, state.objective = candidate_hash, summary["objective"]
        state.failures, state.best_step = failures, state.step + 1
        _make_due(state, candidate_hash, "new best")
    return better


async def _settle(training: Training) -> None:
    """The search is over: look at the candidates it would have validated next, then close it."""
    state, plan, run = training.state, training.plan, training.run
    if not _reached_target(training):
        for candidate_hash in finalists(plan, state.optimizer, training.candidates):
            full = state.full_marks(known=state.told)
            if state.objective is not None and state.objective >= full:
                break
            try:
                comparison = await validate_against(
                    training,
                    training.candidates[candidate_hash],
                    training.candidates[state.best],
                    rival_known=state.best in state.validated,
                    strictly=True,
                    full=full,
                    meter=training.meter.aside,
                )
            except BudgetExhausted:
                break
            if comparison.complete:
                await _compare(training, candidate_hash, won=comparison.won)
            state.told += 1
    if state.baseline not in state.versions:
        state.due.insert(0, [state.baseline, "baseline"])
    state.settled = True
    await state.save(run.store, run.record.run_id, lease=run.lease)


def _reached_target(training: Training) -> bool:
    best = training.state.objective
    return best is not None and any(
        isinstance(condition, TargetScore) and best >= condition.score
        for condition in training.run.job.stop
    )


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


def _make_due(state: SearchState, candidate: str, reason: str) -> None:
    known = candidate in state.versions or any(entry[0] == candidate for entry in state.due)
    if not known:
        state.due.append([candidate, reason])


def _stop(training: Training) -> str | None:
    run, plan, state = training.run, training.plan, training.state
    elapsed = (run.store.clock() - run.record.started_at).total_seconds()
    progress = Progress(
        step=state.step,
        epoch=state.epoch,
        best=state.objective,
        steps_since_best=state.step - state.best_step,
        elapsed=elapsed,
    )
    if asked := stop_reason(run.job.stop, progress):
        return asked
    full = state.full_marks(known=state.told)
    if state.objective is not None and state.objective >= full and not state.failures:
        said = f"the validation objective is {state.objective:g}: nothing can beat it"
        doubted = state.best == state.baseline  # 1 is the worst score of many a scale
        hint = "; an evaluator whose scores go beyond 1 has to be given its `scale`"
        return said + hint * doubted
    batch = int(getattr(plan.optimizer, "minibatch", 10))
    limit = IDLE_STEPS + math.ceil(len(plan.train) / batch)
    limit *= int(getattr(plan.optimizer, "parallel", 1)) if pipelined(plan.optimizer) else 1
    return f"no new candidate in {limit} steps" if state.idle >= limit else None


async def store_versions(training: Training) -> None:
    """Write every candidate that is due as an immutable version with its validation metrics."""
    state, run = training.state, training.run
    if state.due and state.baseline not in state.versions:
        state.due = [
            [state.baseline, "baseline"],
            *(entry for entry in state.due if entry[0] != state.baseline),
        ]
    for candidate_hash, reason in state.due:
        candidate = training.candidates[candidate_hash]
        summary = await validate(training, candidate)
        state.validated.setdefault(candidate_hash, state.told)
        if candidate_hash == state.best:
            state.objective = summary["objective"]
            state.failures = len(training.plan.validation) - summary["n_ok"]
        parent = training.candidates.parent(candidate_hash)
        first = state.versions.get(state.baseline, run.base_version)
        version = await run.store.checkpoints.save(
            workflow_id=run.record.workflow_id,
            runnable_config=version_config(run.job_config, candidate),
            metrics=summary,
            metadata={
                "reason": reason,
                "step": state.step,
                "optimizer": training.plan.optimizer.name,
                "split": "validation",
                "candidate": candidate_hash,
            },
            parent_version=state.versions.get(parent, first) if parent else first,
            run_id=run.record.run_id,
            dataset_version=run.record.dataset_version,
            evaluator_set=run.record.evaluator_set,
            lease=run.lease,
        )
        state.versions[candidate_hash] = version.config_version
        run.events.emit(
            "checkpoint_saved",
            version=version.config_version,
            reason=reason,
            step=state.step,
            objective=summary["objective"],
        )
    state.due = []
    await state.save(run.store, run.record.run_id, lease=run.lease)


def version_config(job_config: RunConfig, candidate: Candidate) -> dict[str, Any]:
    """A version's `runnable_config`: what the job itself set, and the candidate's prompts.

    Secrets, the request for a stored version, and what belongs to one run are left out.
    """
    plain = job_config.model_copy(update={"prompts": {}, "run_id": None}).to_json()
    plain = _without_secrets(plain, redact(plain))
    configurable = dict(plain.get("configurable") or {})
    for key in ("agentensor", "thread_id"):
        configurable.pop(key, None)
    configurable["prompts"] = prompts_to_json(candidate.prompts)
    return {**plain, "configurable": configurable}


def _without_secrets(value: Any, redacted: Any) -> Any:
    if isinstance(redacted, dict):
        return {
            key: _without_secrets(value[key], entry)
            for key, entry in redacted.items()
            if not (isinstance(entry, str) and REDACTED in entry)
        }
    return redacted


async def version_record(training: Training, candidate_hash: str) -> dict[str, Any]:
    """A stored candidate as the graph's output shows it."""
    candidate = training.candidates[candidate_hash]
    summary = await validate(training, candidate)
    return {
        "config_version": training.state.versions.get(candidate_hash),
        "candidate": candidate_hash[:12],
        "objective": summary["objective"],
        "scores": {name: entry["mean"] for name, entry in summary["evaluators"].items()},
        "prompts": prompts_to_json(candidate.prompts),
    }
