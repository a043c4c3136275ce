"""Simulated chat models."""

from __future__ import annotations

import asyncio
import time

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from orcheo_agentensor.testing import RuleChatModel, ScriptedChatModel
from orcheo_agentensor.usage import record_usage


class Answer(BaseModel):
    """An answer."""

    text: str


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def echo(messages: list[BaseMessage]) -> str:
    return messages[-1].text.upper()


async def test_a_rule_answers_sync_and_async_and_says_it_is_simulated() -> None:
    model = RuleChatModel(rule=echo)
    for message in (model.invoke("one two"), await model.ainvoke("one two")):
        assert message.text == "ONE TWO"
        assert message.response_metadata["simulated"] is True
        assert message.response_metadata["model_name"] == "simulated"
        assert message.usage_metadata is not None
        assert message.usage_metadata["total_tokens"] == 4


def test_a_script_is_followed_to_its_end() -> None:
    model = ScriptedChatModel(replies=["a", ValueError("b"), AIMessage("c")])
    assert model.invoke("1").text == "a"
    with pytest.raises(ValueError, match="b"):
        model.invoke("2")
    assert model.invoke("3").text == "c"
    with pytest.raises(IndexError, match="3 replies; call 4"):
        model.invoke("4")
    assert [call[0].text for call in model.calls] == ["1", "2", "3", "4"]


def test_structured_output_is_json_in_the_reply() -> None:
    model = RuleChatModel(rule=lambda messages: {"text": "hi"})
    assert model.with_structured_output(Answer).invoke("x") == Answer(text="hi")
    told = RuleChatModel(rule=lambda messages: '{"text": "hi"}')
    assert told.with_structured_output(Answer).invoke("x") == Answer(text="hi")


def test_tools_are_called_by_messages_with_tool_calls() -> None:
    call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "1", "type": "tool_call"}

    def rule(messages: list[BaseMessage]) -> AIMessage | str:
        asked = isinstance(messages[-1], HumanMessage)
        return AIMessage("", tool_calls=[call]) if asked else "done"  # type: ignore[list-item]

    bound = RuleChatModel(rule=rule).bind_tools([add])
    message = bound.invoke("add")
    assert message.tool_calls[0]["args"] == {"a": 1, "b": 2}
    assert RuleChatModel(rule=lambda messages: "{}").bind_tools([add]).invoke("x").text == "{}"


async def test_latency_is_waited_for_and_calls_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    model = RuleChatModel(rule=echo, latency=0.05)
    with record_usage() as recorder:
        model.invoke("a")
        await model.ainvoke("b")
    assert waited == [0.05, 0.05]
    assert (recorder.total.calls, recorder.total.cost) == (2, 0.0)
