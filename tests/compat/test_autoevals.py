"""autoevals, and functions as Braintrust takes them."""

from __future__ import annotations

from typing import Any

import autoevals
import openai
import pytest
from comparing import CASES, one_case, said, scores
from simulated_judge import OpenAIShaped

compat = pytest.mark.compat


@pytest.mark.parametrize(
    ("scorer", "output", "expected"),
    [
        pytest.param(
            autoevals.Levenshtein(),
            "Roma",
            "Rome",
            marks=compat("evaluators", "autoevals", "Levenshtein"),
        ),
        pytest.param(
            autoevals.ExactMatch(),
            {"a": 1},
            {"a": 1},
            marks=compat("evaluators", "autoevals", "ExactMatch"),
        ),
        pytest.param(
            autoevals.NumericDiff(),
            3.0,
            4.0,
            marks=compat("evaluators", "autoevals", "NumericDiff"),
        ),
        pytest.param(
            autoevals.JSONDiff(),
            {"a": 1, "b": "xy"},
            {"a": 1, "b": "xz"},
            marks=compat("evaluators", "autoevals", "JSONDiff"),
        ),
        pytest.param(
            autoevals.ValidJSON(schema={"type": "array"}),
            '{"a": 1}',
            None,
            marks=compat("evaluators", "autoevals", "ValidJSON"),
        ),
        pytest.param(
            autoevals.ListContains(),
            ["a", "b"],
            ["a"],
            marks=compat("evaluators", "autoevals", "ListContains"),
        ),
        pytest.param(
            autoevals.Levenshtein,
            "Roma",
            "Rome",
            marks=compat(
                "evaluators", "autoevals", "a scorer's class, as Braintrust's Eval takes it"
            ),
        ),
    ],
)
def test_scorers_give_what_they_give_by_themselves(scorer: Any, output: Any, expected: Any) -> None:
    made = scorer() if isinstance(scorer, type) else scorer
    theirs = made.eval(output, expected).score
    assert scores(scorer, target=lambda inputs: output, cases=one_case(expected)) == [theirs]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            autoevals.Factuality,
            marks=compat("evaluators", "autoevals", "Factuality and other LLM classifiers"),
        ),
        pytest.param(
            autoevals.ClosedQA,
            marks=compat(
                "evaluators", "autoevals", "ClosedQA", works_with="`criteria` in metadata"
            ),
        ),
    ],
)
def test_classifiers_are_judged_with_their_reason(kind: Any, judge_server: OpenAIShaped) -> None:
    classifier = kind(client=openai.OpenAI(), model="gpt-4o")
    given = {"input": {"question": "France"}, "criteria": "right"}
    theirs = classifier.eval("Paris", "Paris", **given)
    cases = [{**CASES[0], "metadata": {"criteria": "right"}}]
    ((found,),) = said(classifier, cases=cases)
    assert (found.name, found.score) == (kind.__name__, theirs.score)
    assert found.reason == theirs.metadata["rationale"]


@compat("evaluators", "autoevals", "EmbeddingSimilarity")
def test_embeddings_are_compared_as_by_itself(judge_server: OpenAIShaped) -> None:
    similar = autoevals.EmbeddingSimilarity(client=openai.OpenAI())
    theirs = similar.eval("Roma", "Rome").score
    assert scores(similar, cases=CASES[1:2]) == pytest.approx([theirs])


@compat("evaluators", "autoevals", "functions (input, output, expected, metadata), sync and async")
def test_functions_as_braintrust_takes_them() -> None:
    def plain(input: Any, output: Any, expected: Any = None, metadata: Any = None) -> Any:
        return autoevals.Score(
            name="x", score=float(output == expected), metadata={"rationale": "r"}
        )

    async def native(output: Any, expected: Any, **kwargs: Any) -> Any:
        return await autoevals.Levenshtein().eval_async(output, expected)

    assert scores(plain) == [1.0, 0.0, 1.0]
    assert scores(native) == [1.0, 0.75, 1.0]
