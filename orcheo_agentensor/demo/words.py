"""Words and label definitions: all that the simulated model and the offline proposers understand.

A definitions block is a heading line that ends with a colon, followed by lines `label: words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

Definitions: TypeAlias = dict[str, tuple[str, ...]]
"""Label -> the words of its line."""

_STOP_WORDS = """
a about after again all also am an and any are aren't as at be because been before being but by
can can't could couldn't did didn't do does doesn't don't down for from get getting go going
gone got had hadn't has hasn't have haven't he hello help her here hi his how how's i i'd i'll
i'm i've if in into is isn't it it's its just know like made make may me might more most must my
need no not now of on only or other our out over own please same she should so some still such
tell than thank thanks that that's the their them then there there's these they this those to
too under up us very want was wasn't we were what what's when where which while who whom why
will with won't would wouldn't you you're your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say nothing about a topic; nobody in the demo puts them into a definition."""

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_HEADING = re.compile(r"^\s*\S.*:\s*$")
_DEFINITION = re.compile(r"^\s*(?:[-*]\s+)?(?P<label>[^\s:][^:]{0,60}?)\s*:\s*(?P<words>\S.*)$")


def words(text: str) -> list[str]:
    """The words of a text in order: lower case, without punctuation, not stemmed."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def content_words(text: str) -> set[str]:
    """The distinct words of a text that are not stop words."""
    return set(words(text)) - STOP_WORDS


def parse_definitions(text: str) -> Definitions:
    """The label lines of a prompt; empty where it has no definitions block."""
    return {label: tuple(dict.fromkeys(words(line))) for _, label, line in _blocks(text)}


def with_definitions(text: str, definitions: Mapping[str, Sequence[str]]) -> str:
    """`text` with the lines of its definitions block replaced.

    Lines keep their order; a label that the block lacks gets a line at its end.
    """
    lines = text.splitlines()
    found = list(_blocks(text))
    for number, label, _ in found:
        if label in definitions:
            lines[number] = _line(label, definitions[label])
    known = {label for _, label, _ in found}
    end = found[-1][0] + 1 if found else len(lines)
    lines[end:end] = [
        _line(label, line) for label, line in definitions.items() if label not in known
    ]
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


class Router:
    """Gives a text to the label whose line matches its words best.

    A word counts 1 / the number of lines that hold it; ties go to the alphabetically first label.
    """

    def __init__(self, definitions: Mapping[str, Iterable[str]]) -> None:
        self._labels = sorted(definitions)
        self._lines: dict[str, list[int]] = {}
        for number, label in enumerate(self._labels):
            for word in dict.fromkeys(definitions[label]):
                self._lines.setdefault(word, []).append(number)

    def route(self, text_words: Iterable[str]) -> str:
        """The label for a text with these words; repeated words count once."""
        scores = [0.0] * len(self._labels)
        for word in sorted({word for word in text_words if word in self._lines}):
            for number in self._lines[word]:
                scores[number] += 1 / len(self._lines[word])
        best = max(scores) - 1e-9
        return next(
            label for label, score in zip(self._labels, scores, strict=True) if score >= best
        )


def _line(label: str, line: Sequence[str]) -> str:
    return f"{label}: {' '.join(line)}"


def _blocks(text: str) -> Iterable[tuple[int, str, str]]:
    """(line number, label, words) of every definition line."""
    inside = False
    for number, line in enumerate(text.splitlines()):
        if _HEADING.match(line):
            inside = True
        elif inside and (match := _DEFINITION.match(line)):
            yield number, match["label"], match["words"]
        else:
            inside = False
