"""The proposers both sides use: text edits, wrapped once as ours and once as gepa's.

An `Edit` takes a component's text, its name and the feedback on a minibatch, and gives a new text.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.optimizers.tasks import edit
from orcheo_agentensor.optimizers.protocol import ProposalRequest

Edit: TypeAlias = Callable[[str, str, list[str]], str]


def perfect(text: str, component: str, feedback: Iterable[str]) -> str:
    """Does what feedback names for the component, and no more."""
    return edit(text, component, feedback)


def rubbish(seed: int, *, share: float = 0.5) -> Edit:
    """The perfect proposer, except that a share of its texts is rubbish."""
    draw = random.Random(f"rubbish {seed}")
    kinds = (
        lambda text: "Sure! Here is the improved prompt you asked for.",
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: f"{text} lorem ipsum {draw.randrange(10**6)}",
    )

    def propose(text: str, component: str, feedback: list[str]) -> str:
        if draw.random() < share:
            return draw.choice(kinds)(text)
        return edit(text, component, feedback)

    return propose


def crashing(seed: int, *, rules: int, share: float = 0.5) -> Edit:
    """The perfect proposer, except that a share of its edits makes the target crash on a rule."""
    draw = random.Random(f"crashing {seed}")

    def propose(text: str, component: str, feedback: list[str]) -> str:
        new = edit(text, component, feedback)
        if new != text and draw.random() < share:
            return f"{new} CRASH{draw.randrange(rules)}"
        return new

    return propose


def forgetting(seed: int, *, share: float = 0.5) -> Edit:
    """The perfect proposer, except that each of its texts loses a share of the rules and fixes that
    the text before held: a rewrite of the whole that keeps what it remembers."""
    draw = random.Random(f"forgetting {seed}")

    def propose(text: str, component: str, feedback: list[str]) -> str:
        new = edit(text, component, feedback)
        if new == text:
            return text
        learnt = {token for token in text.split(" ") if re.fullmatch(r"[RF]\d+", token)}
        lost = {token for token in sorted(learnt) if draw.random() < share}
        return " ".join(token for token in new.split(" ") if token not in lost)

    return propose


def pointless() -> Edit:
    """Every edit is another text that changes nothing."""
    count = 0

    def propose(text: str, component: str, feedback: list[str]) -> str:
        nonlocal count
        count += 1
        return f"{text.split(' variant')[0]} variant {count}"

    return propose


@dataclass
class Ours:
    """An `Edit` as this project's proposer; counts the texts it rewrote."""

    edit: Edit
    rewrites: Counter[str] = field(default_factory=Counter)

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        """New texts; a component that stays as it is, is left out."""
        texts = {
            component.name: self.edit(
                component.text, component.name, [record.feedback for record in component.feedback]
            )
            for component in request.components
        }
        changed = {c.name: texts[c.name] for c in request.components if texts[c.name] != c.text}
        self.rewrites.update(changed.keys())
        return changed
