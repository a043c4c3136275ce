"""Workflows under test: local graphs, other runnables, plain functions, and remote assistants."""

from orcheo_agentensor.targets.conversation import Conversation, ConversationSpec, TalkingTarget
from orcheo_agentensor.targets.local import (
    CallableTarget,
    ConnectedTarget,
    RunnableTarget,
    Target,
    check_target,
    resolve_target,
)

__all__ = [
    "CallableTarget",
    "ConnectedTarget",
    "Conversation",
    "ConversationSpec",
    "RunnableTarget",
    "TalkingTarget",
    "Target",
    "check_target",
    "resolve_target",
]
