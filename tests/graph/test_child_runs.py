"""An evaluator of LangSmith finds in `run.child_runs` what LangSmith's own tracer records."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import aevaluate

QUESTION = {"question": "Capital of France?"}


class Library(BaseRetriever):
    """Finds the same document always."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any = None) -> list[Document]:
        return [Document(page_content="Paris is the capital.", metadata={"page": 1})]


@tool
def look(place: str) -> str:
    """Look a place up."""
    if place == "nowhere":
        raise ValueError("no such place")
    return place.upper()


class State(TypedDict, total=False):
    question: str
    documents: list[str]
    answer: str


MODEL = FakeListChatModel(responses=["Paris"])
CHAIN = ChatPromptTemplate.from_messages([("user", "{question}")]) | MODEL | StrOutputParser()


async def rewrite(state: State) -> State:
    return {"question": state["question"].strip()}


async def retrieve(state: State) -> State:
    found = await Library().ainvoke(state["question"])
    return {"documents": [document.page_content for document in found]}


async def grade(state: State) -> State:
    await look.ainvoke({"place": "paris"})
    return {}


async def generate(state: State) -> State:
    return {"answer": await CHAIN.ainvoke({"question": state["question"]})}


def rag() -> Any:
    builder = StateGraph(State)
    for node in (rewrite, retrieve, grade, generate):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "rewrite")
    builder.add_edge("rewrite", "retrieve")
    builder.add_edge("retrieve", "grade")
    builder.add_conditional_edges("grade", lambda state: "generate", ["generate"])
    builder.add_edge("generate", END)
    return builder.compile()


def nested() -> Any:
    builder = StateGraph(State)
    builder.add_node("inner", rag())
    builder.add_node("after", RunnableLambda(rewrite) | RunnableLambda(rewrite))
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "after")
    return builder.compile()


@task
async def asked(question: str) -> str:
    return (await MODEL.ainvoke(question)).text


@entrypoint()
async def functional(inputs: dict[str, str]) -> str:
    found = await Library().ainvoke(inputs["question"])
    return found[0].page_content + await asked(inputs["question"])


async def completing(inputs: dict[str, str]) -> str:
    return await FakeListLLM(responses=["Paris"]).ainvoke(inputs["question"])


def tree(run: Any) -> list[Any]:
    """Name, type and children of each run below this one, but what LangSmith hides."""
    return [
        (one.name, one.run_type, tree(one))
        for one in run.child_runs
        if "langsmith:hidden" not in (one.tags or ()) and one.name != "__start__"
    ]


@pytest.mark.parametrize(
    "target",
    [rag(), nested(), functional, CHAIN, RunnableLambda(completing), rag().with_retry()],
    ids=["graph", "subgraph", "functional", "chain", "lambda", "retry"],
)
async def test_the_tree_is_that_of_langsmiths_tracer(target: Any) -> None:
    collector = RunCollectorCallbackHandler()
    await target.ainvoke(QUESTION, {"callbacks": [collector]})
    (traced,) = collector.traced_runs
    seen: list[Any] = []

    def evaluator(run: Any, example: Any) -> bool:
        seen.extend(tree(run))
        return True

    report = await aevaluate(target, dataset=[{"inputs": QUESTION}], evaluators=[evaluator])
    assert report.objective == 1.0
    assert tree(traced)
    assert seen == tree(traced)


async def test_the_steps_have_their_inputs_and_outputs() -> None:
    def evaluator(run: Any, example: Any) -> dict[str, Any]:
        runs = {one.name: one for one in run.child_runs}
        retriever = runs["retrieve"].child_runs[0]
        (document,) = retriever.outputs["documents"]
        tool_run = runs["grade"].child_runs[0]
        sequence = runs["generate"].child_runs[0]
        model = next(one for one in sequence.child_runs if one.run_type == "llm")
        message = model.outputs["generations"][0][0]["message"]["kwargs"]
        return {
            "results": [
                {"key": "retrieved", "score": document["page_content"] == "Paris is the capital."},
                {"key": "query", "score": retriever.inputs == {"query": QUESTION["question"]}},
                {"key": "n_steps", "score": len(run.child_runs) == 4},
                {"key": "tool", "score": tool_run.outputs == {"output": "PARIS"}},
                {"key": "parents", "score": model.parent_run_id == sequence.id},
                {"key": "said", "score": message["content"] == "Paris"},
                {
                    "key": "asked",
                    "score": model.inputs["messages"][0][0]["kwargs"]["content"]
                    == QUESTION["question"],
                },
            ]
        }

    report = await aevaluate(rag(), dataset=[{"inputs": QUESTION}], evaluators=[evaluator])
    assert {name: one.mean for name, one in report.scores.items()} == dict.fromkeys(
        [
            f"evaluator.{key}"
            for key in ("asked", "n_steps", "parents", "query", "retrieved", "said", "tool")
        ],
        1.0,
    )


async def test_a_function_around_a_graph_has_the_graph_as_its_step() -> None:
    async def target(inputs: Any) -> Any:
        return await rag().ainvoke(inputs)

    def evaluator(run: Any, example: Any) -> bool:
        (graph,) = run.child_runs
        return graph.name == "LangGraph" and len(graph.child_runs) == 4

    report = await aevaluate(target, dataset=[{"inputs": QUESTION}], evaluators=[evaluator])
    assert report.objective == 1.0


async def test_a_tool_that_fails_is_a_step_with_its_error() -> None:
    async def node(state: State) -> State:
        try:
            await look.ainvoke({"place": "nowhere"})
        except ValueError:
            return {"answer": "sorry"}
        return {}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")

    def evaluator(run: Any, example: Any) -> bool:
        (step,) = run.child_runs[0].child_runs
        return step.run_type == "tool" and "no such place" in step.error

    report = await aevaluate(builder, dataset=[{"inputs": QUESTION}], evaluators=[evaluator])
    assert report.objective == 1.0


async def test_many_steps_are_bounded_and_what_is_kept_stays_in_its_place() -> None:
    async def node(state: State) -> State:
        for _ in range(400):
            await MODEL.ainvoke("hi")
        return {"answer": "a"}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")

    def evaluator(run: Any, example: Any) -> bool:
        (step,) = run.child_runs
        return len(step.child_runs) == 298 and step.outputs == {"answer": "a"}

    report = await aevaluate(builder, dataset=[{"inputs": QUESTION}], evaluators=[evaluator])
    assert report.objective == 1.0
