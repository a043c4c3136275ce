"""The registry of node classes by name, for workflows that are described in data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orcheo_agentensor.errors import BadInput, NotFound
from orcheo_agentensor.nodes.base import TaskNode

NodeType = TypeVar("NodeType", bound=type[TaskNode])


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeMetadata:
    """What a registered node is: its name, what it does, and the kind of node it is."""

    name: str
    description: str = ""
    category: str = "general"


class NodeRegistry:
    """Node classes by name."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[NodeMetadata, type[TaskNode]]] = {}

    def register(self, metadata: NodeMetadata, node: type[TaskNode]) -> None:
        """Add `node`. A name is taken once; registering a reloaded class again replaces it."""
        taken = self._nodes.get(metadata.name)
        if taken is not None and _qualified(taken[1]) != _qualified(node):
            raise BadInput(
                f"node name {metadata.name!r} is taken by {_qualified(taken[1])}",
                field="name",
                value=metadata.name,
                rule="must be unique",
            )
        self._nodes[metadata.name] = (metadata, node)

    def get(self, name: str) -> type[TaskNode]:
        """The node class called `name`; raises `NotFound`, listing the names there are."""
        return self._entry(name)[1]

    def metadata(self, name: str) -> NodeMetadata:
        """The metadata of the node called `name`."""
        return self._entry(name)[0]

    def list(self) -> list[NodeMetadata]:
        """The metadata of all nodes, by name."""
        return [self._nodes[name][0] for name in sorted(self._nodes)]

    def _entry(self, name: str) -> tuple[NodeMetadata, type[TaskNode]]:
        if name not in self._nodes:
            there = ", ".join(sorted(self._nodes)) or "none"
            raise NotFound(f"no node is called {name!r}; registered: {there}")
        return self._nodes[name]


registry = NodeRegistry()
"""The registry that `register_node` adds to."""


def register_node(
    name: str, *, description: str = "", category: str = "general"
) -> Callable[[NodeType], NodeType]:
    """Class decorator: register a `TaskNode` under `name`."""

    def decorate(node: NodeType) -> NodeType:
        registry.register(NodeMetadata(name=name, description=description, category=category), node)
        return node

    return decorate


def _qualified(node: type[TaskNode]) -> str:
    return f"{node.__module__}.{node.__qualname__}"
