"""Storing candidates as versions, and showing them."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.config import RunConfig
from orcheo_agentensor.evaluation.candidate import Candidate
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.tensor import prompts_to_json
from orcheo_agentensor.training.steps import validate
from orcheo_agentensor.training.work import Training


async def store_versions(training: Training) -> None:
    """Write every candidate that is due as an immutable version with its validation metrics."""
    session, memory, run = training.session, training.memory, training.session.prepared.run
    if memory.due and memory.baseline not in memory.versions:
        memory.due = [
            [memory.baseline, "baseline"],
            *(entry for entry in memory.due if entry[0] != memory.baseline),
        ]
    for candidate_hash, reason in memory.due:
        candidate = training.pool[candidate_hash]
        summary = await validate(training, candidate)
        memory.validated.setdefault(candidate_hash, memory.told)
        if candidate_hash == memory.best:
            memory.objective = summary["objective"]
            memory.failures = len(training.plan.validation) - summary["n_ok"]
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
