"""Numbers, texts and tables for people, on a terminal and in a notebook."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from orcheo_agentensor.media import label_media
from orcheo_agentensor.redaction import redact

if TYPE_CHECKING:
    from rich.table import Table

Row: TypeAlias = Sequence[object]

_STEERING = (
    r"\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
"""What steers a terminal or misleads a reader: C1 controls, bidirectional overrides, characters of
no width, line separators that only some programs know, tags."""
_CONTROL = re.compile(rf"[\x00-\x08\x0b-\x1f{_STEERING}]")
_UNESCAPED = re.compile(rf"[{_STEERING}]")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; `-` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(value: Sequence[float] | None) -> str:
    """A 95 % interval for people."""
    return "-" if not value else f"[{value[0]:.3f}, {value[1]:.3f}]"


def chance(p_value: float) -> str:
    """A p value for people; none is 0."""
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def p_equals(p_value: float) -> str:
    """A p value in a sentence."""
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"


def percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"


def money(value: float | None) -> str:
    """A cost in US dollars; unknown where a model's price is."""
    return "price unknown" if value is None else f"${value:.4f}"


def token_count(usage: Mapping[str, Any]) -> str:
    """Tokens for people: those that models reported, and how many calls reported none."""
    cached = usage.get("cached_calls")
    hits = f", {cached} answers from the model cache" if cached else ""
    if usage["tokens"] is not None:
        return f"{usage['tokens']} tokens{hits}"
    known = sum(usage["reported"].values())
    unknown = usage["unreported_calls"]
    return f"tokens unknown ({unknown} calls reported none, the others {known}){hits}"


def milliseconds(value: float | None) -> str:
    """A duration for people."""
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def clean(text: object) -> str:
    """`text` without its secrets, with labels for media, and without the characters that would
    steer a terminal or mislead its reader."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", redact(label_media(str(text))))


def clean_json(document: Any) -> str:
    """A document as indented JSON with such characters escaped, so that it reads back the same."""
    text = json.dumps(redact(document, names=False), ensure_ascii=False, allow_nan=False, indent=2)
    return escaped(text)


def escaped(text: str) -> str:
    """JSON with what steers a terminal or misleads a reader escaped."""
    return _UNESCAPED.sub(lambda found: json.dumps(found[0])[1:-1], text)


def rich_table(columns: Sequence[str], rows: Iterable[Row]) -> Table:
    """A table for a terminal; cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD)
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


def html_table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A table for a notebook; cells are escaped."""
    heads = "".join(f"<th>{html.escape(column.removeprefix('>'))}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape('-' if cell is None else clean(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def when(value: Any) -> str:
    """A date for people."""
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def spent(usage: Mapping[str, Any]) -> str:
    """The rollouts, calls, tokens and money of a run."""
    return (
        f"{usage['rollouts']} rollouts, {usage['calls']} model calls, "
        f"{token_count(usage)}, {money(usage['cost'])}"
    )


def again(summary: Mapping[str, Any]) -> str:
    """How many executions were made again, to go on a sentence; nothing where none was."""
    retries = summary.get("retries")
    return f", {retries} executions made again" if retries else ""


def compared(before: float | None, after: float | None) -> tuple[str, str, str]:
    """Two numbers and the change from the first to the second, as cells of a table."""
    change = "-" if before is None or after is None else f"{after - before:+.3f}"
    return number(before), number(after), change
