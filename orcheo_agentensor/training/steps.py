"""The search: optimizer steps until a checkpoint is due, on an open `Training`."""

from __future__ import annotations

import math
from typing import Any

from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.evaluation.candidate import Candidate
from orcheo_agentensor.evaluation.graph import summary_of
from orcheo_agentensor.optimizers import SearchSpace, TrialOutcome
from orcheo_agentensor.training import strategy
from orcheo_agentensor.training.contest import validate_against
from orcheo_agentensor.training.flight import Flight, pipelined
from orcheo_agentensor.training.memory import Memory
from orcheo_agentensor.training.stop import Progress, TargetScore, stop_reason
from orcheo_agentensor.training.trial import edits_of
from orcheo_agentensor.training.work import Training

IDLE_STEPS = 10


async def begin(training: Training) -> Memory:
    """Begin the search at the prompts of the job. Nothing is measured yet.

    The baseline is measured on the cases that the search needs, and on all validation cases before
    the first version is stored.
    """
    session, plan, job = training.session, training.plan, training.session.prepared.job
    candidate = Candidate.of(session.prepared.prompts)
    memory = Memory(baseline=candidate.hash, best=candidate.hash)
    memory.optimizer = strategy.start(
        plan,
        SearchSpace(
            components=plan.trainable,
            case_ids=tuple(case.id for case in plan.train),
            baseline=candidate.hash,
            objective=None,
            seed=job.seed,
        ),
    )
    training.memory = memory
    memory.stopped = _stop(training)
    await training.pool.save(
        session.store,
        session.prepared.run.run_id,
        candidate,
        parent=None,
        status="accepted",
        step=0,
        info={},
        lease=session.lease,
    )
    await memory.save(session.store, session.prepared.run.run_id, lease=session.lease)
    return memory


async def validate(training: Training, candidate: Candidate) -> dict[str, Any]:
    """The evaluation summary of a candidate on the validation cases: what a version carries."""
    results = await training.measure_all(training.plan.validation, candidate, phase="validation")
    return await summary_of(training.session, results)


async def take_steps(training: Training) -> None:
    """Optimizer steps until a checkpoint is due or the search is over.

    The state after each step is stored before anything is said about it.
    """
    memory = training.memory
    if memory.stopped is None:
        async with Flight(training) as flight:
            while not memory.due and memory.stopped is None:
                await _one_step(training, flight)
            while memory.stopped is None and flight.open:
                await _one_step(training, flight, last=True)
            if memory.stopped is not None:
                training.meter.halt(memory.stopped)
    if memory.stopped is not None and not memory.settled:
        await _settle(training)


async def _one_step(training: Training, flight: Flight, *, last: bool = False) -> None:
    session, plan, memory = training.session, training.plan, training.memory
    run_id, events = session.prepared.run.run_id, session.events
    trials = strategy.ask(plan, memory.optimizer, training.pool)
    if not trials:
        memory.stopped = f"{plan.optimizer.name} has nothing more to try"
        await memory.save(session.store, run_id, lease=session.lease)
        return
    if not last:
        events.emit("step_started", step=memory.step, epoch=memory.epoch, trials=len(trials))
        flight.launch(trials)
    try:
        outcomes = await flight.land()
    except BudgetExhausted as spent:
        memory.stopped = spent.message
        await memory.save(session.store, run_id, lease=session.lease)
        return
    for outcome in outcomes:
        await _take_in(training, outcome)
        memory.told += 1
    made = [o.child for o in outcomes if o.child]
    fresh = any(training.pool.is_new(child, step=memory.step) for child in made)
    memory.idle = 0 if fresh else memory.idle + 1
    memory.optimizer = strategy.tell(plan, memory.optimizer, outcomes)
    memory.step += 1
    memory.epoch = int(memory.optimizer.get("epoch", 0))
    current = memory.optimizer.get("current", memory.best)
    if memory.step % session.prepared.job.checkpoint_every == 0 and current in memory.validated:
        _make_due(memory, current, "interval")
    memory.stopped = _stop(training)
    await memory.save(session.store, run_id, lease=session.lease)
    events.emit(
        "training_progress",
        step=memory.step,
        epoch=memory.epoch,
        best=memory.objective,
        current=current[:12],
        outcomes=[outcome.status for outcome in outcomes],
        usage=training.meter.usage.to_json(),
        stopped=memory.stopped,
    )


async def _take_in(training: Training, outcome: TrialOutcome) -> None:
    """Remember an outcome: candidate, edits, and whether it is the new best."""
    memory, events = training.memory, training.session.events
    seen = (outcome.parent_scores, outcome.case_scores, outcome.validation_scores)
    if memory.beyond is None and any(
        not 0.0 <= score <= 1.0 for scores in seen for score in scores.values()
    ):
        memory.beyond = memory.told
    optimizer = training.plan.optimizer
    # A trial may look back past as many outcomes as there are trials in flight.
    shown = getattr(optimizer, "momentum", 0) + getattr(optimizer, "parallel", 1)
    for name, edit in edits_of(outcome).items():
        memory.remember(name, edit, keep=int(shown))
    scores = {
        "parent_score": outcome.parent_score,
        "child_score": outcome.child_score,
        "validation": outcome.validation,
    }
    if outcome.child is not None:
        await _keep(training, outcome, scores)
        memory.refused = None
    elif outcome.status == "refused" and len(training.pool) == 1:
        memory.refused = outcome.reason
    better = False
    if outcome.child is not None and outcome.validation is not None:
        better = await _compare(training, outcome.child, won=outcome.status == "accepted")
    if outcome.status == "accepted" and outcome.child is not None:
        events.emit(
            "candidate_accepted",
            step=memory.step,
            candidate=outcome.child[:12],
            components=sorted(outcome.prompts),
            new_best=better,
            **scores,
        )
    elif outcome.status != "nothing_to_learn":
        events.emit(
            "proposal_rejected",
            step=memory.step,
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
    parent = training.pool[outcome.parent]
    texts = {name: tensor.text for name, tensor in parent.prompts.items()}
    await training.pool.save(
        training.session.store,
        training.session.prepared.run.run_id,
        training.pool.with_texts({**texts, **outcome.prompts}),
        parent=outcome.parent,
        status="accepted" if outcome.status == "accepted" else "rejected",
        step=training.memory.step,
        info={**scores, "reason": outcome.reason},
        lease=training.session.lease,
    )


async def _compare(training: Training, candidate_hash: str, *, won: bool) -> bool:
    """Take in a complete validation; whether it makes the candidate the new best.

    Best is who fails least and then scores highest. A best that was not measured on all cases
    (the baseline) has to be beaten in a contest, which `won` tells of.
    """
    memory = training.memory
    memory.validated.setdefault(candidate_hash, memory.told)
    summary = await validate(training, training.pool[candidate_hash])
    failures = len(training.plan.validation) - summary["n_ok"]
    if candidate_hash == memory.best:
        memory.objective, memory.failures = summary["objective"], failures
        return False
    if memory.best in memory.validated:
        rank = (failures, -_number(summary["objective"]))
        better = rank < (memory.failures, -_number(memory.objective))
    else:
        better = won
    if better:
        memory.best, memory.objective = candidate_hash, summary["objective"]
        memory.failures, memory.best_step = failures, memory.step + 1
        _make_due(memory, candidate_hash, "new best")
    return better


async def _settle(training: Training) -> None:
    """The search is over: look at the candidates it would have validated next, then close it."""
    memory, plan, run = training.memory, training.plan, training.session.prepared.run
    if not _reached_target(training):
        for candidate_hash in strategy.finalists(plan, memory.optimizer, training.pool):
            full = memory.full_marks(known=memory.told)
            if memory.objective is not None and memory.objective >= full:
                break
            try:
                verdict = await validate_against(
                    training,
                    training.pool[candidate_hash],
                    training.pool[memory.best],
                    rival_known=memory.best in memory.validated,
                    strictly=True,
                    full=full,
                    meter=training.meter.aside,
                )
            except BudgetExhausted:
                break
            if verdict.complete:
                await _compare(training, candidate_hash, won=verdict.won)
            memory.told += 1
    if memory.baseline not in memory.versions:
        memory.due.insert(0, [memory.baseline, "baseline"])
    memory.settled = True
    await memory.save(training.session.store, run.run_id, lease=training.session.lease)


def _reached_target(training: Training) -> bool:
    best = training.memory.objective
    return best is not None and any(
        isinstance(condition, TargetScore) and best >= condition.score
        for condition in training.session.prepared.job.stop
    )


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


def _make_due(memory: Memory, candidate: str, reason: str) -> None:
    known = candidate in memory.versions or any(entry[0] == candidate for entry in memory.due)
    if not known:
        memory.due.append([candidate, reason])


def _stop(training: Training) -> str | None:
    session, plan, memory = training.session, training.plan, training.memory
    elapsed = (session.store.clock() - session.prepared.run.started_at).total_seconds()
    progress = Progress(
        step=memory.step,
        epoch=memory.epoch,
        best=memory.objective,
        steps_since_best=memory.step - memory.best_step,
        elapsed=elapsed,
    )
    if asked := stop_reason(session.prepared.job.stop, progress):
        return asked
    full = memory.full_marks(known=memory.told)
    if memory.objective is not None and memory.objective >= full and not memory.failures:
        said = f"the validation objective is {memory.objective:g}: nothing can beat it"
        doubted = memory.best == memory.baseline  # 1 is the worst score of many a scale
        hint = "; an evaluator whose scores go beyond 1 has to be given its `scale`"
        return said + hint * doubted
    batch = int(getattr(plan.optimizer, "minibatch", 10))
    limit = IDLE_STEPS + math.ceil(len(plan.train) / batch)
    limit *= int(getattr(plan.optimizer, "parallel", 1)) if pipelined(plan.optimizer) else 1
    return f"no new candidate in {limit} steps" if memory.idle >= limit else None
