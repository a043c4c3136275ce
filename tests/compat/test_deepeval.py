"""DeepEval's metrics, unmodified."""

from __future__ import annotations

import json
from typing import Any

import pytest
from comparing import CALLS, CASES, agent, one_case, said, scores
from deepeval.metrics import (
    AnswerRelevancyMetric,
    ArenaGEval,
    BaseMetric,
    ConversationCompletenessMetric,
    ExactMatchMetric,
    FaithfulnessMetric,
    GEval,
    PatternMatchMetric,
    ToolCorrectnessMetric,
)
from deepeval.models import DeepEvalBaseLLM
from deepeval.test_case import LLMTestCase, SingleTurnParams, ToolCall
from simulated_judge import REASON, filled

from orcheo_agentensor import BadInput

compat = pytest.mark.compat


class Simulated(DeepEvalBaseLLM):
    """A model that answers in whatever form it is asked for."""

    def __init__(self, score: float) -> None:
        self.score = score
        super().__init__("simulated")

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def get_model_name(self, *args: Any, **kwargs: Any) -> str:
        return "simulated"

    def generate(self, prompt: str, schema: Any = None, **kwargs: Any) -> Any:
        if schema is None:
            return json.dumps({"score": self.score, "reason": REASON})
        return schema.model_validate(filled(schema.model_json_schema(), score=self.score))

    async def a_generate(self, prompt: str, schema: Any = None, **kwargs: Any) -> Any:
        return self.generate(prompt, schema)


def geval() -> Any:
    return GEval(
        name="Correctness",
        criteria="The actual output is as expected.",
        evaluation_params=[SingleTurnParams.ACTUAL_OUTPUT, SingleTurnParams.EXPECTED_OUTPUT],
        model=Simulated(7),
    )


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(ExactMatchMetric, marks=compat("evaluators", "DeepEval", "ExactMatchMetric")),
        pytest.param(
            lambda: PatternMatchMetric(pattern="P.*"),
            marks=compat("evaluators", "DeepEval", "PatternMatchMetric"),
        ),
        pytest.param(geval, marks=compat("evaluators", "DeepEval", "GEval")),
        pytest.param(
            lambda: AnswerRelevancyMetric(model=Simulated(1)),
            marks=compat("evaluators", "DeepEval", "AnswerRelevancyMetric"),
        ),
        pytest.param(
            lambda: FaithfulnessMetric(model=Simulated(1)),
            marks=compat(
                "evaluators",
                "DeepEval",
                "FaithfulnessMetric and others of retrieval",
                works_with="the texts in metadata, the output or a node's output",
            ),
        ),
    ],
)
def test_metrics_give_what_they_give_by_themselves(make: Any) -> None:
    for case, outcomes in zip(CASES, said(make()), strict=True):
        theirs = make()
        theirs.measure(
            LLMTestCase(
                input=case["inputs"]["question"],
                actual_output={"Italy": "Roma"}.get(case["id"], case["expected_output"]),
                expected_output=case["expected_output"],
                retrieval_context=case["metadata"]["retrieved_contexts"],
            ),
            _show_indicator=False,
        )
        (found,) = outcomes
        assert (found.score, found.passed) == (theirs.score, theirs.success)
        assert found.reason == theirs.reason


@compat(
    "evaluators",
    "DeepEval",
    "ToolCorrectnessMetric",
    works_with="`expected_tools` in metadata or tool calls as expected output",
)
@pytest.mark.parametrize("ordered", [False, True])
def test_tools_called_are_those_of_the_messages(ordered: bool) -> None:
    for expected in (["search", "open"], ["open", "search"], ["search"], ["close"]):
        options = {"should_consider_ordering": ordered, "model": Simulated(1)}
        theirs = ToolCorrectnessMetric(**options)
        theirs.measure(
            LLMTestCase(
                input="{}",
                actual_output="It rains.",
                tools_called=[ToolCall(name=n, input_parameters=a) for n, a in CALLS],
                expected_tools=[ToolCall(name=name) for name in expected],
            ),
            _show_indicator=False,
        )
        cases = one_case(expected_tools=expected)
        assert scores(ToolCorrectnessMetric(**options), target=agent, cases=cases) == [theirs.score]


class LengthMetric(BaseMetric):
    """As DeepEval's documentation writes a metric of one's own."""

    def __init__(self, threshold: float = 0.5, *, blocks_only: bool = False) -> None:
        self.threshold = threshold
        self.blocks_only = blocks_only

    def measure(self, test_case: LLMTestCase) -> float:
        self.score = min(len(test_case.actual_output or "") / 6, 1.0)
        self.success = self.score >= self.threshold
        self.reason = f"{len(test_case.actual_output or '')} characters"
        return self.score

    async def a_measure(self, test_case: LLMTestCase) -> float:
        if self.blocks_only:
            raise NotImplementedError("async is not supported")
        return self.measure(test_case)

    def is_successful(self) -> bool:
        return bool(self.success)

    @property
    def __name__(self) -> str:
        return "Length"


@compat("evaluators", "DeepEval", "a BaseMetric of one's own, with a_measure or without")
@pytest.mark.parametrize("blocks_only", [False, True])
def test_a_metric_of_ones_own(blocks_only: bool) -> None:
    found = said(LengthMetric(blocks_only=blocks_only))
    assert [(one.name, one.score, one.reason) for (one,) in found] == [
        ("Length", 5 / 6, "5 characters"),
        ("Length", 4 / 6, "4 characters"),
        ("Length", 1.0, "6 characters"),
    ]


@compat("evaluators", "DeepEval", "conversational metrics: the output's messages are the turns")
def test_a_conversation_is_the_outputs_messages() -> None:
    metric = ConversationCompletenessMetric(model=Simulated(1))
    assert scores(metric, target=agent, cases=one_case()) == [1.0]


@compat(
    "evaluators", "DeepEval", "ArenaGEval", refused="`LLMJudge(pairwise=True)`, or compare two runs"
)
def test_a_metric_that_compares_is_refused() -> None:
    arena = ArenaGEval(
        name="better",
        criteria="which is better",
        evaluation_params=[SingleTurnParams.ACTUAL_OUTPUT],
        model=Simulated(1),
    )
    with pytest.raises(BadInput, match=r"LLMJudge\(pairwise=True\)"):
        said(arena)


def test_a_case_without_what_a_metric_needs_is_a_failure_that_says_so() -> None:
    ((found,),) = said(
        FaithfulnessMetric(model=Simulated(1)), cases=one_case(), target=lambda inputs: "x"
    )
    assert "retrieval_context" in found.reason
    assert not hasattr(found, "score")
