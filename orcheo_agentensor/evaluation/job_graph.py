"""A graph whose input is a job: a key that no job has is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from orcheo_agentensor.errors import ConfigError, shorten

if TYPE_CHECKING:
    from orcheo_agentensor.evaluation.resolve import Prepared

StateT = TypeVar("StateT", bound=Any)
InputT = TypeVar("InputT", bound=Any)
OutputT = TypeVar("OutputT", bound=Any)


class JobGraph(StateGraph[StateT, None, InputT, OutputT]):
    """A `StateGraph` that does not drop unknown input keys, as LangGraph does, but refuses them.

    As a node of a host that shares its state, it takes from that state what it knows. `check_job`
    checks and resolves a job as a run would, and writes nothing.
    """

    check_job: Callable[[Mapping[str, Any]], Awaitable[Prepared[Any]]]

    def compile(
        self, *args: Any, **kwargs: Any
    ) -> CompiledStateGraph[StateT, None, InputT, OutputT]:
        """As `StateGraph.compile`."""
        known = set(self.schemas[self.input_schema])

        def check(job: Any, config: RunnableConfig) -> Any:
            is_subgraph = "|" in config.get("configurable", {}).get("checkpoint_ns", "")
            if isinstance(job, Mapping) and not is_subgraph:
                refuse_unknown(job, known)
            return job

        compiled = super().compile(*args, **kwargs)
        start = compiled.nodes[START]
        compiled.nodes[START] = start.copy({"bound": RunnableLambda(check), "subgraphs": []})
        return compiled


def refuse_unknown(job: Mapping[str, Any], known: set[str]) -> None:
    """Raise `ConfigError` naming every key of `job` that is not `known`."""
    rule = f"no such field; known: {', '.join(sorted(known))}"
    problems = [
        {"field": f"job.{key}", "value": shorten(value), "rule": rule}
        for key, value in job.items()
        if key not in known
    ]
    if problems:
        fields = ", ".join(str(problem["field"]) for problem in problems)
        raise ConfigError(f"{fields}: {rule}", problems=problems)
