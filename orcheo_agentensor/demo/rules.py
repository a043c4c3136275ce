"""Checkable rules for replies, found in plain text by the verbs they use.

The simulated model acts on the rules of its system prompt, the evaluator checks those of the
policy: both read the same few forms, in the imperative or not ("Start with …", "It starts with …").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orcheo_agentensor.demo.words import words

RuleKind: TypeAlias = Literal["start", "end", "avoid", "include", "limit", "name"]

_BEFORE = '^[^"\u201c]*'
_QUOTED = '[^"\u201c]*["\u201c](?P<value>[^"\u201d]+)["\u201d]'
_FORMS: tuple[tuple[RuleKind, str], ...] = (
    ("avoid", rf"{_BEFORE}\b(?:never|not|avoids?)\b{_QUOTED}"),
    ("start", rf"{_BEFORE}\b(?:starts?|begins?|opens?)\b{_QUOTED}"),
    ("end", rf"{_BEFORE}\b(?:ends?|closes?|finish(?:es)?)\b{_QUOTED}"),
    ("include", rf"{_BEFORE}\b(?:includes?|mentions?|says?|adds?)\b{_QUOTED}"),
    ("limit", r"\b(?:at most|no more than|up to)\s+(?P<value>\d+)\s+words\b"),
    ("name", r"\b(?:names?|mentions?)\s+the\s+(?P<value>[a-z]+)\b"),
)
_ITEM = re.compile(r"^\s*(?:[-*]|\d+[.)])\s+(?P<text>\S.*)$")


@dataclass(frozen=True)
class Rule:
    """One rule of a list: what it asks for, and its own words."""

    kind: RuleKind
    value: str
    text: str

    def kept(self, reply: str, fields: Mapping[str, str]) -> bool:
        """Whether `reply` keeps the rule; `fields` are the values that a rule may ask to name."""
        said = " ".join(words(reply))
        value = " ".join(words(self.value))
        match self.kind:
            case "start":
                return f"{said} ".startswith(f"{value} ")
            case "end":
                return f" {said}".endswith(f" {value}")
            case "limit":
                return len(words(reply)) <= int(self.value)
            case "name":
                named = " ".join(words(fields.get(self.value.lower(), "")))
                return bool(named) and f" {named} " in f" {said} "
            case "avoid":
                return f" {value} " not in f" {said} "
            case "include":
                return f" {value} " in f" {said} "


def parse_rule(text: str) -> Rule | None:
    """The rule that a sentence states, or None when it has none of the known forms."""
    for kind, form in _FORMS:
        if match := re.search(form, text, re.IGNORECASE):
            return Rule(kind=kind, value=match["value"].rstrip(".").strip(), text=text)
    return None


def parse_rules(text: str) -> list[Rule]:
    """The rules among the list items of a text; items of no known form are passed over."""
    items = (match["text"] for line in text.splitlines() if (match := _ITEM.match(line)))
    return [rule for item in items if (rule := parse_rule(item)) is not None]
