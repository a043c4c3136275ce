"""Guards on proposals: each either passes a text or refuses it with a reason. None repairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orcheo_agentensor.optimizers.protocol import ComponentRequest

COPY_LENGTH = 40
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w.\-]*\s*\}\}|(?<!\{)\{[A-Za-z_][\w.]*\}(?!\})")
_LABELLED_LINE = re.compile(r"^\s*(?:[-*]\s+)?[^\s:][^:]{0,60}:(?P<words>.*)$")


def placeholders(text: str) -> tuple[str, ...]:
    """The `{{x}}` and `{x}` of a text, white space inside the braces removed, sorted, with repeats
    left out."""
    return tuple(sorted({re.sub(r"\s+", "", found) for found in _PLACEHOLDER.findall(text)}))


def default_max_chars(initial: str) -> int:
    """The length cap of a prompt that sets none: room to grow, but not without end."""
    return max(4_000, 3 * len(initial))


class CaseTexts:
    """The texts of the cases' inputs and expected outputs, searchable for copies."""

    def __init__(self, values: Iterable[Any]) -> None:
        texts = (_folded(text) for value in values for text in _strings(value))
        self._texts = "\0".join(text for text in texts if len(text) >= COPY_LENGTH)

    def copied(self, text: str, *, parent: str) -> str | None:
        """A stretch of at least `COPY_LENGTH` characters that `text` shares with a case and its
        parent did not hold; None when there is none. White space and case are folded."""
        folded, held = _folded(text), _folded(parent)
        for start in range(len(folded) - COPY_LENGTH + 1):
            stretch = folded[start : start + COPY_LENGTH]
            if stretch in self._texts and stretch not in held:
                return stretch
        return None


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _strings(entry)


def refusals(component: ComponentRequest, text: Any, *, cases: CaseTexts) -> list[str]:
    """Why `text` may not replace `component.text`; empty when it may.

    A text equal to its parent is refused too: it is no proposal. The prompt's metadata may ask for
    more: `max_line_words` caps the words after the colon of every `label: words` line, `must_keep`
    lists texts that have to stay, `never` texts that may not come in (in any case of letters).
    """
    if not isinstance(text, str) or not text.strip():
        return ["empty"]
    if text == component.text:
        return ["identical to its parent"]
    reasons = []
    if "\0" in text or _has_surrogate(text):
        reasons.append("holds characters that cannot be stored")
    if len(text) > component.max_chars:
        reasons.append(f"{len(text)} characters, over the cap of {component.max_chars}")
    found = set(placeholders(text))
    wanted = set(component.placeholders)
    if lost := sorted(wanted - found):
        reasons.append(f"lost placeholders: {', '.join(lost)}")
    if invented := sorted(found - wanted):
        reasons.append(f"invented placeholders: {', '.join(invented)}")
    if sum(line.lstrip().startswith("```") for line in text.splitlines()) % 2:
        reasons.append("a code fence is not closed")
    cap = component.metadata.get("max_line_words")
    if isinstance(cap, int):
        reasons.extend(_long_lines(text, cap))
    for kept in _listed(component.metadata.get("must_keep")):
        if kept not in text:
            reasons.append(f"must keep {kept!r}")
    for banned in _listed(component.metadata.get("never")):
        if banned.casefold() in text.casefold():
            reasons.append(f"must never say {banned!r}")
    if copied := cases.copied(text, parent=component.text):
        reasons.append(f"copies a case: {copied!r}")
    return reasons


def _listed(value: Any) -> list[str]:
    found = value if isinstance(value, list | tuple) else [value]
    return [entry for entry in found if isinstance(entry, str)]


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _long_lines(text: str, cap: int) -> list[str]:
    reasons = []
    for number, line in enumerate(text.splitlines(), start=1):
        labelled = _LABELLED_LINE.match(line)
        if labelled and (count := len(labelled["words"].split())) > cap:
            reasons.append(
                f"line {number} has {count} words after its label, over the cap of {cap}"
            )
    return reasons
