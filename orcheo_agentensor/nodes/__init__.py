"""Workflow nodes with `{{references}}` in their fields, on Orcheo's state."""

from orcheo_agentensor.nodes.agent import AgentNode
from orcheo_agentensor.nodes.agentensor import AgentensorNode
from orcheo_agentensor.nodes.base import TaskNode
from orcheo_agentensor.nodes.registry import NodeMetadata, NodeRegistry, register_node, registry
from orcheo_agentensor.nodes.state import State

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
