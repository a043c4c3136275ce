from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel, Field

from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.nodes import AgentNode, State
from orcheo_agentensor.nodes.agent import TrainablePrompt
from orcheo_agentensor.tape import record_tape
from orcheo_agentensor.testing import RuleChatModel
from orcheo_agentensor.usage import record_usage


class Scripted(BaseChatModel):
    """Gives scripted answers and notes what it was sent; without a script it echoes."""

    script: list[AIMessage] = Field(default_factory=list)
    sent: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.sent.append(list(messages))
        index = len(self.sent) - 1
        echo = AIMessage(f"echo: {messages[-1].text}")
        answer = self.script[index] if index < len(self.script) else echo
        return ChatResult(generations=[ChatGeneration(message=answer.model_copy())])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self


def texts(messages: list[BaseMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


class Verdict(BaseModel):
    """A structured output."""

    label: str
    score: int


def single(node: AgentNode) -> Any:
    graph = StateGraph(State)
    graph.add_node("agent", node)
    graph.add_edge(START, "agent")
    return graph.compile(checkpointer=InMemorySaver())


def config(**prompts: str) -> Any:
    return {"configurable": {"thread_id": "1", "prompts": prompts}}


async def test_a_model_is_called_with_the_prompts_of_the_run() -> None:
    model = Scripted(script=[AIMessage("Fine.")])
    node = AgentNode(
        name="answer",
        model=model,
        system_prompt="{{config.prompts.tone}}",
        user_prompt="How is {{inputs.name}}?",
    )
    out = await single(node).ainvoke({"inputs": {"name": "Ada"}}, config(tone="Be kind."))
    assert texts(model.sent[0]) == [("system", "Be kind."), ("human", "How is Ada?")]
    assert out["results"] == {"answer": "Fine."}
    assert [message.text for message in out["messages"]] == ["How is Ada?", "Fine."]
    assert "structured_response" not in out


async def test_without_a_user_prompt_the_conversation_of_the_state_is_sent() -> None:
    model = Scripted()
    graph = single(AgentNode(name="chat", model=model))
    await graph.ainvoke({"messages": [{"role": "user", "content": "one"}]}, config())
    out = await graph.ainvoke({"messages": [HumanMessage("two")]}, config())
    assert [message.text for message in model.sent[1]] == ["one", "echo: one", "two"]
    assert len(out["messages"]) == 4


async def test_with_a_user_prompt_the_conversation_is_sent_only_on_request() -> None:
    model = Scripted()
    start = {"messages": [HumanMessage("before")], "inputs": {}}
    await single(AgentNode(name="a", model=model, user_prompt="now")).ainvoke(start, config())
    assert [message.text for message in model.sent[0]] == ["now"]
    await single(
        AgentNode(name="a", model=model, messages="{{messages}}", user_prompt="now")
    ).ainvoke(start, config())
    assert [message.text for message in model.sent[1]] == ["before", "now"]


async def test_messages_may_be_given_in_any_form_with_templates_inside() -> None:
    model = Scripted()
    node = AgentNode(
        name="a",
        model=model,
        messages=[
            ("system", "{{config.prompts.tone}}"),
            {"role": "user", "content": "{{inputs.q}}"},
            AIMessage("{{config.prompts.tone}}!"),
        ],
    )
    await single(node).ainvoke({"inputs": {"q": "why?"}}, config(tone="T"))
    assert texts(model.sent[0]) == [("system", "T"), ("human", "why?"), ("ai", "T!")]


async def test_messages_may_be_one_text() -> None:
    model = Scripted()
    await single(AgentNode(name="a", model=model, messages="{{inputs.q}}")).ainvoke(
        {"inputs": {"q": "why?"}}, config()
    )
    assert texts(model.sent[0]) == [("human", "why?")]


async def test_tools_are_run_by_an_agent() -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    call = {"name": "add", "args": {"a": 2, "b": 3}, "id": "c1", "type": "tool_call"}
    model = Scripted(script=[AIMessage("", tool_calls=[call]), AIMessage("It is 5.")])
    node = AgentNode(
        name="sum",
        model=model,
        system_prompt="{{config.prompts.tone}}",
        user_prompt="2+3?",
        tools=[add],
    )
    out = await single(node).ainvoke({"inputs": {}}, config(tone="Use tools."))
    assert out["results"] == {"sum": "It is 5."}
    assert [message.type for message in out["messages"]] == ["human", "ai", "tool", "ai"]
    assert out["messages"][2].content == "5"
    assert texts(model.sent[0]) == [("system", "Use tools."), ("human", "2+3?")]


def structured(args: dict[str, Any]) -> AIMessage:
    call = {"name": "Verdict", "args": args, "id": "c1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


@pytest.mark.parametrize("tools", [[], [lambda: None]])
async def test_structured_output_is_kept_as_json(tools: list[Any]) -> None:
    for tool in tools:
        tool.__name__, tool.__doc__ = "nothing", "Does nothing."
    model = Scripted(script=[structured({"label": "spam", "score": 3})])
    node = AgentNode(
        name="judge", model=model, user_prompt="?", response_format=Verdict, tools=tools
    )
    out = await single(node).ainvoke({"inputs": {}}, config())
    assert out["structured_response"] == {"label": "spam", "score": 3}
    assert out["results"] == {"judge": {"label": "spam", "score": 3}}
    json.dumps(out["structured_response"])


async def test_an_answer_without_the_structure_asked_for_is_an_error() -> None:
    for answer in (AIMessage("no idea"), structured({"label": "x", "score": "many"})):
        node = AgentNode(
            name="judge", model=Scripted(script=[answer]), user_prompt="?", response_format=Verdict
        )
        with pytest.raises(RunFailed, match="'judge' got no structured output"):
            await single(node).ainvoke({"inputs": {}}, config())


async def test_agents_side_by_side_may_each_give_structured_output() -> None:
    graph = StateGraph(State)
    model = Scripted(script=[structured({"label": "a", "score": 1})] * 3)
    graph.add_node(
        "judge",
        AgentNode(
            name="judge_{{inputs.id}}", model=model, user_prompt="?", response_format=Verdict
        ),
    )
    graph.add_conditional_edges(
        START, lambda _: [Send("judge", {"inputs": {"id": i}}) for i in range(3)]
    )
    out = await graph.compile().ainvoke({"inputs": {}})
    assert len(out["results"]) == 3
    assert out["structured_response"] == {"label": "a", "score": 1}


async def test_a_model_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted()
    asked: list[str] = []

    def init_chat_model(name: str) -> BaseChatModel:
        asked.append(name)
        return model

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init_chat_model)
    graph = single(AgentNode(name="a", model="simulated:for-this-test", user_prompt="hi"))
    await graph.ainvoke({"inputs": {}}, config())
    await graph.ainvoke({"inputs": {}}, config())
    assert asked == ["simulated:for-this-test"]
    assert len(model.sent) == 2


async def test_calls_are_streamed_counted_and_taped() -> None:
    node = AgentNode(
        name="a", model=Scripted(), system_prompt="{{config.prompts.tone}}", user_prompt="hi"
    )
    graph = single(node)
    with record_usage() as usage, record_tape() as tape:
        chunks = [
            chunk
            async for chunk in graph.astream(
                {"inputs": {}}, config(tone="T"), stream_mode="messages"
            )
        ]
    assert "echo: hi" in [message.text for message, _ in chunks]
    assert usage.total.calls == 1
    assert [run.prompts for run in tape.runs.values()] == [["tone"]]


def remembered(agent: Any, prompts: Any = None) -> Any:
    config: Any = {"configurable": {"prompts": prompts}} if prompts else {}
    agent.invoke({"messages": [("user", "hi")]}, config)


def test_a_trained_prompt_replaces_the_base_and_keeps_what_middleware_added() -> None:
    seen: list[Any] = []

    def rule(messages: Any) -> str:
        seen.append(messages[0])
        return "ok"

    agent = create_agent(
        RuleChatModel(rule=rule),
        system_prompt="Be kind.",
        middleware=[TodoListMiddleware(), TrainablePrompt("tone")],
    )
    remembered(agent)
    remembered(agent, {"tone": "Be brief."})
    plain, trained = (message.content for message in seen)
    added = plain[-1]
    assert "write_todos" in added["text"]
    assert trained == [{"type": "text", "text": "Be brief."}, added]


def test_the_marks_of_a_system_message_stay() -> None:
    seen: list[Any] = []

    def rule(messages: Any) -> str:
        seen.append(messages[0])
        return "ok"

    cached = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}
    agent = create_agent(
        RuleChatModel(rule=rule),
        system_prompt=SystemMessage([cached]),
        middleware=[TrainablePrompt("tone")],
    )
    remembered(agent)
    remembered(agent, {"tone": "Be brief."})
    assert [message.content for message in seen] == [[cached], [{**cached, "text": "Be brief."}]]
