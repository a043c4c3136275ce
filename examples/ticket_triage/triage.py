"""Ticket triage in two steps with a prompt each: find the queue, write a first reply."""

from collections.abc import Mapping
from typing import TypedDict

from langgraph.graph import START, StateGraph

from orcheo_agentensor import get_prompt
from orcheo_agentensor.optimizers import ProposalRequest


class Ticket(TypedDict, total=False):
    """A ticket, its queue, and the reply that its sender gets at once."""

    text: str
    queue: str
    reply: str


def route(state: Ticket) -> Ticket:
    """Find the queue. A chat model would; this obeys lines such as "billing: invoice refund"."""
    for line in get_prompt("router").splitlines():
        queue, _, words = line.partition(":")
        if set(words.split()) & set(state["text"].split()):
            return {"queue": queue}
    return {"queue": "general"}


def reply(state: Ticket) -> Ticket:
    """Write a reply. A chat model would; this fills in what its prompt says."""
    return {"reply": get_prompt("writer").replace("QUEUE", state["queue"])}


builder = StateGraph(Ticket)
builder.add_node("route", route)
builder.add_node("reply", reply)
builder.add_edge(START, "route")
builder.add_edge("route", "reply")
graph = builder.compile()


class Teacher:
    """A simulated proposer: words for the router, a promise for the writer."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """New texts for the prompts that have part in what went wrong."""
        texts = {}
        for prompt in request.components:
            if prompt.name == "writer" and "two days" not in prompt.text:
                texts["writer"] = f"{prompt.text} You hear from us within two days."
            if prompt.name == "router":
                lines = dict(line.split(":") for line in prompt.text.splitlines())
                for record in prompt.feedback:
                    queue = record.expected_output["queue"]
                    word = max(record.inputs["text"].split(), key=len)
                    if record.output["queue"] != queue and word not in lines.get(queue, word):
                        lines[queue] += f" {word}"
                texts["router"] = "\n".join(f"{one}:{words}" for one, words in lines.items())
        return texts
