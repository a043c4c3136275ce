"""Guards on proposals: each passes a text or refuses it with a reason; none repairs a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orcheo_agentensor.optimizers.protocol import ComponentRequest, ProposalRequest
from orcheo_agentensor.storage.tables import clean_text

COPY_LENGTH = 40
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w.\-]*\s*\}\}|(?<!\{)\{[A-Za-z_][\w.]*\}(?!\})")
_LABELLED_LINE = re.compile(r"^\s*(?:[-*]\s+)?[^\s:][^:]{0,60}:(?P<words>.*)$")


def placeholders(text: str) -> tuple[str, ...]:
    """The distinct `{{x}}` and `{x}` of a text, without white space in the braces, sorted."""
    return tuple(sorted({re.sub(r"\s+", "", found) for found in _PLACEHOLDER.findall(text)}))


def default_max_chars(initial: str) -> int:
    """The length cap of a prompt whose metadata sets none."""
    return max(4_000, 3 * len(initial))


class CaseTexts:
    """The texts of the cases' inputs and expected outputs, to search a proposal for copies."""

    def __init__(self, values: Iterable[Any]) -> None:
        texts = (_folded(text) for value in values for text in texts_in(value))
        self._texts = "\0".join(text for text in texts if len(text) >= COPY_LENGTH)

    def copied(self, text: str, *, parent: str) -> str | None:
        """The first `COPY_LENGTH` characters that `text` copies from a case and its parent did not
        hold, or None. White space and case are folded."""
        folded, held = _folded(text), _folded(parent)
        for start in range(len(folded) - COPY_LENGTH + 1):
            stretch = folded[start : start + COPY_LENGTH]
            if stretch in self._texts and stretch not in held:
                return stretch
        return None


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, its keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(entry)


def refusals(component: ComponentRequest, text: Any, *, cases: CaseTexts) -> list[str]:
    """Why `text` may not replace `component.text`; empty when it may.

    The prompt's metadata may ask for more: `max_line_words` caps the words after the colon of every
    `label: words` line, `must_keep` lists texts that have to stay, `never` texts that must not
    appear (in any case of letters).
    """
    if not isinstance(text, str) or not text.strip():
        return ["empty"]
    if text == component.text:
        return ["identical to its parent"]
    reasons = []
    if clean_text(text) != text:
        reasons.append("holds characters that cannot be stored")
    if len(text) > component.max_chars:
        reasons.append(f"{len(text)} characters, over the cap of {component.max_chars}")
    held, wanted = set(placeholders(text)), set(component.placeholders)
    if lost := sorted(wanted - held):
        reasons.append(f"lost placeholders: {', '.join(lost)}")
    if invented := sorted(held - wanted):
        reasons.append(f"invented placeholders: {', '.join(invented)}")
    if sum(line.lstrip().startswith("```") for line in text.splitlines()) % 2:
        reasons.append("a code fence is not closed")
    if isinstance(cap := component.metadata.get("max_line_words"), int):
        reasons += [
            f"line {number} has {count} words after its label, over the cap of {cap}"
            for number, line in enumerate(text.splitlines(), start=1)
            if (found := _LABELLED_LINE.match(line))
            and (count := len(found["words"].split())) > cap
        ]
    for kept in _listed(component.metadata.get("must_keep")):
        if kept not in text:
            reasons.append(f"must keep {kept!r}")
    for banned in _listed(component.metadata.get("never")):
        if banned.casefold() in text.casefold():
            reasons.append(f"must never say {banned!r}")
    if copied := cases.copied(text, parent=component.text):
        reasons.append(f"copies a case: {copied!r}")
    return reasons


def through_guards(
    request: ProposalRequest, texts: Mapping[str, Any], *, cases: CaseTexts
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The new texts that may be used, and the reasons against those that may not, by name.

    A text that is the same as before is in neither.
    """
    asked = {component.name: component for component in request.components}
    passed: dict[str, str] = {}
    refused: dict[str, list[str]] = {}
    for name, text in texts.items():
        if name not in asked:
            refused[name] = ["was not asked for"]
        elif text != asked[name].text:
            if found := refusals(asked[name], text, cases=cases):
                refused[name] = found
            else:
                passed[name] = text
    return passed, refused


def _listed(value: Any) -> list[str]:
    found = value if isinstance(value, list | tuple) else [value]
    return [entry for entry in found if isinstance(entry, str)]
