"""A workflow that reads constants in all the ways that projects do."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

import kept_prompts
from kept_prompts import PLANNER
from kept_prompts import WRITER as HAND
from langgraph.graph import START, StateGraph

pool = ThreadPoolExecutor(2)


class State(TypedDict, total=False):
    place: str
    read: dict[str, str]


class Agent:
    template = "class"

    def plan(self, place: str) -> str:
        return next(f"{PLANNER}" for _ in range(1)).format(place=place)


@functools.cache
def cached() -> str:
    return kept_prompts.CACHED


def own_argument(PLANNER: str) -> str:
    return PLANNER


def late() -> str:
    from kept_prompts import PLANNER as late_planner

    return late_planner


def in_thread() -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(PLANNER))
    thread.start()
    thread.join()
    return found[0]


def plan(state: State) -> State:
    place = state["place"]
    read = {
        "format": PLANNER.format(place=place),
        "f-string": f"{PLANNER}",
        "attribute": kept_prompts.PLANNER,
        "method": Agent().plan(place),
        "late": late(),
        "pool": pool.submit(lambda: PLANNER).result(),
        "thread": in_thread(),
        "argument": own_argument("mine"),
    }
    return {"read": read}


def write(state: State) -> State:
    return {"read": {**state["read"], "alias": HAND, "made at import": kept_prompts.SIGNED}}


def where_to(state: State) -> str:
    return "write" if "{place}" in PLANNER else "__end__"


graph = (
    StateGraph(State)
    .add_node("plan", plan)
    .add_node("write", write)
    .add_edge(START, "plan")
    .add_conditional_edges("plan", where_to, ["write", "__end__"])
    .compile()
)


def make_graph(config: dict[str, object]) -> object:
    built_with = PLANNER

    def say(state: State) -> State:
        return {"read": {"built": built_with}}

    return StateGraph(State).add_node("say", say).add_edge(START, "say").compile()
