"""`--min-score`: least scores that a continuous-integration job insists on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.errors import BadInput

OBJECTIVE = "objective"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The least mean of one evaluator, or of the objective."""

    name: str
    minimum: float

    def check(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """What a summary has there, and whether that is enough; nothing scored never is."""
        if self.name == OBJECTIVE:
            value = summary["objective"]
        else:
            value = summary["evaluators"].get(self.name, {}).get("mean")
        return {
            "name": self.name,
            "minimum": self.minimum,
            "value": value,
            "met": value is not None and value >= self.minimum - 1e-12,
        }


def parse_gates(texts: Iterable[str] | None) -> list[Gate]:
    """The gates that `X` and `EVALUATOR=X` stand for."""
    gates = []
    for text in texts or ():
        name, _, minimum = text.rpartition("=")
        try:
            least = float(minimum)
        except ValueError:
            least = math.nan
        if not math.isfinite(least):
            raise BadInput(
                f"--min-score: {text!r} must be a number, or EVALUATOR=NUMBER",
                field="--min-score",
                value=text,
                rule="must be a number, or EVALUATOR=NUMBER",
            )
        gates.append(Gate(name=name.strip() or OBJECTIVE, minimum=least))
    return gates


def require_known(gates: Sequence[Gate], evaluators: Iterable[str]) -> None:
    """Refuse a gate on an evaluator that the job does not have."""
    known = sorted({name.split(".", 1)[0] for name in evaluators})
    for gate in gates:
        if gate.name != OBJECTIVE and gate.name.split(".", 1)[0] not in known:
            raise BadInput(
                f"--min-score: the job has no evaluator {gate.name!r}; it has: {', '.join(known)}",
                field="--min-score",
                value=gate.name,
                rule="must name an evaluator of the job",
            )
