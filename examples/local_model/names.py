"""A graph that asks a small language model to write names, and a proposer of worked examples."""

from collections.abc import Mapping
from typing import TypedDict

from langchain_openai import OpenAI
from langgraph.graph import START, StateGraph

from orcheo_agentensor import get_prompt
from orcheo_agentensor.optimizers import ProposalRequest


class Given(TypedDict):
    """A name as people say it: "Anna Smith"."""

    name: str


class Written(TypedDict):
    """The name as a register lists it: "Smith, Anna"."""

    written: str


class Names(Given, Written):
    """What the graph takes and gives."""


async def write(state: Names) -> Written:
    """Let the model go on where the prompt and the name end."""
    model = OpenAI(model="smollm2", temperature=0, max_tokens=10)
    line = await model.ainvoke(f"{get_prompt('names')}\n{state['name']} ->", stop=["\n"])
    return {"written": line.strip()}


builder = StateGraph(Names, input_schema=Given, output_schema=Written)
builder.add_node("write", write)
builder.add_edge(START, "write")
graph = builder.compile()


class WorkedExamples:
    """A proposer without a model: appends two cases that went wrong, each with its solution."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """The prompt with two more lines such as "Anna Smith -> Smith, Anna"."""
        prompt = request.components[0]
        lines = [
            f"{record.inputs['name']} -> {record.expected_output['written']}"
            for record in prompt.feedback
            if record.score == 0
        ]
        new = [line for line in lines if line not in prompt.text]
        return {prompt.name: "\n".join([prompt.text, *new[:2]])}
