"""Graphs that say which prompt their node got: from the config, the context, or a template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from orcheo_agentensor import TaskNode, TextTensor
from orcheo_agentensor.nodes import State

KINDS = ("configurable", "context", "template")
UNTRAINED, TRAINED = "Say something.", "Say it kindly."


@dataclass
class Voice:
    """A context with a prompt in it, as LangChain's templates have."""

    system_prompt: str = UNTRAINED
    model: str = "small"


class Repeat(TaskNode):
    """Gives its text back."""

    text: str | TextTensor

    async def run(self, state: Any, config: RunnableConfig) -> str:
        """The text, with its references resolved."""
        return str(self.text)


def from_config(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Reads a key of `configurable`."""
    return {"results": {"seen": config["configurable"].get("system_prompt", UNTRAINED)}}


def from_context(state: State, runtime: Runtime[Voice]) -> dict[str, Any]:
    """Reads a field of the context."""
    return {"results": {"seen": (runtime.context or Voice()).system_prompt}}


def create_reader(kind: str) -> StateGraph[Any, Any, Any, Any]:
    """A graph whose only node reads the prompt `tone` in one of the three ways."""
    if kind == "context":
        graph: StateGraph[Any, Any, Any, Any] = StateGraph(State, context_schema=Voice)
    else:
        graph = StateGraph(State)
    nodes: dict[str, Any] = {
        "configurable": from_config,
        "context": from_context,
        "template": Repeat(name="seen", text="{{config.prompts.tone}}"),
    }
    graph.add_node("read", nodes[kind])
    graph.add_edge(START, "read")
    return graph


def prompts_of(kind: str, text: str) -> dict[str, TextTensor]:
    """The prompt `tone` with this text, bound to where the graph of that kind reads it."""
    bind = None if kind == "template" else f"{kind}.system_prompt"
    return {"tone": TextTensor(text, bind=bind)}
