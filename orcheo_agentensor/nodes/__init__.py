"""Workflow nodes with `{{references}}` in their fields, on Orcheo's state."""

from orcheo_agentensor.nodes.agent import AgentNode
from orcheo_agentensor.nodes.agentensor import AgentensorNode
from orcheo_agentensor.nodes.task import (
    NodeMetadata,
    NodeRegistry,
    State,
    TaskNode,
    register_node,
    registry,
)

__all__ = [
    "AgentNode",
    "AgentensorNode",
    "NodeMetadata",
    "NodeRegistry",
    "State",
    "TaskNode",
    "register_node",
    "registry",
]
