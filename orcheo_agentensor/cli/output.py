"""Printing: results to stdout, all else to stderr, and no markup from other people's text."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PLAIN_WIDTH = 120
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@lru_cache(maxsize=2)
def console(*, stderr: bool = False) -> Console:
    """The console for stdout or stderr; it follows redirections."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PLAIN_WIDTH
    return made


def clean(text: object) -> str:
    """Text without control characters: prompts and outputs may not steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def say(text: str, *, style: str | None = None) -> None:
    """A line for the user, on stderr."""
    console(stderr=True).print(clean(text), style=style, soft_wrap=True)


def show(text: str = "", *, style: str | None = None) -> None:
    """A line of a result, on stdout."""
    console().print(clean(text), style=style, soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout; finite numbers only."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # an output that cannot take every character
        sys.stdout.write(json.dumps(document, allow_nan=False, indent=2) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """A table; columns named with a leading `>` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=Text(clean(title)) if title else None)
    made.title_justify = "left"
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in rows:
        made.add_row(*(Text(clean("-" if cell is None else cell)) for cell in row))
    return made


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = ""
) -> None:
    """Print a table to stdout."""
    console().print(table(columns, rows, title=title))


def show_diff(diff: str) -> None:
    """Print a unified diff to stdout, in colours on a terminal."""
    for line in diff.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        show(line, style="bold" if line.startswith(("+++", "---")) else style)


def show_next(*commands: str) -> None:
    """Suggest what to run next."""
    show("Next:")
    for command in commands:
        show(f"  {command}", style="cyan")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; `-` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(value: Sequence[float] | None) -> str:
    """A 95 % interval for people."""
    return "-" if not value else f"[{value[0]:.3f}, {value[1]:.3f}]"


def percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"


def money(value: float | None) -> str:
    """A cost in US dollars; unknown where a model's price is."""
    return "price unknown" if value is None else f"${value:.4f}"


def when(value: Any) -> str:
    """A date for people."""
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"
