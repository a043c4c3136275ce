"""What a proposer may give for a prompt in place of a whole text: edits of its lines, and why.

    {"why": "…", "edits": [
        {"op": "append", "text": "…"},
        {"op": "replace", "line": "…", "text": "…"},
        {"op": "delete", "line": "…"}
    ]}

`line` is the line of the present text as it stands there, or its number from 1. `why` says what is
wrong and why; `{"why": "…", "text": "…"}` gives a whole text with it. Edits are applied in their
order, each to lines of the text that was shown; one that does not apply refuses the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

Op: TypeAlias = Literal["append", "replace", "delete"]
OPS: tuple[Op, ...] = get_args(Op)
FIELDS = ("op", "line", "text")


class EditRefused(ValueError):
    """An edit does not apply; the message says which and why."""


def as_proposed(value: Any) -> Any:
    """What a proposer gave for a prompt, as JSON: a text, a mapping of the known fields, or None.

    What is of another kind in it is left out, for `new_text` to refuse.
    """
    if isinstance(value, str) or not isinstance(value, Mapping):
        return value if isinstance(value, str) else None
    found: dict[str, Any] = {k: v for k in ("why", "text") if isinstance(v := value.get(k), str)}
    edits = value.get("edits")
    if isinstance(edits, list | tuple):
        found["edits"] = [
            {key: str(entry[key]) for key in FIELDS if isinstance(entry.get(key), str | int)}
            if isinstance(entry, Mapping)
            else {}
            for entry in edits
        ]
    return found


def why_of(value: Any) -> str:
    """The reason that a proposer gave for what it proposes for a prompt, or nothing."""
    return str(value.get("why", "")).strip() if isinstance(value, Mapping) else ""


def new_text(text: str, value: Any) -> Any:
    """The new text of a prompt by what was proposed in place of `text`.

    What is not a mapping is given back as it is. Raises `EditRefused`.
    """
    if not isinstance(value, Mapping):
        return value
    edits = value.get("edits")
    if not edits:
        return value.get("text") or (text if edits == [] else "")
    lines: list[str | None] = list(text.split("\n"))
    before: dict[int, list[str]] = {}
    added: list[str] = []
    for number, edit in enumerate(edits, start=1):
        op, new = edit.get("op"), edit.get("text", "")
        if op not in OPS:
            raise EditRefused(f"edit {number} has the op {op!r}; known: {', '.join(OPS)}")
        if op != "delete" and not new.strip():
            raise EditRefused(f"edit {number} ({op}) has no text")
        if op == "append":
            added.append(new)
            continue
        place = _place(text, edit.get("line", ""), number=number)
        if lines[place] is None or place in before:
            raise EditRefused(f"edit {number} ({op}) changes line {place + 1} once more")
        lines[place] = None
        before[place] = [new] if op == "replace" else []
    kept: list[str] = []
    for place, line in enumerate(lines):
        kept += [line] if line is not None else before[place]
    if added and kept and not kept[-1].strip():
        kept.pop()  # what is added goes to the last line that holds something
    return "\n".join([*kept, *added])


def _place(text: str, line: str, *, number: int) -> int:
    """The index of the line that an edit names."""
    lines = text.split("\n")
    found = [n for n, one in enumerate(lines) if one == line]
    found = found or [n for n, one in enumerate(lines) if one.strip() == line.strip()]
    if not found and line.strip().isdecimal() and 1 <= int(line) <= len(lines):
        found = [int(line) - 1]
    if not line.strip() or not found:
        raise EditRefused(f"edit {number} names no line of the prompt: {line[:80]!r}")
    if len(found) > 1:
        raise EditRefused(f"edit {number} names {len(found)} lines of the prompt: {line[:80]!r}")
    return found[0]
