"""A workflow whose prompt is a file of its repository."""

from typing import TypedDict

from langgraph.graph import START, StateGraph

from orcheo_agentensor import get_prompt


class Ticket(TypedDict, total=False):
    """A ticket, and the queue that it is put into."""

    text: str
    queue: str


def route(state: Ticket) -> Ticket:
    """Route a ticket. A chat model would; this obeys lines such as "billing: invoice refund"."""
    for line in get_prompt("router").splitlines():
        queue, _, words = line.partition(":")
        if any(word in state["text"] for word in words.split()):
            return {"queue": queue}
    return {"queue": "general"}


builder = StateGraph(Ticket)
builder.add_node("route", route)
builder.add_edge(START, "route")
graph = builder.compile()
