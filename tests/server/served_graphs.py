"""Graphs that only the test servers serve."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from prompt_readers import UNTRAINED, create_reader, prompts_of
from typing_extensions import TypedDict

from orcheo_agentensor import Settings, configure, serve

# No target takes any time, so that how busy the machine is does not decide what the latency
# guardrail says.
time.perf_counter = lambda: 0.0


class Seen(TypedDict, total=False):
    one: dict[str, Any]
    two: dict[str, Any]
    context: dict[str, Any]


def _seen(config: RunnableConfig) -> dict[str, Any]:
    own = ("node_overrides", "prompts", "tone", "temperature", "agentensor")
    metadata = config.get("metadata") or {}
    return {
        "tags": [tag for tag in config.get("tags") or [] if not tag.startswith("graph:")],
        "team": metadata.get("team"),
        "recursion_limit": config.get("recursion_limit"),
        **{key: config["configurable"].get(key) for key in own},
    }


def _echo() -> StateGraph[Seen]:
    """Two nodes that say what config they saw."""

    async def one(state: Seen, config: RunnableConfig) -> Seen:
        return {"one": _seen(config)}

    async def two(state: Seen, config: RunnableConfig) -> Seen:
        return {"two": _seen(config)}

    graph = StateGraph(Seen)
    graph.add_node("one", one, metadata={"overrides": ["temperature"]})
    graph.add_node("two", two)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    graph.add_edge("two", END)
    return graph


@dataclass
class Tone:
    """A context schema."""

    tone: str = "plain"
    length: int = 1


def _context_graph() -> StateGraph[Seen, Tone]:
    async def one(state: Seen, runtime: Runtime[Tone]) -> Seen:
        given = runtime.context
        tone = given if isinstance(given, dict) else vars(given or Tone())
        return {"context": dict(tone)}

    graph = StateGraph(Seen, context_schema=Tone)
    graph.add_node("one", one)
    graph.add_edge(START, "one")
    graph.add_edge("one", END)
    return graph


echo = serve(_echo(), workflow_id="echo")
bare = _echo().compile(name="bare")
context = serve(_context_graph(), workflow_id="context")
serve_configurable = serve(create_reader("configurable"), workflow_id="serve_configurable")
serve_context = serve(create_reader("context").compile(), workflow_id="serve_context")
serve_template = serve(create_reader("template"), workflow_id="serve_template")


def _configured(kind: str, name: str = "configure") -> Any:
    return configure(
        create_reader(kind).compile(),
        workflow_id=f"{name}_{kind}",
        defaults={"prompts": prompts_of(kind, UNTRAINED)},
        store=Settings().database_url,
    )


configure_configurable = _configured("configurable")
configure_context = _configured("context")
configure_template = _configured("template")
form_configurable = _configured("configurable", "form")
form_context = _configured("context", "form")
form_template = _configured("template", "form")
