"""`EachTurn`: an evaluator of single turns, over all turns of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from orcheo_agentensor.evaluators.builtin import Builtin
from orcheo_agentensor.evaluators.context import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    NotApplicable,
    Outcome,
    verdict,
)
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.evaluators.binding import BoundEvaluator


class EachTurn(Builtin):
    """Scores each turn of a conversation by another evaluator; the score is the mean.

    That evaluator gets the user's message as inputs, the reply as output, and what a scripted turn
    has `expected`; turns without it are left out where it is needed. The reason names each turn
    that falls short ("turn 2: …"), and a training blames the prompts that were read in that turn.

    Example:
        >>> from orcheo_agentensor import Conversation, evaluate
        >>> turns = [{"user": "2 + 2?", "expected": "4"}, {"user": "3 + 3?", "expected": "6"}]
        >>> each = {"type": "each_turn", "evaluator": "exact_match"}
        >>> four = Conversation(lambda inputs: "4")
        >>> report = evaluate(four, dataset=[{"turns": turns}], evaluators=[each])
        >>> report.cases[0].scores, report.cases[0].reasons
        ({'each_turn': 0.5}, {'each_turn': "turn 2: expected '6', got '4'"})
    """

    type_name: ClassVar[str] = "each_turn"

    evaluator: Any = Field(description="The evaluator, in any form that a job takes")

    def with_settings(self, settings: Settings) -> EachTurn:
        """With its evaluator bound."""
        from orcheo_agentensor.evaluators.binding import bind_evaluators

        (bound,) = bind_evaluators([self.evaluator], settings=settings)
        return self.changed(evaluator=bound)

    def require_model(self, metadata: Iterable[Mapping[str, Any]]) -> None:
        """As the evaluator of single turns."""
        if isinstance(self.evaluator.subject, Builtin):
            self.evaluator.subject.require_model(metadata)

    @property
    def is_quick(self) -> bool:
        return False

    @property
    def compares(self) -> bool:
        return True

    async def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score the turns, one after the other."""
        turns = ctx.output.get("turns") if isinstance(ctx.output, dict) else None
        if not isinstance(turns, list) or not turns:
            return self.lacks(ctx, "output.turns, which a conversation has,")
        bound: BoundEvaluator = self.evaluator
        scores: list[float] = []
        reasons: list[str] = []
        passed = True
        for number, turn in enumerate(turns, start=1):
            of_turn = EvaluatorContext(
                case_id=f"{ctx.case_id}, turn {number}",
                inputs=turn.get("user"),
                output=turn.get("reply"),
                expected_output=turn.get("expected"),
                metadata=ctx.metadata,
            )
            for one in (await bound.attempt(of_turn, timeout=None, recorder=None)).outcomes:
                if isinstance(one, EvaluatorFailure):
                    if one.kind == "missing" and "expected" not in turn:
                        continue
                    reason = f"turn {number}: {one.reason}"
                    return EvaluatorFailure(name=self.name, kind=one.kind, reason=reason)
                if isinstance(one, NotApplicable) or one.score is None:
                    continue
                scores.append(one.score)
                good = bool(verdict(one.passed, one.score))
                passed &= good
                if not good or one.score < 1.0:
                    reasons.append(f"turn {number}: {one.reason or f'scored {one.score:g}'}")
        if not scores:
            return NotApplicable(name=self.name, reason="no turn could be scored")
        return EvaluationResult(
            name=self.name,
            score=fsum(scores) / len(scores),
            passed=passed,
            reason="\n".join(reasons) or None,
        )
