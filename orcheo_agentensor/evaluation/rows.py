"""Between the ledger's rows and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import (
    EvaluationResult,
    EvaluatorFailure,
    Outcome,
    TargetFailure,
    failure_to_json,
)
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.storage import RolloutRow, ScoreRow
from orcheo_agentensor.storage.codec import clean_text
from orcheo_agentensor.usage import Usage


def score_rows(
    key: str, fingerprint: str, outcomes: Sequence[Outcome], usage: Usage
) -> list[ScoreRow]:
    """Outcomes as ledger rows, just as the ledger gives them back after a resume: what is made of
    a score, a proposal above all, must not depend on whether it was replayed.

    The usage of the one call goes on the first.
    """
    rows: list[ScoreRow] = []
    for outcome in outcomes:
        row = ScoreRow(
            rollout_key=key,
            evaluator_fingerprint=fingerprint,
            name=str(clean_text(outcome.name)),
        )
        if isinstance(outcome, EvaluatorFailure):
            row.failure = storable(failure_to_json(outcome))
        else:
            row.score, row.passed = outcome.score, outcome.passed
            row.reason, row.label = clean_text(outcome.reason), clean_text(outcome.label)
        rows.append(row)
    rows.sort(key=lambda row: row.name)
    rows[0].usage = usage
    return rows


def storable(failure: Mapping[str, str]) -> dict[str, str]:
    """A failure without secrets, and without what a database refuses."""
    return {key: redact(clean_text(text)) for key, text in failure.items()}


def outcome_of(row: ScoreRow) -> Outcome:
    """The inverse of `score_rows` for one row."""
    if row.failure is not None:
        return EvaluatorFailure(
            name=row.name, kind=row.failure["kind"], reason=row.failure["reason"]
        )
    return EvaluationResult(
        name=row.name, score=row.score, passed=row.passed, reason=row.reason, label=row.label
    )


def case_result(
    row: RolloutRow, outcomes: Iterable[Outcome], usage: Usage, *, replayed: bool
) -> CaseResult:
    """A rollout and what the evaluators said about it; `usage` is that of both."""
    return CaseResult(
        case_id=row.case_id,
        output=row.output,
        outcomes=tuple(outcomes),
        target_failure=failure_of(row),
        latency_ms=row.latency_ms,
        usage=usage,
        tape=row.tape,
        replayed=replayed,
    )


def context_of(case: Case, row: RolloutRow) -> EvaluatorContext:
    """What an evaluator is given of a rollout."""
    return EvaluatorContext(
        case_id=case.id,
        inputs=case.inputs,
        output=row.output,
        expected_output=case.expected_output,
        metadata=case.metadata,
        latency_ms=row.latency_ms,
        usage=row.usage,
        tape=row.tape,
    )


def failure_of(row: RolloutRow) -> TargetFailure | None:
    """Why the target broke, if it did."""
    if row.failure is None:
        return None
    return TargetFailure(
        kind=row.failure["kind"], reason=row.failure["reason"], attempts=row.attempts
    )
