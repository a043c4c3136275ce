"""`assertions`: what cases assert of their own outputs, as promptfoo writes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import Assertions, Dataset, EvaluatorContext, evaluate
from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators import EvaluationResult, EvaluatorFailure, NotApplicable
from orcheo_agentensor.testing import RuleChatModel
from orcheo_agentensor.usage import Usage

SCHEMA = {"type": "object", "required": ["queue"]}
KEPT: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    ("Hello Bob", {"type": "equals", "value": "Hello Bob"}, {"value": "Hello"}),
    ('{"a": 1}', {"type": "equals", "value": {"a": 1}}, {"value": {"a": 2}}),
    (7, {"type": "equals", "value": 7}, {"value": 8}),
    ("Bonjour", {"type": "contains", "value": "jour"}, {"value": "JOUR"}),
    ("Bonjour", {"type": "icontains", "value": "JOUR"}, {"value": "noir"}),
    ("a b c", {"type": "contains-all", "value": ["a", "b"]}, {"value": ["a", "x"]}),
    ("a b c", {"type": "contains-any", "value": "x, c"}, {"value": "x, y"}),
    ("a b c", {"type": "icontains-all", "value": "A, B"}, {"value": "A, X"}),
    ("a b c", {"type": "icontains-any", "value": ["X", "C"]}, {"value": ["X"]}),
    ("Order 12", {"type": "regex", "value": r"\d{2}"}, {"value": r"^\d"}),
    ("Order 12", {"type": "starts-with", "value": "Order"}, {"value": "12"}),
    ('{"queue": 1}', {"type": "is-json", "value": SCHEMA}, {"value": {"required": ["x"]}}),
    ('So: {"queue": 1}.', {"type": "contains-json", "value": SCHEMA}, {"value": {"type": "array"}}),
    ("kitten", {"type": "levenshtein", "value": "sitting", "threshold": 3}, {"threshold": 2}),
    ("", {"type": "latency", "threshold": 120}, {"threshold": 119}),
    ("", {"type": "cost", "threshold": 0.5}, {"threshold": 0.4}),
    (
        "ab",
        {
            "type": "assert-set",
            "threshold": 0.5,
            "assert": [{"type": "contains", "value": v} for v in "ax"],
        },
        {"threshold": 0.6},
    ),
]


def context(output: Any, *asserts: Any, cost: float | None = 0.5, **metadata: Any) -> Any:
    return EvaluatorContext(
        case_id="a",
        inputs={},
        output=output,
        latency_ms=120.0,
        usage=Usage(cost=cost),
        metadata={"assert": [*asserts], **metadata} if asserts else metadata,
    )


@pytest.mark.parametrize(
    ("output", "kept", "broken"), KEPT, ids=[one["type"] for _, one, _ in KEPT]
)
async def test_each_type_holds_or_not_and_can_be_turned_round(
    output: Any, kept: dict[str, Any], broken: dict[str, Any]
) -> None:
    held = await Assertions().evaluate(context(output, kept))
    assert isinstance(held, EvaluationResult)
    assert held.passed
    for other in (kept | broken, kept | {"type": f"not-{kept['type']}"}):
        lost = await Assertions().evaluate(context(output, other))
        assert isinstance(lost, EvaluationResult)
        assert not lost.passed
        assert str(other["type"]) in str(lost.reason)


async def test_weights_thresholds_and_what_is_no_score() -> None:
    right, wrong = ({"type": "contains", "value": value} for value in "ax")
    half = await Assertions().evaluate(context("a", right, wrong | {"weight": 3}))
    assert (half.score, half.passed) == (0.25, False)
    enough = await Assertions().evaluate(context("a", right, wrong, assert_threshold=0.5))
    assert (enough.score, enough.passed) == (0.5, True)
    idle = await Assertions().evaluate(context("a", right, wrong | {"weight": 0}))
    assert (idle.score, idle.passed) == (1.0, True)
    assert isinstance(await Assertions().evaluate(context("a")), NotApplicable)
    unknown = await Assertions().evaluate(context("a", {"type": "cost", "threshold": 1}, cost=None))
    assert isinstance(unknown, EvaluatorFailure)
    code = await Assertions().evaluate(context("a", {"type": "javascript", "value": "true"}))
    assert isinstance(code, EvaluatorFailure)
    assert "javascript' is code" in code.reason
    for text in ("contains: a", {"type": "contains", "value": "a"}):
        wrong = await Assertions().evaluate(EvaluatorContext(
            case_id="a", inputs={}, output="a", metadata={"assert": text}))  # fmt: skip
        assert isinstance(wrong, EvaluatorFailure)
        assert "metadata.assert: " in wrong.reason
        assert "must be a list of assertions" in wrong.reason


@pytest.mark.parametrize("most", [0, 3, 1_000])
async def test_a_distance_is_told_by_the_limit_in_time_that_grows_with_no_text(most: int) -> None:
    before, wanted = "ab" * 50_000, {"type": "levenshtein", "value": "ab" * 50_000}
    for edits in {max(0, most - 1), most, most + 1}:
        output = "x" * (edits // 2) + before[edits // 2 : -1] + "b" + "y" * (edits - edits // 2)
        began = time.process_time()
        found = await Assertions().evaluate(context(output, {**wanted, "threshold": most}))
        assert time.process_time() - began < 20  # a hundred times of what it takes
        assert found.passed == (edits <= most)


def test_a_rubric_is_the_judges_and_a_job_may_assert_of_every_case() -> None:
    grade = RuleChatModel(rule=lambda messages: {"reasoning": "curt", "score": 0.4})
    rubric = {"type": "llm-rubric", "value": "Is polite."}
    report = evaluate(
        lambda inputs: "No.",
        dataset=[{"inputs": "?", "metadata": {"assert": [rubric]}}],
        evaluators=[
            Assertions(**{"model": grade, "assert": [{"type": "contains", "value": "No"}]}),
        ],
    )
    [case] = report.cases
    assert case.scores == {"assertions": 0.7}
    assert case.reasons["assertions"] == "llm-rubric 'Is polite.': curt"
    with pytest.raises(EvaluatorRefused, match="there is no model to judge it"):
        evaluate(
            lambda inputs: "No.",
            dataset=[{"inputs": "?", "metadata": {"assert": [rubric]}}],
            evaluators=["assertions"],
        )
    with pytest.raises(EvaluatorRefused, match="similar compares embeddings"):
        evaluate(
            lambda inputs: inputs,
            dataset=[{"inputs": 1}],
            evaluators=[{"type": "assertions", "assert": [{"type": "similar", "value": "x"}]}],
        )


TESTS = """
defaultTest:
  assert: [{type: not-contains, value: Sorry}]
tests:
- vars: {name: Bob}
  threshold: 0.5
  assert:
  - {type: icontains, value: "hello {{name}}"}
  - {type: javascript, value: output.length > 3}
  - {type: llm-rubric, value: polite}
- vars: {name: Eve}
  options: {transform: output.trim()}
  assert:
  - {type: similar, value: Hi, threshold: 0.8}
  - {type: contains, value: "{{ name | upper }}"}
  - {type: python, value: "file://check.py"}
"""


def test_a_converted_file_says_what_is_not_scored(tmp_path: Path) -> None:
    path = tmp_path / "promptfooconfig.yaml"
    path.write_text(TESTS)
    dataset = Dataset.load(path, format="promptfoo")
    bob, eve = dataset.cases
    assert bob.metadata["assert"][1] == {"type": "icontains", "value": "hello Bob"}
    assert bob.metadata["assert_threshold"] == 0.5
    assert [one["type"] for one in bob.metadata["assert_left_out"]] == ["javascript"]
    assert [one["type"] for one in eve.metadata["assert"]] == ["not-contains"]
    report = evaluate(
        lambda inputs: f"Hello {inputs['name']}", dataset=dataset, evaluators=["exact_match"]
    )
    said = "\n".join(report.summary["warnings"])
    assert "no evaluator scores the 4 assertions in metadata.assert" in said
    for kind, why in {
        "javascript": "is code",
        "similar": "compares embeddings",
        "contains": "has a template with more than names",
        "python": "is code",
    }.items():
        where = "is left out (metadata.assert_left_out)"
        assert f"1 assertion of type {kind} {where}: each {why}" in said
