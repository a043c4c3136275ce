"""Per-node overrides for graphs whose nodes know nothing of them: which a graph can follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from orcheo_agentensor.config.model import Problem, RunConfig, config_error
from orcheo_agentensor.config.overrides import (
    MODEL_FIELDS,
    NODE_OVERRIDES,
    overrides_in,
)
from orcheo_agentensor.upstream import node_function, takes_config

HIDDEN = "__"
CHAT_MODEL = "chat_model"
"""The key of a node's metadata, and the attribute of a task node's class, that makes `model` the
name of a chat model."""


def unfollowed_overrides(
    graph: Any, config: RunConfig, *, field: str, wrapped: bool = True
) -> Iterator[Problem]:
    """The overrides in `config` that name no node of `graph`, or that its node cannot follow.

    `wrapped` says that the graph will run through `with_node_overrides`.
    """
    given = overrides_in({"configurable": config.configurable})
    if not given:
        return
    known = {name: (node, own) for name, node, own in nodes_of(graph, "", reachable=wrapped)}
    for name, override in given.items():
        path = f"{field}.configurable.{NODE_OVERRIDES}.{name}"
        if name not in known:
            yield path, name, f"is not a node of the workflow; its nodes: {', '.join(known)}"
            continue
        node, own = known[name]
        takes = _followed(node, reachable=own)
        for what in override:
            if what not in takes:
                yield f"{path}.{what}", override[what], _why_not(what, own, wrapped)


def asked_models(graph: Any, config: RunConfig, *, field: str) -> Iterator[tuple[str, str]]:
    """Path and name of each model in `config` for a node that makes a chat model of the name."""
    given = overrides_in({"configurable": config.configurable})
    if not given:
        return
    known = {name: node for name, node, _own in nodes_of(graph, "", reachable=True)}
    for name, override in given.items():
        node = known.get(name)
        if node is None or "model" not in override:
            continue
        makes = getattr(_task_node(node.bound), CHAT_MODEL, False)
        if makes or (node.metadata or {}).get(CHAT_MODEL) is True:
            yield f"{field}.configurable.{NODE_OVERRIDES}.{name}.model", override["model"]


def require_followed(graph: Any, config: RunConfig, *, field: str = "config") -> None:
    """Raise `ConfigError` listing the overrides that cannot be followed."""
    problems = list(unfollowed_overrides(graph, config, field=field))
    if problems:
        raise config_error(problems, field)


def nodes_of(graph: Any, prefix: str, *, reachable: bool) -> Iterator[tuple[str, Any, bool]]:
    """Every node with its path, those of subgraphs after their node; and whether
    `with_node_overrides` reaches it."""
    for name, node in graph.nodes.items():
        if name.startswith(HIDDEN):
            continue
        yield prefix + name, node, reachable
        for inner in node.subgraphs or ():
            if hasattr(inner, "nodes"):
                below = reachable and inner is node.bound
                yield from nodes_of(inner, f"{prefix}{name}|", reachable=below)


def node_names(target: Any) -> list[str]:
    """The names of a target's nodes, those inside subgraphs by the names on the way to them; none
    for a function."""
    inner = getattr(target, "built", None) or getattr(target, "inner", target)
    graph = getattr(inner, "runnable", None)
    if hasattr(graph, "nodes"):
        return [name for name, _node, _own in nodes_of(graph, "", reachable=True)]
    ends = [name for edge in inner.edges for name in edge]
    return [name for name in dict.fromkeys(ends) if not name.startswith(HIDDEN)]


def require_nodes(target: Any, names: Iterable[str], *, field: str) -> None:
    """Raise `ConfigError` naming those of `names` that are no nodes of a target."""
    known = node_names(target)
    there = f"its nodes: {', '.join(known)}" if known else "it has none"
    problems = [
        (field, name, f"is not a node of {target.name!r}; {there}")
        for name in names
        if name not in known
    ]
    if problems:
        raise config_error(problems, field)


def follows_itself(bound: Any) -> bool:
    """Whether a node's runnable is made of a `TaskNode`, which follows overrides itself."""
    return _task_node(bound) is not None


def _task_node(bound: Any) -> Any:
    """The object behind a node's runnable that follows overrides itself (a `TaskNode`), or None."""
    made_of = node_function(bound)
    is_task = isinstance(made_of, BaseModel) and hasattr(made_of, "decode_variables")
    return made_of if is_task else None


def _followed(node: Any, *, reachable: bool) -> set[str]:
    """What of an override reaches this node."""
    task = _task_node(node.bound)
    if task is not None:
        return {"timeout", "tags", "metadata", *(set(MODEL_FIELDS) & set(type(task).model_fields))}
    declared = (node.metadata or {}).get("overrides")
    if not reachable:
        return set(declared or ()) & set(MODEL_FIELDS)
    if declared is None and takes_config(node.bound):
        declared = MODEL_FIELDS  # it may look there, as it may for any other key of `configurable`
    specs = {spec.id for spec in getattr(node.bound, "config_specs", ()) or ()}
    looked_for = set(MODEL_FIELDS) & {*(declared or ()), *specs}
    return {"timeout", "tags", "metadata", *looked_for}


def _why_not(what: str, own: bool, wrapped: bool) -> str:
    if what in MODEL_FIELDS:
        return (
            "cannot be overridden: the node does not look for it; it can say that it does with "
            f"add_node(…, metadata={{'overrides': ['{what}']}})"
        )
    if not own and wrapped:
        return "cannot be overridden: its graph is called by a node, not a node itself"
    if not own:
        return "cannot be overridden from outside; serve the workflow with `serve`, or configure it"
    return "cannot be overridden"
