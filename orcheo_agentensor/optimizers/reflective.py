"""`reflective`, the default: rewrite from feedback, over a pool of candidates.

The search keeps candidates with what each scored on which case, as GEPA does (Agrawal et al., 2025,
arXiv 2507.19457): parents come from the Pareto front over the validation cases, and complementary
candidates are merged. It differs where GEPA spends its rollouts: minibatches take failing and
unseen cases first and use recorded rollouts again; all blamed prompts are rewritten together; a
chain of edits is validated when its training cases have nothing more to teach, not after every
edit; and no comparison goes on once it is decided.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import ConfigDict, Field

from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.optimizers.protocol import (
    Demo,
    SearchSpace,
    State,
    Trial,
    TrialOutcome,
    derive_seed,
    in_turn,
)

BatchSize: TypeAlias = Annotated[int, Field(ge=1)] | Literal["auto"]

MAX_POOL = 12
MAX_FRONT = 24
GUARDS = 4  # one solved case per so many cases of a minibatch
SOLVED = 1.0 - 1e-12
MAX_GROWTH = 16  # a minibatch may grow to so many times its size
BATCHES = 10  # a minibatch is the whole train split where the budget pays for so many
SMALL_BATCH = 10
OPENING_BATCH = 5  # least cases that one edit of a pass over train learns from,
OPENING_EDITS = 15  # of which a pass makes at most about so many
OPENING_LEAST = 100  # and takes so many of them at least, or a quarter of the budget,
OPENING_TRIES = 3  # proposals for the prompts whose text was refused
OPENING_LAST = 15  # a pass ends once so many cases in a row taught nothing new; five, where of
OPENING_WRONG = 2  # the last 15 at most so many went wrong and its second round needed no edit
DEMO_SETS = 2  # sets of examples that are tried in each best, the second a quarter as large
IDENTICAL = "identical to its parent"
MAX_RECALLED = 100  # cases of earlier minibatches that a proposer is shown again,
MAX_REMEMBERED = 200  # and with what came of others under another candidate,
RECALLED_BEST = 25  # of which so many are those that the parent does best on


@dataclass(kw_only=True)
class Entry:
    """One candidate: `scores` on training cases, `validation` on validation cases.

    `number` counts the candidates in the order in which they were added, the baseline being 0.
    `failed` are training cases that could not be scored with it, `taught` those that an edit
    between the baseline and it has learnt from, the newest. `depth` counts the edits since the last
    validation among its ancestors. `batch` is its current minibatch, with `shots` proposals so far;
    `rejected` counts the minibatches in a row without a better child, of which `missed` is the
    last, `quiet` those that had nothing to teach. `judged` is set once it was validated, as far as
    needed, against the best of its time. `changed` maps each prompt that differs from the baseline
    to the candidate that brought its text. `shows` is set where its prompts hold worked examples.
    """

    hash: str
    number: int = 0
    parent: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
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
    shows: bool = False


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
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> CandidatePool:
        """The inverse of `to_json`."""
        ordered = sorted(data.values(), key=lambda entry: entry["number"])
        return cls([Entry(**copy.deepcopy(dict(entry))) for entry in ordered])

    def to_json(self) -> dict[str, dict[str, Any]]:
        """As an optimizer's state holds it: a step stores the entries that it has changed."""
        return {entry.hash: dict(vars(entry)) for entry in self}

    def __getitem__(self, candidate: str) -> Entry:
        return self._entries[candidate]

    def __contains__(self, candidate: str | None) -> bool:
        return candidate in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def add(
        self, candidate: str, *, parent: str, changed: Iterable[str], taught: Iterable[str]
    ) -> None:
        """A child of `parent` that changed these prompts after learning from these cases."""
        above = self._entries[parent]
        self._entries[candidate] = Entry(
            hash=candidate,
            number=1 + max(entry.number for entry in self),
            parent=parent,
            taught=[*dict.fromkeys([*above.taught, *sorted(taught)])][-MAX_REMEMBERED:],
            changed={**above.changed, **dict.fromkeys(changed, candidate)},
            depth=above.depth + 1,
            shows=above.shows,
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
        there = len(yours.failed) * (len(mine.scores) + len(mine.failed))
        return here > there or bool(mine.failed and not yours.failed)

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

        The order is: cases that the parent fails; those that another candidate failed and no edit
        has learnt from since; cases no candidate was run on; failed ones by how often an edit has
        learnt from them in vain (`lessons`); the rest of those not run with the parent. A few that
        the parent solves are added, to see what a child breaks. Empty when the parent has run, or
        learnt from, every case and fails none.
        """
        entry = self._entries[parent]
        full = self.full_marks()
        failed = {case for other in self for case, score in other.scores.items() if score < full}
        failed.update(case for other in self for case in other.failed)
        seen = {case for other in self for case in other.scores}
        order = [case for case in case_ids if case not in busy]
        random.Random(seed).shuffle(order)
        ranked: list[tuple[int, int, str]] = []
        solved: list[str] = []
        for case in order:
            tries = lessons.get(case, 0)
            if entry.scores.get(case, -math.inf) >= full:
                solved.append(case)
                continue
            if case in entry.scores or case in entry.failed:
                rank = 3 if tries else 0
            elif case in entry.taught:
                rank = 4
            elif case in failed:
                rank = 3 if tries else 1
            else:
                rank = 4 if case in seen else 2
            ranked.append((rank, tries if rank == 3 else 0, case))
        teaches = entry.judged or any(rank < 4 for rank, _tries, _case in ranked)
        chosen = [case for _rank, _tries, case in sorted(ranked, key=lambda e: e[:2])[:size]]
        return (*chosen, *solved[: max(1, size // GUARDS)]) if chosen and teaches else ()

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
        holders: dict[str, set[str]] = {}
        for case in {case for entry in self for case in entry.validation}:
            there = {e.hash: e.validation[case] for e in self if case in e.validation}
            top = max(there.values())
            for candidate, score in there.items():
                if score >= top:
                    holders.setdefault(candidate, set()).add(case)
        for candidate in sorted(holders, key=lambda h: (len(holders[h]), h)):
            others = [holders[other] for other in holders if other != candidate]
            if holders[candidate] <= set().union(*others):
                del holders[candidate]
        return {candidate: len(held) for candidate, held in holders.items()}

    def sample(self, seed: int) -> Entry:
        """A candidate of the front, in proportion to the cases it holds."""
        front = sorted(self.front().items())
        if not front:
            return next(iter(self))
        names, weights = zip(*front, strict=True)
        return self._entries[random.Random(seed).choices(names, weights)[0]]

    def prune(self, *, keep: Container[str]) -> None:
        """Drop the oldest candidates over `MAX_POOL` that neither `keep` nor the front holds.

        The front keeps at most `MAX_FRONT` candidates, those that hold most cases.
        """
        if len(self._entries) <= MAX_POOL:
            return
        front = self.front()
        held = sorted(front, key=lambda one: (-front[one], -self._entries[one].number))[:MAX_FRONT]
        spare = [one for one in self._entries if one not in keep and one not in held]
        for candidate in spare[: len(self._entries) - MAX_POOL]:
            del self._entries[candidate]


def next_merge(pool: CandidatePool, best: str, merged: Sequence[str]) -> Merge | None:
    """The first pair not merged yet: the best, and one that beats it on some validation case.

    The other gives the prompts that only it has changed; a prompt that both have changed stays as
    the best has it (the system-aware merge of GEPA, with the best as one side).
    """
    top = pool[best]
    for other in pool:
        if other.hash == best or not other.judged:
            continue
        wins = any(
            score > top.validation.get(case, 1.0) + 1e-12
            for case, score in other.validation.items()
        )
        donors = {name: other.hash for name in other.changed if name not in top.changed}
        if not any(top.changed[name] != other.changed.get(name) for name in top.changed):
            continue  # the merged candidate would be the other one again
        key = f"{best[:16]}+{other.hash[:16]}"
        if wins and donors and key not in merged:
            return Merge(key=key, donors=donors)
    return None


class Reflective(StrictNumbers):
    """Reflective search over a Pareto pool.

    Args:
        name: Its name in job files.
        minibatch: The most cases that a trial learns from and is tested on. "auto" takes the whole
            train split where the budget pays for about ten such trials, and 10 where it does not.
        opening: Whether the search begins with passes over train, in edits that are not tested one
            by one: each pass is validated at its end, and followed by another for as long as it
            wins.
        parallel: Trials in flight at once: several proposals from the same minibatch, of which the
            search continues with the best.
        momentum: How many past edits of a prompt the proposer sees.
        chain: How many accepted edits may follow each other before one is validated. When a chain
            that won on minibatches loses on validation, it is halved and the minibatch doubled.
        patience: How many minibatches without a better child a parent gets before another one is
            chosen.
        demos: The most worked examples that the search puts into a prompt, on trial, for each best
            that it finds; 0 for none. See `Demos`.
        groups: Whether a model that proposes looks at more cases than one request holds in groups
            first, a call for each, and merges what it found.
        proposer: An object with `async propose(request)`, or its "module:attribute".
        model: The chat model that proposes where there is no `proposer`.
        sees: Whether `model` takes images; left out, its profile says so.

    Example:
        >>> from orcheo_agentensor import Reflective, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=Reflective(minibatch=4, proposer=Yes()),
        ... )
        >>> result.best.prompts["answer"].text
        'yes'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    pipelined: ClassVar[bool] = True

    name: str = "reflective"
    minibatch: BatchSize = "auto"
    opening: bool = True
    parallel: int = Field(default=1, ge=1, le=64)
    momentum: int = Field(default=8, ge=0)
    chain: int = Field(default=4, ge=1)
    patience: int = Field(default=3, ge=1)
    demos: int = Field(default=0, ge=0, le=200)
    groups: bool = False
    proposer: Any = None
    model: Any = None
    sees: bool | None = None

    @property
    def demonstrates(self) -> bool:
        """Whether it puts worked examples into prompts."""
        return self.demos > 0

    def start(self, space: SearchSpace) -> State:
        """Begin at the baseline, with the first trials planned."""
        size = self._batch_size(space)
        state: State = {
            **space.to_json(),
            "best": space.baseline,
            "current": space.baseline,
            "asked": 0,
            "used": 0,
            "epoch": 0,
            "open": [],
            "unread": [],
            "lessons": {},
            "size": size,
            "largest": min(MAX_GROWTH * size, len(space.case_ids)),
            "opening_batch": self._opening_batch(space),
            "room": None if space.rollouts is None else space.rollouts - space.validation,
            "seen": {} if self.opening else None,
            "chain": self.chain,
            "merged": [],
            "opening": None,
            "vain": 0,
            **({"labels": dict(space.labels), "sets": {}} if self.demos else {}),
        }
        pool = CandidatePool([Entry(hash=space.baseline)])
        if self.opening and _size_of_pass(state):
            state["opening"] = self._pass_over_train(state, pool, number=0)
        return self._plan(state, pool)

    def _batch_size(self, space: SearchSpace) -> int:
        """The first size of a minibatch."""
        if self.minibatch != "auto":
            return self.minibatch
        whole, rollouts = len(space.case_ids), space.rollouts or 0
        return whole if rollouts >= BATCHES * whole else min(whole, SMALL_BATCH)

    def _opening_batch(self, space: SearchSpace) -> int:
        """How many cases one edit of a pass over train learns from."""
        if self.minibatch != "auto":
            return self.minibatch
        cases = min(len(space.case_ids), _most_of_pass(space.rollouts))
        return max(OPENING_BATCH, math.ceil(cases / OPENING_EDITS))

    @classmethod
    def _pass_over_train(cls, state: State, pool: CandidatePool, *, number: int) -> State:
        """A new pass over the training cases, from the best candidate."""
        return {
            "number": number,
            "order": cls._in_order(state, pool, number),
            "at": 0,
            "from": state["best"],
            "again": [],
            "tries": 0,
            "sum": 0.0,
            "count": 0,
            "since": 0,
            "mended": False,
            "last": [],
            "edited": False,
            "rising": True,
            "wrong": {},
            "texts": {},
            "lost": False,
            "ended": False,
            "anew": False,
            "won": False,
            "extra": False,
        }

    @staticmethod
    def _in_order(state: State, pool: CandidatePool, number: int) -> list[str]:
        """The training cases of a pass: those first that went wrong when they were last run."""
        full = pool.full_marks()
        cases = [case for case in state["case_ids"] if case not in state["unread"]]
        random.Random(derive_seed(state["seed"], number, "opening")).shuffle(cases)

        def solved(case: str) -> bool:
            _when, last = state["seen"].get(case, (0, None))
            return last in pool and pool[last].scores.get(case, -math.inf) >= full

        return sorted(cases, key=solved)[: max(1, _size_of_pass(state))]

    def ask(self, state: State) -> Sequence[Trial]:
        """The open trials, oldest first."""
        return [Trial.from_json(entry) for entry in state["open"]]

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Learn from the outcomes of the oldest trials, and plan as many new ones."""
        state = {**state}
        pool = CandidatePool.from_json(state["pool"])
        for outcome in outcomes:
            first, *state["open"] = state["open"]
            _learn(state, pool, Trial.from_json(first), outcome)
        return self._plan(state, pool)

    def finalists(self, state: State) -> Sequence[str]:
        """The end of the current chain, where it was not validated yet."""
        current = CandidatePool.from_json(state["pool"])[state["current"]]
        return [] if current.judged else [current.hash]

    def _plan(self, state: State, pool: CandidatePool) -> State:
        while len(state["open"]) < self.parallel:
            trial = self._next(state, pool)
            if trial is None:
                break
            state["open"] = [*state["open"], trial.to_json()]
            state["asked"] += 1
        keep = {state["best"], state["current"], state["baseline"]}
        keep |= {state["opening"]["from"]} if state["opening"] else set()
        for trial in self.ask(state):
            keep |= {trial.parent, trial.rival or trial.parent, *trial.donors.values()}
        pool.prune(keep=keep)
        state["epoch"] = state["used"] // len(state["case_ids"])
        state["pool"] = pool.to_json()
        return state

    def _next(self, state: State, pool: CandidatePool) -> Trial | None:
        """The next trial: validate a finished chain, merge complementary candidates, or edit."""
        open_trials, best, asked = self.ask(state), state["best"], state["asked"]
        current = pool[state["current"]]
        if state["opening"] is not None:
            if open_trials:
                return None
            found = self._opening_trial(state, pool)
            if found is not None:
                return found
        cases = self._cases(state, pool, current, open_trials)
        trial = Trial(
            parent=best,
            case_ids=(),
            components=tuple(state["components"]),
            seed=derive_seed(state["seed"], asked, "trial"),
        )
        if not any(one.purpose == "validate" for one in open_trials):
            ripe = current.depth >= state["chain"] or current.rejected >= 2 or current.quiet >= 2
            if not current.judged and (ripe or not cases):
                return replace(trial, parent=current.hash, purpose="validate", rival=best)
            pair = next_merge(pool, best, state["merged"])
            if pair is not None:
                state["merged"] = [*state["merged"], pair.key]
                return replace(trial, purpose="merge", gated=False, rival=best, donors=pair.donors)
            if self.demos and (demos := self._demos(state, pool)):
                return replace(trial, purpose="measure", gated=False, rival=best, demos=demos)
        parent, purpose = current, trial.purpose
        if current.rejected >= self.patience:
            parent = pool.sample(derive_seed(state["seed"], asked, "parent"))
            if parent.rejected >= 2 * self.patience and asked % 2:
                purpose = "restart"
            cases = self._cases(state, pool, parent, open_trials)
        stuck = state["vain"] >= 2 * self.patience
        if self.opening and (stuck or not cases):
            if open_trials:
                return None
            return self._start_over(state, pool)
        if not cases:
            return None
        parent.shots = parent.shots + 1 if cases == tuple(parent.batch) else 1
        parent.batch = list(cases)
        others = parent.scores.keys() - {*cases, *state["unread"]}
        known = sorted(others, key=lambda case: (parent.scores[case], case))  # the worst first
        worst = MAX_RECALLED - RECALLED_BEST
        recalled = tuple(sorted([*known[:worst], *known[worst:][-RECALLED_BEST:]]))
        return replace(
            trial,
            parent=parent.hash,
            case_ids=cases,
            purpose=purpose,
            validated=False,
            refined=True,
            recalled=recalled,
            remembered=_remembered(
                state, without={*cases, *parent.scores}, most=MAX_REMEMBERED - len(recalled)
            ),
        )

    def _demos(self, state: State, pool: CandidatePool) -> dict[str, list[Demo]]:
        """Worked examples for the prompts of the best, as long as it has none: a few sets of each
        best; of the baseline only where edits lead nowhere. None where that was tried."""
        best = pool[state["best"]]
        tried = state["sets"].get(best.hash, 0)
        stuck = best.rejected >= self.patience or best.quiet > 0
        if best.shows or tried >= DEMO_SETS or not (best.parent or stuck) or not best.scores:
            return {}
        state["sets"] = {best.hash: tried + 1}
        full, seed = pool.full_marks(), derive_seed(state["seed"], state["asked"], "demos")
        known = [
            Demo(case_id=case, candidate=best.hash, answer="output", like=case)
            for case, score in sorted(best.scores.items())
            if score >= full
        ]
        solved, like = {demo.case_id for demo in known}, min(best.scores)
        known += [
            Demo(
                case_id=case,
                candidate=best.hash,
                answer="expected",
                like=case if case in best.scores else like,
            )
            for case in state["case_ids"]
            if case in state["labels"] and case not in solved
        ]
        size = max(1, min(self.demos >> (2 * tried), len(state["case_ids"]) // 2))
        order = in_turn([one.case_id for one in known], state["labels"], seed=seed)[:size]
        chosen = [one for one in known if one.case_id in order]
        return dict.fromkeys(state["components"], chosen) if chosen else {}

    def _start_over(self, state: State, pool: CandidatePool) -> Trial | None:
        """A pass over train from another candidate, once the search gets no further."""
        seed = derive_seed(state["seed"], state["asked"], "again")
        others = [one.hash for one in pool if one.hash != state["best"]]
        start = random.Random(seed).choice([state["baseline"], *others])
        opening = self._pass_over_train(state, pool, number=state["asked"])
        state["current"], state["vain"] = start, 0
        state["opening"] = {**opening, "from": start}
        return self._opening_trial(state, pool)

    def _opening_trial(self, state: State, pool: CandidatePool) -> Trial | None:
        """The next trial of the pass over train: another try at prompts whose text was refused, the
        next cases, or the validation of what came of it. None when the pass came to nothing."""
        opening, head = {**state["opening"]}, pool[state["current"]]
        state["opening"] = opening
        trial = Trial(
            parent=head.hash,
            case_ids=(),
            components=tuple(state["components"]),
            seed=derive_seed(state["seed"], state["asked"], "trial"),
            gated=False,
            validated=False,
        )
        again = opening["again"] if opening["tries"] < OPENING_TRIES else []
        cases = () if again else self._next_of_pass(state, pool, opening)
        if again or cases:
            known = _remembered(state, without=cases, most=MAX_REMEMBERED)
            rewritten = tuple(again) or trial.components
            return replace(trial, case_ids=cases, components=rewritten, remembered=known)
        if not opening["ended"]:
            opening["ended"] = True
            if head.hash != opening["from"]:
                return self._end_of_pass(state, pool, trial)
        if opening["lost"] and not opening["anew"]:
            opening["anew"] = True
            return _anew(state, opening, trial)
        state["opening"], state["current"] = None, state["best"]
        if not opening["won"]:
            return None
        state["opening"] = self._pass_over_train(state, pool, number=opening["number"] + 1)
        return self._opening_trial(state, pool)

    def _next_of_pass(self, state: State, pool: CandidatePool, opening: State) -> tuple[str, ...]:
        """The cases of the next edit; none where the pass is at its end."""
        opening["tries"] = 0
        if opening["ended"]:
            return ()
        left = opening["order"][opening["at"] :]
        size = state["opening_batch"]
        rising = opening["rising"] and not _is_quiet(opening)
        if not left and rising and not opening["extra"]:
            left = self._in_order(state, pool, -1 - opening["number"])
            opening["extra"], opening["order"], opening["at"] = True, left, 0
        done = opening["extra"] or (opening["number"] and opening["from"] == state["best"])
        if not left or (done and opening["edited"] and not rising):
            return ()
        size = len(left) if len(left) < 2 * size else size
        if opening["number"] == 0 and state["room"] is not None:
            size = min(size, state["room"] - opening["count"])  # its validation has to be paid
        opening["at"] += size
        return tuple(left[:size])

    def _end_of_pass(self, state: State, pool: CandidatePool, trial: Trial) -> Trial:
        """The validation of what a pass came to. Where the pass began at another candidate than
        the best, its end must first beat the best on training cases: with noise, one of many that
        are validated wins by chance."""
        best, head = pool[state["best"]], pool[trial.parent]
        ended = replace(trial, gated=True, purpose="validate", rival=best.hash)
        known = tuple(case for case in state["case_ids"] if case in best.scores)
        differ = {
            name: head.hash
            for name in state["components"]
            if best.changed.get(name) != head.changed.get(name)
        }
        full = pool.full_marks()
        again = state["opening"]["from"] != best.hash and differ
        if not again or all(best.scores[case] >= full for case in known):
            return ended
        return replace(
            ended, purpose="merge", parent=best.hash, case_ids=known, donors=differ, validated=True
        )

    def _cases(
        self, state: State, pool: CandidatePool, parent: Entry, open_trials: Sequence[Trial]
    ) -> tuple[str, ...]:
        """The minibatch for a parent; empty when no case can teach anything new about it.

        Proposals in flight at once share a minibatch, so that its rollouts are paid for once.
        """
        if 0 < parent.shots < self.parallel:
            return tuple(parent.batch)
        busy = {case for trial in open_trials for case in trial.case_ids} | set(state["unread"])
        return pool.minibatch(
            parent.hash,
            state["case_ids"],
            busy=busy,
            lessons=state["lessons"],
            size=state["size"],
            seed=derive_seed(state["seed"], state["asked"], "minibatch"),
        )


def _anew(state: State, opening: State, trial: Trial) -> Trial:
    """One edit of what the pass began at, by all that went wrong in it: where edits lose what those
    before had brought, one edit loses nothing."""
    wrong = dict([*opening["wrong"].items()][-MAX_REMEMBERED:])
    held = _remembered(state, without=wrong, most=MAX_REMEMBERED - len(wrong))
    for case, candidate in wrong.items():
        held[candidate] = [*held.get(candidate, ()), case]
    begun, best = opening["from"], state["best"]
    return replace(trial, parent=begun, validated=True, remembered=held, rival=best)


def _most_of_pass(rollouts: int | None) -> float:
    """The most cases of a pass over train: a quarter of what the search may run."""
    return math.inf if rollouts is None else max(OPENING_LEAST, rollouts // 4)


def _size_of_pass(state: State) -> int:
    """How many training cases a pass takes: as many as the budget pays for beside its validation.
    None where it pays for less than one edit."""
    most = min(_most_of_pass(state["rollouts"]), len(state["case_ids"]))
    room = most if state["room"] is None else min(most, state["room"])
    return int(room) if room >= min(OPENING_BATCH, len(state["case_ids"])) else 0


def _remembered(state: State, *, without: Container[str], most: int) -> dict[str, list[str]]:
    """The training cases run last, by the candidate that ran them, `without` those shown anyway."""
    seen = state["seen"] or {}
    others = (case for case in seen if case not in without)
    newest = sorted(others, key=lambda case: (-seen[case][0], case))[: max(0, most)]
    found: dict[str, list[str]] = {}
    for case in sorted(newest):
        found.setdefault(seen[case][1], []).append(case)
    return found


def _learn(state: State, pool: CandidatePool, trial: Trial, outcome: TrialOutcome) -> None:
    """Change the state and the pool by one outcome."""
    state["used"] += len(trial.case_ids)
    parent = pool[trial.parent]
    parent.scores.update(outcome.parent_scores)
    broken = [case for case in trial.case_ids if case not in outcome.parent_scores]
    parent.failed = sorted({*parent.failed, *broken} - outcome.parent_scores.keys())
    if state["seen"] is not None:
        last = dict.fromkeys([*outcome.parent_scores, *broken], trial.parent)
        if trial.gated and outcome.child:
            last |= dict.fromkeys(outcome.case_scores, outcome.child)
        state["seen"] = {**state["seen"], **{case: [state["used"], c] for case, c in last.items()}}
    anew = state["opening"] is not None and trial.validated
    if anew or trial.purpose in ("validate", "merge", "measure"):
        _judge(state, pool, trial, outcome)
        return
    if state["opening"] is not None:
        _go_on(state, pool, trial, outcome)
        return
    if not outcome.blamed:
        state["unread"] = sorted({*state["unread"], *trial.case_ids})
        return
    if outcome.status == "nothing_to_learn":
        parent.quiet += 1
        return
    full = pool.full_marks()
    failing = [case for case in trial.case_ids if outcome.parent_scores.get(case, 0.0) < full]
    state["vain"] += 1
    learnt = outcome.status == "accepted"
    state["lessons"] = lessons = {**state["lessons"]}
    for case in failing:
        if not (learnt and outcome.case_scores.get(case, 1.0) >= full):
            lessons[case] = lessons.get(case, 0) + 1
    if not learnt or outcome.child is None:
        if list(trial.case_ids) != parent.missed:
            parent.rejected += 1
            parent.missed = list(trial.case_ids)
        ends_chain = trial.parent == state["current"] and not parent.judged
        if ends_chain and pool.fails_more(parent.hash, state["best"]):
            parent.judged = True
            state["current"] = parent.parent if parent.parent in pool else state["best"]
        return
    fresh = outcome.child not in pool
    if fresh:
        pool.add(outcome.child, parent=trial.parent, changed=outcome.prompts, taught=failing)
        state["vain"] = 0
    pool[outcome.child].scores.update(outcome.case_scores)
    parent.rejected = 0
    state["unread"] = []
    if fresh and (trial.parent == state["current"] or pool.better(outcome.child, state["current"])):
        state["current"] = outcome.child


def _go_on(state: State, pool: CandidatePool, trial: Trial, outcome: TrialOutcome) -> None:
    """Take the step of an opening pass: no edit is tested before all of them are."""
    state["opening"] = opening = {**state["opening"]}
    if trial.case_ids and not outcome.blamed:
        state["unread"] = sorted({*state["unread"], *trial.case_ids})
    same = outcome.status == "refused" and outcome.reason != IDENTICAL
    refused = [name for name in trial.components if name in outcome.refused]
    opening["again"] = refused or ([*trial.components] if same and not outcome.refused else [])
    opening["tries"] += 1
    state["vain"] = 0 if outcome.child else state["vain"] + (outcome.status == "refused")
    full = pool.full_marks()
    if trial.case_ids:
        marks = [float(outcome.parent_scores.get(c, -math.inf) >= full) for c in trial.case_ids]
        before = opening["sum"] / opening["count"] if opening["count"] else -1.0
        opening["sum"] += sum(marks)
        opening["count"] += len(marks)
        opening["last"] = [*opening["last"], *marks][-OPENING_LAST:]
        opening["since"] += len(marks)
        opening["rising"] = fmean(marks) > before
        wrong = [case for case, mark in zip(trial.case_ids, marks, strict=True) if not mark]
        opening["wrong"] = {**dict.fromkeys(wrong, trial.parent), **opening["wrong"]}
    if outcome.child is None:
        return
    failing = [case for case, score in outcome.parent_scores.items() if score < full]
    if outcome.child not in pool:
        pool.add(outcome.child, parent=trial.parent, changed=outcome.prompts, taught=failing)
    state["current"] = outcome.child
    opening["since"], opening["edited"] = 0, True
    opening["mended"] = opening["mended"] or opening["extra"]
    before = opening["texts"]
    opening["lost"] = opening["lost"] or any(
        name in before and not {*before[name].split()} <= {*text.split()}
        for name, text in outcome.prompts.items()
    )
    opening["texts"] = {**before, **outcome.prompts}


def _is_quiet(opening: State) -> bool:
    """Whether the last cases of a pass taught nothing new; more where edits break others."""
    unsettled = opening["mended"] or opening["last"].count(0.0) > OPENING_WRONG
    return bool(opening["since"] >= (OPENING_LAST if unsettled else OPENING_BATCH))


def _judge(state: State, pool: CandidatePool, trial: Trial, outcome: TrialOutcome) -> None:
    """Make a validated candidate the new best, or go back to the best where it lost."""
    judged = outcome.child
    if judged is None:
        return
    if judged not in pool:
        pool.add(judged, parent=trial.parent, changed=outcome.prompts, taught=())
    entry = pool[judged]
    entry.judged = True
    entry.shows = entry.shows or bool(outcome.shown)
    entry.validation.update(outcome.validation_scores)
    entry.depth = 0
    won = outcome.status == "accepted"
    if won:
        state["best"] = state["current"] = judged
        state["merged"] = []
    if state["opening"] is not None:
        state["opening"] = {**state["opening"], "won": state["opening"]["won"] or won}
        state["current"] = state["best"]
    if won or state["opening"] is not None:
        return
    if trial.purpose != "validate":
        return
    # It won on minibatches and lost on validation: they were too small, and the chain too long.
    state["chain"] = max(1, state["chain"] // 2)
    state["size"] = max(state["size"], min(2 * state["size"], state["largest"]))
    if judged == state["current"]:
        state["current"] = state["best"]
        pool[state["best"]].rejected += 1
