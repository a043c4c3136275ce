"""Whether a value is one of LangChain's or LangGraph's, told without importing either.

Where the module of a class has not been imported, nothing can be of that class. Importing LangGraph
takes as long as evaluating some thousands of cases, and a target that is a function needs none of
it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool
    from langgraph.graph import StateGraph
    from langgraph.pregel import Pregel


def _is(value: Any, module: str, name: str) -> bool:
    # None while the module is being imported, too: then there is no object of it yet.
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def is_runnable(value: Any) -> TypeGuard[Runnable[Any, Any]]:
    """Whether a value is a `Runnable` of LangChain, as compiled graphs are."""
    return _is(value, "langchain_core.runnables.base", "Runnable")


def is_pause(error: BaseException) -> bool:
    """Whether an error is LangGraph's own signal, such as that of `interrupt()`."""
    return _is(error, "langgraph.errors", "GraphBubbleUp")


def is_message(value: Any) -> TypeGuard[BaseMessage]:
    """Whether a value is a message of LangChain."""
    return _is(value, "langchain_core.messages.base", "BaseMessage")


def is_tool(value: Any) -> TypeGuard[BaseTool]:
    """Whether a value is a tool of LangChain."""
    return _is(value, "langchain_core.tools.base", "BaseTool")


def is_pregel(value: Any) -> TypeGuard[Pregel[Any, Any, Any, Any]]:
    """Whether a value is a compiled graph of LangGraph."""
    return _is(value, "langgraph.pregel.main", "Pregel")


def is_state_graph(value: Any) -> TypeGuard[StateGraph[Any, Any, Any, Any]]:
    """Whether a value is a `StateGraph` of LangGraph that is not compiled."""
    return _is(value, "langgraph.graph.state", "StateGraph")
