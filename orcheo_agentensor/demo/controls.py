"""What the demo compares training with: a one-shot fill, and random paraphrases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from orcheo_agentensor.demo.lessons import broken_rules, lessons, with_rules
from orcheo_agentensor.demo.proposer import LINE_WORDS
from orcheo_agentensor.demo.words import content_words, parse_definitions, with_definitions
from orcheo_agentensor.optimizers.base import ComponentRequest, ProposalRequest


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
    rules found broken in random order. Nothing is weighed up; only the search's own test selects.
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
