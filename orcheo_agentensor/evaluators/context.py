"""What an evaluator gets and gives: its only input, and the forms of its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from orcheo_agentensor.json_values import private_copy
from orcheo_agentensor.usage import Usage

FailureKind: TypeAlias = Literal[
    "exception",
    "timeout",
    "abandoned",
    "process_died",
    "not_finite",
    "wrong_shape",
    "not_json",
    "too_large",
    "missing",
]


LARGEST_SCORE = 1e100
"""Sums and squares of scores up to this size are finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """One score of one evaluator on one case.

    Args:
        score: A finite number of at most `LARGEST_SCORE`; None only for a purely categorical
            result, which then has a `label` and takes part in label counts, never in a mean.
        passed: The verdict; where it is None, a case counts as passed from a score of 1.0 on.
        reason: Why, in words; a training reads it.
        label: A category.
        name: Set by the binding.

    Raises:
        ValueError: The score is not finite or too large, or there is neither score nor label.

    Example:
        >>> from orcheo_agentensor import EvaluationResult, evaluate
        >>> def tone(ctx):
        ...     return EvaluationResult(score=0.5, reason="curt")
        >>> report = evaluate(lambda inputs: "No.", dataset=[{"inputs": "?"}], evaluators=[tone])
        >>> report.cases[0].outcomes[0]
        EvaluationResult(score=0.5, passed=None, reason='curt', label=None, name='tone')
    """

    score: float | None = None
    passed: bool | None = None
    reason: str | None = None
    label: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.score is not None and not -LARGEST_SCORE <= self.score <= LARGEST_SCORE:
            raise ValueError(f"score must be a finite number up to 1e100, not {self.score!r}")
        if self.score is None and self.label is None:
            raise ValueError("an evaluation result needs a score or a label")


def verdict(passed: bool | None, score: float | None) -> bool | None:
    """Whether an evaluator passed a case: what it said, else whether the score is at least 1; None
    where it gave neither."""
    if passed is not None or score is None:
        return passed
    return score >= 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatorFailure:
    """The evaluator broke. Not a score: it is counted and reported, never averaged in.

    Args:
        name: The evaluator.
        kind: How: "exception", "timeout", "not_finite", "wrong_shape" or "missing".
        reason: In words.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> def broken(outputs):
        ...     return outputs["quue"]
        >>> report = evaluate(lambda inputs: {}, dataset=[{"inputs": 1}], evaluators=[broken])
        >>> report.cases[0].failure
        EvaluatorFailure(name='broken', kind='exception', reason="KeyError: 'quue'")
    """

    name: str
    kind: FailureKind
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NotApplicable:
    """The evaluator has nothing to say about this case. Neither score nor failure: it is counted,
    and left out of coverage and means."""

    name: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetFailure:
    """The target broke on a case. Evaluators are then not called at all.

    Args:
        kind: How: "exception", "timeout", "abandoned" (it ignored its end), "process_died",
            "not_json" or "too_large".
        reason: In words.
        attempts: How often it was run.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> def target(inputs):
        ...     raise ValueError("too hard")
        >>> report = evaluate(target, dataset=[{"inputs": 1}], evaluators=["json_valid"])
        >>> report.cases[0].failure
        TargetFailure(kind='exception', reason='ValueError: too hard', attempts=1)
    """

    kind: FailureKind
    reason: str
    attempts: int = 1


Outcome: TypeAlias = EvaluationResult | EvaluatorFailure | NotApplicable


def failure_to_json(failure: EvaluatorFailure | TargetFailure) -> dict[str, Any]:
    """A failure as stored in the ledger and sent in events."""
    return {"kind": failure.kind, "reason": failure.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatorContext:
    """One finished rollout, as JSON values; the only input of an evaluator.

    Args:
        case_id: The case.
        inputs: The case's.
        output: What the target gave (messages in the role/content form).
        expected_output: The case's.
        metadata: The case's.
        latency_ms: The target's own time, without queueing or backing off.
        usage: What the target spent.
        tape: The rollout's tape in JSON form, where one was recorded.
        outcomes: What the other evaluators said, for one that scores all cases together.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext
        >>> def short(ctx: EvaluatorContext) -> bool:
        ...     return len(ctx.output) < 10
        >>> short(EvaluatorContext(case_id="a", inputs={}, output="Sorry."))
        True
    """

    case_id: str
    inputs: Any
    output: Any
    expected_output: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    latency_ms: float = 0.0
    usage: Usage = field(default_factory=Usage)
    tape: dict[str, Any] | None = None
    outcomes: tuple[Outcome, ...] = ()

    @property
    def name(self) -> str:
        """The case id, under the name pydantic-evals evaluators read."""
        return self.case_id

    @property
    def duration(self) -> float:
        """The target's time in seconds, as pydantic-evals evaluators read it."""
        return self.latency_ms / 1000.0

    @property
    def duration_ms(self) -> float:
        """The target's time in milliseconds, as Orcheo's evaluators read it."""
        return self.latency_ms

    @property
    def attributes(self) -> dict[str, Any]:
        """Always empty: for evaluators written against pydantic-evals."""
        return {}

    @property
    def metrics(self) -> dict[str, float]:
        """The rollout's token counts, as pydantic-evals evaluators read them."""
        return {
            "requests": float(self.usage.calls),
            "input_tokens": float(self.usage.input_tokens),
            "output_tokens": float(self.usage.output_tokens),
        }


def private_context(ctx: EvaluatorContext) -> EvaluatorContext:
    """A copy of `ctx` whose values an evaluator may change; nothing else sees the changes."""
    return EvaluatorContext(  # not `replace`, which takes four times as long
        case_id=ctx.case_id,
        inputs=private_copy(ctx.inputs),
        output=private_copy(ctx.output),
        expected_output=private_copy(ctx.expected_output),
        metadata=private_copy(ctx.metadata),
        latency_ms=ctx.latency_ms,
        usage=ctx.usage,
        tape=private_copy(ctx.tape),
        outcomes=ctx.outcomes,
    )


def as_text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
