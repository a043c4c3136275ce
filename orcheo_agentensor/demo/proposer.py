"""The demo's offline proposers: one that learns, one that memorises, and two control arms.

They stand in for a language model. A proposer knows only the request it is given: the feedback on
the minibatch, the current texts and their past edits. It keeps nothing between requests and takes
all randomness from the request's seed, so that a replay proposes the same again.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.demo.model import (
    Definitions,
    Router,
    Rule,
    content_words,
    parse_definitions,
    parse_rule,
    parse_rules,
    with_definitions,
)
from orcheo_agentensor.optimizers.guards import texts_in
from orcheo_agentensor.optimizers.protocol import ComponentRequest, ProposalRequest
from orcheo_agentensor.prompts import FeedbackRecord

_BROKEN = re.compile(r"\bbreaks: (?P<rules>[^\n)]+)")


@dataclass(frozen=True)
class Lesson:
    """What a case teaches about definitions: its content words, the label expected, that given."""

    words: frozenset[str]
    expected: str
    given: str


def lessons(records: Iterable[FeedbackRecord], labels: Collection[str]) -> list[Lesson]:
    """The lessons of the records whose output holds one of `labels`."""
    found = []
    for record in records:
        expected, given = _labels(record, labels)
        if expected is not None and given is not None:
            held = frozenset(content_words(" ".join(texts_in(record.inputs))))
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


LINE_WORDS = 6  # per line, where the prompt's metadata sets no `max_line_words`
DRAFTS = 16  # rewrites weighed against the feedback before one is proposed
LINES = 2  # lines rewritten at once, beside those that still hold one word at most
RULES_AT_ONCE = 2  # rules added at once
COVERED = 0.7  # what a ticket counts for, per chosen word that it holds
LOYALTY = 3.0  # what a word gains by standing in the current line, which was accepted
MISLEADS = 0.5  # what it loses per ticket of another queue that holds it
JITTER = 0.3  # spread of the random factor on a word's worth, so that drafts differ


class LexicalProposer:
    """Chooses the words of definition lines from misrouted tickets, and adds broken rules."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """New texts; a component that the feedback says nothing new about is left out."""
        rng = random.Random(request.seed)
        texts = {}
        for component in request.components:
            if definitions := parse_definitions(component.text):
                text = _redefine(component, definitions, rng)
            else:
                rules = broken_rules(component.feedback, component.text)
                text = with_rules(component.text, rules[:RULES_AT_ONCE])
            if text != component.text:
                texts[component.name] = text
        return texts


def _redefine(component: ComponentRequest, definitions: Definitions, rng: random.Random) -> str:
    """The best of several drafts by the tickets of the feedback, past edits left out."""
    learned = lessons(component.feedback, definitions)
    if not learned:
        return component.text
    evidence = Evidence(learned)
    definitions = {**dict.fromkeys(evidence.labels, ()), **definitions}
    tried = {edit.text for edit in component.history}
    cap = component.metadata.get("max_line_words", LINE_WORDS)
    best, best_right = component.text, -1
    for _ in range(DRAFTS):
        draft = dict(definitions)
        for label in _lines_to_rewrite(definitions, learned, rng):
            draft[label] = evidence.line(label, definitions[label], cap=cap, rng=rng)
        router = Router(draft)
        right = sum(router.route(lesson.words) == lesson.expected for lesson in learned)
        text = with_definitions(component.text, draft)
        if right > best_right and text not in tried:
            best, best_right = text, right
    return best


def _lines_to_rewrite(
    definitions: Definitions, learned: Sequence[Lesson], rng: random.Random
) -> list[str]:
    """Every line of one word at most, and some of those that mistakes point at."""
    bare = [label for label, line in definitions.items() if len(line) <= 1]
    mistakes: Counter[str] = Counter()
    for lesson in learned:
        if lesson.given != lesson.expected:
            mistakes.update((lesson.expected, lesson.given))
    labels = sorted(definitions)
    weights = [mistakes[label] + 0.2 for label in labels]
    return sorted({*bare, *rng.choices(labels, weights, k=LINES)})


class Evidence:
    """What the tickets of a minibatch say about words."""

    def __init__(self, learned: Sequence[Lesson]) -> None:
        self.labels = tuple(dict.fromkeys(sorted(lesson.expected for lesson in learned)))
        self._holders: dict[str, dict[str, list[int]]] = {label: {} for label in self.labels}
        for number, lesson in enumerate(learned):
            for word in lesson.words:
                self._holders[lesson.expected].setdefault(word, []).append(number)
        self._size = len(learned)
        self._total = Counter(word for lesson in learned for word in lesson.words)
        self._spread = Counter(word for held in self._holders.values() for word in held)

    def line(
        self, label: str, current: Sequence[str], *, cap: int, rng: random.Random
    ) -> tuple[str, ...]:
        """A new line: greedily the words worth most, given those already chosen."""
        held = self._holders.get(label, {})
        worth = [1.0] * self._size
        jitter = {word: 1 + JITTER * rng.gauss(0, 1) for word in sorted({*held, *current})}
        chosen: list[str] = []
        while jitter and len(chosen) < cap:
            values = {
                word: factor * self._value(word, held.get(word, []), word in current, worth)
                for word, factor in jitter.items()
            }
            word = max(values, key=lambda word: values[word])
            chosen.append(word)
            del jitter[word]
            for number in held.get(word, []):
                worth[number] *= COVERED
        return tuple(chosen)

    def _value(
        self, word: str, holders: Sequence[int], held_now: bool, worth: Sequence[float]
    ) -> float:
        rarity = math.log(len(self.labels) / max(1, self._spread[word]) + 0.01)
        value = rarity * sum(worth[number] for number in holders)
        if len(holders) <= 1:
            value -= 1
        if held_now:
            value += LOYALTY - MISLEADS * (self._total[word] - len(holders))
        return value


QUOTED = 3  # tickets quoted at once


class MemorisingProposer:
    """Raises the training score without learning anything.

    A queue's line gets words that only one ticket holds; every other proposal also quotes whole
    tickets. The reply prompt gets all its rules at once, so that the overall score rises on every
    split while routing gets worse on unseen tickets.
    """

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """New texts for all components, from the tickets of the minibatch."""
        rng = random.Random(request.seed)
        found = {}
        for component in request.components:
            if definitions := parse_definitions(component.text):
                found[component.name] = _by_heart(component, definitions, rng)
            elif rules := broken_rules(component.feedback, component.text):
                found[component.name] = with_rules(component.text, rules)
        return found


def _by_heart(component: ComponentRequest, definitions: Definitions, rng: random.Random) -> str:
    """Lines of words that one ticket alone holds; half of the time with quotes of tickets."""
    learned = lessons(component.feedback, definitions)
    total = Counter(word for lesson in learned for word in lesson.words)
    cap = component.metadata.get("max_line_words", LINE_WORDS)
    marks: dict[str, list[str]] = {}
    for lesson in rng.sample(learned, len(learned)):
        unique = sorted(word for word in lesson.words if total[word] == 1)
        if unique:
            marks.setdefault(lesson.expected, []).append(max(unique, key=len))
    lines = {label: line[:cap] for label, line in sorted(marks.items())}
    text = with_definitions(component.text, {**definitions, **lines})
    return text + _quotes(component.feedback) if rng.random() < 0.5 else text


def _quotes(records: Iterable[FeedbackRecord]) -> str:
    quoted = [" ".join(texts_in(record.inputs)) for record in records][:QUOTED]
    return "\nTickets seen before:\n" + "".join(f"- {ticket}\n" for ticket in quoted)


def one_shot_fill(
    prompt: str, cases: Iterable[tuple[Any, str]], *, max_words: int = LINE_WORDS
) -> str:
    """`prompt` with every queue's line filled once, under the cap.

    A line gets the most frequent content words of all the queue's tickets in `cases`, which are
    pairs of ticket and queue; ties go to the alphabetically first word.
    """
    held: dict[str, Counter[str]] = {}
    for ticket, queue in cases:
        held.setdefault(queue, Counter()).update(content_words(ticket))
    lines = {
        queue: [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        for queue, counts in sorted(held.items())
    }
    return with_definitions(prompt, {queue: line[:max_words] for queue, line in lines.items()})


class ParaphraseProposer:
    """Rewrites at random: the control arm of the demo.

    A queue's line gets random content words of its tickets in the minibatch, a reply prompt the
    broken rules in random order. Nothing is compared; only the search's own test selects.
    """

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """New texts; a component that the feedback says nothing about is left out."""
        rng = random.Random(request.seed)
        texts = {component.name: _paraphrase(component, rng) for component in request.components}
        return {c.name: texts[c.name] for c in request.components if texts[c.name] != c.text}


def _paraphrase(component: ComponentRequest, rng: random.Random) -> str:
    definitions = parse_definitions(component.text)
    if not definitions:
        rules = broken_rules(component.feedback, component.text)
        return with_rules(component.text, rng.sample(rules, len(rules)))
    cap = component.metadata.get("max_line_words", LINE_WORDS)
    held: dict[str, set[str]] = {}
    for lesson in lessons(component.feedback, definitions):
        held.setdefault(lesson.expected, set()).update(lesson.words)
    lines = {
        label: rng.sample(sorted(found), min(cap, len(found)))
        for label, found in sorted(held.items())
    }
    return with_definitions(component.text, {**definitions, **lines})
