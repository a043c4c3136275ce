"""`MemorisingProposer`: learns its training tickets by heart. It exists to be refused."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping

from orcheo_agentensor.demo.lessons import broken_rules, lessons, texts, with_rules
from orcheo_agentensor.demo.proposer import LINE_WORDS
from orcheo_agentensor.demo.words import Definitions, parse_definitions, with_definitions
from orcheo_agentensor.optimizers.base import ComponentRequest, FeedbackRecord, ProposalRequest

QUOTED = 3
"""How many tickets it quotes when it quotes."""


class MemorisingProposer:
    """Raises the training score without learning anything.

    A queue's line gets words that no ticket but one holds, each a fingerprint of that one ticket;
    every other proposal quotes whole tickets as examples. The reply prompt is put right at once, so
    the overall score rises on every split while routing gets worse on tickets it has not seen.
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
    """Lines of fingerprints; half of the time quotes as well."""
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
    quoted = [" ".join(texts(record.inputs)) for record in records][:QUOTED]
    return "\nTickets seen before:\n" + "".join(f"- {ticket}\n" for ticket in quoted)
