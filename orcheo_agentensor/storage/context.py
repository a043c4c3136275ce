"""What every repository is given: the database, the clock and where ids come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from orcheo_agentensor.storage.engine import Database


@dataclass(frozen=True, slots=True)
class Context:
    """The means of a repository."""

    db: Database
    clock: Callable[[], datetime]
    new_id: Callable[[], str]


def listed(values: list[str], limit: int = 20) -> str:
    """Names for an error message: all of a few, the first of many."""
    if not values:
        return "none"
    shown = ", ".join(values[:limit])
    return shown if len(values) <= limit else f"{shown}, … ({len(values)} in all)"
