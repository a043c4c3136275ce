"""TruLens metrics and feedback functions, unmodified."""

from __future__ import annotations

from typing import Any

import pytest
from comparing import ANSWERS, CASES, CONTEXT, EXPECTED, QUESTIONS, said, scores
from trulens.core import Metric, Selector
from trulens.core.feedback.endpoint import Endpoint
from trulens.feedback import GroundTruthAgreement
from trulens.feedback.llm_provider import LLMProvider

from orcheo_agentensor import BadInput, bind_evaluator

compat = pytest.mark.compat


def overlap(question: str, answer: str) -> Any:
    return len(answer) / 10, {"why": question}


def grounded(source: str, statement: str) -> float:
    return float(statement in source)


@compat("evaluators", "TruLens", "Metric with on_input_output, on(...), by its selectors")
def test_a_metrics_selectors_say_what_its_function_is_given() -> None:
    metric = Metric(implementation=overlap, name="overlap").on_input_output()
    by_hand = Metric(implementation=overlap, name="overlap").on(
        {
            "question": Selector.select_record_input(),
            "answer": Selector.select_record_output(),
        }
    )
    for one in (metric, by_hand):
        found = said(one)
        assert [(o.name, o.score) for (o,) in found] == [
            ("overlap", overlap(name, ANSWERS[name])[0]) for name in QUESTIONS
        ]
        assert found[0][0].reason == '{"why": "France"}'


@compat(
    "evaluators",
    "TruLens",
    "Metric with on_context",
    works_with="the texts in metadata, the output or a node's output",
)
def test_a_metric_of_retrieval_gets_the_retrieved_texts() -> None:
    metric = (
        Metric(implementation=grounded, name="grounded").on_context(collect_list=True).on_response()
    )
    assert scores(metric) == [grounded(CONTEXT[name][0], ANSWERS[name]) for name in QUESTIONS]


@compat(
    "evaluators", "TruLens", "a Metric with higher_is_better=False", works_with="`scale: [1, 0]`"
)
def test_where_less_is_better_the_scale_is_asked_for() -> None:
    metric = Metric(
        implementation=overlap, name="overlap", higher_is_better=False
    ).on_input_output()
    with pytest.raises(BadInput, match=r"scale=\(1, 0\)"):
        said(metric)
    assert scores(bind_evaluator(metric, scale=(1, 0)))[:1] == [0.5]


class Graded(LLMProvider):
    """A provider that grades without a model."""

    def _create_chat_completion(
        self, prompt: Any = None, messages: Any = None, **kwargs: Any
    ) -> str:
        return "Score: 3"


@compat("evaluators", "TruLens", "feedback functions of a provider, such as relevance")
@compat("evaluators", "TruLens", "GroundTruthAgreement")
def test_feedback_functions_of_providers_and_of_a_ground_truth() -> None:
    provider = Graded(model_engine="simulated", endpoint=Endpoint(name="none"))
    theirs = provider.relevance("France", "Paris")
    assert scores(provider.relevance, cases=CASES[:1]) == [theirs] == [1.0]
    golden = [{"query": name, "expected_response": EXPECTED[name]} for name in QUESTIONS]
    truth = GroundTruthAgreement(golden, provider=provider)
    told = [truth.agreement_measure(name, ANSWERS[name])[0] for name in QUESTIONS]
    assert scores(truth.agreement_measure) == told
