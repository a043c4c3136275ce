"""An agent with two tools. Which one it calls follows from what it is told of them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from orcheo_agentensor.optimizers import ProposalRequest
from orcheo_agentensor.testing import SimulatedChatModel


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(re.findall(r"\w+", text.lower()))


class SimulatedModel(SimulatedChatModel):
    """Calls the tool whose description shares most words with the question, and says what it gives.

    Put `"openai:gpt-5-mini"` in its place for a real one.
    """

    known: Sequence[dict[str, Any]] = ()

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        """Note what there is to be told of the tools, which is sent along with each call."""
        told = [convert_to_openai_tool(one) for one in tools]
        known = [one["function"] for one in told]
        return self.model_copy(update={"known": known}).bind(tools=told)

    def reply(self, messages: list[BaseMessage]) -> AIMessage | str:
        """A call first, then its result."""
        if messages[-1].type == "tool":
            return messages[-1].text
        asked = words(messages[-1].text)
        best = max(self.known, key=lambda one: len(asked & words(one["description"])))
        call = ToolCall(name=best["name"], args={"query": messages[-1].text}, id="call")
        return AIMessage("", tool_calls=[call])


@tool
def orders(query: str) -> str:
    """Look something up."""
    return f"orders: {query}"


@tool
def articles(query: str) -> str:
    """Look something up."""
    return f"articles: {query}"


graph = create_agent(SimulatedModel(), [orders, articles])


class Teacher:
    """A simulated proposer: tells of a tool by the words of the questions that should call it."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """New descriptions, of the tools that should have been called."""
        texts = {}
        for component in request.components:
            missed = [
                record.inputs["messages"][-1]["content"]
                for record in component.feedback
                if record.score == 0 and component.name in record.expected_output
            ]
            telling = {word for text in missed for word in words(text) if len(word) > 3}
            new = sorted(telling - words(component.text))
            if new:
                texts[component.name] = f"{component.text} About: {', '.join(new)}."
        return texts
