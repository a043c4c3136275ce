"""What came of one case, and of many."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.evaluation.statistics import describe, percentile
from orcheo_agentensor.evaluators.result import (
    EvaluationResult,
    EvaluatorFailure,
    Outcome,
    TargetFailure,
    failure_to_json,
)
from orcheo_agentensor.usage import NOTHING, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """One case under one prompt set: its output, its scores, or what broke.

    `usage` is the target's and the evaluators' together; `replayed` tells that everything came
    from the ledger and nothing was run.
    """

    case_id: str
    output: Any = None
    outcomes: tuple[Outcome, ...] = ()
    target_failure: TargetFailure | None = None
    latency_ms: float = 0.0
    usage: Usage = NOTHING
    tape: dict[str, Any] | None = None
    replayed: bool = False

    @property
    def scores(self) -> dict[str, float]:
        """Evaluator name -> score, of the evaluators that gave one."""
        return {
            outcome.name: outcome.score
            for outcome in self.outcomes
            if isinstance(outcome, EvaluationResult) and outcome.score is not None
        }

    @property
    def failures(self) -> tuple[EvaluatorFailure, ...]:
        """The evaluators that broke."""
        return tuple(o for o in self.outcomes if isinstance(o, EvaluatorFailure))

    @property
    def ok(self) -> bool:
        """Whether the target and every evaluator did their part."""
        return self.target_failure is None and all(
            isinstance(outcome, EvaluationResult) for outcome in self.outcomes
        )

    def objective(self, weights: Mapping[str, float]) -> float | None:
        """The weighted mean of this case's scores; None unless it was scored completely."""
        return weighted_mean(self.scores, weights) if self.ok else None

    def to_json(self) -> dict[str, Any]:
        """As printed by `runs show` and sent in `case_finished`, without the output."""
        ok = self.ok
        data: dict[str, Any] = {
            "case_id": self.case_id,
            "ok": ok,
            "scores": self.scores,
            "latency_ms": round(self.latency_ms, 3),
        }
        if ok:
            return data
        if self.target_failure is not None:
            data["target_failure"] = failure_to_json(self.target_failure)
        if self.failures:
            data["evaluator_failures"] = {f.name: failure_to_json(f) for f in self.failures}
        return data


def weight_of(name: str, weights: Mapping[str, float]) -> float:
    """The weight of a metric: its own, or that of the evaluator that gave `evaluator.metric`."""
    if name in weights:
        return weights[name]
    return weights.get(name.split(".", 1)[0], 1.0)


def weighted_mean(scores: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The objective: the mean of the scores by weight. None when nothing has weight."""
    shares = [weight_of(name, weights) for name in scores]
    total = math.fsum(shares)
    if total <= 0:
        return None
    return math.fsum(map(operator.mul, scores.values(), shares)) / total


def summarize(
    results: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    case_sla_ms: float | None = None,
    replicates: int = 1,
) -> dict[str, Any]:
    """The evaluation summary, as JSON.

    Means are over the cases that were scored; `coverage` is the share of cases that were scored by
    every evaluator, and `complete` tells whether that is all of them. `objective` is the weighted
    mean of the evaluators' means. `replicates` is there when each case was run more than once.
    """
    names = sorted({outcome.name for result in results for outcome in result.outcomes})
    evaluators = {name: _one_evaluator(name, results) for name in names}
    means = {name: entry["mean"] for name, entry in evaluators.items() if entry["mean"] is not None}
    n_ok = sum(result.ok for result in results)
    n_target_failed = sum(result.target_failure is not None for result in results)
    latencies = [r.latency_ms for r in results if r.target_failure is None]
    summary: dict[str, Any] = {
        "cases": len(results),
        "n_ok": n_ok,
        "n_target_failed": n_target_failed,
        "n_evaluator_failed": len(results) - n_ok - n_target_failed,
        "coverage": n_ok / len(results) if results else 0.0,
        "complete": bool(results) and n_ok == len(results),
        "objective": weighted_mean(means, weights),
        "evaluators": evaluators,
        "latency_ms": {"p50": percentile(latencies, 0.5), "p95": percentile(latencies, 0.95)},
        "usage": sum((r.usage for r in results), NOTHING).to_json(),
    }
    if replicates > 1:
        summary["replicates"] = replicates
    if case_sla_ms is not None:
        summary["over_sla"] = sum(latency > case_sla_ms for latency in latencies)
    return summary


def _one_evaluator(name: str, results: Sequence[CaseResult]) -> dict[str, Any]:
    given: list[EvaluationResult] = []
    failed = 0
    for result in results:
        for outcome in result.outcomes:
            if outcome.name != name:
                continue
            if isinstance(outcome, EvaluationResult):
                given.append(outcome)
            else:
                failed += 1
    scores = [outcome.score for outcome in given if outcome.score is not None]
    verdicts = [
        outcome.passed if outcome.passed is not None else (outcome.score or 0.0) >= 1.0
        for outcome in given
        if outcome.passed is not None or outcome.score is not None
    ]
    entry: dict[str, Any] = {"mean": None, "se": None, "ci95": None, "n": len(given)}
    if scores:
        found = describe(scores)
        entry |= {
            "mean": found.mean,
            "se": found.se,
            "ci95": list(found.ci95) if found.ci95 else None,
        }
    entry["pass_rate"] = sum(verdicts) / len(verdicts) if verdicts else None
    entry["failures"] = failed
    labels = Counter(outcome.label for outcome in given if outcome.label is not None)
    if labels:
        entry["labels"] = dict(sorted(labels.items()))
    return entry


def without_measurements(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without what a clock measured: what must come out the same every time."""
    return {k: v for k, v in summary.items() if k not in ("latency_ms", "over_sla")}
