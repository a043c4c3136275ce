"""Finding prompts in the messages of a model call.

A prompt is found where its text stands in a message, or where its literal pieces do, in order: the
graph may have filled in its `{x}` and `{{x}}`. Nothing else is forgiven, but for white space at the
ends. A text with hardly any letters of its own counts only as a whole message, or a whole line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from string import Formatter
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage

from orcheo_agentensor.tensor import TextTensor

MIN_LITERAL = 8
"""Fewest characters of the longest literal piece of a prompt that is searched for inside text."""

_FIELD = r"[A-Za-z_0-9][\w.\[\]-]*"
_PLACEHOLDER = re.compile(
    rf"\{{\{{\s*{_FIELD}\s*\}}\}}|\{{(?:{_FIELD})?(?:![rsa])?(?::[^{{}}]*)?\}}"
)
_FORMAT_FIELD = re.compile(rf"(?:{_FIELD})?")
_FOUND = "\x00"

Pieces: TypeAlias = tuple[str, ...]


class PromptSearch:
    """Searches the messages of model calls for the trainable prompts of one run.

    Longer prompts go first, and what they cover is not searched again: a prompt that is a part of
    another is found only where it stands by itself. Prompts with equal texts cannot be told apart.
    """

    def __init__(self, prompts: Mapping[str, Any]) -> None:
        named: dict[str, list[str]] = {}
        for name, value in prompts.items():
            text = _trainable_text(value)
            if text is not None and text.strip():
                named.setdefault(text.strip(), []).append(name)
        self._prompts = sorted(named.items(), key=lambda item: len(item[0]), reverse=True)

    def groups(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """For each text that stands in `texts`, the names of the prompts that have it."""
        left = list(texts)
        for text, names in self._prompts:
            found = False
            for index, searched in enumerate(left):
                rest = without(text, searched)
                if rest is not None:
                    found, left[index] = True, rest
            if found:
                yield names


def message_texts(messages: Iterable[BaseMessage]) -> Iterator[str]:
    """The texts the caller has put into a call: of every message but those a model has written."""
    for message in messages:
        if message.type == "ai":
            continue
        if isinstance(message.content, str):
            yield message.content
            continue
        blocks = [
            block if isinstance(block, str) else block.get("text") for block in message.content
        ]
        yield "\n".join(block for block in blocks if isinstance(block, str))


def without(prompt: str, text: str) -> str | None:
    """`text` with every place where `prompt` stands in it blanked out; None where it does not."""
    for pieces in _forms(prompt):
        rest = _blanked(pieces, text)
        if rest is not None:
            return rest
    return None


def _trainable_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, TextTensor):
        return value.text if value.requires_grad else None
    if isinstance(value, Mapping) and value.get("requires_grad", True):
        text = value.get("text")
        return text if isinstance(text, str) else None
    return None


@lru_cache(maxsize=1024)
def _forms(prompt: str) -> tuple[Pieces, ...]:
    """The ways a prompt may stand in a message: as it is, filled in, filled in by `str.format`."""
    forms = [(prompt,), _trimmed(_PLACEHOLDER.split(prompt))]
    try:
        parsed = list(Formatter().parse(prompt))
    except ValueError:  # braces that are no template of this kind
        parsed = []
    if all(field is None or _FORMAT_FIELD.fullmatch(field) for _, field, _, _ in parsed):
        literals = [""]
        for literal, field, _, _ in parsed:
            literals[-1] += literal
            if field is not None:
                literals.append("")
        forms.append(_trimmed(literals))
    return tuple(dict.fromkeys(form for form in forms if form))


def _trimmed(literals: Sequence[str]) -> Pieces:
    """Literal pieces, without white space at the ends of the whole; none if that is all."""
    if not any(literal.strip() for literal in literals):
        return ()
    first, *rest = literals
    pieces = [first.lstrip(), *rest]
    pieces[-1] = pieces[-1].rstrip()
    return tuple(pieces)


def _blanked(pieces: Pieces, text: str) -> str | None:
    if max(map(len, pieces)) < MIN_LITERAL:
        return _blanked_line(pieces, text)
    if len(pieces) == 1:
        return text.replace(pieces[0], _FOUND) if pieces[0] in text else None
    rest, start = text, 0
    while (spans := _in_order(pieces, rest, start)) is not None:
        # What was filled in stays: it may hold the text of another prompt.
        for begin, end in reversed(spans):
            rest = rest[:begin] + _FOUND + rest[end:]
        start = spans[0][0] + 1
    return None if rest is text else rest


def _in_order(pieces: Pieces, text: str, start: int) -> list[tuple[int, int]] | None:
    """Where each piece stands, the first possible places one after the other."""
    spans = []
    for piece in pieces:
        found = text.find(piece, start)
        if found < 0:
            return None
        start = found + len(piece)
        if piece:
            spans.append((found, start))
    return spans


def _blanked_line(pieces: Pieces, text: str) -> str | None:
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    if pattern.fullmatch(text.strip()):
        return _FOUND
    lines = text.split("\n")
    kept = [line for line in lines if not pattern.fullmatch(line.strip())]
    return None if len(kept) == len(lines) else "\n".join(kept)
