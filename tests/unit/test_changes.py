from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.training.state import apply, changes

KEYS = st.sampled_from(["a", "b", "set", "drop", "inside"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=4),
)
objects = st.dictionaries(KEYS, values, max_size=4)


@given(objects, objects)
def test_a_change_leads_from_the_one_to_the_other(before: Any, after: Any) -> None:
    held = copy.deepcopy(before)
    change = json.loads(json.dumps(changes(before, after)))
    assert apply(before, change) == after
    assert before == held
    assert changes(after, after) == {}


def test_a_change_holds_no_more_than_what_changed() -> None:
    before = {"ids": list(range(1000)), "pool": {"a": {"scores": dict.fromkeys("xyz", 1.0)}}}
    after = {**before, "pool": {"a": {"scores": {"x": 1.0, "y": 0.5}}}}
    scores = {"drop": ["z"], "set": {"y": 0.5}}
    assert changes(before, after) == {
        "inside": {"pool": {"inside": {"a": {"inside": {"scores": scores}}}}}
    }
