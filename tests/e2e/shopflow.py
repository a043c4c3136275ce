"""A workflow for the tests of the command line: it knows the words that its prompt lists.

Every execution appends a line to the file named by SHOPFLOW_LOG. With SHOPFLOW_GATE, executions
after the first SHOPFLOW_FREE ones wait until that file exists.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import get_prompt


async def answer(inputs: dict[str, Any], config: Any) -> dict[str, str]:
    """`known` for a word that the prompt lists."""
    words = get_prompt("words", config)
    number = _note(f"{inputs['id']}\t{words}")
    gate = os.environ.get("SHOPFLOW_GATE")
    if gate and number > int(os.environ.get("SHOPFLOW_FREE", "0")):
        # A file, because the test that opens the gate is in another process.
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
    if inputs["word"] == "crash":
        raise RuntimeError("crashed on purpose")
    return {"label": "known" if inputs["word"] in words.split() else "unknown"}


def _note(line: str) -> int:
    log = os.environ.get("SHOPFLOW_LOG")
    if not log:
        return 0
    with Path(log).open("a") as file:
        file.write(line + "\n")
    return len(Path(log).read_text().splitlines())


def right(outputs: Any, reference_outputs: Any) -> dict[str, Any]:
    """Whether the label is the expected one."""
    return {"key": "right", "score": float(outputs["label"] == reference_outputs["label"])}


class Teacher:
    """Proposes the prompt with one missing word more."""

    async def propose(self, request: Any) -> Mapping[str, str]:
        """One word of a case that went wrong is added to each prompt."""
        texts = {}
        for component in request.components:
            wrong = [r for r in component.feedback if (r.score or 0.0) < 1.0]
            missing = sorted({r.inputs["word"] for r in wrong} - set(component.text.split()))
            texts[component.name] = " ".join(sorted({*component.text.split(), *missing[:1]}))
        return texts


class Memoriser(Teacher):
    """Proposes a prompt that knows the train and validation words, and no other."""

    async def propose(self, request: Any) -> Mapping[str, str]:
        """The same text whatever happened."""
        return {component.name: "w0 w1 w2 w3 forgets" for component in request.components}


class State(TypedDict, total=False):
    """The state of the graph below."""

    question: str
    reply: str


def greeter() -> StateGraph[Any, Any, Any, Any]:
    """A graph of one node."""

    def greet(state: State) -> dict[str, str]:
        return {"reply": f"{get_prompt('greeting')}, {state['question']}"}

    graph = StateGraph(State)
    graph.add_node("greet", greet)
    graph.add_edge(START, "greet")
    graph.add_edge("greet", END)
    return graph


def broken(_inputs: Any) -> Any:
    """A target that always fails."""
    raise RuntimeError("out of order")


not_a_target = 3


def assistant() -> StateGraph[Any, Any, Any, Any]:
    """A graph of two nodes, the first of which calls a tool."""

    class Talk(MessagesState, total=False):
        question: str

    def look(state: Talk) -> dict[str, Any]:
        call = {"name": "track", "args": {"id": 7}, "id": "1"}
        say = HumanMessage(f"{get_prompt('greeting')}, {state['question']}")
        return {"messages": [say, AIMessage("", tool_calls=[call])]}

    def answer(_state: Talk) -> dict[str, Any]:
        found = ToolMessage("parcel 7 is in Utrecht", tool_call_id="1")
        return {"messages": [found, AIMessage("It is in Utrecht.")]}

    graph = StateGraph(Talk)
    graph.add_node("look", look)
    graph.add_node("answer", answer)
    graph.add_edge(START, "look")
    graph.add_edge("look", "answer")
    return graph
