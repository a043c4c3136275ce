"""A graph that looks at photos of signal lamps. Its model is simulated, and sees one pixel."""

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import START, StateGraph

from orcheo_agentensor import get_prompt
from orcheo_agentensor.optimizers import ProposalRequest
from orcheo_agentensor.testing import RuleChatModel


def colour_of(block: Mapping[str, Any]) -> str:
    """The colour of the first pixel of a PNG, as a vision model might call it."""
    png, at, pixels = base64.b64decode(block["base64"]), 8, b""
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            pixels += png[at + 8 : at + 8 + size]
        at += size + 12
    red, green, _blue = zlib.decompress(pixels)[1:4]
    return "amber" if min(red, green) > 100 else "red" if red > green else "green"


def look(messages: list[BaseMessage]) -> str:
    """Answer by the line `colour: answer` of the prompt that has the colour seen."""
    (image,) = [block for block in messages[1].content_blocks if block["type"] == "image"]
    seen = colour_of(image)
    rules = dict(line.split(": ") for line in messages[0].text.splitlines() if ": " in line)
    return rules.get(seen, f"I see {seen}")


model = RuleChatModel(rule=look)


class Photo(TypedDict, total=False):
    """A photo as a message takes it, and what it tells to do."""

    photo: list[Any]
    answer: str


def tell(state: Photo) -> Photo:
    """Show the photo to the model."""
    asked = [SystemMessage(get_prompt("lamps")), HumanMessage(state["photo"])]
    return {"answer": model.invoke(asked).text}


builder = StateGraph(Photo)
builder.add_node("tell", tell)
builder.add_edge(START, "tell")
graph = builder.compile()


class Teacher:
    """A simulated proposer: adds a line for each colour that the prompt has no answer for."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """The prompt with these lines."""
        prompt = request.components[0]
        missed = set()
        for record in prompt.feedback:
            if record.score == 0:
                seen = str(record.output["answer"]).removeprefix("I see ")
                missed.add(f"{seen}: {record.expected_output['answer']}")
        return {prompt.name: "\n".join([prompt.text, *sorted(missed)])}
