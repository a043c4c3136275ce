"""What a measure found, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "optimizers"
"""A file of JSON for each measure that was recorded; the page of the documentation shows these."""
TITLES = {
    "rules": "The rule task: 2 components, 8 rules, 30 train and 20 validation cases",
    "harder": "Harder rule tasks",
    "interference": "A rule breaks another until its fix is there",
    "forgetting": "A proposer that forgets",
    "noise": "Some outcomes are flipped",
    "trouble": "A proposer of rubbish, and one whose edits crash the target",
    "coin": "A metric that is a coin flip",
    "unread": "Prompts that nothing reads",
    "resume": "Runs cut off and resumed",
    "overshoot": "Budgets kept",
    "banking": "Banking messages",
    "routing": "Real queries and real embeddings",
    "latency": "Wall time",
    "real_model": "A real language model on this machine",
}
"""The measures, in the order in which they are made and shown."""


class NotHere(Exception):
    """A measure needs what is not installed here; the message says what, and what installs it."""


GOAL_IS = "goal "
"""A target that begins so was set for ours alone: missing it says nothing of a peer."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: the seeds of every search, and a share of the larger numbers."""

    seeds: int = 20
    scale: float = 1.0

    def size(self, full: int, *, least: int = 1) -> int:
        """`full`, scaled."""
        return max(least, round(full * self.scale))


FULL = Plan()
QUICK = Plan(seeds=3, scale=0.02)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: what each contender reached; `met` says whether ours is as good as `target`."""

    name: str
    cells: Mapping[str, str]
    target: str = ""
    met: bool | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a measure found; `setup` says in words what was run and what a cell holds."""

    setup: str
    rows: tuple[Row, ...]

    def columns(self) -> list[str]:
        """The contenders, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.cells))


def verdict(row: Row) -> str:
    """In words, whether the target was met."""
    return "" if row.met is None else "met" if row.met else "missed"


def as_table(name: str, result: Result) -> Table:
    """For a terminal."""
    table = Table(title=name, caption=result.setup, title_justify="left", caption_justify="left")
    columns = result.columns()
    table.add_column("")
    for column in (*columns, "target", ""):
        table.add_column(column, justify="right")
    for row in result.rows:
        cells = (row.cells.get(column, "") for column in columns)
        table.add_row(row.name, *cells, row.target, verdict(row))
    return table


def as_markdown(name: str, result: Result) -> str:
    """For a page of the documentation."""
    columns = [name, *result.columns(), "target", "verdict"]
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    for row in result.rows:
        cells = [row.cells.get(column, "") for column in result.columns()]
        lines.append([row.name, *cells, row.target, verdict(row)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{result.setup}\n"


def number(value: float) -> str:
    """A count or a share, short."""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3f}"


def plain(value: Any) -> Any:
    """As JSON takes it: no infinite numbers."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
