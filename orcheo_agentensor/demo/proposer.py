"""`LexicalProposer`: rewrites definitions and rules from feedback, offline.

It stands in for a language model as proposer. All it knows is in the request it is given: the
feedback on the minibatch, the current texts and what became of past edits. It keeps nothing between
requests and takes all randomness from the request's seed, so a replay proposes the same again.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from orcheo_agentensor.demo.lessons import Lesson, broken_rules, lessons, with_rules
from orcheo_agentensor.demo.words import Definitions, Router, parse_definitions, with_definitions
from orcheo_agentensor.optimizers.base import ComponentRequest, ProposalRequest

LINE_WORDS = 6
"""Words per line where the prompt's metadata sets no `max_line_words`."""

DRAFTS = 16
"""How many rewrites it weighs up against the feedback before it proposes one."""

LINES = 2
"""How many lines it rewrites at once, bare ones aside."""

RULES_AT_ONCE = 2
"""How many rules it adds at once."""

COVERED = 0.7
"""What a ticket counts for, for each word already chosen that it holds: new words should bring
other tickets in."""

LOYALTY = 3.0
"""What a word gains by being in the current line: it was accepted there before."""

MISLEADS = 0.5
"""What it loses per ticket of another queue that holds it."""

JITTER = 0.3
"""Spread of the random factor on a word's worth, so that drafts differ."""


class LexicalProposer:
    """Chooses the words of definition lines from misrouted tickets, and adds rules found broken."""

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
    """Every line that is still bare, and some of those that mistakes point at."""
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
