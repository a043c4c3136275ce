"""`WrappedGraph`: a `Runnable` around a graph, which is in all else what the graph is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable, RunnableConfig

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph


class WrappedGraph(Runnable[Any, Any]):
    """A base for what runs `graph` in a way of its own.

    Anything that is not about running is the graph's own: its name, drawing and schemas, and what a
    `Runnable` does not have (`get_state`, `update_state`, `checkpointer`, …).
    """

    def __init__(self, graph: Runnable[Any, Any]) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        if name == "graph":  # an object that is being copied has none yet
            raise AttributeError(name)
        return getattr(self.graph, name)

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """The graph's name."""
        return self.graph.get_name(suffix, name=name)

    def get_graph(self, config: RunnableConfig | None = None, **kwargs: Any) -> Graph:
        """The graph's drawing."""
        return self.graph.get_graph(config, **kwargs)

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        """The graph's input schema."""
        return self.graph.get_input_schema(config)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The graph's input schema as JSON Schema."""
        return self.graph.get_input_jsonschema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> Any:
        """The graph's output schema."""
        return self.graph.get_output_schema(config)

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The graph's output schema as JSON Schema."""
        return self.graph.get_output_jsonschema(config)
