"""What came of one case, and of many."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation.statistics import describe, percentile
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    NotApplicable,
    Outcome,
    TargetFailure,
    failure_to_json,
    verdict,
)
from orcheo_agentensor.events import EventSink
from orcheo_agentensor.media import label_media
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.storage import RolloutRow, ScoreRow
from orcheo_agentensor.storage.records import StoredOutput, text_for_number
from orcheo_agentensor.storage.tables import clean_text
from orcheo_agentensor.usage import NOTHING, Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store
    from orcheo_agentensor.storage.media import Media


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """One case under one prompt set: its output, its scores, or what broke.

    Args:
        case_id: The case.
        output: What the target gave, as JSON.
        outcomes: What each evaluator said: a score, a failure, or that it does not apply.
        target_failure: Why the target broke; None where it did not.
        latency_ms: The target's own time.
        usage: What the target and the evaluators spent.
        tape: Which node read which prompt, where that was recorded.
        replayed: Whether everything came from the ledger and nothing was run.
        case: The dataset's case, in a report.
        empty_replies: How many replies of the target's models were without text; 1 for an output
            without text.
        cut_replies: How many replies of its models were cut off by their length.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> report = evaluate(
        ...     lambda inputs: inputs.upper(),
        ...     dataset=[{"id": "a", "inputs": "hi", "expected_output": "Hi"}],
        ...     evaluators=["exact_match"],
        ... )
        >>> case = report.cases[0]
        >>> case.output, case.scores, case.reasons
        ('HI', {'exact_match': 0.0}, {'exact_match': "expected 'Hi', got 'HI'"})
    """

    case_id: str
    output: Any = None
    outcomes: tuple[Outcome, ...] = ()
    target_failure: TargetFailure | None = None
    latency_ms: float = 0.0
    usage: Usage = NOTHING
    tape: dict[str, Any] | None = None
    replayed: bool = False
    case: Case | None = field(default=None, repr=False)
    empty_replies: int = 0
    cut_replies: int = 0

    @property
    def inputs(self) -> Any:
        """The inputs of the case; None outside a report."""
        return None if self.case is None else self.case.inputs

    @property
    def expected_output(self) -> Any:
        """What the case expects; None outside a report."""
        return None if self.case is None else self.case.expected_output

    @property
    def scores(self) -> dict[str, float]:
        """Evaluator name -> score, of the evaluators that gave one."""
        return {
            outcome.name: outcome.score
            for outcome in self.outcomes
            if isinstance(outcome, EvaluationResult) and outcome.score is not None
        }

    @property
    def reasons(self) -> dict[str, str]:
        """Evaluator name -> its reason, of the evaluators that gave one."""
        return {outcome.name: outcome.reason for outcome in self.outcomes if outcome.reason}

    @property
    def failure(self) -> TargetFailure | EvaluatorFailure | None:
        """What broke: the target, or else the first evaluator that did; None where all is well."""
        return self.target_failure or next(iter(self.failures), None)

    @property
    def failures(self) -> tuple[EvaluatorFailure, ...]:
        """The evaluators that broke."""
        return tuple(o for o in self.outcomes if isinstance(o, EvaluatorFailure))

    @property
    def ok(self) -> bool:
        """Whether the target and every evaluator did their part."""
        return self.target_failure is None and not self.failures

    @property
    def verdicts(self) -> dict[str, bool]:
        """Evaluator name -> whether the case passed it; a score passes from 1 on where the
        evaluator says nothing of passing."""
        results = (outcome for outcome in self.outcomes if isinstance(outcome, EvaluationResult))
        found = {one.name: verdict(one.passed, one.score) for one in results}
        return {name: passed for name, passed in found.items() if passed is not None}

    @property
    def passed(self) -> bool:
        """Whether nothing broke and the case passed all of its evaluators."""
        return self.ok and all(self.verdicts.values())

    def objective(self, weights: Mapping[str, float]) -> float | None:
        """The weighted mean of this case's scores; None where something broke or none counts."""
        if self.target_failure is not None:
            return None
        scores: dict[str, float] = {}
        for outcome in self.outcomes:  # in one go: comparisons ask for it over and over
            if isinstance(outcome, EvaluatorFailure):
                return None
            if isinstance(outcome, EvaluationResult) and outcome.score is not None:
                scores[outcome.name] = outcome.score
        return weighted_mean(scores, weights)

    def to_json(self) -> dict[str, Any]:
        """As printed by `runs show` and sent in `case_finished`, without the output."""
        scores: dict[str, float] = {}
        failures: dict[str, Any] = {}
        not_applicable: list[str] = []
        for outcome in self.outcomes:
            if isinstance(outcome, EvaluatorFailure):
                failures[outcome.name] = failure_to_json(outcome)
            elif isinstance(outcome, NotApplicable):
                not_applicable.append(outcome.name)
            elif outcome.score is not None:
                scores[outcome.name] = outcome.score
        data: dict[str, Any] = {
            "case_id": self.case_id,
            "ok": self.target_failure is None and not failures,
            "scores": scores,
            "latency_ms": round(self.latency_ms, 3),
        }
        if self.target_failure is not None:
            data["target_failure"] = failure_to_json(self.target_failure)
        if failures:
            data["evaluator_failures"] = failures
        if not_applicable:
            data["not_applicable"] = not_applicable
        if self.empty_replies:
            data["empty_replies"] = self.empty_replies
        if self.cut_replies:
            data["cut_replies"] = self.cut_replies
        return data


def weight_of(metric: str, weights: Mapping[str, float]) -> float:
    """The weight of the evaluator that gave `evaluator.metric`."""
    return weights.get(_evaluator(metric), 1.0)


def weighted_mean(scores: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The objective: the mean of the evaluators' scores by weight. None when nothing has weight.

    The score of an evaluator that gives several metrics is the one under its own name, or else
    their mean. A score outside [0, 1] takes no part.
    """
    if len(scores) == 1:
        ((name, score),) = scores.items()
        if weights.get(name) == 1.0:
            return score if 0.0 <= score <= 1.0 else None
    if not scores.keys() <= weights.keys():
        scores = _by_evaluator(scores)
    counted, shares = [], []
    for name, score in scores.items():  # a comprehension is a call more for each case
        if 0.0 <= score <= 1.0:
            counted.append(score)
            shares.append(weights.get(name, 1.0))
    if shares == [1.0]:
        return float(counted[0])
    total = math.fsum(shares)
    if total <= 0:
        return None
    return math.fsum(map(operator.mul, counted, shares)) / total


def _by_evaluator(metrics: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for name, score in metrics.items():
        if 0.0 <= score <= 1.0:
            found.setdefault(_evaluator(name), []).append(score)
    return {e: metrics.get(e, math.fsum(scores) / len(scores)) for e, scores in found.items()}


def numeric_of(results: Iterable[CaseResult]) -> set[str]:
    """The names of the metrics that have given a number for some case."""
    return {name for result in results for name in result.scores}


def settled(found: Iterable[CaseResult], *, numeric: Iterable[str] = ()) -> list[CaseResult]:
    """The results, with a text as a failure where its evaluator gives numbers for other cases, or
    is known to be `numeric`."""
    results = list(found)
    numbers: set[str] = {*numeric}
    texts: set[str] = set()
    for result in results:  # without a call for each: every case of every run passes here
        for outcome in result.outcomes:
            if isinstance(outcome, EvaluationResult):
                (texts if outcome.score is None else numbers).add(outcome.name)
    if texts.isdisjoint(numbers):
        return results
    return [
        replace(result, outcomes=tuple(without_texts(result.outcomes, numbers)))
        for result in results
    ]


def is_text(outcome: Outcome, numeric: Collection[str]) -> bool:
    """Whether an outcome is a text of a metric that gives numbers for other cases."""
    return (
        isinstance(outcome, EvaluationResult) and outcome.score is None and outcome.name in numeric
    )


def without_texts(outcomes: Iterable[Outcome], numeric: Collection[str]) -> list[Outcome]:
    """Outcomes with a failure in place of each text of a metric that is `numeric`."""
    return [
        EvaluatorFailure(name=one.name, kind="wrong_shape", reason=text_for_number(one.label))
        if is_text(one, numeric) and isinstance(one, EvaluationResult)
        else one
        for one in outcomes
    ]


def summarize(
    results: Sequence[CaseResult],
    *,
    weights: Mapping[str, float],
    case_sla_ms: float | None = None,
    replicates: int = 1,
) -> dict[str, Any]:
    """The evaluation summary, as JSON.

    Means are over the cases that were scored; `coverage` is the share of cases that were scored by
    every evaluator that applies to them, and `complete` tells whether that is all of them;
    `not_applicable` counts the cases to which none does. `objective` is the weighted mean of the
    evaluators' means; an evaluator that scored outside [0, 1] takes no part, which `warnings` say.
    `empty_replies` and `cut_replies` count the cases in which a reply of the target's models had no
    text, or was cut off by its length; `retries` counts executions of the target that were made
    again. `replicates` is there when each case was run more than once.
    `sla` is there with a `case_sla_ms`: a case is within it where the target gave its answer in
    that time, so one that failed or was timed out is not.
    """
    tallies: dict[str, _Tally] = {}
    latencies: list[float] = []
    n_target_failed = n_evaluator_failed = not_applicable = 0
    for result in settled(results):
        failed, applies = False, not result.outcomes
        for outcome in result.outcomes:
            tally = tallies.get(outcome.name)
            if tally is None:
                tally = tallies[outcome.name] = _Tally()
            if isinstance(outcome, EvaluatorFailure):
                tally.failures += 1
                failed = applies = True
                continue
            if isinstance(outcome, NotApplicable):
                tally.not_applicable += 1
                continue
            applies = True
            if outcome.score is not None:
                tally.scores.append(outcome.score)
            if outcome.label is not None:
                tally.labels[outcome.label] += 1
            if (passed := verdict(outcome.passed, outcome.score)) is not None:
                tally.asked += 1
                tally.passed += passed
        if result.target_failure is None:
            latencies.append(result.latency_ms)
            n_evaluator_failed += failed
            not_applicable += not applies
        else:
            n_target_failed += 1
    evaluators = {name: tallies[name].to_json() for name in sorted(tallies)}
    means, warnings = {}, []
    for name, entry in evaluators.items():
        scores, evaluator = tallies[name].scores, _evaluator(name)
        beyond = bool(scores) and not (min(scores) >= 0.0 and max(scores) <= 1.0)
        counts = weight_of(name, weights) > 0 and not (
            evaluator != name and evaluator in tallies and tallies[evaluator].scores
        )
        entry["in_objective"] = counts and bool(scores) and not beyond
        if entry["in_objective"]:
            means[name] = entry["mean"]
        elif counts and beyond:
            warnings.append(_beyond(name, scores))
    empty = sum(result.empty_replies > 0 for result in results)
    cut = sum(result.cut_replies > 0 for result in results)
    if empty:
        warnings.append(f"{empty} of {len(results)} cases had a reply without text: {_EMPTY_TODO}")
    if cut:
        warnings.append(f"{cut} of {len(results)} cases had a reply that was cut off: {_CUT_TODO}")
    retries = sum(max(result.usage.rollouts - replicates, 0) for result in results)
    if retries > MANY_RETRIES * len(results) * replicates:
        warnings.append(many_retries(retries, f"{len(results)} cases"))
    applicable = len(results) - not_applicable
    n_ok = applicable - n_target_failed - n_evaluator_failed
    summary: dict[str, Any] = {
        "cases": len(results),
        "n_ok": n_ok,
        "n_target_failed": n_target_failed,
        "n_evaluator_failed": n_evaluator_failed,
        "not_applicable": not_applicable,
        "empty_replies": empty,
        "cut_replies": cut,
        "retries": retries,
        "coverage": n_ok / applicable if applicable else 0.0,
        "complete": bool(applicable) and n_ok == applicable,
        "objective": weighted_mean(means, weights),
        "evaluators": evaluators,
        "latency_ms": {"p50": percentile(latencies, 0.5), "p95": percentile(latencies, 0.95)},
        "usage": Usage.total(result.usage for result in results).to_json(),
    }
    if warnings:
        summary["warnings"] = warnings
    if replicates > 1:
        summary["replicates"] = replicates
    if case_sla_ms is not None:
        within = sum(latency <= case_sla_ms for latency in latencies)
        share = within / len(results) if results else None
        summary["sla"] = {"limit_ms": case_sla_ms, "within": within, "share": share}
    return summary


def thresholds_missed(
    summary: Mapping[str, Any], *, min_coverage: float, min_within_sla: float | None
) -> list[str]:
    """A sentence for each threshold of a job that a summary misses."""
    found = []
    if summary["coverage"] < min_coverage:
        found.append(f"coverage: {summary['coverage']:.3f} is below {min_coverage:.3f}")
    if min_within_sla is not None and (late := beyond_sla(summary, min_within_sla)):
        found.append(late)
    return found


def beyond_sla(summary: Mapping[str, Any], least: float) -> str | None:
    """A sentence where a smaller share of cases than `least` is within the SLA; None otherwise."""
    sla = summary["sla"]
    if sla["share"] is not None and sla["share"] >= least - 1e-12:
        return None
    share = 0.0 if sla["share"] is None else sla["share"]
    return f"SLA: {share:.1%} of the cases within {sla['limit_ms']:g} ms is below {least:.1%}"


def many_retries(retries: int, of: str) -> str:
    """The warning where more executions were made again than `MANY_RETRIES` lets pass."""
    return (
        f"{retries} executions of the target were made again, for {of}: "
        "see why (a busy server, a lost connection) before you pay for more"
    )


MANY_RETRIES = 0.03
"""The share of executions made again from which on a summary warns of it."""

_EMPTY_TODO = "look at them (`empty_replies` of a case) before you believe their scores"
_CUT_TODO = (
    "the model met its limit of tokens, and what it had left to say is not scored; give it more "
    "room (max_tokens), or ask for less"
)


class _Tally:
    """What one evaluator said over all cases."""

    def __init__(self) -> None:
        self.failures = self.not_applicable = self.asked = self.passed = 0
        self.scores: list[float] = []
        self.labels: Counter[str] = Counter()

    def to_json(self) -> dict[str, Any]:
        """Its entry in the summary."""
        n = len(self.scores) or self.labels.total()
        entry: dict[str, Any] = {"mean": None, "se": None, "ci95": None, "n": n}
        if self.scores:
            found = describe(self.scores)
            ci95 = list(found.ci95) if found.ci95 else None
            entry |= {"mean": found.mean, "se": found.se, "ci95": ci95}
        entry["pass_rate"] = self.passed / self.asked if self.asked else None
        entry["failures"], entry["not_applicable"] = self.failures, self.not_applicable
        if self.labels:
            entry["labels"] = dict(sorted(self.labels.items()))
        return entry


def outside_scores(results: Iterable[CaseResult], weights: Mapping[str, float]) -> list[str]:
    """A sentence for each metric with weight that scored outside [0, 1]."""
    found: dict[str, list[float]] = {}
    for result in results:
        for name, score in result.scores.items():
            if not 0.0 <= score <= 1.0 and weight_of(name, weights) > 0:
                found.setdefault(name, []).append(score)
    return [_beyond(name, scores) for name, scores in found.items()]


def _beyond(name: str, scores: Sequence[float]) -> str:
    low, high = min(0.0, *scores), max(1.0, *scores)
    worst = min(scores) if min(scores) < 0.0 else max(scores)
    evaluator = _evaluator(name)
    return (
        f"{name} gave {worst:g}, outside [0, 1], and is left out of the objective: write its "
        f"worst and its best score, such as `scale: [{low:g}, {high:g}]` in a job or "
        f"bind_evaluator({evaluator}, scale=({low:g}, {high:g})); `weight: 0` only observes"
    )


_LONG_REASON = 400
"""Characters from which a reason may hold an image."""


def score_rows(
    key: str, fingerprint: str, outcomes: Sequence[Outcome], usage: Usage
) -> list[ScoreRow]:
    """Outcomes as ledger rows. The usage of the one call goes on the first."""
    rows: list[ScoreRow] = []
    for outcome in outcomes:
        row = ScoreRow(rollout_key=key, evaluator_fingerprint=fingerprint, name=outcome.name)
        if isinstance(outcome, EvaluatorFailure):
            row.failure = storable(failure_to_json(outcome))
        elif isinstance(outcome, NotApplicable):
            row.reason = redact(outcome.reason)  # told by having no score, label and failure
        else:
            row.score, row.passed = outcome.score, outcome.passed
            row.reason = outcome.reason and redact(
                outcome.reason
                if len(outcome.reason) < _LONG_REASON
                else label_media(outcome.reason)
            )
            row.label = outcome.label and redact(outcome.label)
        rows.append(row)
    rows[0].usage = usage
    return rows


def is_bare_score(outcome: Outcome) -> TypeGuard[EvaluationResult]:
    """Whether an outcome is a score without a text that has to be looked through for secrets."""
    return (
        type(outcome) is EvaluationResult
        and outcome.reason is None
        and outcome.label is None
        and outcome.name.isascii()
        and "\x00" not in outcome.name
    )


def as_recorded(outcomes: Sequence[Outcome], rows: Sequence[ScoreRow]) -> list[Outcome]:
    """Outcomes just as the ledger gives them back from `rows` after a resume: what is made of a
    score, a proposal above all, must not depend on whether it was replayed."""
    found = []
    for outcome, row in zip(outcomes, rows, strict=True):
        same = (
            isinstance(outcome, EvaluationResult)
            and row.name is outcome.name
            and row.reason is outcome.reason
            and row.label is outcome.label
        )
        found.append(outcome if same else outcome_of(row))
    return found


def storable(failure: Mapping[str, str]) -> dict[str, str]:
    """A failure without secrets, and without what a database refuses."""
    return {key: redact(clean_text(text)) for key, text in failure.items()}


def outcome_of(row: ScoreRow) -> Outcome:
    """The inverse of `score_rows` for one row."""
    if row.failure is not None:
        return EvaluatorFailure(
            name=row.name, kind=row.failure["kind"], reason=row.failure["reason"]
        )
    if row.score is None and row.label is None:
        return NotApplicable(name=row.name, reason=row.reason)
    return EvaluationResult(
        name=row.name, score=row.score, passed=row.passed, reason=row.reason, label=row.label
    )


def _opened(frozen: type[Any]) -> Any:
    """A class with the slots of a frozen one. Its objects are filled, and then made objects of that
    class: a frozen dataclass makes a detour for each field, which takes seven times as long."""
    return type(frozen.__name__, (), {"__slots__": getattr(frozen, "__slots__")})  # noqa: B009


_OpenResult, _OpenContext = _opened(CaseResult), _opened(EvaluatorContext)


def case_result(
    case: Case, row: RolloutRow, outcomes: Iterable[Outcome], usage: Usage, *, replayed: bool
) -> CaseResult:
    """A rollout and what the evaluators said about it; `usage` is that of both."""
    made = _OpenResult()
    made.case_id = row.case_id
    made.output = row.output
    made.outcomes = tuple(outcomes)
    made.target_failure = None if row.failure is None else failure_of(row, row.failure)
    made.latency_ms = row.latency_ms
    made.usage = usage
    made.tape = row.tape
    made.replayed = replayed
    made.case = case
    made.empty_replies, made.cut_replies = row.empty_replies, row.cut_replies
    made.__class__ = CaseResult
    return made  # type: ignore[no-any-return]


def leave_output(result: CaseResult, row: RolloutRow) -> None:
    """Leave the output of a result that nobody has seen yet to the store, where `row` is
    committed."""
    if row.output is not None and row.position is not None:
        stored = StoredOutput(row.candidate_hash, row.position)
        object.__setattr__(result, "output", stored)


async def with_outputs(
    store: Store, run_id: str, results: Sequence[CaseResult]
) -> list[CaseResult]:
    """`results` with the outputs that were left to the store."""
    stored = [one.output for one in results if isinstance(one.output, StoredOutput)]
    found = await store.runs.outputs(run_id, stored) if stored else {}
    return [
        replace(one, output=found[one.output]) if isinstance(one.output, StoredOutput) else one
        for one in results
    ]


def context_of(
    case: Case, measured: RolloutRow | CaseResult, *, taped: bool = True
) -> EvaluatorContext:
    """What an evaluator is given of a rollout, or a summary evaluator of a case.

    An evaluation that is not `taped` has a tape of a few cases only, and not a whole one.
    """
    held, made = case.__dict__, _OpenContext()
    made.case_id = held["id"]
    made.inputs, made.output = held["inputs"], measured.output
    made.expected_output, made.metadata = held["expected_output"], held["metadata"]
    made.latency_ms, made.usage = measured.latency_ms, measured.usage
    made.tape, made.outcomes = measured.tape if taped else None, ()
    made.__class__ = EvaluatorContext
    return made  # type: ignore[no-any-return]


async def with_media(media: Media, context: EvaluatorContext) -> EvaluatorContext:
    """`context` with the media that its case and its output refer to."""
    names = ("inputs", "output", "expected_output")
    found = {name: await media.restored(getattr(context, name)) for name in names}
    if all(found[name] is getattr(context, name) for name in names):
        return context
    return replace(context, **found)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """What a summary evaluator has said, as in the summary."""
    if isinstance(outcome, EvaluatorFailure):
        return {"failure": storable(failure_to_json(outcome))}
    if isinstance(outcome, NotApplicable):
        return {"not_applicable": True, "reason": outcome.reason}
    said = {key: getattr(outcome, key) for key in ("score", "passed", "reason", "label")}
    return {key: value for key, value in said.items() if value is not None}


def failure_of(row: RolloutRow, failure: Mapping[str, Any]) -> TargetFailure:
    """Why the target broke."""
    return TargetFailure(kind=failure["kind"], reason=failure["reason"], attempts=row.attempts)


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
        usage=Usage.total(one.usage for one in replicates),
        replayed=all(one.replayed for one in replicates),
        empty_replies=sum(one.empty_replies for one in replicates),
        cut_replies=sum(one.cut_replies for one in replicates),
    )


def _worth(result: CaseResult, weights: Mapping[str, float]) -> float:
    if not result.ok:
        return -math.inf
    score = weighted_mean(result.scores, weights)
    return math.inf if score is None else score


def _merged_outcomes(replicates: Sequence[CaseResult]) -> tuple[Outcome, ...]:
    """By metric; an evaluator that broke in one replicate has no score in any, and one that applied
    in some has what it gave there."""
    failed: dict[str, EvaluatorFailure] = {}
    given: dict[str, list[EvaluationResult]] = {}
    for one in replicates:
        for failure in one.failures:
            failed.setdefault(_evaluator(failure.name), failure)
    for one in replicates:
        for outcome in one.outcomes:
            if isinstance(outcome, EvaluationResult) and _evaluator(outcome.name) not in failed:
                given.setdefault(outcome.name, []).append(outcome)
    heard = failed.keys() | given.keys() | set(map(_evaluator, given))
    silent = {
        outcome.name: outcome
        for one in replicates
        for outcome in one.outcomes
        if isinstance(outcome, NotApplicable) and outcome.name not in heard
    }
    return (*map(_one_metric, given.values()), *failed.values(), *silent.values())


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


MARKS = 20


class CaseProgress:
    """Sends a `case_finished` per case, and an `evaluation_progress` with running scores about
    `MARKS` times over the whole."""

    def __init__(
        self,
        events: EventSink,
        weights: Mapping[str, float],
        *,
        total: int,
        **labels: Any,
    ) -> None:
        self._events = events
        self._weights = weights
        self._total = total
        self._labels = labels
        self._every = max(1, total // MARKS)
        self._done = 0
        self._failed = 0
        self._sum = 0.0
        self._scored = 0

    def case_finished(self, result: CaseResult) -> None:
        """Hear of one finished case."""
        self._done += 1
        shown = {**self._labels, **result.to_json()} if self._labels else result.to_json()
        if shown["ok"]:
            objective = weighted_mean(shown["scores"], self._weights)
            if objective is not None:
                self._sum += objective
                self._scored += 1
        else:
            self._failed += 1
        shown["replayed"] = result.replayed
        shown["done"], shown["total"] = self._done, self._total
        self._events.send("case_finished", shown)
        if self._done % self._every == 0 or self._done == self._total:
            self._events.emit(
                "evaluation_progress",
                **self._labels,
                done=self._done,
                total=self._total,
                failed=self._failed,
                mean=self._sum / self._scored if self._scored else None,
            )
