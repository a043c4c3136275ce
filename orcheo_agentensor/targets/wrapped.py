"""Copies of a graph whose nodes see another config than LangGraph gives them: one that is watched
for a tape, or one with what the run overrides about the node."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.pregel import Pregel

from orcheo_agentensor.config.overrides import NodeOverride, override_for
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.tape import Tree, watched_config
from orcheo_agentensor.targets.overriding import HIDDEN, follows_itself
from orcheo_agentensor.upstream import var_child_runnable_config


def watched_graph(runnable: Runnable[Any, Any], tree: Tree) -> Runnable[Any, Any]:
    """A copy of a graph whose nodes, nested ones too, get a watched `configurable`.

    The graph itself stays as it is, and so do graphs that a node calls: the tape sees what they
    read in their model calls.
    """
    if not isinstance(runnable, Pregel):
        return runnable
    clone = copy.copy(runnable)
    clone.nodes = {name: _watched_node(node, tree) for name, node in runnable.nodes.items()}
    return clone


def _watched_node(node: Any, tree: Tree) -> Any:
    nested = watched_graph(node.bound, tree)
    if nested is node.bound:
        return node.copy({"bound": _WatchedNode(node.bound, tree)})
    return node.copy({"bound": nested, "subgraphs": [nested] if node.subgraphs else []})


class _WatchedNode(Runnable[Any, Any]):
    """A node's runnable, run with a watched config."""

    def __init__(self, bound: Runnable[Any, Any], tree: Tree) -> None:
        self.bound = bound
        self._tree = tree

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        with _watched(config, self._tree) as seen:
            return self.bound.invoke(input, seen, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        with _watched(config, self._tree) as seen:
            return await self.bound.ainvoke(input, seen, **kwargs)


@contextmanager
def _watched(config: RunnableConfig | None, tree: Tree) -> Iterator[RunnableConfig | None]:
    """Watch the config that a node is given, and the one that it may ask the context for."""
    around = var_child_runnable_config.get()
    token = var_child_runnable_config.set(around and watched_config(around, tree))
    try:
        yield config and watched_config(config, tree)
    finally:
        var_child_runnable_config.reset(token)


def with_node_overrides(graph: Any) -> Any:
    """A copy of a compiled graph whose nodes follow `configurable.node_overrides`.

    So do those of graphs that are its nodes; graphs that a node calls by itself are out of reach.
    Tags, metadata and timeout work for every node; `model` and `temperature` are put into the
    `configurable` that the node sees.
    """
    nodes = {
        name: node if name.startswith(HIDDEN) else node.copy({"bound": _overridden(name, node)})
        for name, node in graph.nodes.items()
    }
    return graph.copy(update={"nodes": nodes})


def _overridden(name: str, node: Any) -> _OverriddenNode:
    inner = isinstance(node.bound, Pregel)
    return _OverriddenNode(name, with_node_overrides(node.bound) if inner else node.bound)


class _OverriddenNode(Runnable[Any, Any]):
    """A node's runnable that follows the override of the run for it, if there is one."""

    def __init__(self, name: str, bound: Runnable[Any, Any]) -> None:
        self.name = name
        self.bound = bound

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the node; a timeout needs the async way, because a thread cannot be stopped."""
        override = self._override(config)
        if override is None or config is None:
            return self.bound.invoke(input, config, **kwargs)
        if override.timeout is not None:
            return run_sync(self.ainvoke(input, config, **kwargs))
        with override.patched(config) as patched:
            return self.bound.invoke(input, patched, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the node."""
        override = self._override(config)
        if override is None or config is None:
            return await self.bound.ainvoke(input, config, **kwargs)
        with override.patched(config) as patched:
            work = self.bound.ainvoke(input, patched, **kwargs)
            return await override.in_time(str(self.name), work)

    def _override(self, config: RunnableConfig | None) -> NodeOverride | None:
        """The override of this run for the node; a task node follows it itself."""
        return None if follows_itself(self.bound) else override_for(config)
