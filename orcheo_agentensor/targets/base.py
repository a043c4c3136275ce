"""The target protocol, and the two kinds that run in this process."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from orcheo_agentensor.errors import BadInput, RunFailed
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.tape import TARGET_NODE

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph


@runtime_checkable
class Target(Protocol):
    """The workflow under test, whatever it is made of.

    `name` is shown to people; `fingerprint` takes part in the content keys of rollouts; `edges`
    are the static edges of its graph, for the tape.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def edges(self) -> tuple[tuple[str, str], ...]: ...

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Execute once and return the raw output; raises whatever the workflow raises."""
        ...


@dataclass(frozen=True)
class CallableTarget:
    """A function `(inputs, config) -> output` or `(inputs) -> output`, async or sync.

    A sync function runs in a thread. `get_prompt("NAME")` works inside either.
    """

    function: Callable[..., Any]
    name: str
    fingerprint: str
    takes_config: bool
    is_async: bool
    edges: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any], *, name: str | None = None) -> CallableTarget:
        """Wrap `function`; raises `BadInput` when it cannot be called with one or two values."""
        shown = name or str(getattr(function, "__name__", type(function).__name__))
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        required = [p for p in positional if p.default is p.empty]
        if len(required) > 2 or not (positional or _takes_star_args(parameters)):
            raise BadInput(
                f"target: {shown!r} must take (inputs) or (inputs, config)",
                field="target",
                value=shown,
                rule="must take (inputs) or (inputs, config)",
            )
        takes_config = len(required) == 2 or (
            len(positional) > 1 and positional[1].name == "config"
        )
        call = getattr(function, "__call__", function)  # noqa: B004 - its code is inspected
        return cls(
            function=function,
            name=shown,
            fingerprint=f"{getattr(function, '__module__', '')}:{shown}",
            takes_config=takes_config,
            is_async=inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call),
        )

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Call the function with this config as the ambient one."""
        token = var_child_runnable_config.set(config)
        try:
            arguments = (inputs, config) if self.takes_config else (inputs,)
            if self.is_async:
                return await self.function(*arguments)
            result = await run_in_thread(self.function, *arguments)
            return await result if inspect.isawaitable(result) else result
        finally:
            var_child_runnable_config.reset(token)


def _takes_star_args(parameters: list[inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_POSITIONAL for p in parameters)


@dataclass(frozen=True)
class RunnableTarget:
    """Any LangChain `Runnable`: a compiled graph, a `RemoteGraph`, a chain."""

    runnable: Runnable[Any, Any]
    name: str
    fingerprint: str
    edges: tuple[tuple[str, str], ...] = ()
    context_fields: tuple[str, ...] | None = None
    has_saver: bool = False

    @classmethod
    def of(cls, runnable: Runnable[Any, Any], *, name: str | None = None) -> RunnableTarget:
        """Wrap `runnable`, reading the graph's edges and context schema where it is a graph."""
        from langgraph.pregel import Pregel

        from orcheo_agentensor.targets.configured import Configured

        shown = name or runnable.get_name()
        graph = runnable.graph if isinstance(runnable, Configured) else runnable
        if not isinstance(graph, Pregel):
            return cls(runnable=runnable, name=shown, fingerprint=shown)
        return cls(
            runnable=runnable,
            name=shown,
            fingerprint=shown,
            edges=_edges(graph),
            context_fields=_fields(getattr(graph, "context_schema", None)),
            has_saver=bool(graph.checkpointer),
        )

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Invoke as a root run: nothing of the graph we run in leaks into the target.

        A graph with a checkpointer gets a thread of its own each time.
        """
        configurable = dict(config.get("configurable") or {})
        kwargs: dict[str, Any] = {}
        if self.context_fields is not None:
            kwargs["context"] = {
                k: configurable[k] for k in self.context_fields if k in configurable
            }
        if self.has_saver:  # on a shared thread it would go on from another case or attempt
            configurable["thread_id"] = f"{rollout_id}-{uuid.uuid4().hex[:12]}"
            config = {**config, "configurable": configurable}
        token = var_child_runnable_config.set(None)
        try:
            output = await self.runnable.ainvoke(inputs, config, **kwargs)
        finally:
            var_child_runnable_config.reset(token)
        if isinstance(output, Mapping) and "__interrupt__" in output:
            raise RunFailed(
                "the target paused with interrupt(); a target under evaluation must run to its end"
            )
        return output


def _edges(graph: Any) -> tuple[tuple[str, str], ...]:
    return tuple((edge.source, edge.target) for edge in graph.get_graph().edges)


def _fields(schema: Any) -> tuple[str, ...] | None:
    if schema is None:
        return None
    hints = getattr(schema, "model_fields", None) or getattr(schema, "__annotations__", None)
    return tuple(hints or ())


def compiled(graph: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A `StateGraph` compiled, a compiled one as it is."""
    from langgraph.graph import StateGraph

    return graph.compile() if isinstance(graph, StateGraph) else graph


__all__ = ["TARGET_NODE", "CallableTarget", "RunnableTarget", "Target", "compiled"]
