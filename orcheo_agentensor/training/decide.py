"""The end of a training run: promote, keep, reject, or ask."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from orcheo_agentensor.errors import AgentensorError, AliasConflict
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.publishing import publish_to
from orcheo_agentensor.training.guardrail import target_gain, verdict
from orcheo_agentensor.training.work import Training

PRODUCTION = "production"


def prompt_diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A unified diff of two prompt sets, prompt by prompt; empty when they are the same."""
    parts: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            parts.extend(
                difflib.unified_diff(
                    old.splitlines(),
                    new.splitlines(),
                    f"{name} (before)",
                    f"{name} (after)",
                    lineterm="",
                )
            )
    return "\n".join(parts)


def judge(training: Training, holdout: dict[str, Any] | None) -> tuple[str, list[str]]:
    """What the numbers say about the best version: `eligible`, `kept` or `rejected`, and why."""
    memory, job = training.memory, training.session.prepared.job
    status, reasons = verdict(
        changed=memory.best != memory.baseline, holdout=holdout, min_coverage=job.min_coverage
    )
    if memory.refused is not None:
        return status, [*reasons, f"every proposal was refused, the last one: {memory.refused}"]
    if status == "kept" and holdout is None and memory.best != memory.baseline:
        if training.plan.holdout:
            reasons = ["the budget ended before the holdout was measured: the gain is unproved"]
        return status, reasons
    if memory.best != memory.baseline and (leaked := training.plan.leaked):
        reasons = [
            *reasons,
            f"{leaked} of {len(training.plan.holdout)} holdout cases have the inputs of cases that"
            " the search saw: on these, a gain may be learnt by heart",
        ]
    coverage = 1 - memory.failures / len(training.plan.validation)
    if status == "eligible" and coverage < job.min_coverage:
        return "rejected", [
            f"coverage: {coverage:.3f} of validation is below {job.min_coverage:.3f}"
        ]
    return status, reasons


def gain(training: Training, baseline: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """The +10 % target on the mean that the search worked on."""
    return {"split": "validation", **target_gain(baseline["objective"], best["objective"])}


def approval_request(
    training: Training,
    reasons: list[str],
    holdout: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a person is shown before they approve: the diff and the numbers."""
    memory = training.memory
    texts = [
        {name: tensor.text for name, tensor in training.pool[which].prompts.items()}
        for which in (memory.baseline, memory.best)
    ]
    return {
        "type": "approval",
        "question": f"Promote version {memory.versions[memory.best]} to {PRODUCTION!r}?",
        "run_id": training.session.prepared.run.run_id,
        "workflow_id": training.session.prepared.run.workflow_id,
        "version": memory.versions[memory.best],
        "alias": PRODUCTION,
        "reasons": reasons,
        "holdout": holdout,
        "diff": prompt_diff(*texts),
        "answer_with": {"approve": True, "actor": "who", "reason": "why"},
    }


def read_answer(answer: Any) -> tuple[bool, str, str]:
    """Approved?, by whom, why: from `True`, "approve" or `{"approve", "actor", "reason"}`.

    Anything that is not plainly a yes is a no.
    """
    if isinstance(answer, Mapping):
        return (
            answer.get("approve") is True,
            str(answer.get("actor") or "unknown"),
            str(answer.get("reason") or ""),
        )
    return answer is True or answer == "approve", "unknown", ""


async def promote(training: Training, *, actor: str, reason: str) -> tuple[str, list[str]]:
    """Move `production` to the best version, if nobody has moved it meanwhile."""
    session, memory = training.session, training.memory
    workflow_id = session.prepared.run.workflow_id
    version = memory.versions[memory.best]
    aliases = session.store.aliases
    current = await aliases.resolve(workflow_id, PRODUCTION)
    before = current
    if current == version:
        (last,) = await aliases.log(workflow_id, PRODUCTION, limit=1)
        if (last.actor, last.reason) != (actor, reason):
            return "promoted", [f"{PRODUCTION!r} points to version {version}"]
        before = last.from_version  # moved by this run, before it was cut off
    else:
        try:
            await aliases.move(
                workflow_id, PRODUCTION, to=version, expect=current, actor=actor, reason=reason
            )
        except AliasConflict as conflict:
            return "kept", [conflict.message]
    shown = "nothing" if before is None else f"version {before}"
    return "promoted", [f"{PRODUCTION!r} moved from {shown} to version {version}"]


async def publish(
    training: Training, *, actor: str, reason: str, settings: Settings
) -> tuple[list[dict[str, Any]], list[str]]:
    """Publish the version that was just promoted to where the job says, and tell of it.

    Trouble with a server is told and no more: the promotion stands, and publishing can be repeated.
    """
    session, memory, to = training.session, training.memory, training.plan.publish
    if to is None:
        return [], []
    version = memory.versions[memory.best]
    try:
        made = await publish_to(
            to,
            session.prepared.run.workflow_id,
            version,
            store=session.store,
            actor=actor,
            reason=reason,
            settings=settings,
        )
    except AgentensorError as error:
        return [], [f"version {version} could not be published: {error.message}"]
    told = [
        f"published to assistant {one.assistant_id} at {one.url or 'this server'}, "
        f"its version {one.assistant_version}"
        for one in made
    ]
    return [one.model_dump(mode="json") for one in made], told
