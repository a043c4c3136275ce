"""One result of a case from several replicates of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from orcheo_agentensor.evaluation.results import CaseResult, weighted_mean
from orcheo_agentensor.evaluators.result import EvaluationResult, EvaluatorFailure, Outcome
from orcheo_agentensor.usage import NOTHING

CaseListener = Callable[[CaseResult], None]


def merged(replicates: Sequence[CaseResult], weights: Mapping[str, float]) -> CaseResult:
    """The replicates of one case as one result.

    A score is the mean over the replicates, so that the case stays the unit of every mean and
    interval; its reason is that of the worst replicate, its label the most frequent one, and it
    passed when more than half of them did. Output and tape are those of the first replicate that
    scored worst, which has the most to teach. One replicate that failed makes the case failed.
    """
    if len(replicates) == 1:
        return replicates[0]
    broken = next((one for one in replicates if one.target_failure is not None), None)
    shown = broken or min(replicates, key=lambda one: _worth(one, weights))
    return replace(
        shown,
        outcomes=() if broken else _merged_outcomes(replicates),
        latency_ms=math.fsum(one.latency_ms for one in replicates) / len(replicates),
        usage=sum((one.usage for one in replicates), NOTHING),
        replayed=all(one.replayed for one in replicates),
    )


def _worth(result: CaseResult, weights: Mapping[str, float]) -> float:
    if not result.ok:
        return -math.inf
    score = weighted_mean(result.scores, weights)
    return math.inf if score is None else score


def _merged_outcomes(replicates: Sequence[CaseResult]) -> tuple[Outcome, ...]:
    """By metric; an evaluator that broke in one replicate has no score in any."""
    failed: dict[str, EvaluatorFailure] = {}
    given: dict[str, list[EvaluationResult]] = {}
    for one in replicates:
        for failure in one.failures:
            failed.setdefault(_evaluator(failure.name), failure)
    for one in replicates:
        for outcome in one.outcomes:
            if isinstance(outcome, EvaluationResult) and _evaluator(outcome.name) not in failed:
                given.setdefault(outcome.name, []).append(outcome)
    return (*map(_one_metric, given.values()), *failed.values())


def _evaluator(metric: str) -> str:
    return metric.split(".", 1)[0]


def _one_metric(given: Sequence[EvaluationResult]) -> EvaluationResult:
    scores = [one.score for one in given if one.score is not None]
    verdicts = [one.passed for one in given if one.passed is not None]
    labels = Counter(one.label for one in given if one.label is not None)
    worst = min(given, key=lambda one: math.inf if one.score is None else one.score)
    return EvaluationResult(
        name=worst.name,
        score=math.fsum(scores) / len(scores) if scores else None,
        passed=2 * sum(verdicts) > len(verdicts) if verdicts else None,
        reason=worst.reason,
        label=labels.most_common(1)[0][0] if labels else None,
    )


class Gathered:
    """The results of one call of `run`, case by case as their replicates come in."""

    def __init__(
        self,
        cases: int,
        replicates: tuple[int, ...],
        weights: Mapping[str, float],
        on_case: CaseListener | None,
    ) -> None:
        self._replicates = replicates
        self._weights = weights
        self._on_case = on_case
        self._parts: list[dict[int, CaseResult]] = [{} for _ in range(cases)]
        self._whole: dict[int, CaseResult] = {}

    def add(self, index: int, replicate: int, result: CaseResult) -> None:
        """Take in one replicate of the case at `index`."""
        if len(self._replicates) > 1:
            parts = self._parts[index]
            parts[replicate] = result
            if len(parts) < len(self._replicates):
                return
            result = merged([parts[n] for n in self._replicates], self._weights)
        self._whole[index] = result
        if self._on_case is not None:
            self._on_case(result)

    def results(self) -> list[CaseResult]:
        """All cases, in order."""
        return [self._whole[index] for index in range(len(self._parts))]
