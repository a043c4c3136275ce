"""The bundled demo: a support-triage workflow on real tickets, trained without a paid model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.demo.evaluators import RULES, queue_accuracy, reply_policy
    from orcheo_agentensor.demo.model import (
        LexicalChatModel,
        Router,
        answer,
        parse_definitions,
        parse_rules,
        words,
    )
    from orcheo_agentensor.demo.run import WORKFLOW, set_up
    from orcheo_agentensor.demo.workflow import MAX_LINE_WORDS, QUEUES, REPLY, triage_text

__all__ = [
    "MAX_LINE_WORDS",
    "QUEUES",
    "REPLY",
    "RULES",
    "WORKFLOW",
    "LexicalChatModel",
    "Router",
    "answer",
    "parse_definitions",
    "parse_rules",
    "queue_accuracy",
    "reply_policy",
    "set_up",
    "triage_text",
    "words",
]

__getattr__ = lazily(
    __name__,
    {
        "evaluators": ("RULES", "queue_accuracy", "reply_policy"),
        "model": (
            "LexicalChatModel",
            "Router",
            "answer",
            "parse_definitions",
            "parse_rules",
            "words",
        ),
        "run": ("WORKFLOW", "set_up"),
        "workflow": ("MAX_LINE_WORDS", "QUEUES", "REPLY", "triage_text"),
    },
)
