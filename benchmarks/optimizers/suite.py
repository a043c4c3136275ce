"""The tasks that are measured: the rule task, harder ones, and ones whose rules interfere."""

from __future__ import annotations

import random
from collections.abc import Iterable

from benchmarks.optimizers.tasks import Breaks, Task


def _others(rule: int, rules: Iterable[int], *, degree: int) -> frozenset[int]:
    """The next `degree` of `rules` after `rule`, round and round."""
    ring = sorted(set(rules) - {rule})
    start = next((n for n, other in enumerate(ring) if other > rule), 0)
    return frozenset((ring[start:] + ring[:start])[:degree])


def ring(rules: int, *, degree: int) -> Breaks:
    """Every rule breaks the next `degree` ones."""
    return {rule: _others(rule, range(rules), degree=degree) for rule in range(rules)}


def upset(rules: int, held: Iterable[int], *, degree: int) -> Breaks:
    """Every rule that the seed lacks breaks `degree` of those that it holds."""
    kept = set(held)
    return {rule: _others(rule, kept, degree=degree) for rule in range(rules) if rule not in kept}


def shuffled(rules: int, *, seed: int, cycle: Iterable[int] | None = None) -> Breaks:
    """Every rule breaks one other: a random round trip through all rules, or through `cycle`."""
    order = list(cycle if cycle is not None else range(rules))
    random.Random(seed).shuffle(order)
    following = [*order[1:], *order[:1]]
    return {rule: frozenset({other}) for rule, other in zip(order, following, strict=True)}


RULES = Task(name="rule task")

HARDER = (
    Task(name="6 components", components=6),
    Task(name="6 components, 12 rules", components=6, rules=12, train=48),
    Task(name="3 irrelevant components", irrelevant=3),
    Task(name="harmful rule in the seed, hits 3 rules", harmful=(frozenset({0, 3, 5}),)),
    Task(name="harmful rule in the seed, hits all", harmful=(frozenset(range(8)),)),
    Task(
        name="2 harmful rules and 2 good ones in the seed",
        harmful=(frozenset({1, 2}), frozenset({4, 6, 7})),
        held=frozenset({1, 4}),
    ),
    Task(name="20 rules, 4 components", rules=20, components=4, train=80, validation=50),
)

HELD = frozenset({0, 1, 2, 3, 4})
WITHIN = {**shuffled(8, seed=5, cycle=range(0, 8, 2)), **shuffled(8, seed=6, cycle=range(1, 8, 2))}
INTERFERING = (
    Task(name="each rule breaks the next (other component)", breaks=ring(8, degree=1)),
    Task(name="each breaks one of its component", breaks=WITHIN),
    Task(name="each breaks a random one", breaks=shuffled(8, seed=7)),
    Task(
        name="each breaks a random one, 12 rules, 3 components",
        rules=12,
        components=3,
        train=48,
        validation=30,
        breaks=shuffled(12, seed=8),
    ),
    Task(name="each breaks the next 3", breaks=ring(8, degree=3)),
    Task(name="each breaks all others", breaks=ring(8, degree=7)),
    Task(
        name="the seed holds 5, each new one breaks them",
        held=HELD,
        breaks=upset(8, HELD, degree=5),
    ),
    Task(
        name="the seed holds 8 of 12, 3 components, each new one breaks them",
        rules=12,
        components=3,
        train=48,
        validation=30,
        held=frozenset(range(8)),
        breaks=upset(12, range(8), degree=8),
    ),
)

NOISY = (
    RULES,
    Task(name="6 components", components=6),
    Task(name="3 irrelevant components", irrelevant=3),
    Task(name="each breaks a random one", breaks=shuffled(8, seed=7)),
)
