"""The proof on held-out cases, the guardrails, and the end: promote, keep, reject or ask."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from orcheo_agentensor.display import p_equals
from orcheo_agentensor.errors import (
    AgentensorError,
    AliasConflict,
    BudgetExhausted,
    LeaseLost,
    NotFound,
)
from orcheo_agentensor.evaluation.results import CaseResult, beyond_sla
from orcheo_agentensor.evaluation.statistics import (
    mean_interval,
    p95_excess,
    paired_difference,
    percentile,
)
from orcheo_agentensor.evaluation.work import summary_of
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.publishing import publish_to
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.comparison import paired_objectives, together
from orcheo_agentensor.training.job import Goal, Guardrail, LatencyGuardrail
from orcheo_agentensor.training.objective import (
    Objective,
    breaches,
    front,
    measured,
    sentence,
    total_chars,
)

if TYPE_CHECKING:
    from orcheo_agentensor.storage import ConfigCheckpoint, Store


TARGET_GAIN = Goal().gain
DEFAULT = Guardrail()
PRODUCTION = "production"
FRONT = 24
"""Most validated candidates that are shown beside the chosen one."""
MANY_REFUSALS = 3  # proposals refused in a row, of which a decision tells


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
        found: dict[str, Any] = {"baseline": None, "best": None, "difference": None}
        found |= {"ci95": None} if interval else {}
        before = [known for one, _ in pairs if (known := value(one)) is not None]
        after = [known for _, other in pairs if (known := value(other)) is not None]
        if not pairs or not len(before) == len(after) == len(pairs):
            return found
        each = [b - a for a, b in zip(before, after, strict=True)]
        found |= {"baseline": fmean(before), "best": fmean(after), "difference": fmean(each)}
        if interval and (ends := mean_interval(each, seed=seed)) is not None:
            found["ci95"] = list(ends)
        return found

    p95 = [percentile([pair[side].latency_ms for pair in pairs], 0.95) for side in (0, 1)]
    latency = compared(lambda result: result.latency_ms)
    return {
        "n": len(pairs),
        "latency_ms": {**latency, "baseline_p95": p95[0], "best_p95": p95[1]},
        "tokens": compared(lambda result: result.usage.tokens, interval=False),
        "cost": compared(lambda result: result.usage.cost),
    }


def latency_verdict(
    baseline: Sequence[CaseResult],
    best: Sequence[CaseResult],
    rule: LatencyGuardrail,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The p95 latency of `best` against what `rule` allows, as JSON; paired by case.

    `p_value` tells how likely chance alone makes such an excess; it is None where no case was
    measured on both sides. May import scipy, so call it off the loop.
    """
    pairs = [
        (one.latency_ms, other.latency_ms)
        for one, other in zip(baseline, best, strict=True)
        if one.target_failure is None and other.target_failure is None
    ]
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    p95 = percentile(before, 0.95)
    if p95 is None:
        return {"n": 0, "p95": None, "ceiling": None, "p_value": None}
    ratio, slack = rule.p95_ratio, rule.slack_ms
    chance = p95_excess(before, after, ratio=ratio, slack=slack, seed=seed)
    ceiling = ratio * p95 + slack
    return {
        "n": len(pairs),
        "p95": percentile(after, 0.95),
        "ceiling": ceiling,
        "p_value": chance,
    }


def guardrail_breaches(
    holdout: Mapping[str, Any], guardrail: Guardrail = DEFAULT
) -> tuple[list[str], list[str]]:
    """What forbids a promotion by the holdout measurement, and what could not be decided.

    Each mean in the objective must be at least `min_ratio` of the baseline's (at most 0.02 below it
    where the baseline is not positive, at the default ratio), the best may not fail on more cases
    than the baseline, and latency and cost must keep their guardrails.
    """
    baseline, best = holdout["baseline"], holdout["best"]
    breaches, undecided = [], []
    for name, entry in baseline["evaluators"].items():
        before = entry["mean"]
        after = best["evaluators"].get(name, {}).get("mean")
        if before is None or not entry.get("in_objective", True):
            continue
        lost = 1 - guardrail.min_ratio
        floor = before - lost * before if before > 0 else before - lost
        if after is None:
            breaches.append(f"{name}: has no holdout score, the baseline has {before:.4f}")
        elif after < floor - 1e-12:
            percents = f"-{100 * lost:.3g} % guardrail"
            breaches.append(f"{name}: {after:.4f} on holdout is below {floor:.4f} ({percents})")
    rule, found = guardrail.latency, holdout.get("latency")
    if rule != "off" and found and found["n"]:
        excess = f"p95 {found['p95']:.0f} ms is above {found['ceiling']:.0f} ms"
        if found["n"] < rule.min_cases:
            told = f"latency: too few cases to judge ({found['n']} of {rule.min_cases})"
            undecided.append(f"{told}; {excess}" if found["p95"] > found["ceiling"] else told)
        elif found["p95"] > found["ceiling"] and found["p_value"] < guardrail.alpha:
            breaches.append(f"latency: {excess} ({p_equals(found['p_value'])})")
    if guardrail.cost != "off":
        cost = (holdout.get("deltas") or {}).get("cost") or {}
        before, after = cost.get("baseline"), cost.get("best")
        if before is None or after is None:
            breaches.append("cost: is not known, so its guardrail cannot be kept")
        elif after > guardrail.cost.ratio * before + 1e-12:
            allowed = guardrail.cost.ratio * before
            breaches.append(f"cost: ${after:.2g} per case is above ${allowed:.2g}")
    failed = [s["n_target_failed"] + s["n_evaluator_failed"] for s in (baseline, best)]
    if failed[1] > failed[0]:
        breaches.append(f"failures: {failed[1]} holdout cases, the baseline has {failed[0]}")
    return breaches, undecided


def eligibility(
    *,
    changed: bool,
    holdout: Mapping[str, Any] | None,
    min_coverage: float,
    min_within_sla: float | None = None,
    guardrail: Guardrail = DEFAULT,
    broken: Sequence[str] = (),
) -> tuple[Literal["eligible", "kept", "rejected"], list[str]]:
    """Whether the best version is eligible for promotion, and the reasons.

    `holdout` has `baseline` and `best` (summaries) and the paired `gain`, `n`, `p_value`; `broken`
    are the limits of the objective that were not kept there.
    """
    if not changed:
        return "kept", ["no candidate was better than the baseline on validation"]
    if holdout is None:
        return "kept", ["the dataset has no holdout split: the gain is unproved"]
    breaches, undecided = guardrail_breaches(holdout, guardrail)
    breaches += broken
    before, coverage = holdout["baseline"]["coverage"], holdout["best"]["coverage"]
    if coverage < min_coverage:
        breaches.append(f"coverage: {coverage:.3f} of the holdout is below {min_coverage:.3f}")
    if min_within_sla is not None and (late := beyond_sla(holdout["best"], min_within_sla)):
        breaches.append(f"holdout: {late}")
    if breaches:
        return "rejected", [*breaches, *undecided]
    if before < min_coverage:
        return "kept", [
            f"the baseline could be scored on {before:.3f} of the holdout only, which is below"
            f" {min_coverage:.3f}: the gain is unproved"
        ]
    if holdout["p_value"] >= guardrail.alpha or holdout["gain"] <= 0:
        return "kept", [
            f"the holdout gain of {holdout['gain']:+.4f} is not significant"
            f" ({p_equals(holdout['p_value'])}, alpha = {guardrail.alpha:g})",
            *undecided,
        ]
    return "eligible", [
        f"holdout gain {holdout['gain']:+.4f} on {holdout['n']} cases"
        f" ({p_equals(holdout['p_value'])})",
        "the guardrails are kept",
        *undecided,
    ]


async def goals_of(
    training: Training, holdout: Mapping[str, Any] | None, *, validation: Sequence[float | None]
) -> dict[str, dict[str, Any]]:
    """The goal by split, for baseline and best on the same cases: on all of validation and holdout,
    and on the `n` training cases that the search has measured both on."""
    run, state, candidates = training.run, training.state, training.candidates
    gain, train = run.job.goal.gain, training.plan.train
    both = [candidates[state.baseline], candidates[state.best]]
    unrecorded = training.runner.unrecorded
    cases = [c for c in train if not any([await unrecorded([c], one) for one in both])]
    known: Sequence[Sequence[float]] = [(), ()]
    if cases:
        before, after = [await training.measure(cases, one, phase="train") for one in both]
        known = paired_objectives(before, after, training.weights)
    means = [fmean(side) if side else None for side in known]
    proof = [(holdout or {}).get(side, {}).get("objective") for side in ("baseline", "best")]
    return {
        "train": {
            **target_gain(means[0], means[1], gain=gain),
            "n": len(known[0]),
            "cases": len(train),
        },
        "validation": target_gain(validation[0], validation[1], gain=gain),
        "holdout": target_gain(proof[0], proof[1], gain=gain),
    }


def goals_missed(goal: Goal, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each split on which the goal is a gate and is not met."""
    missed = []
    for split in goal.gate:
        one = found[split]
        if one["met"] is None:
            missed.append(f"goal: {goal.gain:+.0%} on {split} was not measured")
        elif not one["met"]:
            change = f"{one['baseline']:.4f} to {one['best']:.4f}"
            missed.append(f"goal: {change} on {split} is less than {goal.gain:+.0%}")
    return missed


def target_gain(
    baseline: float | None, best: float | None, *, gain: float = TARGET_GAIN
) -> dict[str, Any]:
    """Whether the mean rose by the share aimed for; from zero, whether it rose at all."""
    if baseline is None or best is None:
        return {"met": None, "reason": "not measured", "gain": gain}
    wanted = baseline + gain * abs(baseline)
    met = best > baseline and best >= wanted - 1e-12
    return {"met": met, "baseline": baseline, "best": best, "wanted": wanted, "gain": gain}


async def measure_holdout(training: Training) -> dict[str, Any] | None:
    """Baseline and best on cases the search never saw, paired, in one interleaved pass.

    None without such cases, and where the budget ends before all of them are measured.
    """
    plan, run = training.plan, training.run
    training.meter.release()
    if not plan.holdout or training.state.blocked is not None:
        return None
    baseline = training.candidates[training.state.baseline]
    best = training.candidates[training.state.best]
    try:
        both = [baseline] if best.hash == baseline.hash else [baseline, best]
        measured = await training.measure_beside(plan.holdout, both, phase="holdout")
        before, after = together(measured[0], measured[-1])
    except BudgetExhausted:
        return None
    scores, seed = paired_objectives(before, after, training.weights), run.job.seed
    difference = await asyncio.to_thread(paired_difference, *scores, seed=seed)
    holdout: dict[str, Any] = {
        **asdict(difference),
        "baseline": await summary_of(run, before),
        "best": await summary_of(run, after),
        "deltas": await asyncio.to_thread(deltas, before, after, seed=seed),
    }
    rule = run.job.guardrail.latency
    if rule != "off":
        holdout["latency"] = await asyncio.to_thread(
            latency_verdict, before, after, rule, seed=seed
        )
    if holdout["ci95"] is not None:
        holdout["ci95"] = list(holdout["ci95"])
    run.events.emit("holdout_summary", **holdout)
    return holdout


async def rejection(store: Store, version: ConfigCheckpoint) -> str | None:
    """A sentence that says why its training run has rejected a version; None where it has not."""
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


async def weigh(training: Training, holdout: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the job's objective comes to, as JSON; nothing where the job states none.

    `measures` are those that it limits, of baseline and best on the cases of `split`: holdout, or
    validation where nothing was measured there. `front` are the validated candidates, the newest
    `FRONT` at most; `chosen` is the best.
    """
    run, state, plan = training.run, training.state, training.plan
    stated, candidates = run.job.objective, training.candidates
    if stated == Objective() or state.blocked is not None:
        return {}
    split = "validation" if holdout is None else "holdout"
    both = [candidates[one] for one in (state.baseline, state.best)]
    cases = plan.validation if holdout is None else plan.holdout
    before, after = [await training.measure_all(cases, one, phase=split) for one in both]
    found = await asyncio.to_thread(measured, stated, before, after, seed=run.job.seed)
    chars = [total_chars(one.prompts) for one in both]
    if stated.length is not None:
        allowed = stated.most_chars(chars[0])
        kept = allowed is None or chars[1] <= allowed or state.best == state.baseline
        told = {"limit": stated.length, "baseline": chars[0], "best": chars[1]}
        found["length"] = {**told, "allowed": allowed, "kept": kept}
    newest = sorted(state.validated, key=lambda one: state.validated[one])[-FRONT:]
    points = []
    for name in dict.fromkeys([state.baseline, *newest, state.best]):
        one = candidates[name]
        summary = await validate_again(training, one)
        points.append(
            {
                "candidate": name[:12],
                "version": state.versions.get(name),
                "chosen": name == state.best,
                **summary,
                "length": total_chars(one.prompts),
            }
        )
    return {
        "stated": stated.model_dump(exclude_none=True),
        "split": split,
        "measures": found,
        "front": front(points),
    }


async def validate_again(training: Training, candidate: Candidate) -> dict[str, Any]:
    """Score, cost and latency of a case of a validated candidate, from what is recorded."""
    results = await training.measure_all(training.plan.validation, candidate, phase="validation")
    scores = [found for one in results if (found := one.objective(training.weights)) is not None]
    costs = [one.usage.cost for one in results]
    known = [cost for cost in costs if cost is not None]
    return {
        "score": fmean(scores) if scores else None,
        "cost": fmean(known) if known and len(known) == len(costs) else None,
        "latency_ms": fmean(one.latency_ms for one in results) if results else None,
    }


def assess(
    training: Training,
    holdout: dict[str, Any] | None,
    validation: Mapping[str, Any],
    weighed: Mapping[str, Any],
) -> tuple[str, list[str]]:
    """What the numbers say about the best version: `eligible`, `kept` or `rejected`, and why."""
    changed = training.state.best != training.state.baseline
    measures = weighed.get("measures", {}) if changed else {}
    status, reasons = _assessed(training, holdout, validation, breaches(measures))
    kept = [sentence(name, one) for name, one in measures.items() if one["kept"]]
    return status, [*reasons, *kept]


def _assessed(
    training: Training,
    holdout: dict[str, Any] | None,
    validation: Mapping[str, Any],
    broken: Sequence[str],
) -> tuple[str, list[str]]:
    state, plan, least = training.state, training.plan, training.run.job.min_coverage
    if state.blocked is not None:
        return "kept", [state.blocked]
    changed = state.best != state.baseline
    within = training.run.job.limits.min_within_sla
    status, reasons = eligibility(
        changed=changed,
        holdout=holdout,
        min_coverage=least,
        min_within_sla=within,
        guardrail=training.run.job.guardrail,
        broken=broken,
    )
    if status == "eligible" and within is not None and (late := beyond_sla(validation, within)):
        return "rejected", [f"validation: {late}"]
    if state.refused is not None:
        return status, [*reasons, f"every proposal was refused, the last one: {state.refused}"]
    if status == "kept" and state.refusals >= MANY_REFUSALS:
        told = f"the last {state.refusals} proposals were refused, the newest one: {state.refusal}"
        reasons = [*reasons, told]
    if changed and holdout is None:
        if plan.holdout:
            reasons = ["the budget ended before the holdout was measured: the gain is unproved"]
        elif plan.leaked:
            reasons = [f"all {plan.leaked} holdout cases are copies of cases that the search saw"]
        return status, reasons
    if changed and plan.leaked:
        copies = f"{plan.leaked} of {plan.leaked + len(plan.holdout)} holdout cases"
        reasons = [
            *reasons,
            f"{copies} have the inputs of cases that the search saw: they are left out",
        ]
    coverage = 1 - state.failures / len(plan.validation)
    if status == "eligible" and coverage < least:
        return "rejected", [f"coverage: {coverage:.3f} of validation is below {least:.3f}"]
    return status, reasons


def approval_request(
    training: Training, status: str, reasons: list[str], holdout: dict[str, Any] | None
) -> dict[str, Any]:
    """What a person is shown before they approve: the diff and the numbers."""
    state, run = training.state, training.run.record
    version = state.versions[state.best]
    against = " against its guardrails" if status == "rejected" else ""
    texts = [
        {name: tensor.text for name, tensor in training.candidates[which].prompts.items()}
        for which in (state.baseline, state.best)
    ]
    return {
        "type": "approval",
        "question": f"Promote version {version} to {PRODUCTION!r}{against}?",
        "run_id": run.run_id,
        "workflow_id": run.workflow_id,
        "version": version,
        "alias": PRODUCTION,
        "breaches": reasons if status == "rejected" else [],
        "reasons": reasons,
        "holdout": holdout,
        "diff": prompt_diff(*texts),
        "answer_with": {"approve": True, "actor": "who", "reason": "why"},
    }


def read_answer(answer: Any) -> tuple[bool, str, str] | None:
    """Whether a person approves, their name and their reason; None for what is no answer.

    An answer is `{"approve": True, "actor": …, "reason": …}` with True or False, or one of True,
    False, "approve" and "reject" alone.
    """
    if isinstance(answer, Mapping):
        actor, reason = answer.get("actor") or "unknown", answer.get("reason") or ""
        approve = answer.get("approve")
        return (approve, str(actor), str(reason)) if isinstance(approve, bool) else None
    known = {"approve": True, "reject": False}.get(answer) if isinstance(answer, str) else answer
    return (known, "unknown", "") if isinstance(known, bool) else None


async def promote(training: Training, *, actor: str, reason: str) -> tuple[str, list[str]]:
    """Move `production` to the best version, unless it was moved meanwhile; status and reasons.

    A run promotes once: one that had moved it before it was cut off does not move it again, though
    others may have moved it since. Raises `LeaseLost` where another process works on the run.
    """
    run, state = training.run, training.state
    workflow_id = run.record.workflow_id
    version = state.versions[state.best]
    aliases = run.store.aliases
    current, head = await aliases.head(workflow_id, PRODUCTION)
    log = await aliases.log(workflow_id, PRODUCTION)
    own = [m for m in log if (m.to_version, m.actor, m.reason) == (version, actor, reason)]
    if own:
        current = own[-1].from_version
    elif current == version:
        return "promoted", [f"{PRODUCTION!r} points to version {version}"]
    else:
        try:
            await aliases.move(
                workflow_id,
                PRODUCTION,
                to=version,
                expect=current,
                head=head,
                lease=run.lease,
                actor=actor,
                reason=reason,
            )
        except AliasConflict as conflict:
            return "kept", [conflict.message]
    shown = "nothing" if current is None else f"version {current}"
    return "promoted", [f"{PRODUCTION!r} moved from {shown} to version {version}"]


async def publish(
    training: Training, *, actor: str, reason: str, settings: Settings
) -> tuple[list[dict[str, Any]], list[str]]:
    """Publish the promoted version where the job says; the publications, and what to report.

    An error of the server is reported only: the promotion stands, and publishing can be repeated.
    """
    run, state, to = training.run, training.state, training.plan.publish
    if to is None:
        return [], []
    version = state.versions[state.best]
    if await run.store.aliases.resolve(run.record.workflow_id, PRODUCTION) != version:
        return [], [f"version {version} was not published: {PRODUCTION!r} was moved since"]
    try:
        made = await publish_to(
            to,
            run.record.workflow_id,
            version,
            store=run.store,
            actor=actor,
            reason=reason,
            settings=settings,
            lease=run.lease,
        )
    except LeaseLost:  # whoever works on the run now publishes
        raise
    except AgentensorError as error:
        return [], [f"version {version} could not be published: {error.message}"]
    told = [
        f"published to assistant {one.assistant_id} at {one.url or 'this server'}, "
        f"its version {one.assistant_version}"
        for one in made
    ]
    return [one.model_dump(mode="json") for one in made], told
