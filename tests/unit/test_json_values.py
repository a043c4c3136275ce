from __future__ import annotations

import json
import math
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

import orcheo_agentensor
from orcheo_agentensor import TrainingJob
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.json_values import (
    MAX_DEPTH,
    MAX_INT,
    MIN_INT,
    StrictNumbers,
    canonical_json,
    check_json,
    content_hash,
    fast_json,
    json_problems,
    json_size,
    quick_text,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
# Values of which some are JSON and some are not, in about equal parts.
any_values = st.recursive(
    scalars
    | st.floats()
    | st.integers()
    | st.text(st.characters(), max_size=3)
    | st.just("\x00")
    | st.just("\ud800")
    | st.binary(max_size=2)
    | st.just(object()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
    ),
)


def survives(value: Any) -> bool:
    """Whether strict JSON text gives `value` back; integers within 64 bits, no NUL."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError):
        return False
    return json.loads(text) == value and all(_storable(scalar) for scalar in _scalars(value))


def _scalars(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [s for item in value for s in _scalars(item)] if isinstance(value, list) else [value]


def _storable(scalar: Any) -> bool:
    if isinstance(scalar, str):
        return "\x00" not in scalar
    return not isinstance(scalar, int) or MIN_INT <= scalar <= MAX_INT


def accepted(value: Any) -> bool:
    try:
        check_json(value, field="value")
    except ConfigError:
        return False
    return True


@given(any_values)
@example({1: "key that is not a text"})
@example({"a": (1,)})
@example(2**63)
def test_a_value_is_accepted_exactly_when_it_survives_json(value: Any) -> None:
    assert accepted(value) == survives(value)


@given(any_values, st.booleans())
@example(1e-05, False)
@example([1e16, "1.5"], True)
@example({"b": math.nan, "a": 1}, True)
def test_the_fast_text_is_that_of_the_json_module(value: Any, sort_keys: bool) -> None:
    fast = fast_json(value, sort_keys=sort_keys)
    if fast is not None:
        text = json.dumps(
            value,
            ensure_ascii=False,
            allow_nan=False,
            sort_keys=sort_keys,
            separators=(",", ":"),
        )
        assert fast == text


@given(any_values)
@example({"b": [1, None, "x"], "a": {"e5": "1e5", "é": True}})
@example([2**63 - 1, 2**63])
@example({"a": (1, 2)})
@example([math.nan])
@example("a\x00b")
@example(UUID(int=0))
@example(json.loads("[" * 33 + "]" * 33))
@example({key: [[], {}] for key in "abc"})
def test_what_one_look_takes_as_json_is_json_and_its_text_the_canonical_one(value: Any) -> None:
    text = quick_text(value)
    if text is not None:
        assert accepted(value)
        assert text == canonical_json(value)


@given(any_values)
def test_the_listing_of_problems_agrees_with_the_check(value: Any) -> None:
    assert accepted(value) == (not list(json_problems(value, field="value")))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_depth_is_limited() -> None:
    check_json(nested(MAX_DEPTH), field="value")
    with pytest.raises(ConfigError, match="nested deeper than 32 levels"):
        check_json(nested(MAX_DEPTH + 1), field="value")


@pytest.mark.parametrize(
    ("value", "field", "rule"),
    [
        (math.nan, "output", "not a finite number"),
        ({"a": [1, math.inf]}, "output.a.1", "not a finite number"),
        ({"a": {"b": "x\x00"}}, "output.a.b", "NUL"),
        (["\ud83d"], "output.0", "lone surrogate"),
        ({"n": 2**63}, "output.n", "beyond 64 bits"),
        ({"n": {1: 2}}, "output.n", "key that is not a text"),
        ({"k\x00": 2}, "output", "key that holds a NUL"),
        ({"s": {1, 2}}, "output.s", "not a JSON value"),
    ],
)
def test_a_refusal_names_the_path_and_the_rule(value: Any, field: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        check_json(value, field="output")
    assert caught.value.field == field


def test_shared_references_that_blow_up_are_refused_quickly() -> None:
    bomb: Any = "x"
    for _ in range(30):
        bomb = [bomb, bomb]
    started = time.thread_time()
    with pytest.raises(ConfigError, match="more than 1,000,000 values"):
        check_json(bomb, field="output")
    assert time.thread_time() - started < 10


def test_a_cycle_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="nested deeper"):
        check_json(loop, field="output")


@given(json_values)
def test_canonical_json_reads_back_as_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(texts, json_values, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_count(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert content_hash(dict(items)) == content_hash(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_equal_numbers_have_one_hash(number: float) -> None:
    if number.is_integer():
        assert content_hash(int(number)) == content_hash(number)


def test_different_values_have_different_hashes() -> None:
    values: list[Any] = [None, True, 1, "1", [1], {"1": 1}, {"1": "1"}, 0, False, "", [], {}, 0.5]
    assert len({content_hash(value) for value in values}) == len(values)


def test_the_size_is_that_of_compact_utf8() -> None:
    assert json_size({"ä": [1, 2]}) == len('{"ä":[1,2]}'.encode())


def test_true_and_false_are_no_numbers_in_any_field_of_a_job() -> None:
    """Of jobs, their limits, budgets and guardrails, optimizers, evaluators, splits, overrides."""
    for name in orcheo_agentensor.__all__:
        getattr(orcheo_agentensor, name)  # loads all that there is
    kinds, found = [StrictNumbers], set[str]()
    for kind in kinds:
        kinds += kind.__subclasses__()
        ours = kind.__module__.startswith("orcheo_agentensor.")
        properties = kind.model_json_schema(by_alias=False)["properties"] if ours else {}
        for name, schema in properties.items():
            forms = [schema, *schema.get("anyOf", ())]
            types = {form.get("type") for form in forms}
            if types & {"integer", "number"} and "boolean" not in types:
                with pytest.raises(ValidationError, match=rf"(?s)\b{name}\b.*input_value=True"):
                    kind.model_validate({name: True})
                found.add(f"{kind.__name__}.{name}")
    assert {
        "Limits.case_sla_ms",
        "Limits.concurrency",
        "Job.seed",
        "Budget.cost",
        "LatencyGuardrail.slack_ms",
        "Goal.gain",
        "Patience.steps",
        "Reflective.minibatch",
        "Demos.most",
        "Latency.max_ms",
        "LLMJudge.votes",
        "SplitPlan.train",
        "NodeOverride.temperature",
        "ConversationSpec.max_turns",
    } <= found
    job = {"limits": {"case_sla_ms": True, "isolate": True}, "budget": {"calls": False}}
    with pytest.raises(ConfigError, match=r"case_sla_ms: True must .* job.budget.calls: False"):
        TrainingJob.parse(job)
