"""The built-in evaluators."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orcheo_agentensor.evaluators import (
    Contains,
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    ExactMatch,
    JsonFieldMatch,
    JsonSchema,
    JsonValid,
    Latency,
    Length,
    NumericTolerance,
    Outcome,
    Regex,
    StringSimilarity,
    ToolCallMatch,
    TrajectoryMatch,
    bind_evaluator,
)
from orcheo_agentensor.settings import Settings

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def evaluate(evaluator: Any, output: Any, expected: Any = None, latency_ms: float = 0) -> Outcome:
    ctx = EvaluatorContext(
        case_id="c", inputs="q", output=output, expected_output=expected, latency_ms=latency_ms
    )
    before = copy.deepcopy(ctx)
    found: Outcome = evaluator.evaluate(ctx)
    assert ctx == before, "a built-in must not change its context"
    assert found.name == evaluator.name
    return found


def score(evaluator: Any, output: Any, expected: Any = None, **kwargs: Any) -> float:
    found = evaluate(evaluator, output, expected, **kwargs)
    assert isinstance(found, EvaluationResult), found
    assert found.score is not None
    assert found.passed == (found.score == 1.0) or isinstance(evaluator, StringSimilarity)
    assert (found.reason is None) == bool(found.passed), "what falls short says why"
    return found.score


def reason(evaluator: Any, output: Any, expected: Any = None, **kwargs: Any) -> str:
    found = evaluate(evaluator, output, expected, **kwargs)
    assert found.reason is not None
    return found.reason


@pytest.mark.parametrize(
    "evaluator",
    [
        ExactMatch(),
        ExactMatch(field="a"),
        Contains(),
        NumericTolerance(),
        StringSimilarity(),
        JsonFieldMatch(),
        ToolCallMatch(),
        TrajectoryMatch(),
    ],
)
def test_a_case_without_an_expected_output_is_a_failure_not_a_zero(evaluator: Any) -> None:
    found = evaluate(evaluator, {"a": 1})
    assert isinstance(found, EvaluatorFailure)
    assert found.kind == "missing"
    assert "case c" in found.reason
    assert "expected" in found.reason


def test_a_missing_expected_field_is_named() -> None:
    found = evaluate(ExactMatch(field="a.b"), {"a": {"b": 1}}, {"a": {}})
    assert isinstance(found, EvaluatorFailure)
    assert found.reason == "case c: expected_output.a.b is missing"


@given(value=json_values.filter(lambda value: value is not None))
def test_everything_matches_itself(value: Any) -> None:
    assert score(ExactMatch(), value, copy.deepcopy(value)) == 1.0
    assert score(ExactMatch(), json.loads(json.dumps(value)), value) == 1.0


@pytest.mark.parametrize(
    ("output", "expected", "matches"),
    [
        (1, 1.0, True),
        (True, 1, False),
        ({"a": [0]}, {"a": [False]}, False),
        ("A", "a", False),
        ({"a": 1, "messages": []}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, False),
        ({"a": 1}, {}, False),
        (None, "a", False),
        ([1, 2], [2, 1], False),
    ],
)
def test_exact_match(output: Any, expected: Any, matches: bool) -> None:
    assert score(ExactMatch(), output, expected) == float(matches)


def test_exact_match_of_a_field() -> None:
    output = {"queue": "billing", "messages": [{"content": "x"}, {"content": "Bye"}]}
    assert score(ExactMatch(field="queue"), output, {"queue": "billing", "other": 1}) == 1.0
    assert score(ExactMatch(field="queue"), output, "billing") == 1.0
    assert score(ExactMatch(field="messages.-1.content", ignore_case=True), output, "bye") == 1.0
    assert score(ExactMatch(field="queue", expected_field="label"), output, {"label": "x"}) == 0.0
    assert reason(ExactMatch(field="no"), output, "x") == "expected 'x', got nothing"
    assert reason(ExactMatch(), output, {"queue": "sales"}) == (
        "queue: expected 'sales', got 'billing'"
    )


def test_contains() -> None:
    assert score(Contains(), "say hello twice", "hello") == 1.0
    assert score(Contains(), "say hello", ["hello", "bye"]) == 0.5
    assert score(Contains(value="HELLO", ignore_case=True), {"a": "hello"}) == 1.0
    assert reason(Contains(), "x", ["hello", "bye"]) == "does not contain 'hello', 'bye'"


def test_regex() -> None:
    assert score(Regex(pattern=r"\d+"), "abc 12") == 1.0
    assert score(Regex(pattern=r"\d+", full=True), "abc 12") == 0.0
    assert score(Regex(pattern="ABC", ignore_case=True, field="t"), {"t": "abc"}) == 1.0
    assert reason(Regex(pattern="x", field="t"), {}) == "the output has no t"


def test_numeric_tolerance() -> None:
    assert score(NumericTolerance(abs_tol=0.1), "3.05", 3) == 1.0
    assert score(NumericTolerance(rel_tol=0.01), 99.5, 100) == 1.0
    assert score(NumericTolerance(), 3.0001, 3) == 0.0
    assert "not a number" in reason(NumericTolerance(), "three", 3)
    assert "not a number" in reason(NumericTolerance(), True, 1)
    assert isinstance(evaluate(NumericTolerance(), 3, "three"), EvaluatorFailure)


@given(st.text(max_size=400), st.text(max_size=400))
def test_string_similarity_lies_between_0_and_1(left: str, right: str) -> None:
    assert 0.0 <= score(StringSimilarity(), left, right) <= 1.0
    assert score(StringSimilarity(), left, left) == 1.0


def test_string_similarity_tells_a_small_change_from_another_text() -> None:
    text = "the quick brown fox jumps over the lazy dog " * 20
    assert score(StringSimilarity(), text.replace("lazy", "busy"), text) > 0.85
    assert score(StringSimilarity(), "entirely different " * 40, text) < 0.2
    found = evaluate(StringSimilarity(threshold=0.5), "abcd", "abce")
    assert isinstance(found, EvaluationResult)
    assert (found.score, found.passed) == (0.75, True)


def test_string_similarity_of_long_texts_is_quick() -> None:
    started = time.thread_time()
    score(StringSimilarity(), "a b " * 50_000, "b a " * 50_000)
    assert time.thread_time() - started < 5


def test_json_valid() -> None:
    assert score(JsonValid(), '{"a": [1]}') == 1.0
    assert score(JsonValid(), {"a": 1}) == 1.0
    assert score(JsonValid(field="t"), {"t": "{"}) == 0.0
    assert "NaN is not a finite number" in reason(JsonValid(), "[NaN]")
    assert score(JsonValid(), "[" * 100_000) == 0.0


def test_json_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/n"}},
        "required": ["n"],
        "$defs": {"n": {"type": "integer"}},
    }
    assert score(JsonSchema(schema=schema), '{"n": 1}') == 1.0
    assert reason(JsonSchema(schema=schema), {"n": "x"}) == "$.n: 'x' is not of type 'integer'"
    assert "is not JSON" in reason(JsonSchema(schema=schema), "{")
    with pytest.raises(ValidationError, match="is not a JSON Schema"):
        JsonSchema(schema={"type": 3})


async def test_a_json_schema_reaches_nothing_outside_itself() -> None:
    bound = bind_evaluator(JsonSchema(schema={"$ref": "http://127.0.0.1:9/schema.json"}))
    (found,), _ = await bound.score(EvaluatorContext(case_id="c", inputs=1, output={}))
    assert isinstance(found, EvaluatorFailure)
    assert "Unresolvable" in found.reason


def test_json_field_match() -> None:
    expected = {"a": {"b": 1}, "c": [1, 2], "d": "x"}
    output = json.dumps({"a": {"b": 1.0}, "c": [1, 3], "extra": 1})
    assert score(JsonFieldMatch(), output, expected) == pytest.approx(1 / 3)
    assert score(JsonFieldMatch(fields=["a.b", "c.0"]), output, expected) == 1.0
    assert reason(JsonFieldMatch(), output, expected) == (
        "c: expected [1, 2], got [1, 3]; d: expected 'x', got nothing"
    )
    assert score(JsonFieldMatch(field="state"), {"state": expected}, {"state": expected}) == 1.0
    assert isinstance(evaluate(JsonFieldMatch(), output, "text"), EvaluatorFailure)
    lacking = evaluate(JsonFieldMatch(fields=["z"]), output, expected)
    assert lacking.reason == "case c: expected_output.z is missing"


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "args": arguments, "id": "1", "type": "tool_call"}


BOOK = {"type": "function", "function": {"name": "book", "arguments": '{"n": 2}'}}
STATE = {
    "messages": [
        {"role": "user", "content": "weather?", "name": "search"},
        {"role": "assistant", "tool_calls": [call("find", q="x"), call("find", q="y")]},
        {"role": "tool", "name": "find", "content": "{}"},
        {"role": "assistant", "tool_calls": [BOOK]},
    ]
}


def test_tool_calls_are_matched_in_any_order_with_their_arguments() -> None:
    everything = [call("book", n=2), call("find", q="y"), call("find", q="x")]
    assert score(ToolCallMatch(), STATE, everything) == 1.0
    assert score(ToolCallMatch(), STATE, STATE) == 1.0
    assert score(ToolCallMatch(), STATE, ["find", "find", "book"]) == 1.0
    assert score(ToolCallMatch(), STATE, {"tool_calls": [call("find", q="x")]}) == 0.5
    assert score(ToolCallMatch(), {"messages": []}, []) == 1.0
    assert reason(ToolCallMatch(), STATE, ["pay", "find", "find"]) == (
        'not called: pay(); called besides: book({"n": 2})'
    )


def test_arguments_can_be_matched_in_part_or_ignored() -> None:
    output = [call("find", q="x", limit=3)]
    assert score(ToolCallMatch(), output, [call("find", q="x")]) == 0.0
    assert score(ToolCallMatch(arguments="subset"), output, [call("find", q="x")]) == 1.0
    assert score(ToolCallMatch(arguments="ignore"), output, [call("find", z=1)]) == 1.0


def test_a_general_expectation_leaves_the_particular_call_to_a_particular_one() -> None:
    expected = [{"name": "find"}, call("find", q="x")]
    assert score(ToolCallMatch(), [call("find", q="x"), call("find", q="y")], expected) == 1.0


@pytest.mark.parametrize(
    ("expected", "passing"),
    [
        (["find", "find", "book"], {"strict", "unordered", "subset", "superset"}),
        (["book", "find", "find"], {"unordered", "subset", "superset"}),
        (["find", "find", "book", "pay"], {"subset"}),
        (["find", "book"], {"superset"}),
        ([], {"superset"}),
    ],
)
def test_trajectories_match_by_mode(expected: list[str], passing: set[str]) -> None:
    for mode in ("strict", "unordered", "subset", "superset"):
        assert score(TrajectoryMatch(mode=mode), STATE, expected) == float(mode in passing)


def test_a_strict_trajectory_says_where_it_leaves_the_path() -> None:
    told = reason(TrajectoryMatch(), STATE, ["find", "book", "find"])
    assert told == 'call 2: expected book(), got find({"q": "y"})'


def test_latency_and_length() -> None:
    assert score(Latency(max_ms=100), "x", latency_ms=100) == 1.0
    assert reason(Latency(max_ms=100), "x", latency_ms=150.4) == "took 150 ms, at most 100 wanted"
    assert score(Length(at_most=3), "abc") == 1.0
    assert score(Length(at_least=2, unit="words"), "one two") == 1.0
    assert reason(Length(at_most=1, unit="words"), "one two") == "2 words, at most 1 wanted"
    with pytest.raises(ValidationError, match="at_least, at_most or both"):
        Length()


async def test_exact_match_scores_in_microseconds() -> None:
    bound = bind_evaluator(ExactMatch(field="queue"), settings=Settings())
    ctx = EvaluatorContext(
        case_id="c", inputs={}, output={"queue": "billing"}, expected_output={"queue": "billing"}
    )
    best = 1.0
    gc.disable()
    try:
        for _ in range(20):
            started = time.thread_time()
            for _ in range(200):
                await bound.score(ctx)
            best = min(best, (time.thread_time() - started) / 200)
            await asyncio.sleep(0)
    finally:
        gc.enable()
    assert best < 20e-6  # measured: about 2
