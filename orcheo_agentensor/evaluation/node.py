"""Adding our subgraphs to a host graph whose state has another shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from langchain_core.runnables.config import var_child_runnable_config

from orcheo_agentensor.evaluation.job_graph import refuse_unknown, run_id_inside
from orcheo_agentensor.events import listening
from orcheo_agentensor.targets.base import compiled

MapInput = Callable[[Any], Mapping[str, Any]]
MapOutput = Callable[[dict[str, Any]], Any]


class HostNode(Protocol):
    """A node function, as `StateGraph.add_node` takes it."""

    def __call__(self, state: Any) -> Awaitable[Any]:
        """Run once; returns the host's update."""
        ...


INSIDE_A_GRAPH, STREAMED_SUBGRAPHS = "__pregel_runtime", "__pregel_stream"
"""The keys under which LangGraph hands its runtime to nodes, and the host's stream to subgraphs
that are streamed with it."""

ENOUGH_STEPS = 10_000_000
"""The recursion limit of our subgraphs: a host's is for its own loops, and budgets end ours."""


def subgraph_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node that runs `graph`, compiled or not, as a subgraph.

    `map_input` makes the job from the host's state (by default the state's keys that are job
    fields), `map_output` makes the host's update from the result (by default the result itself).
    Events, interrupts and checkpoints pass through the host. A node that is executed again, on a
    resume or a retry, goes on with the run it had begun.
    """
    inner = compiled(graph)
    fields = set(inner.get_input_jsonschema().get("properties", {}))

    async def node(state: Any) -> Any:
        given = _as_mapping(state)
        job = map_input(state) if map_input else {k: v for k, v in given.items() if k in fields}
        refuse_unknown(job, fields)
        result = await run_inside(inner, job)
        return map_output(result) if map_output else result

    node.__name__ = str(inner.get_name())
    return node


async def run_inside(inner: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run the compiled `inner` on `job` inside a node of a host, once; returns its output."""
    configurable = (var_child_runnable_config.get() or {}).get("configurable", {})
    namespace = configurable.get("checkpoint_ns", "")
    if namespace and job.get("run_id") is None:
        # LangGraph counts attempts of a node into the namespace of what the node calls.
        run_id = run_id_inside(configurable.get("thread_id"), namespace, job)
        job = {**job, "run_id": run_id}
    with _heard_by_host(configurable):
        result: dict[str, Any] = await inner.ainvoke(dict(job), {"recursion_limit": ENOUGH_STEPS})
    return result


@contextmanager
def _heard_by_host(configurable: Mapping[str, Any]) -> Iterator[None]:
    """Hand the events on to the host's own custom stream, where it does not stream its subgraphs.

    LangGraph drops what subgraphs write unless they are streamed too.
    """
    from langgraph.config import get_stream_writer

    if INSIDE_A_GRAPH not in configurable or STREAMED_SUBGRAPHS in configurable:
        yield
        return
    with listening(get_stream_writer()):
        yield


def evaluation_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node for an evaluation graph; see `subgraph_node`."""
    return subgraph_node(graph, map_input=map_input, map_output=map_output)


def _as_mapping(state: Any) -> Mapping[str, Any]:
    if isinstance(state, Mapping):
        return state
    return dict(state) if hasattr(state, "__iter__") else vars(state)
