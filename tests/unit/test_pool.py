from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.optimizers.reflective import (
    MAX_FRONT,
    MAX_POOL,
    CandidatePool,
    Entry,
    next_merge,
)

CASES = tuple("abcdefghij")


def entry(name: str, **fields: Any) -> Entry:
    return Entry(hash=name, **fields)


def pool_of(*entries: Entry) -> CandidatePool:
    return CandidatePool([replace(one, number=n) for n, one in enumerate(entries)])


def batch(pool: CandidatePool, parent: str, *, size: int = 3, **changes: Any) -> tuple[str, ...]:
    given: dict[str, Any] = {"busy": (), "lessons": {}, "size": size, "seed": 1, **changes}
    return pool.minibatch(parent, CASES, **given)


def test_failing_cases_come_first_and_a_solved_one_goes_with_them() -> None:
    scores = {"a": 1.0, "b": 0.0, "c": 0.5, "d": 1.0}
    pool = CandidatePool([entry("p", scores=scores, failed=["e"])])
    first = batch(pool, "p", size=4)
    assert set(first[:3]) == {"b", "c", "e"}  # wrong, half right, crashed
    assert first[3] in set(CASES) - {"a", "b", "c", "d", "e"}  # nobody has run it
    assert first[4:] in (("a",), ("d",))  # to see what a child breaks


def test_what_was_learnt_from_in_vain_comes_after_what_is_unseen() -> None:
    pool = CandidatePool([entry("p", scores={"a": 0.0, "b": 0.0})])
    assert set(batch(pool, "p", size=2)) == {"a", "b"}
    later = batch(pool, "p", size=9, lessons={"a": 2, "b": 1})
    assert set(later[:8]) == set(CASES) - {"a", "b"}
    assert later[8] == "b"


def test_an_edit_is_not_shown_again_the_cases_it_has_learnt_from() -> None:
    pool = CandidatePool([entry("base", scores={"a": 0.0, "b": 0.0, "c": 0.0})])
    pool.add("child", parent="base", changed=["x"], taught=["a", "b"])
    chosen = batch(pool, "child", size=8)
    assert chosen[0] == "c"  # failed before, and nothing was learnt from it since
    assert not {"a", "b"} & set(chosen)
    assert pool["child"].depth == 1
    assert pool["child"].changed == {"x": "child"}


def test_cases_that_are_busy_elsewhere_are_left_alone() -> None:
    pool = CandidatePool([entry("p", scores=dict.fromkeys(CASES, 0.0))])
    assert not set(batch(pool, "p", size=10, busy={"a", "b"})) & {"a", "b"}


def test_a_candidate_that_solves_every_case_has_nothing_to_learn() -> None:
    pool = CandidatePool([entry("p", scores=dict.fromkeys(CASES, 1.0))])
    assert batch(pool, "p") == ()


validations = st.dictionaries(
    st.sampled_from(["c1", "c2", "c3", "c4"]),
    st.dictionaries(st.sampled_from("uvwxyz"), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
)


@given(validations)
def test_the_front_covers_every_best_score_with_no_candidate_to_spare(
    found: Mapping[str, dict[str, float]],
) -> None:
    pool = pool_of(*(entry(name, validation=scores) for name, scores in found.items()))
    front = pool.front()
    for case in {case for scores in found.values() for case in scores}:
        top = max(scores[case] for scores in found.values() if case in scores)
        assert any(found[name].get(case) == top for name in front)
    if front:
        assert pool.sample(7).hash in front
    assert CandidatePool.from_json(json.loads(json.dumps(pool.to_json()))).front() == front


def test_a_dominated_candidate_is_never_a_parent() -> None:
    pool = CandidatePool(
        [
            entry("one", validation={"u": 1.0, "v": 0.0}),
            entry("two", validation={"u": 0.0, "v": 1.0}),
            entry("worse", validation={"u": 0.0, "v": 0.0}),
        ]
    )
    assert set(pool.front()) == {"one", "two"}
    assert {pool.sample(seed).hash for seed in range(40)} == {"one", "two"}


def test_pruning_lets_the_oldest_go_and_spares_the_front() -> None:
    entries = [entry(f"c{n}", number=n) for n in range(MAX_POOL + 5)]
    entries[0].validation = {"u": 1.0}
    pool = CandidatePool(entries)
    pool.prune(keep={"c1"})
    left = [one.hash for one in pool]
    assert len(left) == MAX_POOL
    assert left[:2] == ["c0", "c1"]
    assert left[-1] == entries[-1].hash


def test_the_front_too_keeps_no_more_than_it_has_room_for() -> None:
    cases = [f"v{n}" for n in range(MAX_FRONT + 9)]
    alone = [entry(f"c{n}", number=n, validation={case: 1.0}) for n, case in enumerate(cases)]
    many = entry("many", number=99, validation={"v0": 1.0, "w": 1.0})
    pool = CandidatePool([*alone, many])
    pool.prune(keep={"c1"})
    left = [one.hash for one in pool]
    assert len(left) == MAX_FRONT + 1
    assert left[0] == "c1"
    assert left[-1] == "many"


def test_a_pool_is_read_back_in_its_order_whatever_a_database_makes_of_keys() -> None:
    pool = CandidatePool([entry("z")])
    for name, parent in (("y", "z"), ("a", "y"), ("k", "z")):
        pool.add(name, parent=parent, changed=["x"], taught=[])
    kept = json.loads(json.dumps(pool.to_json(), sort_keys=True))
    assert [one.hash for one in CandidatePool.from_json(kept)] == ["z", "y", "a", "k"]


def test_candidates_that_changed_different_prompts_are_merged_once() -> None:
    best = entry("best", changed={"x": "best"}, validation={"u": 1.0, "v": 0.0}, judged=True)
    other = entry("other", changed={"y": "other"}, validation={"u": 0.0, "v": 1.0}, judged=True)
    pool = CandidatePool([best, other])
    merge = next_merge(pool, "best", [])
    assert merge is not None
    assert merge.donors == {"y": "other"}
    assert next_merge(pool, "best", [merge.key]) is None


def test_what_complements_nothing_is_not_merged() -> None:
    best = entry("best", changed={"x": "best"}, validation={"u": 1.0, "v": 0.5}, judged=True)
    beaten = entry("beaten", changed={"y": "beaten"}, validation={"v": 0.5}, judged=True)
    same = entry("same", changed={"x": "same"}, validation={"v": 1.0}, judged=True)
    longer = entry("longer", changed={"x": "best", "y": "l"}, validation={"v": 1.0}, judged=True)
    unproved = entry("unproved", changed={"y": "u"}, validation={"v": 1.0})
    for candidate in (beaten, same, longer, unproved):
        assert next_merge(CandidatePool([best, candidate]), "best", []) is None
