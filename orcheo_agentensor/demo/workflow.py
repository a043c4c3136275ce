"""The support-triage workflow, and the prompts it starts from: two trainable ones and a frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from pydantic import Field
from typing_extensions import TypedDict

from orcheo_agentensor.config.overrides import overridden_model
from orcheo_agentensor.demo.model import LexicalChatModel
from orcheo_agentensor.entrypoints import chat_model
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import get_prompt

QUEUES = (
    "access",
    "account",
    "cash",
    "delivery",
    "exchange",
    "payments",
    "refunds",
    "security",
    "transfers",
    "verification",
)
MAX_LINE_WORDS = 6  # per queue's line: triage prompts must stay readable at a glance

REPLY = """\
You write the first reply to a bank's customer.

Rules:
- Start with "Hello".
"""

POLICY = """\
Every reply to a customer must:
- start with "Hello"
- name the team that handles the message
- include "never share your PIN"
- avoid "unfortunately"
- have at most 40 words
- end with "Kind regards"
"""


def triage_text(queues: Iterable[str] = QUEUES) -> str:
    """The untrained triage prompt: every queue is described by its bare name."""
    lines = "\n".join(f"{queue}: {queue}" for queue in queues)
    return (
        "You route the messages of a bank's customers.\n"
        "Answer with the name of the one queue whose words fit the message best.\n\n"
        f"Queues:\n{lines}\n"
    )


def seed_prompts(queues: Iterable[str] = QUEUES) -> dict[str, TextTensor]:
    """The prompts before any training; `policy` is frozen."""
    return {
        "triage": TextTensor(triage_text(queues), metadata={"max_line_words": MAX_LINE_WORDS}),
        "reply": TextTensor(REPLY),
        "policy": TextTensor(POLICY, requires_grad=False),
    }


DEFAULTS = seed_prompts()


class Ticket(TypedDict):
    """The workflow's input."""

    ticket: Annotated[str, Field(title="Message", description="What the customer wrote.")]


class Triage(TypedDict):
    """The workflow's output: the queue the message goes to, and the first reply."""

    queue: Annotated[str, Field(title="Queue", description="Where the message goes.")]
    reply: Annotated[str, Field(title="Reply", description="The first reply to the customer.")]


class TriageState(Ticket, Triage):
    """The workflow's state."""


def demo_model(settings: Settings | None = None) -> BaseChatModel:
    """The chat model of both agents: `AGENTENSOR_MODEL`, or the simulated one where it is unset."""
    name = (settings or Settings()).model
    return _real_model(name) if name else LexicalChatModel()


@lru_cache(maxsize=8)
def _real_model(name: str) -> BaseChatModel:
    capped = {"max_tokens": REPLY_TOKENS} if own_server(name) else {}
    return chat_model(name, **capped)  # type: ignore[no-any-return]


ADDRESSES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
REPLY_TOKENS = 512
"""Most tokens of a reply from a server of one's own: a small model may not find an end."""


def own_server(model: str) -> str | None:
    """The address of the server on this machine or network that answers for `model`, if it does."""
    address = next((os.environ[name] for name in ADDRESSES if os.environ.get(name)), "")
    host = urlsplit(address).hostname or ""
    if not model.startswith("openai:") or not host:
        return None
    try:
        near = ip_address(host).is_private
    except ValueError:  # a name
        near = "." not in host or host.endswith((".local", ".localhost", ".internal"))
    return address.rstrip("/") if near else None


def create_support_triage() -> StateGraph[TriageState, None, Ticket, Triage]:
    """The workflow as an uncompiled graph, with `demo_model()` for both agents."""
    return support_triage(demo_model())


def support_triage(chat: BaseChatModel) -> StateGraph[TriageState, None, Ticket, Triage]:
    """The workflow as an uncompiled graph, with `chat` for both agents.

    It reads the prompts `triage`, `reply` and `policy`; one that the run does not give is taken
    from the seed prompts. The reply agent gets the policy in its message, not as its instructions.
    """

    async def triage(state: TriageState, config: RunnableConfig) -> dict[str, str]:
        prompt = get_prompt("triage", config, default=DEFAULTS["triage"])
        model = overridden_model(chat, config)
        said = await model.ainvoke([SystemMessage(prompt), HumanMessage(state["ticket"])])
        return {"queue": said.text.strip().strip("\"'.`")}

    async def reply(state: TriageState, config: RunnableConfig) -> dict[str, str]:
        prompt = get_prompt("reply", config, default=DEFAULTS["reply"])
        policy = get_prompt("policy", config, default=DEFAULTS["policy"])
        task = f"{policy}\nTeam: {state['queue']}\nMessage: {state['ticket']}"
        model = overridden_model(chat, config)
        said = await model.ainvoke([SystemMessage(prompt), HumanMessage(task)])
        return {"reply": said.text.strip()}

    graph = StateGraph(TriageState, input_schema=Ticket, output_schema=Triage)
    overridable = {"overrides": ["model", "temperature"], "chat_model": True}
    graph.add_node("triage", triage, metadata=overridable)
    graph.add_node("reply", reply, metadata=overridable)
    graph.add_edge(START, "triage")
    graph.add_edge("triage", "reply")
    graph.add_edge("reply", END)
    return graph
