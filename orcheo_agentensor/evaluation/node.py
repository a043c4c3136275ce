"""Adding our subgraphs to a host graph whose state has another shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from orcheo_agentensor.evaluation.job_graph import refuse_unknown
from orcheo_agentensor.targets.base import compiled

MapInput = Callable[[Any], Mapping[str, Any]]
MapOutput = Callable[[dict[str, Any]], Any]
HostNode = Callable[[Any], Awaitable[Any]]

ENOUGH_STEPS = 10_000_000
"""The recursion limit of our subgraphs: a host's is for its own loops, and budgets end ours."""


def subgraph_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node that runs `graph`, compiled or not, as a subgraph.

    `map_input` makes the job from the host's state (by default the state's keys that are job
    fields), `map_output` makes the host's update from the result (by default the result itself).
    Events, interrupts and checkpoints pass through the host.
    """
    inner = compiled(graph)
    fields = set(inner.get_input_jsonschema().get("properties", {}))

    async def node(state: Any) -> Any:
        given = _as_mapping(state)
        job = map_input(state) if map_input else {k: v for k, v in given.items() if k in fields}
        refuse_unknown(job, fields)
        result = await inner.ainvoke(dict(job), {"recursion_limit": ENOUGH_STEPS})
        return map_output(result) if map_output else result

    node.__name__ = str(inner.get_name())
    return node


def evaluation_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node for an evaluation graph; see `subgraph_node`."""
    return subgraph_node(graph, map_input=map_input, map_output=map_output)


def _as_mapping(state: Any) -> Mapping[str, Any]:
    if isinstance(state, Mapping):
        return state
    return dict(state) if hasattr(state, "__iter__") else vars(state)
