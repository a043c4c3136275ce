"""The graph: it knows nothing of prompts that are versioned."""

from dataclasses import dataclass
from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Context:
    """What a run of the graph is set to."""

    system_prompt: str = "You are helpful."
    model: str = "small"


class Support(TypedDict, total=False):
    """A question and its answer."""

    question: str
    answer: str


def answer(state: Support, runtime: Runtime[Context]) -> Support:
    """Answer a question. A chat model would; this one repeats its prompt."""
    return {"answer": f"[{runtime.context.system_prompt}] {state['question']}"}


builder = StateGraph(Support, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile()
