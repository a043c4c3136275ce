"""pydantic-evals: its evaluators and report evaluators, against its own `Dataset.evaluate_sync`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from comparing import CASES, agent, answer, one_case, said, scores
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, StateGraph
from pydantic_ai import ModelResponse, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import (
    ArgumentCorrectness,
    ConfusionMatrixEvaluator,
    Contains,
    Equals,
    EqualsExpected,
    EvaluationReason,
    Evaluator,
    EvaluatorContext,
    GEval,
    HasMatchingSpan,
    IsInstance,
    KolmogorovSmirnovEvaluator,
    LLMJudge,
    MaxDuration,
    MaxModelRequests,
    MaxToolCalls,
    PrecisionRecallEvaluator,
    ReportEvaluator,
    ReportEvaluatorContext,
    ROCAUCEvaluator,
    ToolCorrectness,
    TrajectoryMatch,
)
from pydantic_evals.reporting import TableResult
from simulated_judge import REASON, filled

from orcheo_agentensor import aevaluate, evaluate
from orcheo_agentensor.testing import ScriptedChatModel

compat = pytest.mark.compat


def theirs(*evaluators: Any, report_evaluators: Any = ()) -> Any:
    """The same cases and target through pydantic-evals."""
    dataset = Dataset(
        name="capitals",
        cases=[
            Case(
                name=case["id"],
                inputs=case["inputs"],
                expected_output=case["expected_output"],
                metadata=case["metadata"],
            )
            for case in CASES
        ],
        evaluators=list(evaluators),
        report_evaluators=list(report_evaluators),
    )
    return dataset.evaluate_sync(answer, progress=False)


def value_of(case: Any) -> dict[str, float]:
    """The scores and assertions of one of their cases."""
    found = {**case.scores, **case.assertions}
    return {name: float(result.value) for name, result in found.items()}


@pytest.mark.parametrize(
    "evaluator",
    [
        pytest.param(Equals(value="Paris"), marks=compat("evaluators", "pydantic-evals", "Equals")),
        pytest.param(
            EqualsExpected(), marks=compat("evaluators", "pydantic-evals", "EqualsExpected")
        ),
        pytest.param(Contains(value="a"), marks=compat("evaluators", "pydantic-evals", "Contains")),
        pytest.param(
            IsInstance(type_name="str"),
            marks=compat(
                "evaluators",
                "pydantic-evals",
                "IsInstance",
                works_with="the types of JSON: an output is one by then",
            ),
        ),
        pytest.param(
            MaxDuration(seconds=60), marks=compat("evaluators", "pydantic-evals", "MaxDuration")
        ),
    ],
)
def test_evaluators_give_what_they_give_by_themselves(evaluator: Any) -> None:
    name = type(evaluator).__name__
    for outcomes, case in zip(said(evaluator), theirs(evaluator).cases, strict=True):
        (found,) = outcomes
        assert {found.name: found.score} == {name: value_of(case)[name]}
        assert found.reason == case.assertions[name].reason


@dataclass
class Several(Evaluator[Any, Any, Any]):
    """An evaluator of one's own with results of every kind."""

    async def evaluate(self, ctx: EvaluatorContext[Any, Any, Any]) -> Any:
        same = ctx.output == ctx.expected_output
        return {"same": same, "half": EvaluationReason(value=0.5, reason="why"), "tone": "warm"}


@compat(
    "evaluators",
    "pydantic-evals",
    "an Evaluator of one's own, sync and async, with several results",
)
def test_an_evaluator_of_ones_own_with_results_of_every_kind() -> None:
    for outcomes, case in zip(said(Several()), theirs(Several()).cases, strict=True):
        ours = {one.name.partition(".")[2]: one for one in outcomes}
        assert {name: ours[name].score for name in ("same", "half")} == value_of(case)
        assert ours["half"].reason == "why"
        assert ours["tone"].label == case.labels["tone"].value


def judge(score: float) -> FunctionModel:
    """A model that grades by whatever schema it is asked for."""

    def graded(messages: Any, info: Any) -> ModelResponse:
        tool = info.output_tools[0]
        arguments = filled(tool.parameters_json_schema, score=score)
        return ModelResponse(parts=[ToolCallPart(tool.name, arguments)])

    return FunctionModel(graded)


@compat("evaluators", "pydantic-evals", "LLMJudge, GEval")
def test_judges_give_what_they_give_by_themselves() -> None:
    for score in (1.0, 0.0):
        made: Any = LLMJudge(rubric="right", model=judge(score), include_input=True)
        (found, *_) = said(made)
        ours = {one.name.rpartition(".")[2]: (one.score, one.reason) for one in found}
        told = theirs(made).cases[0]
        assert {name: value for name, (value, _) in ours.items()} == value_of(told)
        assert {reason for _, reason in ours.values()} == {REASON}
    made = GEval(criteria="right", evaluation_steps=["look"], model=judge(3))
    (found, *_) = said(made)
    told = theirs(made).cases[0]
    assert sorted(one.score for one in found) == sorted(value_of(told).values())


class State(TypedDict, total=False):
    """What the graph below holds."""

    messages: list[Any]


def graph() -> Any:
    """A graph with two nodes, of which one calls a model."""
    model = ScriptedChatModel(
        replies=[AIMessage("", tool_calls=[{"name": "search", "args": {"q": "Bonn"}, "id": "1"}])]
        * 9
    )

    async def plan(state: State) -> State:
        return {"messages": [await model.ainvoke("q")]}

    def act(state: State) -> State:
        return {"messages": [*state["messages"], ToolMessage("rain", tool_call_id="1")]}

    built = StateGraph(State)
    built.add_node("plan", plan)
    built.add_node("act", act)
    built.add_edge(START, "plan")
    built.add_edge("plan", "act")
    return built.compile()


@compat(
    "evaluators",
    "pydantic-evals",
    "HasMatchingSpan",
    works_with="spans made of the tape: one per node run, tool call and model call",
)
@compat(
    "evaluators",
    "pydantic-evals",
    "ToolCorrectness, TrajectoryMatch, ArgumentCorrectness, MaxToolCalls, MaxModelRequests",
)
async def test_spans_are_the_nodes_tools_and_model_calls_of_the_rollout() -> None:
    looked = [
        (HasMatchingSpan(query={"name_equals": "plan"}), 1.0),
        (HasMatchingSpan(query={"name_equals": "none"}), 0.0),
        (HasMatchingSpan(query={"name_equals": "target", "min_child_count": 4}), 1.0),
        (ToolCorrectness(expected_tools=["search"]), 1.0),
        (ToolCorrectness(expected_tools=["open"]), 0.0),
        (TrajectoryMatch(expected_trajectory=["search"]), 1.0),
        (ArgumentCorrectness(tool_name="search", expected_arguments={"q": "Bonn"}), 1.0),
        (ArgumentCorrectness(tool_name="search", expected_arguments={"q": "Köln"}), 0.0),
        (MaxToolCalls(max_calls=0), 0.0),
        (MaxModelRequests(max_requests=1), 1.0),
        (MaxModelRequests(max_requests=0), 0.0),
    ]
    report = await aevaluate(
        graph(), dataset=[{"inputs": {"messages": []}}], evaluators=[one for one, _ in looked]
    )
    given = [one.score for one in report.cases[0].outcomes]
    assert given == [score for _, score in looked], report.cases[0].outcomes


def test_a_text_output_is_no_tool_call() -> None:
    ((found,),) = said(MaxToolCalls(max_calls=0), target=lambda inputs: "Paris", cases=one_case())
    assert found.score == 1.0
    assert scores(
        ToolCorrectness(expected_tools=["search", "open"]), target=agent, cases=one_case()
    ) == [1.0]


@dataclass
class Right(Evaluator[Any, Any, Any]):
    """A score, a label and an assertion for report evaluators to look at."""

    def evaluate(self, ctx: EvaluatorContext[Any, Any, Any]) -> Any:
        return {
            "length": len(ctx.output) / 10,
            "first": ctx.output[0],
            "same": ctx.output == ctx.expected_output,
        }


@dataclass
class Counted(ReportEvaluator[Any, Any, Any]):
    """A table of one's own."""

    def evaluate(self, ctx: ReportEvaluatorContext[Any, Any, Any]) -> TableResult:
        return TableResult(title="n", columns=["cases"], rows=[[len(ctx.report.cases)]])


@compat(
    "evaluators",
    "pydantic-evals",
    "report evaluators: ConfusionMatrix, PrecisionRecall, ROCAUC, KolmogorovSmirnov, one's own",
    works_with="scalars, matrices and tables; curves are only drawn, and left out",
)
def test_report_evaluators_run_over_the_whole_and_give_the_same_numbers() -> None:
    where: Any = {"positive_from": "assertions", "positive_key": "same", "score_key": "length"}
    of_theirs = [
        PrecisionRecallEvaluator(**where),
        ROCAUCEvaluator(**where),
        KolmogorovSmirnovEvaluator(**where),
    ]
    told = theirs(Right(), report_evaluators=[ConfusionMatrixEvaluator(), *of_theirs])
    scalars = [one.value for one in told.analyses if one.type == "scalar"]
    assert len(scalars) == 3
    where = {
        "positive_from": "assertions",
        "positive_key": "Right.same",
        "score_key": "Right.length",
    }
    ours = [
        PrecisionRecallEvaluator(**where),
        ROCAUCEvaluator(**where),
        KolmogorovSmirnovEvaluator(**where),
    ]
    report = evaluate(
        answer, dataset=CASES, evaluators=[Right(), ConfusionMatrixEvaluator(), *ours, Counted()]
    )
    whole = report.summary["summary_evaluators"]
    assert [whole[type(one).__name__]["score"] for one in ours] == scalars
    assert whole["ConfusionMatrixEvaluator"]["score"] == pytest.approx(2 / 3)
    (matrix,) = [one for one in told.analyses if one.type == "confusion_matrix"]
    assert (
        f'"{matrix.class_labels[0]}": {matrix.matrix[0]}'
        in whole["ConfusionMatrixEvaluator"]["reason"]
    )
    assert whole["Counted"]["label"] == '[["cases"], [3]]'
    assert {entry["n"] for entry in whole.values()} == {3}


def test_means_are_those_of_pydantic_evals() -> None:
    report = evaluate(answer, dataset=CASES, evaluators=[Right(), EqualsExpected()])
    averages = theirs(Right(), EqualsExpected()).averages()
    assert averages is not None
    assert math.isclose(report.scores["Right.length"].mean, averages.scores["length"])
    shares = [
        report.summary["evaluators"][name]["pass_rate"] for name in ("Right.same", "EqualsExpected")
    ]
    assert math.isclose(sum(shares) / 2, averages.assertions or 0.0)
