"""`EvaluatorContext`: all an evaluator is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orcheo_agentensor.usage import Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatorContext:
    """One finished rollout, as JSON values; the only input of an evaluator.

    `inputs`, `expected_output` and `metadata` are the case's; `output` is what the target gave
    (messages in the role/content form). `latency_ms` is the target's own time, without queueing
    or backing off. `tape` is the rollout's tape in JSON form where one was recorded.
    """

    case_id: str
    inputs: Any
    output: Any
    expected_output: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    latency_ms: float = 0.0
    usage: Usage = field(default_factory=Usage)
    tape: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The case id, under the name pydantic-evals evaluators read."""
        return self.case_id

    @property
    def duration(self) -> float:
        """The target's time in seconds, as pydantic-evals evaluators read it."""
        return self.latency_ms / 1000.0

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
