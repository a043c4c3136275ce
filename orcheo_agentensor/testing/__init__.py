"""Chat models for tests: they follow rules or a script, and cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.testing.models import (
        RuleChatModel,
        ScriptedChatModel,
        SimulatedChatModel,
        count_tokens,
    )

__all__ = [
    "RuleChatModel",
    "ScriptedChatModel",
    "SimulatedChatModel",
    "count_tokens",
]

__getattr__ = lazily(
    __name__,
    {
        "models": ("RuleChatModel", "ScriptedChatModel", "SimulatedChatModel", "count_tokens"),
    },
)
