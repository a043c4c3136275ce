"""The data that every package's evaluators are tried on, and what they say through a run."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor import evaluate

QUESTIONS = ["France", "Italy", "Spain"]
ANSWERS = {"France": "Paris", "Italy": "Roma", "Spain": "Madrid"}
EXPECTED = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}
CONTEXT = {name: [f"The capital of {name} is {city}."] for name, city in EXPECTED.items()}
CASES = [
    {
        "id": name,
        "inputs": {"question": name},
        "expected_output": EXPECTED[name],
        "metadata": {"retrieved_contexts": CONTEXT[name]},
    }
    for name in QUESTIONS
]

TALK = [
    {"role": "user", "content": "Is it raining in Bonn?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"name": "search", "args": {"q": "Bonn"}, "id": "1", "type": "tool_call"},
            {"name": "open", "args": {"page": 2}, "id": "2", "type": "tool_call"},
        ],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "1"},
    {"role": "tool", "content": "page", "tool_call_id": "2"},
    {"role": "assistant", "content": "It rains."},
]
CALLS = [("search", {"q": "Bonn"}), ("open", {"page": 2})]


def answer(inputs: dict[str, str]) -> str:
    """A target whose answers are right for two of three."""
    return ANSWERS[inputs["question"]]


def agent(inputs: Any) -> dict[str, Any]:
    """A target that has called two tools."""
    return {"messages": TALK}


def one_case(expected: Any = None, **metadata: Any) -> list[dict[str, Any]]:
    """A dataset of one case."""
    return [{"id": "c", "inputs": {}, "expected_output": expected, "metadata": metadata}]


def said(evaluator: Any, *, target: Any = answer, cases: Any = None) -> list[list[Any]]:
    """What one evaluator said through a run: a list of outcomes for each case."""
    report = evaluate(target, dataset=cases or CASES, evaluators=[evaluator])
    assert not report.summary["n_target_failed"], report.cases
    return [list(case.outcomes) for case in report.cases]


def scores(evaluator: Any, *, target: Any = answer, cases: Any = None) -> list[float]:
    """The score of each case, of an evaluator that gives one."""
    found = []
    for outcomes in said(evaluator, target=target, cases=cases):
        (outcome,) = outcomes
        assert hasattr(outcome, "score"), outcome
        found.append(outcome.score)
    return found
