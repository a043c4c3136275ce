"""Evaluators that see all cases together, and those that see a rollout's steps."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import StateGraph

from orcheo_agentensor import BadInput, RandomSearch, Store, aevaluate, atrain

CASES = [
    {"id": f"c{n}", "inputs": {"n": n}, "expected_output": {"label": "even"}} for n in range(10)
]
ASKED: list[int] = []


async def half_right(inputs: dict[str, int]) -> dict[str, str]:
    return {"label": "even" if inputs["n"] % 2 == 0 else "odd"}


def accuracy(outputs: list[dict], reference_outputs: list[dict]) -> dict[str, Any]:  # type: ignore[type-arg]
    ASKED.append(len(outputs))
    right = sum(one == other for one, other in zip(outputs, reference_outputs, strict=True))
    return {"key": "accuracy", "score": right / len(outputs), "comment": f"{right} right"}


async def test_a_summary_evaluator_in_list_form_runs_once_over_all_cases() -> None:
    ASKED.clear()
    store = Store.from_url(None)
    given: dict[str, Any] = {"dataset": CASES, "evaluators": ["exact_match", accuracy]}
    report = await aevaluate(half_right, **given, store=store, run_id="r")
    assert report.summary["summary_evaluators"] == {
        "accuracy": {"score": 0.5, "reason": "5 right", "n": 10}
    }
    assert list(report.scores) == ["exact_match"]
    assert report.objective == 0.5
    shown = io.StringIO()
    report.print(file=shown)
    assert "over all 10 cases, accuracy: 0.500 (5 right)" in shown.getvalue()
    again = await aevaluate(half_right, **given, store=store, run_id="r")
    assert (again.summary, ASKED) == (report.summary, [10])
    await store.close()


async def test_summary_evaluators_are_named_as_such_in_any_form_and_leave_failures_out() -> None:
    async def target(inputs: dict[str, int]) -> dict[str, str]:
        if inputs["n"] == 0:
            raise ValueError("no")
        return {"label": "even"}

    def plain(outputs, reference_outputs):  # type: ignore[no-untyped-def]
        return len(outputs) / 9

    def by_run(runs, examples):  # type: ignore[no-untyped-def]
        return {"results": [{"key": "n", "score": float(len(runs) == len(examples) == 9)}]}

    def broken(runs, examples):  # type: ignore[no-untyped-def]
        raise RuntimeError("no summary")

    report = await aevaluate(
        target,
        dataset=CASES,
        evaluators=["exact_match"],
        summary_evaluators=[plain, by_run, broken],
        min_coverage=0.5,
    )
    found = report.summary["summary_evaluators"]
    assert found["plain"] == {"score": 1.0, "n": 9}
    assert found["n"] == {"score": 1.0, "n": 9}
    assert found["broken"]["failure"]["reason"] == "RuntimeError: no summary"


async def test_a_training_refuses_a_summary_evaluator() -> None:
    class Nobody:
        async def propose(self, request: Any) -> dict[str, str]:
            raise AssertionError("nothing is proposed")

    with pytest.raises(BadInput, match="scores all cases together; a training compares"):
        await atrain(
            half_right,
            prompts={"p": "text"},
            dataset=CASES,
            evaluators=[accuracy],
            optimizer=RandomSearch(proposer=Nobody()),
        )


class State(TypedDict, total=False):
    question: str
    documents: list[str]
    answer: str


def rag() -> Any:
    graph = StateGraph(State)
    graph.add_node("rewrite", lambda state: {"question": state["question"].upper()})
    graph.add_node("retrieve", lambda state: {"documents": ["Paris is the capital."]})
    graph.add_node("grade", lambda state: {})
    graph.add_node("generate", lambda state: {"answer": "Paris"})
    graph.add_edge("__start__", "rewrite")
    graph.add_edge("rewrite", "retrieve")
    graph.add_edge("retrieve", "grade")
    graph.add_edge("grade", "generate")
    return graph


async def test_the_steps_of_a_rollout_are_the_child_runs_of_its_run() -> None:
    def steps(run: Any, example: Any) -> list[dict[str, Any]]:
        found = next((r for r in run.child_runs if r.name == "retrieve"), None)
        retrieved = found is not None and found.outputs == {"documents": ["Paris is the capital."]}
        names = [r.name for r in run.child_runs]
        return [
            {"key": "retrieved", "score": retrieved},
            {"key": "n_steps", "score": len(run.child_runs) / 4},
            {"key": "order", "score": names == ["rewrite", "retrieve", "grade", "generate"]},
        ]

    def attached(outputs: Any, attachments: dict[str, Any]) -> bool:
        return attachments == {"scan": {"mime_type": "image/png"}}

    cases = [
        {
            "id": "a",
            "inputs": {"question": "Capital of France?"},
            "metadata": {"attachments": {"scan": {"mime_type": "image/png"}}},
        }
    ]
    store = Store.from_url(None)
    first = await aevaluate(rag(), dataset=cases, evaluators=[steps, attached], store=store)
    assert {name: score.mean for name, score in first.scores.items()} == {
        "steps.retrieved": 1.0,
        "steps.n_steps": 1.0,
        "steps.order": 1.0,
        "attached": 1.0,
    }
    plain = await aevaluate(rag(), dataset=cases, evaluators=[attached], store=store)
    assert plain.cases[0].tape is None
    again = await aevaluate(
        rag(), dataset=cases, evaluators=[steps], store=store, reuse=plain.run_id, min_coverage=0
    )
    assert again.scores["steps"].failures == 1  # no tape there: a failure, not a score of 0
    await store.close()


class Answer(TypedDict, total=False):
    answer: str


class Agent(Answer, total=False):
    question: str
    messages: list[Any]
    documents: list[str]


async def test_a_deepeval_metric_finds_tools_and_retrieved_texts_on_the_tape() -> None:
    call = {"id": "1", "name": "search", "args": {"q": "x"}}
    graph = StateGraph(Agent, output_schema=Answer)
    graph.add_node("think", lambda s: {"messages": [AIMessage(content="", tool_calls=[call])]})
    graph.add_node("look", lambda s: {"documents": ["Paris is the capital."]})
    graph.add_node("say", lambda s: {"answer": "Paris"})
    graph.add_edge("__start__", "think")
    graph.add_edge("think", "look")
    graph.add_edge("look", "say")

    class Metric:
        _required_params = (SimpleNamespace(value="tools_called"),)
        name, score, reason, success = "tools", None, None, None

        async def a_measure(self, test_case: Any) -> None:
            (tool,) = test_case.tools_called
            found = (tool.name, tool.input_parameters, test_case.retrieval_context)
            self.reason = repr(found)
            self.score = float(found == ("search", {"q": "x"}, ["Paris is the capital."]))

    cases = [{"id": "a", "inputs": {"question": "?"}}]
    report = await aevaluate(graph, dataset=cases, evaluators=[Metric()])
    assert report.objective == 1.0, report.cases[0]
