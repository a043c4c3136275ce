"""The simulated tasks: rules that prompts must hold, and everything that can be in the way.

An example needs one rule: it scores 1 when the text of the rule's component holds the token `Rk`.
A task may add what makes this harder:

- interference: a rule that is there breaks the examples of other rules, until the text holds its
  fix `Fk` as well;
- harmful tokens of the seed texts, which make the examples of some rules fail whatever else;
- irrelevant components, which are read but have no part in any score, and unread ones;
- rules that the seed texts hold already, so that there is something to break.

Everything here is pure; `simulator.py` counts, flips outcomes and takes its time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

Texts: TypeAlias = Mapping[str, str]
Breaks: TypeAlias = dict[int, frozenset[int]]

NAMES = ("planner", "writer", "critic", "router", "checker", "editor")
TRAIN_SEED, VALIDATION_SEED, FRESH_SEED = 1, 2, 3
FRESH = 400
"""Examples that neither side ever sees: part of what a prompt set is truly worth."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example; `rule` is what it needs."""

    id: str
    split: str
    rule: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """A rule task. `breaks` maps a rule to the rules whose examples it breaks without its fix.

    `harmful` lists, for each harmful token `BADn` of the seed texts, the rules that it hits; the
    token stands in component n mod `components`. `variant` draws other examples.
    """

    name: str
    rules: int = 8
    components: int = 2
    train: int = 30
    validation: int = 20
    holdout: int = 0
    irrelevant: int = 0
    unread: int = 0
    held: frozenset[int] = frozenset()
    breaks: Mapping[int, frozenset[int]] = field(default_factory=dict)
    harmful: tuple[frozenset[int], ...] = ()
    variant: int = 0

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The components that rules belong to."""
        more = (f"step{n}" for n in range(len(NAMES), self.components))
        return (*NAMES[: self.components], *more)

    def component(self, rule: int) -> str:
        """Where a rule belongs."""
        return self.names[rule % self.components]

    @cached_property
    def seed_texts(self) -> dict[str, str]:
        """The texts a search starts from, the irrelevant components last."""
        verbs = {"planner": "plan", "writer": "write"}
        texts = {name: f"[{name}] {verbs.get(name, 'work')}." for name in self.names}
        for rule in sorted(self.held):
            texts[self.component(rule)] += f" R{rule}"
        for number in range(len(self.harmful)):
            texts[self.component(number)] += f" BAD{number}"
        texts |= {f"style{n}": f"[style{n}] be kind." for n in range(self.irrelevant)}
        return texts | {name: f"[{name}] nobody reads this." for name in self.never_read}

    @cached_property
    def never_read(self) -> tuple[str, ...]:
        """Prompts of the seed that the target never looks at."""
        return tuple(f"unread{n}" for n in range(self.unread))

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """Train, validation and holdout examples."""
        sizes = {"train": self.train, "validation": self.validation, "holdout": self.holdout}
        seeds = {"train": TRAIN_SEED, "validation": VALIDATION_SEED, "holdout": FRESH_SEED}
        found: list[Example] = []
        for split, size in sizes.items():
            draw = random.Random(seeds[split] + 10 * self.variant)
            found += [
                Example(id=f"{split}-{n}", split=split, rule=draw.randrange(self.rules))
                for n in range(size)
            ]
        return tuple(found)

    def split(self, split: str) -> list[Example]:
        """The examples of one split."""
        return [example for example in self.examples if example.split == split]

    def judge(self, texts: Texts, rule: int) -> tuple[float, str]:
        """Score and feedback of an example that needs `rule`, without noise."""
        return self._judge(self._tokens(texts), rule)

    def _tokens(self, texts: Texts) -> dict[str, set[str]]:
        return {name: set(texts[name].split()) for name in self.names}

    def _judge(self, tokens: Mapping[str, set[str]], rule: int) -> tuple[float, str]:
        harm = [
            f"remove BAD{n} in {self.component(n)}"
            for n, hit in enumerate(self.harmful)
            if rule in hit and f"BAD{n}" in tokens[self.component(n)]
        ]
        if harm:
            return 0.0, f"FAIL {'; '.join(harm)}"
        if f"R{rule}" not in tokens[self.component(rule)]:
            return 0.0, self.missing(rule)
        broken = [
            f"R{other} breaks this; needs F{other} in {self.component(other)}"
            for other, hit in self.breaks.items()
            if rule in hit
            and f"R{other}" in tokens[self.component(other)]
            and f"F{other}" not in tokens[self.component(other)]
        ]
        return (0.0, f"FAIL {'; '.join(broken)}") if broken else (1.0, "ok")

    def missing(self, rule: int) -> str:
        """The feedback that names a rule."""
        return f"FAIL needs R{rule} in {self.component(rule)}"

    def value(self, texts: Texts, *, broken: Collection[int] = ()) -> float:
        """What a prompt set is truly worth: the mean over validation and fresh examples.

        Examples of `broken` rules count as 0.
        """
        tokens = self._tokens(texts)
        worth = [
            0.0 if rule in broken else self._judge(tokens, rule)[0] for rule in range(self.rules)
        ]
        draw = random.Random(FRESH_SEED + 10 * self.variant)
        fresh = [draw.randrange(self.rules) for _ in range(FRESH)]
        rules = [example.rule for example in self.split("validation")] + fresh
        return sum(worth[rule] for rule in rules) / len(rules)


_ASKED = re.compile(r"\b(?P<verb>needs|remove) (?P<token>\w+) in (?P<component>\w+)")


def edit(text: str, component: str, feedback: Iterable[str]) -> str:
    """The perfect proposer: adds and removes what feedback names for the component, no more."""
    tokens = text.split(" ")
    for line in feedback:
        for found in _ASKED.finditer(line):
            if found["component"] != component:
                continue
            if found["verb"] == "remove":
                tokens = [token for token in tokens if token != found["token"]]
            elif found["token"] not in tokens:
                tokens.append(found["token"])
    return " ".join(tokens)
