"""A help desk's router. It knows nothing of prompts that are evaluated, trained or versioned."""

from typing import TypedDict

from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import START, StateGraph

from helpdesk.model import SimulatedModel

ROUTER_PROMPT = """\
You route tickets of a help desk. Answer with the name of one queue.
billing: invoice
access: password
"""

model = SimulatedModel()


class Ticket(TypedDict, total=False):
    """A ticket, and the queue that it is put into."""

    text: str
    queue: str


def route(state: Ticket) -> Ticket:
    """Ask the model for the queue of a ticket."""
    asked = [SystemMessage(ROUTER_PROMPT), HumanMessage(state["text"])]
    return {"queue": str(model.invoke(asked).content)}


builder = StateGraph(Ticket)
builder.add_node("route", route)
builder.add_edge(START, "route")
graph = builder.compile()
