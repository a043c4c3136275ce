"""Simulated chat models: for tests and demos without a network, a key or a bill.

They answer by a rule or from a script, count tokens by words, cost nothing, and say that they are
simulated in every message's `response_metadata`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

Reply: TypeAlias = str | dict[str, Any] | AIMessage | Exception
"""A text, JSON for a structured answer, a whole message, or an exception to raise."""


class SimulatedChatModel(BaseChatModel):
    """The base of the simulated models; a subclass implements `reply`.

    With tools bound and one of them demanded (as `with_structured_output` does), a reply that is
    JSON becomes a call of that tool.
    """

    latency: float = 0.0
    """Seconds each call takes."""

    model_name: str = "simulated"

    def reply(self, messages: list[BaseMessage]) -> Reply:
        """What to answer to these messages."""
        raise NotImplementedError

    @property
    def _llm_type(self) -> str:
        return "simulated"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Let replies call these tools: as an `AIMessage` with tool calls, or by `tool_choice`."""
        return self.bind(
            tools=[convert_to_openai_tool(tool) for tool in tools],
            tool_choice=tool_choice,
            **kwargs,
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.latency:
            time.sleep(self.latency)
        return self._result(messages, kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.latency:
            await asyncio.sleep(self.latency)
        return self._result(messages, kwargs)

    def _result(self, messages: list[BaseMessage], options: dict[str, Any]) -> ChatResult:
        reply = self.reply(messages)
        if isinstance(reply, Exception):
            raise reply
        message = reply if isinstance(reply, AIMessage) else _message(reply, options)
        read = sum(count_tokens(str(item.text)) for item in messages)
        written = count_tokens(str(message.text) + _arguments(message))
        marked = message.model_copy(
            update={
                "usage_metadata": UsageMetadata(
                    input_tokens=read, output_tokens=written, total_tokens=read + written
                ),
                "response_metadata": {
                    **message.response_metadata,
                    "simulated": True,
                    "model_name": self.model_name,
                },
            }
        )
        return ChatResult(generations=[ChatGeneration(message=marked)])


class RuleChatModel(SimulatedChatModel):
    """Answers by a function of the messages: deterministic, so good for any number of calls."""

    rule: Callable[[list[BaseMessage]], Reply]

    def reply(self, messages: list[BaseMessage]) -> Reply:
        """What the rule returns; an exception that it raises ends the call."""
        return self.rule(messages)


class ScriptedChatModel(SimulatedChatModel):
    """Answers from a list, one reply per call; a call after the last raises `IndexError`."""

    replies: list[Any]
    """Each a `Reply`."""

    _next: int = PrivateAttr(default=0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _seen: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def calls(self) -> list[list[BaseMessage]]:
        """The messages of every call so far."""
        return self._seen

    def reply(self, messages: list[BaseMessage]) -> Reply:
        """The next reply of the script."""
        with self._lock:
            self._seen.append(list(messages))
            number, self._next = self._next, self._next + 1
        if number >= len(self.replies):
            raise IndexError(f"the script has {len(self.replies)} replies; call {number + 1} came")
        found: Reply = self.replies[number]
        return found


def count_tokens(text: str) -> int:
    """The tokens of a text as simulated models count them: its words."""
    return len(text.split())


def _message(reply: str | dict[str, Any], options: dict[str, Any]) -> AIMessage:
    text = reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)
    tool = _demanded_tool(options)
    arguments = _json_object(text) if tool else None
    if tool is None or arguments is None:
        return AIMessage(content=text)
    call = ToolCall(name=tool, args=arguments, id="call_simulated", type="tool_call")
    return AIMessage(content="", tool_calls=[call])


def _demanded_tool(options: dict[str, Any]) -> str | None:
    names = [tool["function"]["name"] for tool in options.get("tools") or ()]
    choice = options.get("tool_choice")
    if choice in names:
        return str(choice)
    return names[0] if names and choice in ("any", "required", True) else None


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _arguments(message: AIMessage) -> str:
    return " ".join(json.dumps(call["args"], ensure_ascii=False) for call in message.tool_calls)
