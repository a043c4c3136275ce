"""A simulated chat model for workflows of Orcheo's nodes."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class SimulatedClerk(BaseChatModel):
    """A simulated chat model: it answers with the message if its system prompt names it."""

    @property
    def _llm_type(self) -> str:
        return "simulated-clerk"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        known = " ".join(m.text for m in messages if isinstance(m, SystemMessage)).split()
        asked = messages[-1].text
        message = AIMessage(asked if asked in known else "unknown")
        return ChatResult(generations=[ChatGeneration(message=message)])
