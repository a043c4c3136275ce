"""What each node of the training graph does, on an open `Training`."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from typing import Any

from orcheo_agentensor.config import RunConfig
from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.evaluation.graph import summary_of
from orcheo_agentensor.evaluation.runner import Candidate
from orcheo_agentensor.optimizers import SearchSpace, TrialOutcome
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.tensor import prompts_to_json
from orcheo_agentensor.training.guardrail import compare_holdout
from orcheo_agentensor.training.memory import Memory
from orcheo_agentensor.training.stop import Progress, stop_reason
from orcheo_agentensor.training.trial import Training, edits_of, run_trials

IDLE_STEPS = 10


async def measure_baseline(training: Training) -> Memory:
    """Validate the prompts the job starts from and begin the search there."""
    session, plan, job = training.session, training.plan, training.session.prepared.job
    candidate = Candidate.of(session.prepared.prompts)
    summary = await validate(training, candidate)
    memory = Memory(
        baseline=candidate.hash,
        best=candidate.hash,
        objective=summary["objective"],
        failures=len(plan.validation) - summary["n_ok"],
        due=[[candidate.hash, "baseline"]],
    )
    memory.optimizer = plan.optimizer.start(
        SearchSpace(
            components=plan.trainable,
            case_ids=tuple(case.id for case in plan.train),
            baseline=candidate.hash,
            objective=summary["objective"],
            seed=job.seed,
        )
    )
    memory.stopped = _stop(training, memory)
    await training.pool.save(
        session.store,
        session.prepared.run.run_id,
        candidate,
        parent=None,
        status="accepted",
        step=0,
        info={"objective": summary["objective"]},
        lease=session.lease,
    )
    await memory.save(session.store, session.prepared.run.run_id, lease=session.lease)
    return memory


async def validate(training: Training, candidate: Candidate) -> dict[str, Any]:
    """The evaluation summary of a candidate on the validation cases: what a version carries."""
    results = await training.measure(training.plan.validation, candidate, phase="validation")
    return await summary_of(training.session, results)


async def take_step(training: Training) -> None:
    """One optimizer step: ask, try, tell; the new state is stored before anything is said."""
    session, plan, memory = training.session, training.plan, training.memory
    run_id, events = session.prepared.run.run_id, session.events
    trials = plan.optimizer.ask(memory.optimizer)
    if not trials:
        memory.stopped = f"{plan.optimizer.name} has nothing more to try"
        await memory.save(session.store, run_id, lease=session.lease)
        return
    events.emit("step_started", step=memory.step, epoch=memory.epoch, trials=len(trials))
    try:
        outcomes = await run_trials(training, trials)
    except BudgetExhausted as spent:
        memory.stopped = spent.message
        await memory.save(session.store, run_id, lease=session.lease)
        return
    for outcome in outcomes:
        await _take_in(training, outcome)
    made = [o.child for o in outcomes if o.child]
    fresh = any(training.pool.is_new(child, step=memory.step) for child in made)
    memory.idle = 0 if fresh else memory.idle + 1
    memory.optimizer = plan.optimizer.tell(memory.optimizer, outcomes)
    memory.step += 1
    memory.epoch = int(memory.optimizer.get("epoch", 0))
    current = memory.optimizer.get("current", memory.best)
    if memory.step % session.prepared.job.checkpoint_every == 0:
        _make_due(memory, current, "interval")
    memory.stopped = _stop(training, memory)
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
    session, memory, events = training.session, training.memory, training.session.events
    for name, edit in edits_of(outcome).items():
        memory.remember(name, edit)
    scores = {
        "parent_score": outcome.parent_score,
        "child_score": outcome.child_score,
        "validation": outcome.validation,
    }
    if outcome.child is not None:
        parent = training.pool[outcome.parent]
        texts = {name: tensor.text for name, tensor in parent.prompts.items()}
        await training.pool.save(
            session.store,
            session.prepared.run.run_id,
            training.pool.with_texts({**texts, **outcome.prompts}),
            parent=outcome.parent,
            status="accepted" if outcome.status == "accepted" else "rejected",
            step=memory.step,
            info={**scores, "reason": outcome.reason},
            lease=session.lease,
        )
    if outcome.status == "accepted" and outcome.child is not None:
        summary = await validate(training, training.pool[outcome.child])
        failures = len(training.plan.validation) - summary["n_ok"]
        better = (failures, -_number(summary["objective"])) < (
            memory.failures,
            -_number(memory.objective),
        )
        if better:
            memory.best, memory.objective = outcome.child, summary["objective"]
            memory.failures, memory.best_step = failures, memory.step + 1
            _make_due(memory, outcome.child, "new best")
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


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


def _make_due(memory: Memory, candidate: str, reason: str) -> None:
    known = candidate in memory.versions or any(entry[0] == candidate for entry in memory.due)
    if not known:
        memory.due.append([candidate, reason])


def _stop(training: Training, memory: Memory) -> str | None:
    session, plan = training.session, training.plan
    batch = int(getattr(plan.optimizer, "minibatch", 10))
    limit = IDLE_STEPS + math.ceil(len(plan.train) / batch)
    if memory.idle >= limit:
        return f"no new candidate in {limit} steps"
    elapsed = (session.store.clock() - session.prepared.run.started_at).total_seconds()
    return stop_reason(
        session.prepared.job.stop,
        Progress(
            step=memory.step,
            epoch=memory.epoch,
            best=memory.objective,
            steps_since_best=memory.step - memory.best_step,
            elapsed=elapsed,
        ),
    )


async def store_versions(training: Training) -> None:
    """Write every candidate that is due as an immutable version with its validation metrics."""
    session, memory, run = training.session, training.memory, training.session.prepared.run
    for candidate_hash, reason in memory.due:
        candidate = training.pool[candidate_hash]
        summary = await validate(training, candidate)
        parent = training.pool.parent(candidate_hash)
        first = memory.versions.get(memory.baseline, session.prepared.base)
        version = await session.store.checkpoints.save(
            workflow_id=run.workflow_id,
            runnable_config=version_config(session.prepared.job_config, candidate),
            metrics=summary,
            metadata={
                "reason": reason,
                "step": memory.step,
                "optimizer": training.plan.optimizer.name,
                "split": "validation",
                "candidate": candidate_hash,
            },
            parent_version=memory.versions.get(parent, first) if parent else first,
            run_id=run.run_id,
            dataset_version=run.dataset_version,
            evaluator_set=run.evaluator_set,
            lease=session.lease,
        )
        memory.versions[candidate_hash] = version.config_version
        session.events.emit(
            "checkpoint_saved",
            version=version.config_version,
            reason=reason,
            step=memory.step,
            objective=summary["objective"],
        )
    memory.due = []
    await memory.save(session.store, run.run_id, lease=session.lease)


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


async def measure_holdout(training: Training) -> dict[str, Any] | None:
    """Baseline and best on cases the search never saw, paired.

    None without such cases, and where the budget ends before all of them are measured.
    """
    plan, memory, session = training.plan, training.memory, training.session
    training.meter.release()
    if not plan.holdout:
        return None
    baseline, best = training.pool[memory.baseline], training.pool[memory.best]
    try:
        before = await training.measure(plan.holdout, baseline, phase="holdout")
        after = (
            before
            if best.hash == baseline.hash
            else await training.measure(plan.holdout, best, phase="holdout")
        )
    except BudgetExhausted:
        return None
    difference = await asyncio.to_thread(
        compare_holdout,
        before,
        after,
        weights=training.weights,
        seed=session.prepared.job.seed,
    )
    holdout: dict[str, Any] = {
        **asdict(difference),
        "baseline": await summary_of(session, before),
        "best": await summary_of(session, after),
    }
    if holdout["ci95"] is not None:
        holdout["ci95"] = list(holdout["ci95"])
    session.events.emit("holdout_summary", **holdout)
    return holdout


async def version_record(training: Training, candidate_hash: str) -> dict[str, Any]:
    """A stored candidate as the graph's output shows it."""
    candidate = training.pool[candidate_hash]
    summary = await validate(training, candidate)
    return {
        "config_version": training.memory.versions.get(candidate_hash),
        "candidate": candidate_hash[:12],
        "objective": summary["objective"],
        "scores": {name: entry["mean"] for name, entry in summary["evaluators"].items()},
        "prompts": prompts_to_json(candidate.prompts),
    }
