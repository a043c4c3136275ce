"""Every bundled optimizer keeps to the ask/tell protocol, whatever it is told."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcheo_agentensor import Demos, RandomSearch, Reflective, TextGrad
from orcheo_agentensor.optimizers import Optimizer, SearchSpace, Trial, TrialOutcome, derive_seed
from orcheo_agentensor.optimizers.reflective import MAX_POOL

OPTIMIZERS: dict[str, Any] = {
    "reflective": Reflective(minibatch=3),
    "reflective, 4 at once": Reflective(minibatch=3, parallel=4),
    "reflective, impatient": Reflective(minibatch=1, parallel=2, chain=1, patience=1),
    "reflective, with demos": Reflective(minibatch=3, patience=1, demos=3),
    "textgrad": TextGrad(minibatch=3),
    "random_search": RandomSearch(minibatch=3, parallel=3),
    "demos": Demos(minibatch=2, contenders=4, most=3),
}
CASES = tuple(f"case{n}" for n in range(9))
VALIDATION = tuple(f"validation{n}" for n in range(6))
LABELS = {case: n % 2 for n, case in enumerate(CASES[:6])}
SPACE = SearchSpace(
    components=("a", "b", "c"), case_ids=CASES, baseline="base", seed=3, labels=LABELS
)
every = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def outcome(trial: Trial, draw: random.Random) -> TrialOutcome:
    """Something that a training could answer to a trial."""

    def scores(ids: tuple[str, ...]) -> dict[str, float]:
        return {i: draw.choice([0.0, 0.0, 0.5, 1.0]) for i in ids if draw.random() < 0.85}

    before = scores(trial.case_ids)
    if trial.purpose == "validate":
        status = draw.choice(["accepted", "worse_on_validation"])
        return TrialOutcome(
            status=status,
            parent=trial.parent,
            child=trial.parent,
            validation_scores=scores(VALIDATION),
            validation=draw.choice([None, 0.5]),
        )
    if trial.purpose == "measure":
        ids = {name: [one.case_id for one in held] for name, held in trial.demos.items()}
        made = draw.random() < 0.9
        return TrialOutcome(
            status=draw.choice(
                ["accepted", "worse_on_validation"] if trial.validated else ["measured"]
            )
            if made
            else "refused",
            parent=trial.parent,
            validation_scores=scores(VALIDATION) if made and trial.validated else {},
            child=(f"candidate{draw.randrange(10**6)}" if ids else trial.parent) if made else None,
            prompts=dict.fromkeys(ids, "text"),
            case_scores=before if made else {},
            shown={name: held[1:] for name, held in ids.items()},
            unfit={name: held[:1] for name, held in ids.items()},
        )
    status = draw.choice(
        ["accepted", "accepted", "worse_on_minibatch", "worse_on_validation", "refused"]
        + ["nothing_to_learn"] * (trial.purpose != "merge")
    )
    blamed = tuple(name for name in trial.components if draw.random() < 0.8)
    if status in ("refused", "nothing_to_learn"):
        return TrialOutcome(status=status, parent=trial.parent, parent_scores=before, blamed=blamed)
    return TrialOutcome(
        status=status,
        parent=trial.parent,
        child=f"candidate{draw.randrange(10**6)}" if draw.random() < 0.9 else trial.parent,
        prompts=dict.fromkeys(trial.donors or blamed, "text"),
        parent_scores=before,
        case_scores=scores(trial.case_ids),
        validation_scores=scores(VALIDATION) if trial.validated else {},
        blamed=blamed,
    )


def told(optimizer: Optimizer, open_trials: list[Trial]) -> list[Trial]:
    """The trials whose outcomes are told next."""
    return open_trials[:1] if getattr(optimizer, "pipelined", False) else open_trials


@every
@given(seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_asking_is_pure_and_the_state_is_json(optimizer: Any, seed: int) -> None:
    draw = random.Random(seed)
    state = optimizer.start(SPACE)
    for _ in range(16):
        asked = list(optimizer.ask(state))
        written = json.dumps(state, allow_nan=False)
        assert list(optimizer.ask(json.loads(written))) == asked
        assert json.dumps(state) == written  # asking has changed nothing
        if not asked:
            return
        outcomes = [outcome(trial, draw) for trial in told(optimizer, asked)]
        from_memory = optimizer.tell(state, outcomes)
        assert json.dumps(state) == written  # nor has telling changed the state before
        state = optimizer.tell(json.loads(written), outcomes)
        assert state == from_memory


@every
@given(seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_trials_name_what_there_is(optimizer: Any, seed: int) -> None:
    draw = random.Random(seed)
    state, known = optimizer.start(SPACE), {SPACE.baseline}
    for _ in range(16):
        asked = list(optimizer.ask(state))
        for trial in asked:
            assert {trial.parent, trial.rival or trial.parent, *trial.donors.values()} <= known
            assert set(trial.case_ids) | set(trial.recalled) <= set(CASES)
            assert len(set(trial.case_ids)) == len(trial.case_ids)
            assert not set(trial.case_ids) & set(trial.recalled)
            assert set(trial.components) <= set(SPACE.components)
            assert set(trial.remembered) <= known
            demos = [demo for held in trial.demos.values() for demo in held]
            assert {demo.candidate for demo in demos} <= known
            assert {case for demo in demos for case in (demo.case_id, demo.like)} <= set(CASES)
            assert not {demo.case_id for demo in demos} & set(trial.case_ids)
            learns = trial.case_ids or demos or (trial.remembered and not trial.gated)
            assert learns or trial.purpose in ("validate", "merge")
            assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
        outcomes = [outcome(trial, draw) for trial in told(optimizer, asked)]
        known |= {one.child for one in outcomes if one.child is not None}
        state = optimizer.tell(state, outcomes)


@every
@given(seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_open_trials_come_first_and_in_their_order(optimizer: Any, seed: int) -> None:
    if not getattr(optimizer, "pipelined", False):
        return
    draw = random.Random(seed)
    state = optimizer.start(SPACE)
    for _ in range(20):
        asked = list(optimizer.ask(state))
        assert len(asked) <= optimizer.parallel
        if not asked:
            return
        state = optimizer.tell(state, [outcome(asked[0], draw)])
        assert list(optimizer.ask(state))[: len(asked) - 1] == asked[1:]


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_a_long_search_needs_no_more_room_than_a_short_one(optimizer: Any, seed: int) -> None:
    draw = random.Random(seed)
    state = optimizer.start(SPACE)
    room: list[int] = []
    for _ in range(240):
        asked = list(optimizer.ask(state))
        if not asked:
            break
        state = optimizer.tell(state, [outcome(trial, draw) for trial in told(optimizer, asked)])
        room.append(len(json.dumps(state)))
        assert len(state.get("pool", ())) <= MAX_POOL + len(VALIDATION) + 3 * len(asked) + 3
    assert max(room[-60:]) <= 2 * max(room[:60])


@every
@pytest.mark.requirement("training.deterministic")
def test_the_same_seed_asks_for_the_same_and_another_seed_for_others(optimizer: Any) -> None:
    one, other = (SearchSpace(**{**vars(SPACE), "seed": seed}) for seed in (3, 4))
    assert optimizer.ask(optimizer.start(one)) == optimizer.ask(optimizer.start(SPACE))
    assert optimizer.ask(optimizer.start(other)) != optimizer.ask(optimizer.start(SPACE))


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(1, 2, "x") == derive_seed(1, 2, "x") < 2**53
    assert len({derive_seed(s, n, p) for s in (0, 1) for n in (0, 1) for p in "ab"}) == 8
