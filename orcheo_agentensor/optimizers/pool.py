"""The candidates a reflective search works with: what each scored, and what may be learnt next."""

from __future__ import annotations

import math
import random
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_POOL = 12
MAX_FRONT = 24
GUARDS = 4  # one solved case per so many cases of a minibatch
SOLVED = 1.0 - 1e-12


@dataclass(kw_only=True)
class Entry:
    """One candidate: `scores` on training cases, `validation` on validation cases.

    `number` counts the candidates as they came into the pool, the baseline being 0.
    `failed` are training cases that could not be scored with it, `taught` those that some edit on
    the way to it has learnt from. `depth` counts its edits since the last validation on that way.
    `batch` is the minibatch it is tried on, with `shots` proposals so far; `rejected` counts the
    minibatches in a row that brought it no better child, of which `missed` is the last, `quiet`
    those that had nothing to teach. `judged` tells that it was validated, as far as needed,
    against the best of its time. `changed` maps each prompt that differs from the baseline to the
    candidate that brought its text.
    """

    hash: str
    number: int = 0
    parent: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    objective: float | None = None
    failed: list[str] = field(default_factory=list)
    taught: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    depth: int = 0
    rejected: int = 0
    quiet: int = 0
    batch: list[str] = field(default_factory=list)
    shots: int = 0
    missed: list[str] = field(default_factory=list)
    judged: bool = False


@dataclass(frozen=True)
class Merge:
    """Two candidates put together: the texts that `donors` bring to the best."""

    key: str
    donors: dict[str, str]


class CandidatePool:
    """The entries by hash, oldest first; plain JSON between two steps."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = {entry.hash: entry for entry in entries}

    @classmethod
    def begin(cls, baseline: str) -> CandidatePool:
        """A pool that holds the baseline."""
        return cls([Entry(hash=baseline)])

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> CandidatePool:
        """The inverse of `to_json`."""
        return cls(
            [
                Entry(
                    **{
                        **entry,
                        "scores": dict(entry["scores"]),
                        "validation": dict(entry["validation"]),
                        "changed": dict(entry["changed"]),
                    }
                )
                for entry in sorted(data.values(), key=lambda entry: entry["number"])
            ]
        )

    def to_json(self) -> dict[str, dict[str, Any]]:
        """As an optimizer's state holds it: a step stores the entries that it has changed."""
        return {entry.hash: dict(vars(entry)) for entry in self}

    def __getitem__(self, candidate: str) -> Entry:
        return self._entries[candidate]

    def __contains__(self, candidate: str) -> bool:
        return candidate in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def add(
        self, candidate: str, *, parent: str, changed: Sequence[str], taught: Sequence[str]
    ) -> None:
        """A child of `parent` that changed these prompts after learning from these cases."""
        above = self._entries[parent]
        self._entries[candidate] = Entry(
            hash=candidate,
            number=1 + max(entry.number for entry in self),
            parent=parent,
            taught=sorted({*above.taught, *taught}),
            changed={**above.changed, **dict.fromkeys(changed, candidate)},
            depth=above.depth + 1,
        )

    def better(self, one: str, other: str) -> bool:
        """Whether `one` scored more than `other` on the training cases that both have."""
        mine, yours = self._entries[one].scores, self._entries[other].scores
        both = mine.keys() & yours.keys()
        return math.fsum(mine[case] - yours[case] for case in both) > 0

    def fails_more(self, one: str, other: str) -> bool:
        """Whether a larger share of the cases run with `one` failed than of those with `other`."""
        mine, yours = self._entries[one], self._entries[other]
        here = len(mine.failed) * (len(yours.scores) + len(yours.failed))
        return here > len(yours.failed) * (len(mine.scores) + len(mine.failed)) or (
            bool(mine.failed) and not yours.failed
        )

    def minibatch(
        self,
        parent: str,
        case_ids: Sequence[str],
        *,
        busy: Container[str],
        lessons: Mapping[str, int],
        size: int,
        seed: int,
    ) -> tuple[str, ...]:
        """The cases to learn from next, at most `size`, those that teach most first.

        First come cases that the parent is known to fail, then those that an earlier candidate
        failed and nothing was learnt from since, then cases nobody has run, then failed ones by
        how often they were learnt from in vain (`lessons`), then the rest of those not run with the
        parent. A few that the parent solves go with them, to see what a child breaks. Empty when
        the parent has run, or learnt from, every case and fails none.
        """
        entry = self._entries[parent]
        taught = set(entry.taught)
        full = self.full_marks()
        failed = {case for other in self for case, score in other.scores.items() if score < full}
        failed.update(case for other in self for case in other.failed)
        seen = {case for other in self for case in other.scores}
        order = [case for case in case_ids if case not in busy]
        random.Random(seed).shuffle(order)
        ranked: list[tuple[int, int, str]] = []
        solved: list[str] = []
        for case in order:
            score, tries = entry.scores.get(case), lessons.get(case, 0)
            if score is not None and score >= full:
                solved.append(case)
            elif score is not None or case in entry.failed:
                ranked.append((3 if tries else 0, tries, case))
            elif case in taught:
                ranked.append((4, 0, case))
            elif case in failed:
                ranked.append((3 if tries else 1, tries, case))
            elif case not in seen:
                ranked.append((2, 0, case))
            else:
                ranked.append((4, 0, case))
        if all(rank == 4 for rank, _tries, _case in ranked) and not entry.judged:
            return ()
        chosen = [case for _rank, _tries, case in sorted(ranked, key=lambda e: e[:2])[:size]]
        if not chosen:
            return ()
        return (*chosen, *solved[: max(1, size // GUARDS)])

    def full_marks(self) -> float:
        """The score from which on a case counts as solved: none, once one was outside [0, 1]."""
        outside = any(
            not 0.0 <= score <= 1.0
            for entry in self
            for scores in (entry.scores, entry.validation)
            for score in scores.values()
        )
        return math.inf if outside else SOLVED

    def front(self) -> dict[str, int]:
        """On how many validation cases each candidate is among the best, dominated ones left out.

        Only candidates measured on a case compete for it (Pareto selection after GEPA).
        """
        cases = {case for entry in self for case in entry.validation}
        holders: dict[str, set[str]] = {}
        for case in cases:
            there = {e.hash: e.validation[case] for e in self if case in e.validation}
            top = max(there.values())
            for candidate, score in there.items():
                if score >= top:
                    holders.setdefault(candidate, set()).add(case)
        order = sorted(holders, key=lambda h: (len(holders[h]), h))
        for candidate in order:
            others = [holders[other] for other in holders if other != candidate]
            if len(holders) > 1 and holders[candidate] <= set().union(*others):
                del holders[candidate]
        return {candidate: len(held) for candidate, held in holders.items()}

    def sample(self, seed: int) -> Entry:
        """A candidate of the front, in proportion to the cases it holds."""
        front = self.front()
        if not front:
            return next(iter(self))
        names = sorted(front)
        chosen = random.Random(seed).choices(names, [front[name] for name in names])[0]
        return self._entries[chosen]

    def prune(self, *, keep: Container[str]) -> None:
        """Let go of the oldest candidates that neither `keep` nor the front holds.

        The front itself keeps `MAX_FRONT` candidates, those that hold most cases.
        """
        if len(self._entries) <= MAX_POOL:
            return
        front = self.front()
        held = sorted(front, key=lambda one: (-front[one], -self._entries[one].number))
        kept = {*held[:MAX_FRONT]}
        for candidate in list(self._entries):
            if len(self._entries) <= MAX_POOL:
                return
            if candidate not in keep and candidate not in kept:
                del self._entries[candidate]


def next_merge(pool: CandidatePool, best: str, merged: Sequence[str]) -> Merge | None:
    """The first pair not merged yet: the best, and one that beats it on some validation case.

    The other brings the prompts that only it has changed; a prompt that both have changed stays as
    the best has it (the system-aware merge of GEPA, with the best as the one side).
    """
    top = pool[best]
    for other in pool:
        if other.hash == best or not other.judged:
            continue
        wins = [
            case
            for case, score in other.validation.items()
            if score > top.validation.get(case, 1.0) + 1e-12
        ]
        donors = {
            name: other.hash for name, donor in other.changed.items() if name not in top.changed
        }
        if not any(top.changed[name] != other.changed.get(name) for name in top.changed):
            continue  # it would be the other one again
        key = f"{best[:16]}+{other.hash[:16]}"
        if wins and donors and key not in merged:
            return Merge(key=key, donors=donors)
    return None
