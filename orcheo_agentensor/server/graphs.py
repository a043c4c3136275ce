"""What the server serves under a graph's name, as far as requests depend on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from langgraph.graph import StateGraph


@dataclass(frozen=True, kw_only=True)
class Served:
    """A served graph: its compiled form (None for a factory), and what kind of jobs it takes.

    `trains` says that it is the training graph, or has it in it.
    """

    graph: Any
    wrapped: bool
    takes: Literal["evaluate", "train"] | None = None
    trains: bool = False
    check_job: Callable[..., Awaitable[Any]] | None = None


def served(graph_id: str) -> Served | None:
    """The graph of this name; None where the server has no such graph."""
    from langgraph_api.graph import GRAPHS

    return describe(GRAPHS[graph_id]) if graph_id in GRAPHS else None


def describe(value: Any) -> Served:
    """`value`, a graph or a factory of one, as requests see it."""
    from orcheo_agentensor.evaluation.job_graph import JobGraph
    from orcheo_agentensor.server.served import ServedGraph

    builder = value if isinstance(value, StateGraph) else getattr(value, "builder", None)
    if isinstance(builder, JobGraph):
        kind: Any = "train" if _is_training(builder) else "evaluate"
        return Served(
            graph=value,
            wrapped=False,
            takes=kind,
            trains=kind == "train",
            check_job=builder.check_job,
        )
    if isinstance(value, StateGraph):
        value = value.compile()
    known: Any = value if hasattr(value, "nodes") else None
    inner = known.get_subgraphs(recurse=True) if hasattr(known, "get_subgraphs") else ()
    trains = any(_is_training(getattr(graph, "builder", None)) for _name, graph in inner)
    return Served(graph=known, wrapped=isinstance(value, ServedGraph), trains=trains)


def _is_training(builder: Any) -> bool:
    from orcheo_agentensor.training import TrainingJob

    return getattr(builder, "input_schema", None) is TrainingJob


def assistant_id_of(name: str) -> str:
    """The assistant that `name` means: the default one of a graph of that name, else itself."""
    from langgraph_api.graph import get_assistant_id

    return str(get_assistant_id(name))
