"""What an offline proposer reads out of feedback: routed tickets, and broken rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.demo.rules import Rule, parse_rule, parse_rules
from orcheo_agentensor.demo.words import content_words
from orcheo_agentensor.optimizers.base import FeedbackRecord

_BROKEN = re.compile(r"\bbreaks: (?P<rules>[^\n)]+)")


@dataclass(frozen=True)
class Lesson:
    """One case as seen by whoever writes definitions: its content words, the label it should have
    had, and the one that it got."""

    words: frozenset[str]
    expected: str
    given: str


def lessons(records: Iterable[FeedbackRecord], labels: Collection[str]) -> list[Lesson]:
    """The lessons of the records whose output holds one of `labels`."""
    found = []
    for record in records:
        expected, given = _labels(record, labels)
        if expected is not None and given is not None:
            held = frozenset(content_words(" ".join(texts(record.inputs))))
            found.append(Lesson(words=held, expected=expected, given=given))
    return found


def broken_rules(records: Iterable[FeedbackRecord], prompt: str) -> list[Rule]:
    """The rules that feedback calls broken and `prompt` lacks, the most often broken first."""
    known = {(rule.kind, rule.value) for rule in parse_rules(prompt)}
    counts: Counter[str] = Counter()
    for record in records:
        for match in _BROKEN.finditer(record.feedback):
            counts.update(text.strip() for text in match["rules"].split(";"))
    found = [rule for text, _ in counts.most_common() if (rule := parse_rule(text)) is not None]
    return [rule for rule in found if (rule.kind, rule.value) not in known]


def with_rules(prompt: str, rules: Iterable[Rule]) -> str:
    """`prompt` with rules appended to its list; as it is where there are none."""
    items = "".join(f"- {rule.text[:1].upper()}{rule.text[1:]}\n" for rule in rules)
    return f"{prompt.rstrip()}\n{items}" if items else prompt


def _labels(record: FeedbackRecord, labels: Collection[str]) -> tuple[str | None, str | None]:
    """(expected, given): the field of the output that holds a label, in both."""
    output, expected = record.output, record.expected_output
    if isinstance(output, Mapping) and isinstance(expected, Mapping):
        for key, value in output.items():
            if value in labels and isinstance(expected.get(key), str):
                return expected[key], value
    if isinstance(expected, str) and isinstance(output, str) and output in labels:
        return expected, output
    return None, None


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts(entry)
