"""OpenTelemetry spans of a run, by the conventions for generative AI."""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orcheo_agentensor import aevaluate
from orcheo_agentensor.integrations.otel import OpenTelemetryHandler
from orcheo_agentensor.testing import RuleChatModel


def assistant() -> Any:
    """A graph of one node, which asks a model and breaks on one question."""
    model = RuleChatModel(rule=lambda messages: f"about {messages[-1].text}")

    async def answer(state: MessagesState) -> Any:
        if state["messages"][-1].text == "bad":
            raise ValueError("secret words")
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


async def test_a_case_is_a_trace_of_its_nodes_and_model_calls_without_its_texts() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    cases = [
        {"id": word, "inputs": {"messages": [{"role": "user", "content": word}]}}
        for word in ("good", "bad")
    ]
    await aevaluate(
        assistant(),
        dataset=cases,
        evaluators=[lambda outputs: 1.0],
        config={"callbacks": [OpenTelemetryHandler(tracer_provider=provider)]},
        limits={"retries": 0},
        min_coverage=0.0,
        run_id="traced",
    )
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    [chat] = [one for one in spans if one.attributes["gen_ai.operation.name"] == "chat"]
    assert chat.attributes["agentensor.run_id"] == "traced"
    assert chat.attributes["agentensor.case_id"] == "good"
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    node = by_id[chat.parent.span_id]
    assert (node.name, node.attributes["langgraph.node"]) == ("invoke_workflow answer", "answer")
    root = by_id[node.parent.span_id]
    assert root.parent is None
    failed = [one for one in spans if one.attributes.get("error.type") == "ValueError"]
    assert {one.attributes["agentensor.case_id"] for one in failed} == {"bad"}
    assert len({one.context.trace_id for one in spans}) == 2
    told = " ".join(span.to_json() for span in spans)
    assert "secret words" not in told
    assert "about good" not in told
