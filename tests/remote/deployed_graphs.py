"""Workflows that the test servers deploy. Their chat model is simulated: it does as it is told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict

from orcheo_agentensor import get_prompt, get_seed
from orcheo_agentensor.testing import RuleChatModel


class Ticket(TypedDict, total=False):
    kind: str
    draft: str
    answer: str


def _echo(messages: list[BaseMessage]) -> str:
    return "|".join(str(message.content) for message in messages)


def _skilled(messages: list[BaseMessage]) -> str:
    kind = str(messages[-1].content)
    return kind if kind in str(messages[0].content).split() else "unknown"


echo = RuleChatModel(rule=_echo)
skilled = RuleChatModel(rule=_skilled)


async def _greet(state: Ticket, config: RunnableConfig) -> Ticket:
    said = await echo.ainvoke([SystemMessage(get_prompt("greeting", config, default="hello"))])
    return {"draft": str(said.content)}


async def _handle(state: Ticket, config: RunnableConfig) -> Ticket:
    system = SystemMessage(get_prompt("skills", config, default="none"))
    said = await skilled.ainvoke([system, HumanMessage(state["kind"])])
    return {"answer": str(said.content)}


inner = StateGraph(Ticket)
inner.add_node("handle", _handle)
inner.add_edge(START, "handle")

outer = StateGraph(Ticket)
outer.add_node("greet", _greet)
outer.add_node("desk", inner.compile())
outer.add_edge(START, "greet")
outer.add_edge("greet", "desk")
clerk = outer.compile()


async def _quietly(state: Ticket, config: RunnableConfig) -> Ticket:
    """No chat model: what is read shows nowhere."""
    await asyncio.sleep(0.01)
    known = get_prompt("skills", config, default="none").split()
    return {"answer": state["kind"] if state["kind"] in known else "unknown"}


hidden = StateGraph(Ticket)
hidden.add_node("quietly", _quietly)
hidden.add_edge(START, "quietly")
quiet = hidden.compile()


@dataclass
class Persona:
    system_prompt: str = "You are helpful."
    tone: str = "plain"


async def _talk(state: MessagesState, runtime: Runtime[Persona]) -> dict[str, Any]:
    system = SystemMessage(f"{runtime.context.system_prompt} ({runtime.context.tone})")
    return {"messages": [await echo.ainvoke([system, *state["messages"]])]}


talking = StateGraph(MessagesState, context_schema=Persona)
talking.add_node("talk", _talk)
talking.add_edge(START, "talk")
persona = talking.compile()


async def _sleep(state: Ticket) -> Ticket:
    await asyncio.sleep(float(state["kind"]))
    return {"answer": "slept"}


sleeping = StateGraph(Ticket)
sleeping.add_node("sleep", _sleep)
sleeping.add_edge(START, "sleep")
sleeper = sleeping.compile()


async def _awkward(state: Ticket) -> Ticket:
    if state["kind"] == "ask":
        interrupt("may I?")
    raise ValueError(f"no such customer: {state['kind']}")


awkwardly = StateGraph(Ticket)
awkwardly.add_node("awkward", _awkward)
awkwardly.add_edge(START, "awkward")
awkward = awkwardly.compile()


async def _testify(state: Ticket, config: RunnableConfig) -> Ticket:
    """Tells what of its config came from the run it is a rollout of."""
    seen = {
        "metadata": dict(config.get("metadata") or {}),
        "tags": list(config.get("tags") or []),
        "tenant": (config.get("configurable") or {}).get("tenant"),
        "thread_id": (config.get("configurable") or {}).get("thread_id"),
        "seed": get_seed(),
    }
    return {"answer": json.dumps(seen, default=str)}


testifying = StateGraph(Ticket)
testifying.add_node("testify", _testify)
testifying.add_edge(START, "testify")
witness = testifying.compile()
