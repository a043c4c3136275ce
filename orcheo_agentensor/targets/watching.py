"""A graph whose nodes are seen to read the config: for bound prompts that go into no message."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.runnables.config import var_child_runnable_config

from orcheo_agentensor.tape_watch import Tree, watched_config


def watched_graph(runnable: Runnable[Any, Any], tree: Tree) -> Runnable[Any, Any]:
    """A copy of a graph whose function nodes, nested ones too, get a watched `configurable`.

    The graph itself stays as it is. Nodes that are other runnables, and graphs that a node calls,
    are left alone: they are seen through their model calls.
    """
    from langgraph.pregel import Pregel

    from orcheo_agentensor.targets.configured import Configured

    if isinstance(runnable, Configured):
        outer = copy.copy(runnable)
        outer.graph = watched_graph(runnable.graph, tree)
        return outer
    if not isinstance(runnable, Pregel):
        return runnable
    clone = copy.copy(runnable)
    clone.nodes = {name: _watched_node(node, tree) for name, node in runnable.nodes.items()}
    return clone


def _watched_node(node: Any, tree: Tree) -> Any:
    from langgraph._internal._runnable import RunnableCallable

    if isinstance(node.bound, RunnableCallable):
        bound = copy.copy(node.bound)
        bound.func = bound.func and _watching(bound.func, tree)
        bound.afunc = bound.afunc and _watching_async(bound.afunc, tree)
        return node.copy({"bound": bound})
    nested = watched_graph(node.bound, tree)
    if nested is node.bound:
        return node
    return node.copy({"bound": nested, "subgraphs": [nested] if node.subgraphs else []})


def _watching(call: Callable[..., Any], tree: Tree) -> Callable[..., Any]:
    def node(*args: Any, **kwargs: Any) -> Any:
        with _watched(kwargs, tree):
            return call(*args, **kwargs)

    return update_wrapper(node, call, updated=())


def _watching_async(call: Callable[..., Any], tree: Tree) -> Callable[..., Any]:
    async def node(*args: Any, **kwargs: Any) -> Any:
        with _watched(kwargs, tree):
            return await call(*args, **kwargs)

    return update_wrapper(node, call, updated=())


@contextmanager
def _watched(kwargs: dict[str, Any], tree: Tree) -> Iterator[None]:
    """Watch the config that a node is given, and the one that it may ask the context for."""
    if kwargs.get("config") is not None:
        kwargs["config"] = watched_config(kwargs["config"], tree)
    ambient = var_child_runnable_config.get()
    if ambient is None:
        yield
        return
    token = var_child_runnable_config.set(watched_config(ambient, tree))
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
