"""What a better score costs: latency, tokens and money per case, paired."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.statistics import mean_interval, percentile


def deltas(
    baseline: Sequence[CaseResult], best: Sequence[CaseResult], *, seed: int = 0
) -> dict[str, Any]:
    """How much slower and dearer `best` is than `baseline` on the same cases, as JSON.

    `latency_ms` (with both `p95`), `tokens` and `cost` (in US dollars) each have the means of both
    and the mean difference per case, latency and cost also its 95 % bootstrap interval. They are
    taken over the cases on which neither target failed; `n` counts them. Tokens and cost include
    the evaluators'. What is not known is None: everything without such a case, the cost where any
    model's price is unknown. May import scipy, so call it off the loop.
    """
    pairs = [
        (one, other)
        for one, other in zip(baseline, best, strict=True)
        if one.target_failure is None and other.target_failure is None
    ]

    def compared(
        value: Callable[[CaseResult], float | None], *, interval: bool = True
    ) -> dict[str, Any]:
        before = [value(one) for one, _ in pairs]
        after = [value(other) for _, other in pairs]
        known = [n for n in before if n is not None], [n for n in after if n is not None]
        found: dict[str, Any] = {"baseline": None, "best": None, "difference": None}
        found |= {"ci95": None} if interval else {}
        if not pairs or min(map(len, known)) < len(pairs):
            return found
        each = [b - a for a, b in zip(*known, strict=True)]
        found |= {"baseline": _mean(known[0]), "best": _mean(known[1]), "difference": _mean(each)}
        if interval and (ends := mean_interval(each, seed=seed)) is not None:
            found["ci95"] = list(ends)
        return found

    p95 = [percentile([pair[side].latency_ms for pair in pairs], 0.95) for side in (0, 1)]
    latency = compared(lambda result: result.latency_ms)
    latency |= {"baseline_p95": p95[0], "best_p95": p95[1]}
    return {
        "n": len(pairs),
        "latency_ms": latency,
        "tokens": compared(lambda result: float(result.usage.tokens), interval=False),
        "cost": compared(lambda result: result.usage.cost),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
