"""Evaluators as Orcheo stores them, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentensor.loss import LLMTensorJudge
from orcheo.agentensor.evaluation import EvaluationContext
from pydantic_evals.evaluators import EvaluationReason


def echoed(context: EvaluationContext) -> dict[str, Any]:
    """Whether the prompt came back, and in what time."""
    same = context.output.get("echo") == context.inputs.get("prompt")
    return {"value": same, "reason": f"match in {context.duration_ms} ms" if same else "mismatch"}


def always(_: EvaluationContext) -> dict[str, Any]:
    """Right, whatever comes."""
    return {"value": True, "reason": "ok"}


class AtLeast:
    """Whether as many words came back as its config asks for."""

    def __init__(self, words: int = 1) -> None:
        self.words = words

    def __call__(self, ctx: EvaluationContext) -> bool:
        return len(ctx.output["echo"].split()) >= self.words


@dataclass
class Judge(LLMTensorJudge):
    """A judge of Orcheo's that asks nobody."""

    rubric: str = "The output should be in Chinese."

    async def evaluate(self, ctx: Any) -> EvaluationReason:
        return EvaluationReason(value="ping" in ctx.output.text, reason=ctx.inputs.text)
