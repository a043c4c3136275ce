"""The proof on held-out cases, the guardrails, and the end: promote, keep, reject or ask."""

from __future__ import annotations

import asyncio
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orcheo_agentensor.errors import AgentensorError, AliasConflict, BudgetExhausted, NotFound
from orcheo_agentensor.evaluation.graph import summary_of
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.statistics import (
    PairedDifference,
    mean_interval,
    paired_difference,
    percentile,
)
from orcheo_agentensor.publishing import publish_to
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.training.active import Training

if TYPE_CHECKING:
    from orcheo_agentensor.storage import ConfigCheckpoint, Store


def deltas(
    baseline: Sequence[CaseResult], best: Sequence[CaseResult], *, seed: int = 0
) -> dict[str, Any]:
    """How much slower and dearer `best` is than `baseline` on the same cases, as JSON.

    `latency_ms` (with both `p95`), `tokens` and `cost` (in US dollars) each have the means of both
    and the mean difference per case, latency and cost also its 95 % bootstrap interval. They are
    taken over the cases on which neither target failed; `n` counts them. Tokens and cost include
    the evaluators'. What is not known is None: everything without such a case, tokens and cost
    where a model did not report them or has no known price. May import scipy, so call it off the
    loop.
    """
    pairs = [
        (one, other)
        for one, other in zip(baseline, best, strict=True)
        if one.target_failure is None and other.target_failure is None
    ]

    def compared(
        value: Callable[[CaseResult], float | None], *, interval: bool = True
    ) -> dict[str, Any]:
        before = [value(one) for one, _ in pairs]
        after = [value(other) for _, other in pairs]
        known = [n for n in before if n is not None], [n for n in after if n is not None]
        found: dict[str, Any] = {"baseline": None, "best": None, "difference": None}
        found |= {"ci95": None} if interval else {}
        if not pairs or min(map(len, known)) < len(pairs):
            return found
        each = [b - a for a, b in zip(*known, strict=True)]
        found |= {"baseline": _mean(known[0]), "best": _mean(known[1]), "difference": _mean(each)}
        if interval and (ends := mean_interval(each, seed=seed)) is not None:
            found["ci95"] = list(ends)
        return found

    p95 = [percentile([pair[side].latency_ms for pair in pairs], 0.95) for side in (0, 1)]
    latency = compared(lambda result: result.latency_ms)
    latency |= {"baseline_p95": p95[0], "best_p95": p95[1]}
    return {
        "n": len(pairs),
        "latency_ms": latency,
        "tokens": compared(lambda result: result.usage.tokens, interval=False),
        "cost": compared(lambda result: result.usage.cost),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


ALPHA = 0.05
KEEP_SHARE = 0.98
KEEP_ABSOLUTE = 0.02
LATENCY_SHARE = 1.25
LATENCY_MS = 50.0
TARGET_GAIN = 1.10

DecisionStatus: TypeAlias = Literal["promoted", "kept", "rejected", "awaiting_approval"]


def paired_objectives(
    baseline: Sequence[CaseResult], best: Sequence[CaseResult], weights: Mapping[str, float]
) -> tuple[list[float], list[float]]:
    """The objectives of both on the cases that both have scored completely."""
    before, after = [], []
    for one, other in zip(baseline, best, strict=True):
        left, right = one.objective(weights), other.objective(weights)
        if left is not None and right is not None:
            before.append(left)
            after.append(right)
    return before, after


def compare_holdout(
    baseline: Sequence[CaseResult],
    best: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    seed: int,
) -> PairedDifference:
    """The gain on held-out cases, paired, with its interval."""
    before, after = paired_objectives(baseline, best, weights)
    return paired_difference(before, after, seed=seed)


def guardrail_breaches(baseline: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    """What forbids a promotion, given both holdout summaries; empty when nothing does.

    Each evaluator's mean must be at least 0.98 of the baseline's (at most 0.02 below it where the
    baseline is not positive), p95 latency at most 1.25 x the baseline's + 50 ms, and the best may
    not fail on more cases than the baseline.
    """
    breaches = []
    for name, entry in baseline["evaluators"].items():
        before = entry["mean"]
        after = best["evaluators"].get(name, {}).get("mean")
        if before is None:
            continue
        floor = before * KEEP_SHARE if before > 0 else before - KEEP_ABSOLUTE
        if after is None:
            breaches.append(f"{name}: has no holdout score, the baseline has {before:.4f}")
        elif after < floor - 1e-12:
            breaches.append(f"{name}: {after:.4f} on holdout is below {floor:.4f} (-2 % guardrail)")
    p95, p95_before = best["latency_ms"]["p95"], baseline["latency_ms"]["p95"]
    if p95 is not None and p95_before is not None:
        ceiling = LATENCY_SHARE * p95_before + LATENCY_MS
        if p95 > ceiling:
            breaches.append(f"latency: p95 {p95:.0f} ms is above {ceiling:.0f} ms")
    failed = [s["n_target_failed"] + s["n_evaluator_failed"] for s in (baseline, best)]
    if failed[1] > failed[0]:
        breaches.append(f"failures: {failed[1]} holdout cases, the baseline has {failed[0]}")
    return breaches


def verdict(
    *,
    changed: bool,
    holdout: Mapping[str, Any] | None,
    min_coverage: float,
) -> tuple[Literal["eligible", "kept", "rejected"], list[str]]:
    """Whether the best version is eligible for promotion, and why (not).

    `holdout` has `baseline` and `best` (summaries) and the paired `gain`, `ci95`, `p_value`.
    """
    if not changed:
        return "kept", ["no candidate was better than the baseline on validation"]
    if holdout is None:
        return "kept", ["the dataset has no holdout split: the gain is unproved"]
    breaches = guardrail_breaches(holdout["baseline"], holdout["best"])
    before, coverage = holdout["baseline"]["coverage"], holdout["best"]["coverage"]
    if coverage < min_coverage:
        breaches.append(f"coverage: {coverage:.3f} of the holdout is below {min_coverage:.3f}")
    if breaches:
        return "rejected", breaches
    if before < min_coverage:
        return "kept", [
            f"the baseline could be scored on {before:.3f} of the holdout only, which is below"
            f" {min_coverage:.3f}: the gain is unproved"
        ]
    if holdout["p_value"] >= ALPHA or holdout["gain"] <= 0:
        return "kept", [
            f"the holdout gain of {holdout['gain']:+.4f} is not significant"
            f" (p = {holdout['p_value']:.4f}, alpha = {ALPHA:g})"
        ]
    return "eligible", [
        f"holdout gain {holdout['gain']:+.4f} on {holdout['n']} cases"
        f" (p = {holdout['p_value']:.4f})",
        "every evaluator and the p95 latency are within the guardrail",
    ]


def target_gain(baseline: float | None, best: float | None) -> dict[str, Any]:
    """Whether the training mean rose by the ten percent aimed for; from zero, whether it rose."""
    if baseline is None or best is None:
        return {"met": None, "reason": "not measured"}
    wanted = baseline + (TARGET_GAIN - 1) * abs(baseline)
    met = best > baseline and best >= wanted - 1e-12
    return {"met": met, "baseline": baseline, "best": best, "wanted": wanted}


async def measure_holdout(training: Training) -> dict[str, Any] | None:
    """Baseline and best on cases the search never saw, paired.

    None without such cases, and where the budget ends before all of them are measured.
    """
    plan, state, run = training.plan, training.state, training.run
    training.meter.release()
    if not plan.holdout:
        return None
    baseline, best = training.candidates[state.baseline], training.candidates[state.best]
    try:
        before = await training.measure_all(plan.holdout, baseline, phase="holdout")
        after = (
            before
            if best.hash == baseline.hash
            else await training.measure_all(plan.holdout, best, phase="holdout")
        )
    except BudgetExhausted:
        return None
    seed = run.job.seed
    difference = await asyncio.to_thread(
        compare_holdout, before, after, weights=training.weights, seed=seed
    )
    holdout: dict[str, Any] = {
        **asdict(difference),
        "baseline": await summary_of(run, before),
        "best": await summary_of(run, after),
        "deltas": await asyncio.to_thread(deltas, before, after, seed=seed),
    }
    if holdout["ci95"] is not None:
        holdout["ci95"] = list(holdout["ci95"])
    run.events.emit("holdout_summary", **holdout)
    return holdout


async def rejection(store: Store, version: ConfigCheckpoint) -> str | None:
    """Why the training run of a version has rejected it, in a sentence; None where it has not."""
    if version.run_id is None:
        return None
    try:
        run = await store.runs.get(version.run_id)
    except NotFound:
        return None
    result = run.result or {}
    decision, best = result.get("decision") or {}, result.get("best") or {}
    rejected = decision.get("status") == "rejected"
    if not rejected or best.get("config_version") != version.config_version:
        return None
    reasons = "; ".join(decision["reasons"])
    return (
        f"version {version.config_version} of workflow {version.workflow_id!r} was rejected by "
        f"its training run {run.run_id}: {reasons}"
    )


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
    state, job = training.state, training.run.job
    status, reasons = verdict(
        changed=state.best != state.baseline, holdout=holdout, min_coverage=job.min_coverage
    )
    if state.refused is not None:
        return status, [*reasons, f"every proposal was refused, the last one: {state.refused}"]
    if status == "kept" and holdout is None and state.best != state.baseline:
        if training.plan.holdout:
            reasons = ["the budget ended before the holdout was measured: the gain is unproved"]
        return status, reasons
    if state.best != state.baseline and (leaked := training.plan.leaked):
        reasons = [
            *reasons,
            f"{leaked} of {len(training.plan.holdout)} holdout cases have the inputs of cases that"
            " the search saw: on these, a gain may be learnt by heart",
        ]
    coverage = 1 - state.failures / len(training.plan.validation)
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
    state = training.state
    texts = [
        {name: tensor.text for name, tensor in training.candidates[which].prompts.items()}
        for which in (state.baseline, state.best)
    ]
    return {
        "type": "approval",
        "question": f"Promote version {state.versions[state.best]} to {PRODUCTION!r}?",
        "run_id": training.run.record.run_id,
        "workflow_id": training.run.record.workflow_id,
        "version": state.versions[state.best],
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
    run, state = training.run, training.state
    workflow_id = run.record.workflow_id
    version = state.versions[state.best]
    aliases = run.store.aliases
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
    run, state, to = training.run, training.state, training.plan.publish
    if to is None:
        return [], []
    version = state.versions[state.best]
    try:
        made = await publish_to(
            to,
            run.record.workflow_id,
            version,
            store=run.store,
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
