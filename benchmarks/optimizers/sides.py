"""What both sides are given, and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.optimizers.proposers import Edit, perfect
from benchmarks.optimizers.simulator import Simulator


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search. `latency` is in seconds per rollout; without `stop`, the budget ends it."""

    budget: int
    seed: int = 0
    edit: Edit = perfect
    stop: bool = True
    latency: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a side returns: its texts, and the validation score that it reports for them.

    `rewrites` counts the proposer's changes by component.
    `seconds` is the time to the target where it was reached, else that of the whole search.
    """

    texts: Mapping[str, str]
    reported: float
    rewrites: Mapping[str, int]
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Side(Protocol):
    """Searches with a simulator and says what it found."""

    async def __call__(self, simulator: Simulator, search: Search, /) -> Found:
        """Run one search to its end."""
        ...
