"""Agents, chains and tools as projects keep them: at the top of a module."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages


class Echo(BaseChatModel):
    """Answers with what it is told: its system prompt, and its tools with their arguments."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(one) for one in tools])

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        told = [message.text for message in messages if message.type == "system"]
        for one in kwargs.get("tools", ()):
            function = one["function"]
            told.append(f"{function['name']}: {function['description']}")
            told += [
                f"{function['name']}.{name}: {argument.get('description')}"
                for name, argument in function["parameters"]["properties"].items()
            ]
        reply = AIMessage("\n".join(told))
        return ChatResult(generations=[ChatGeneration(message=reply)])


@tool(parse_docstring=True)
def search(query: str, limit: int = 3) -> str:
    """Search the web.

    Args:
        query: What to look for.
        limit: How many pages.
    """
    return query


def plain(text: str) -> str:
    """Repeat a text."""
    return text


agent = create_agent(Echo(), [search, plain], system_prompt="You are an agent.", name="agent")


class State(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]


chain = (
    ChatPromptTemplate(
        [
            ("system", "You are {who}, made for this."),
            MessagesPlaceholder("history"),
            ("human", "Go on now, please."),
        ]
    )
    | Echo()
)
tools = [plain]


def helper(state: State) -> Any:
    return chain.invoke({"who": "Ada", "history": state["messages"]})


def talk(state: State) -> State:
    return {"messages": [helper(state)]}


def ask(state: State) -> State:
    return {"messages": [agent.invoke({"messages": state["messages"]})["messages"][-1]]}


def bind(state: State) -> State:
    return {"messages": [Echo().bind_tools([*tools, search]).invoke(state["messages"])]}


graph = (
    StateGraph(State)
    .add_node("talk", talk)
    .add_node("ask", ask)
    .add_node("bind", bind)
    .add_node("agent", agent)
    .add_edge(START, "talk")
    .add_edge("talk", "ask")
    .add_edge("ask", "bind")
    .add_edge("bind", "agent")
    .compile()
)
