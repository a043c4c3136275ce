"""Evaluate a graph, train its prompt, and use the promoted prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from orcheo_agentensor import Reflective, configure, evaluate, train
from orcheo_agentensor.optimizers import ProposalRequest

STORE = "sqlite:///agentensor.db"
JOB: dict[str, Any] = {
    "dataset": Path(__file__).parent / "messages.csv",
    "evaluators": ["exact_match"],
    "prompts": {"triage": {"text": "bug: broke", "bind": "context.system_prompt"}},
    "workflow_id": "triage",
    "store": STORE,
}


@dataclass
class Context:
    """What the graph reads its prompt from."""

    system_prompt: str = "bug: broke"


class Message(TypedDict, total=False):
    """A customer's message and its label."""

    text: str
    label: str


def classify(state: Message, runtime: Runtime[Context]) -> Message:
    """Label a message. A chat model would; this obeys lines such as "bug: broke crash"."""
    for line in runtime.context.system_prompt.splitlines():
        label, _, words = line.partition(":")
        if any(word in state["text"] for word in words.split()):
            return {"label": label}
    return {"label": "praise"}


builder = StateGraph(Message, context_schema=Context)
builder.add_node("classify", classify)
builder.add_edge(START, "classify")
graph = builder.compile()


class WordPicker:
    """A proposer without a model: adds the longest word of each message that went wrong."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """A new text for the one prompt there is."""
        prompt = request.components[0]
        missed = [record.inputs["text"] for record in prompt.feedback if record.score == 0]
        words = {max(text.split(), key=len) for text in missed}
        return {prompt.name: " ".join([prompt.text, *sorted(words)])}


def main() -> None:
    """Everything, one after the other."""
    evaluate(graph, **JOB).print()
    train(graph, **JOB, optimizer=Reflective(proposer=WordPicker()), promote="auto").print()
    app = configure(
        graph,
        workflow_id="triage",
        defaults={"configurable": {"agentensor": {"use": "production"}}},
        store=STORE,
    )
    message: Message = {"text": "a crash at night"}
    print("bare:    ", graph.invoke(message, context=Context())["label"])
    print("promoted:", app.invoke(message)["label"])


if __name__ == "__main__":
    main()
