"""The prompts that the support-triage workflow starts from: two trainable ones and a frozen one."""

from __future__ import annotations

from collections.abc import Iterable

from orcheo_agentensor.tensor import TextTensor

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
MAX_LINE_WORDS = 6
"""How many words a queue's line may hold: triage prompts must stay readable at a glance."""

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
