"""Ragas metrics of every generation, unmodified."""

from __future__ import annotations

import functools
from typing import Any

import openai
import pytest
from comparing import ANSWERS, CASES, CONTEXT, EXPECTED, QUESTIONS, agent, one_case, said, scores
from ragas.dataset_schema import SingleTurnSample
from ragas.llms import llm_factory
from ragas.messages import ToolCall as RagasCall
from ragas.metrics import (
    DiscreteMetric,
    MetricResult,
    NonLLMContextRecall,
    collections,
    discrete_metric,
    numeric_metric,
)
from ragas.metrics import ExactMatch as OldExactMatch
from ragas.metrics import NonLLMStringSimilarity as OldSimilarity
from ragas.metrics import ToolCallAccuracy as OldToolCallAccuracy
from simulated_judge import REASON, OpenAIShaped

from orcheo_agentensor import BadInput

compat = pytest.mark.compat


@pytest.mark.parametrize(
    "metric",
    [
        pytest.param(
            OldExactMatch(), marks=compat("evaluators", "Ragas", "ExactMatch (of samples)")
        ),
        pytest.param(
            OldSimilarity(),
            marks=compat("evaluators", "Ragas", "NonLLMStringSimilarity (of samples)"),
        ),
    ],
)
def test_metrics_of_samples(metric: Any) -> None:
    theirs = [
        metric.single_turn_score(SingleTurnSample(response=ANSWERS[name], reference=EXPECTED[name]))
        for name in QUESTIONS
    ]
    assert scores(metric) == pytest.approx(theirs)


@pytest.mark.parametrize(
    "metric",
    [
        pytest.param(
            collections.ExactMatch(), marks=compat("evaluators", "Ragas", "collections: ExactMatch")
        ),
        pytest.param(
            collections.StringPresence(),
            marks=compat("evaluators", "Ragas", "collections: StringPresence"),
        ),
        pytest.param(
            collections.NonLLMStringSimilarity(),
            marks=compat("evaluators", "Ragas", "collections: NonLLMStringSimilarity"),
        ),
    ],
)
def test_metrics_by_name(metric: Any) -> None:
    theirs = [metric.score(response=ANSWERS[n], reference=EXPECTED[n]).value for n in QUESTIONS]
    assert scores(metric) == pytest.approx(theirs)


@compat(
    "evaluators",
    "Ragas",
    "metrics of retrieval, such as NonLLMContextRecall",
    works_with="the texts in metadata, the output or a node's output",
)
def test_metrics_of_retrieval() -> None:
    texts = {
        "retrieved_contexts": ["Paris is the capital."],
        "reference_contexts": ["Paris is the capital.", "x"],
    }
    theirs = NonLLMContextRecall().single_turn_score(SingleTurnSample(**texts))
    assert (
        scores(NonLLMContextRecall(), cases=[{**CASES[0], "metadata": texts}]) == [theirs] == [0.5]
    )


@compat(
    "evaluators",
    "Ragas",
    "metrics of conversations: ToolCallAccuracy, ToolCallF1 and the like",
    works_with="a state with messages, and the expected calls as expected output",
)
def test_metrics_of_conversations_get_the_outputs_messages() -> None:
    calls = [{"name": "search", "args": {"q": "Bonn"}}, {"name": "open", "args": {"page": 3}}]
    accuracy, f1 = collections.ToolCallAccuracy(), collections.ToolCallF1()
    assert scores(accuracy, target=agent, cases=one_case(calls)) == [0.5]
    assert scores(f1, target=agent, cases=one_case(calls)) == [0.5]
    from ragas.messages import AIMessage

    said_by_ai = AIMessage(
        content="",
        tool_calls=[
            RagasCall(name="search", args={"q": "Bonn"}),
            RagasCall(name="open", args={"page": 2}),
        ],
    )
    wanted = [RagasCall(name=call["name"], args=call["args"]) for call in calls]
    theirs = accuracy.score(user_input=[said_by_ai], reference_tool_calls=wanted)
    assert theirs.value == 0.5
    assert scores(OldToolCallAccuracy(), target=agent, cases=one_case(calls)) == [0.5]


@discrete_metric(name="right", allowed_values=["pass", "fail"])
def right(response: str, reference: str) -> MetricResult:
    return MetricResult(value="pass" if response == reference else "fail", reason="compared")


@numeric_metric(name="share", allowed_values=(0, 1))
async def share(question: str, response: str) -> float:
    return len(response) / 10


@numeric_metric(name="broken", allowed_values=(0, 1))
def broken(response: str) -> float:
    raise KeyError("queue")


@compat("evaluators", "Ragas", "@discrete_metric, @numeric_metric, sync and async")
def test_decorated_functions() -> None:
    assert [(one.label, one.reason) for (one,) in said(right)] == [
        ("pass", "compared"),
        ("fail", "compared"),
        ("pass", "compared"),
    ]
    assert scores(share) == [0.5, 0.4, 0.6]
    ((found,), *_) = said(broken)
    assert found.kind == "exception"
    assert "queue" in found.reason


@compat(
    "evaluators", "Ragas", "collections with a model: Faithfulness, AnswerAccuracy and the like"
)
def test_metrics_with_a_model(judge_server: OpenAIShaped) -> None:
    llm = llm_factory("gpt-4o", client=openai.AsyncOpenAI())
    metric = collections.Faithfulness(llm=llm)
    theirs = metric.score(
        user_input="France", response="Paris", retrieved_contexts=CONTEXT["France"]
    )
    assert scores(metric, cases=CASES[:1]) == [theirs.value]
    assert theirs.value in (0.0, 1.0)


@compat(
    "evaluators",
    "Ragas",
    "DiscreteMetric, NumericMetric",
    works_with="the model given once: `functools.partial(metric.ascore, llm=llm)`",
)
def test_metrics_that_take_their_model_with_each_call(judge_server: OpenAIShaped) -> None:
    llm = llm_factory("gpt-4o", client=openai.AsyncOpenAI())
    metric = DiscreteMetric(
        name="tone", prompt="Grade {response} to {question}", allowed_values=["warm", "cold"]
    )
    with pytest.raises(BadInput, match=r"functools.partial\(metric.ascore, llm=llm\)"):
        said(metric)
    ((found,), *_) = said(functools.partial(metric.ascore, llm=llm), cases=CASES[:1])
    assert (found.label, found.reason) == ("warm", REASON)
    assert "Grade Paris to France" in str(judge_server.requests[-1]["messages"])
