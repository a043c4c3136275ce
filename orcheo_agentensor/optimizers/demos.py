"""`demos`: worked examples for prompts, from successful rollouts and labelled cases, by racing.

The examples are those of BootstrapFewShot in dspy (Khattab et al., 2023, arXiv 2310.03714): what a
node took in and gave out where a training case went well, or what the case expects. Which of them
stand together in a prompt is searched for: random sets race over blocks of training cases, half of
them dropping out after each (racing as in CAPO, Zehle et al., 2025, arXiv 2504.16005); the winners
are validated against the best so far, and the sets of the next race are changes of theirs. No
proposer is asked, and no model but those of the workflow.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, TypeAlias

from pydantic import ConfigDict, Field

from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.optimizers.protocol import (
    DEMO_CHARS,
    Demo,
    SearchSpace,
    State,
    Trial,
    TrialOutcome,
    derive_seed,
    in_turn,
)

FINALISTS = 2  # sets of one race that are validated, the second where the first loses
ELITE = 3  # sets of one race that the next race changes
FRESH = 3  # one of so many sets of a later race is drawn anew
SHARE = 4  # of the rollouts that the search has, one in so many is for the first run of the prompts
SMALLEST = 3  # cases of a block, where there are so many
RACES = 60  # of the search's rollouts, a case of a block takes one in so many

Held: TypeAlias = dict[str, list[dict[str, Any]]]
"""The examples of a contender by prompt, each a `Demo` as JSON."""


class Demos(StrictNumbers):
    """Search over sets of worked examples.

    Args:
        name: Its name in job files.
        most: The most examples in a prompt.
        max_chars: The most characters that the examples of a prompt take together; a prompt's own
            `metadata["demos"]["max_chars"]` is kept as well.
        at_least: The least score of a rollout whose output is shown as an example.
        contenders: The most sets in one race.
        minibatch: The most cases of a race's first block; later ones are as large as all before.
        patience: Races in a row without a new best, after which the search ends.

    Example:
        >>> from orcheo_agentensor import Demos, get_prompt, train
        >>> def parrot(inputs):  # knows what its prompt shows
        ...     shown = dict(line.split(" -> ") for line in get_prompt("p").splitlines()[1:])
        ...     return shown.get(inputs, "?")
        >>> result = train(
        ...     parrot,
        ...     prompts={"p": {"text": "Answer.", "metadata": {"demos": {"format":
        ...         "{inputs} -> {output}"}}}},
        ...     dataset=[{"inputs": "one", "expected_output": "1"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=Demos(),
        ... )
        >>> print(result.best.prompts["p"])
        Answer.
        one -> 1
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    proposes: ClassVar[bool] = False
    demonstrates: ClassVar[bool] = True

    name: str = "demos"
    most: int = Field(default=16, ge=1, le=200)
    max_chars: int = Field(default=DEMO_CHARS, ge=1)
    at_least: float = Field(default=1.0, ge=0, le=1)
    contenders: int = Field(default=6, ge=2, le=64)
    minibatch: int = Field(default=10, ge=1)
    patience: int = Field(default=3, ge=1)

    def start(self, space: SearchSpace) -> State:
        """Begin with the prompts as they are, on the training cases that examples come from."""
        cases, rollouts = len(space.case_ids), space.rollouts
        block, first = min(self.minibatch, cases), cases
        if rollouts is not None:  # the end of the search is the validation of its last winner
            rollouts = max(0, rollouts - space.validation)
            block = min(block, max(SMALLEST, rollouts // RACES))
            first = max(1, min(first, max(block, rollouts // SHARE)))
        state: State = {
            **space.to_json(),
            "rollouts": rollouts,
            "labels": dict(space.labels),
            "block": block,
            "sets": self._sets(rollouts, block),
            "best": space.baseline,
            "demos": {},
            "scores": {},
            "bootstrapped": [],
            "race": -1,
            "vain": 0,
            "solved": {},
            "unfit": {},
            "elite": [],
            "finalists": [],
            "entries": [],
            "order": [],
            "reached": 0,
            "used": 0,
            "epoch": 0,
        }
        state["order"] = _mixed(state, space.case_ids, "order")
        state["cases"] = state["order"][: min(first, max(2 * self.most, 4 * block), cases)]
        return state

    def _sets(self, rollouts: int | None, block: int) -> int:
        """How many sets are in one race."""
        if rollouts is None:
            return self.contenders
        return min(self.contenders, max(2, rollouts // (6 * block)))

    def ask(self, state: State) -> Sequence[Trial]:
        """The best and the contenders on the next cases of the race, or a winner on validation."""
        if state["finalists"]:
            winner = state["finalists"][0]["hash"]
            trial = self._trial(state, winner, ())
            return [replace(trial, purpose="validate", rival=state["best"])]
        missing = _unknown(state)
        own = [self._trial(state, state["best"], missing)] if missing else []
        return own + [
            self._trial(
                state,
                entry["hash"] or state["baseline"],
                cases,
                {} if entry["hash"] else entry["demos"],
            )
            for entry, cases in _asked(state)
        ]

    def _trial(
        self, state: State, parent: str, cases: Sequence[str], demos: Held | None = None
    ) -> Trial:
        return Trial(
            parent=parent,
            case_ids=tuple(cases),
            components=tuple(state["components"]),
            seed=derive_seed(state["seed"], state["race"], "measure"),
            purpose="measure",
            validated=False,
            demos={name: [Demo(**one) for one in held] for name, held in (demos or {}).items()},
            demo_chars=self.max_chars,
        )

    def tell(self, state: State, outcomes: Sequence[TrialOutcome]) -> State:
        """Let half of the contenders go on, or take in whether a winner is the new best."""
        state = copy.deepcopy(state)
        if state["finalists"]:
            self._judge(state, outcomes[0])
        else:
            self._take_in(state, outcomes)
            self._go_on(state)
        state["epoch"] = state["used"] // len(state["case_ids"])
        return state

    def finalists(self, state: State) -> Sequence[str]:
        """The best contender of a race that was cut short."""
        known = state["finalists"] or _ranked(state)
        return [entry["hash"] for entry in known[:1] if entry["hash"] and entry["gain"] > 0]

    def _take_in(self, state: State, outcomes: Sequence[TrialOutcome]) -> None:
        """Keep what came of a round; contenders that could not be made, or are others', go."""
        told, missing = iter(outcomes), _unknown(state)
        if missing:
            self._score(state, state["scores"], missing, next(told))
        kept: dict[str, dict[str, Any]] = {}
        for entry in state["entries"]:
            if entry["hash"] and not _measured_on(state, entry):
                kept[entry["hash"]] = entry
        for entry, cases in _asked(state):
            outcome = next(told)
            for name, unfit in outcome.unfit.items():
                answers = {one["case_id"]: one["answer"] for one in entry["demos"].get(name, ())}
                known = state["unfit"].setdefault(name, [])
                found = (f"{answers[case]} {case}" for case in unfit if case in answers)
                known.extend(one for one in found if one not in known)
            if outcome.child is None or outcome.child in kept or outcome.child == state["best"]:
                continue
            self._score(state, entry["scores"], cases, outcome)
            if not entry["hash"]:
                entry["demos"] = {
                    name: [one for one in held if one["case_id"] in outcome.shown.get(name, ())]
                    for name, held in entry["demos"].items()
                    if outcome.shown.get(name)
                }
                entry["chars"] = sum(map(len, outcome.prompts.values()))
                entry["hash"] = outcome.child
            kept[outcome.child] = entry
        state["entries"] = list(kept.values())

    def _score(
        self, state: State, scores: dict[str, float], cases: Sequence[str], outcome: TrialOutcome
    ) -> None:
        state["used"] += len(cases)
        # A failure is no score, but nothing must win a race by leaving cases out.
        scores.update({case: outcome.case_scores.get(case, 0.0) for case in cases})
        for case, score in outcome.case_scores.items():
            if score >= self.at_least and outcome.child is not None:
                state["solved"].setdefault(case, outcome.child)

    def _go_on(self, state: State) -> None:
        """Plan the next round of the race, the validation of its winners, or the next race."""
        if state["race"] < 0:
            state["bootstrapped"] = list(state["scores"])
            self._next_race(state)
            return
        ranked, reached = _ranked(state), state["reached"]
        state["elite"] = [entry["demos"] for entry in ranked[:ELITE]]
        if len(ranked) > FINALISTS and reached < len(state["order"]):
            state["entries"] = ranked[: max(1, len(ranked) // 2)]
            state["cases"] = state["order"][reached : 2 * reached]
            state["reached"] = min(2 * reached, len(state["order"]))
            if _affordable(state):
                return
        state["entries"] = []
        state["finalists"] = [one for one in ranked if one["gain"] > 0][:FINALISTS]
        if not state["finalists"]:
            state["vain"] += 1
            self._next_race(state)

    def _judge(self, state: State, outcome: TrialOutcome) -> None:
        winner, *others = state["finalists"]
        state["finalists"], state["used"] = others, state["used"] + len(outcome.validation_scores)
        if outcome.status == "accepted":
            state["best"], state["demos"], state["vain"] = winner["hash"], winner["demos"], 0
            state["scores"], state["finalists"] = winner["scores"], []
        if not state["finalists"]:
            state["vain"] += outcome.status != "accepted"
            self._next_race(state)

    def _next_race(self, state: State) -> None:
        """Draw the sets of the next race; none once the last ones were in vain, or where the budget
        does not pay for its first round."""
        state["race"] += 1
        state["entries"], state["cases"] = [], []
        if state["vain"] >= self.patience:
            return
        drawn = [demos for number in range(state["sets"]) if (demos := self._drawn(state, number))]
        turn = state["race"] * state["block"] % len(state["order"])
        state["order"] = [*state["order"][turn:], *state["order"][:turn]]
        if drawn:
            state["cases"] = state["order"][: state["block"]]
            state["reached"] = len(state["cases"])
            state["entries"] = [_entry(demos) for demos in drawn]
        if not _affordable(state):
            state["entries"], state["cases"] = [], []

    def _drawn(self, state: State, number: int) -> Held:
        """One set of examples by prompt: drawn anew, or a change of one that did well."""
        place = state["race"] * 1_000 + number
        draw = random.Random(derive_seed(state["seed"], place, "set"))
        names, known = state["components"], [state["demos"], *state["elite"]]
        bases = [demos for demos in known if demos]
        if bases and number % FRESH:
            base = copy.deepcopy(bases[number % len(bases)])
            name = draw.choice(names)
            changed = self._changed(state, name, base.get(name, []), draw)
            return {key: held for key, held in {**base, name: changed}.items() if held}
        chosen = names if number % 2 == 0 or len(names) == 1 else [draw.choice(names)]
        size = max(1, self._largest(state) >> (number % (1 + int(math.log2(self.most)))))
        found = {name: self._sample(state, name, size, draw) for name in chosen}
        return {name: held for name, held in found.items() if held}

    def _changed(
        self, state: State, name: str, held: list[dict[str, Any]], draw: random.Random
    ) -> list[dict[str, Any]]:
        """The examples of one prompt with one more, one less, others, or in another order."""
        size, there = len(held), {one["case_id"] for one in held}
        largest = self._largest(state)
        ways = ["add"] * (size < largest) + ["swap", "drop", "order"] * (size > 1)
        way = draw.choice(ways or ["swap"])
        if way == "order":
            return draw.sample(held, size)
        if way != "add":
            gone = max(1, size // 4) if way == "swap" else 1
            held = draw.sample(held, size - gone)
        if way == "drop":
            return held
        wanted = min(largest, size + max(1, size // 4)) - len(held)
        others = self._sample(state, name, wanted, draw, without=there)
        return (
            [*held, *others] if way == "add" else draw.sample([*held, *others], len(held + others))
        )

    def _largest(self, state: State) -> int:
        """The most examples in one prompt: half of the cases are left to be measured on."""
        return max(1, min(self.most, len(state["case_ids"]) // 2))

    def _sample(
        self,
        state: State,
        name: str,
        size: int,
        draw: random.Random,
        *,
        without: set[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Examples for one prompt, in turn of each label."""
        unfit, known = state["unfit"].get(name, ()), state["bootstrapped"]
        like = known[0] if known else state["case_ids"][0]
        found: dict[str, Demo] = {}
        for case in state["case_ids"]:
            if case in (without or ()):
                continue
            if case in state["solved"] and f"output {case}" not in unfit:
                solver = state["solved"][case]
                found[case] = Demo(case_id=case, candidate=solver, answer="output", like=case)
            elif case in state["labels"] and f"expected {case}" not in unfit:
                found[case] = Demo(
                    case_id=case,
                    candidate=state["baseline"],
                    answer="expected",
                    like=case if case in known else like,
                )
        order = _mixed(state, list(found), str(draw.random()))[:size]
        return [asdict(found[case]) for case in draw.sample(order, len(order))]


def _entry(demos: Mapping[str, Any]) -> dict[str, Any]:
    return {"hash": "", "demos": dict(demos), "scores": {}, "chars": 0, "gain": 0.0}


def _measured_on(state: State, entry: Mapping[str, Any]) -> list[str]:
    """The cases of this round that a contender does not show: those are solved for free."""
    shown = _shown(entry["demos"])
    return [case for case in state["cases"] if case not in shown]


def _shown(demos: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    return {one["case_id"] for held in demos.values() for one in held}


def _asked(state: State) -> list[tuple[dict[str, Any], list[str]]]:
    """The contenders of which a trial of this round is made, each with its cases."""
    found = ((entry, _measured_on(state, entry)) for entry in state["entries"])
    return [(entry, cases) for entry, cases in found if cases or not entry["hash"]]


def _unknown(state: State) -> list[str]:
    """The cases of this round that the best does not show, and was not measured on yet."""
    known = {*state["scores"], *_shown(state["demos"])}
    return [case for case in state["cases"] if case not in known]


def _affordable(state: State) -> bool:
    """Whether the budget pays for all of the next round, so that it does not end in its middle."""
    cost = len(_unknown(state)) + sum(len(cases) for _entry, cases in _asked(state))
    return state["rollouts"] is None or state["used"] + cost <= state["rollouts"]


def _mixed(state: State, cases: Sequence[str], purpose: str) -> list[str]:
    seed = derive_seed(state["seed"], state["race"], purpose)
    return in_turn(cases, state["labels"], seed=seed)


def _ranked(state: State) -> list[dict[str, Any]]:
    """The contenders by their gain over the best on the cases that both were measured on; of equal
    ones the shorter first. One that leaves no case to be measured on may still be validated."""
    known = state["scores"]
    for entry in state["entries"]:
        gains = [score - known[case] for case, score in entry["scores"].items() if case in known]
        entry["gain"] = math.fsum(gains) / len(gains) if gains else 1.0
    return sorted(state["entries"], key=lambda one: (-one["gain"], one["chars"], one["hash"]))
