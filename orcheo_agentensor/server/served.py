"""`serve`: a workflow as a LangGraph server runs it, with its config resolved and recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph

from orcheo_agentensor.config.model import RunConfig, join_callbacks, runtime_configurable
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.server.review import RESOLVED_BY, Resolved, flag_of, resolve
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.overriding import (
    has_overrides,
    require_followed,
    with_node_overrides,
)
from orcheo_agentensor.targets.served import Plan, RunLog

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store


def serve(
    graph: StateGraph[Any, Any, Any, Any],
    *,
    workflow_id: str,
    store: Store | str | None = None,
    settings: Settings | None = None,
) -> ServedGraph:
    """`graph` compiled for a LangGraph server: name what this returns in `langgraph.json`.

    While the flag `runnable_config_enabled` is on for `workflow_id`, a run's config goes over the
    stored version that it asks for (`configurable.agentensor.use`) and over the workflow's stored
    defaults, its nodes follow `configurable.node_overrides`, and it leaves a record of mode "run".
    With the flag off it runs as the bare graph does. Give the graph its workflow's id as its name
    in `langgraph.json`.
    """
    from orcheo_agentensor.storage import Store

    settings = settings or Settings()
    opened = store if isinstance(store, Store) else Store.from_url(store or settings.database_url)
    bare = graph.compile(name=workflow_id)
    return ServedGraph(**vars(bare), workflow=Workflow(workflow_id, opened, settings))


class Workflow:
    """What a served graph knows of itself; shared by its copies."""

    def __init__(self, workflow_id: str, store: Store, settings: Settings) -> None:
        self.workflow_id = workflow_id
        self.store = store
        self.settings = settings

    async def plan(self, config: RunnableConfig | None, graph: Any) -> Plan | None:
        """What a run gets; None where it is to run as the bare graph does."""
        given = config or {}
        metadata = given.get("metadata") or {}
        done = metadata.get(RESOLVED_BY) == self.workflow_id
        if not done and not await flag_of(
            "runnable_config_enabled", self.workflow_id, self.store, self.settings
        ):
            return None
        request, live = RunConfig.trusted(_own_parts(given))
        found = (
            Resolved(config=request, base=metadata.get("agentensor_version"))
            if done
            else await resolve(request, self.workflow_id, self.store, self.settings)
        )
        require_followed(graph, found.config)
        runnable = found.config.to_runnable(join_callbacks([], live))
        if "recursion_limit" in given:  # the server's own, unless the request or a default has one
            runnable.setdefault("recursion_limit", given["recursion_limit"])
        runtime = runtime_configurable(config)
        if runtime:
            runnable["configurable"] = {**runnable.get("configurable", {}), **runtime}
        base = found.base if isinstance(found.base, int) else None
        refs = {"identity": runtime.get("langgraph_auth_user_id") or None}
        return Plan(runnable=runnable, config=found.config, base=base, refs=refs)


class ServedGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """What `serve` returns; a graph like any other to the server."""

    def __init__(self, *, workflow: Workflow, **attributes: Any) -> None:
        own = {key: value for key, value in attributes.items() if not key.startswith("_")}
        super().__init__(**own)
        self.workflow = workflow

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As the graph's `astream`, with the config resolved and the run recorded."""
        plan = await self.workflow.plan(config, self)
        if plan is None:
            async with aclosing(cast("Any", super().astream(input, config, **kwargs))) as parts:
                async for part in parts:
                    yield part
            return
        log = RunLog(self.workflow.store, self.workflow.workflow_id, self)
        stream = self._bare(plan).astream
        async with (
            log.arecorded(plan) as runnable,
            aclosing(stream(input, runnable, **kwargs)) as parts,
        ):
            async for part in parts:
                yield part

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """As the graph's `stream`; for callers in this process."""
        from orcheo_agentensor.targets.served import wait_for

        plan = wait_for(self.workflow.plan(config, self))
        if plan is None:
            yield from super().stream(input, config, **kwargs)
            return
        log = RunLog(self.workflow.store, self.workflow.workflow_id, self)
        with log.recorded(plan) as runnable:
            parts = self._bare(plan).stream(input, runnable, **kwargs)
            with closing(parts):
                yield from parts

    def _bare(self, plan: Plan) -> Any:
        """The graph under this one; with nodes that follow overrides where the run has some."""
        attributes = {
            key: value
            for key, value in vars(self).items()
            if key != "workflow" and not key.startswith("_")
        }
        bare: Any = CompiledStateGraph(**attributes)
        return with_node_overrides(bare) if has_overrides(plan.runnable) else bare


def _own_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what the server itself has put there."""
    own = {key: value for key, value in config.items() if key in RunConfig.model_fields}
    own.pop("recursion_limit", None)
    configurable = own.get("configurable")
    if not isinstance(configurable, Mapping | None):
        raise ConfigError(field="config.configurable", value=configurable, rule="must be an object")
    return own
