"""What rollouts and model calls cost: counts, tokens, money. `metering` does the counting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Counts of model calls and their tokens; `cost` in US dollars, None where no price is known.

    `rollouts` counts executions of the target (every attempt of a retried one).
    """

    rollouts: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        known = self.cost is not None and other.cost is not None
        return Usage(
            rollouts=self.rollouts + other.rollouts,
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=(self.cost or 0.0) + (other.cost or 0.0) if known else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As stored in the ledger and printed in results."""
        return {
            "rollouts": self.rollouts,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "tokens": self.tokens,
            "cost": self.cost,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """The inverse of `to_json`; unknown and derived keys are ignored."""
        return cls(
            rollouts=int(data.get("rollouts", 0)),
            calls=int(data.get("calls", 0)),
            input_tokens=int(data.get("input_tokens", 0)),
            output_tokens=int(data.get("output_tokens", 0)),
            cost=data.get("cost", 0.0),
        )


NOTHING = Usage()
ONE_ROLLOUT = Usage(rollouts=1)
ONE_CALL = Usage(calls=1)
