"""`WrappedGraph`: a `Runnable` around a graph, which is in all else what the graph is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_executor_for_config
from langchain_core.runnables.utils import gather_with_concurrency

from orcheo_agentensor.config.model import (
    RunConfig,
    join_callbacks,
    merge_configs,
    resolve_config,
    runtime_configurable,
)
from orcheo_agentensor.config.overrides import overrides_in
from orcheo_agentensor.errors import AgentensorError, ConfigError
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import CONTEXT
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import is_taping
from orcheo_agentensor.targets.context import (
    bound_context,
    check_context_binds,
    compiled,
    context_binds,
)
from orcheo_agentensor.targets.overriding import (
    has_overrides,
    require_followed,
    with_node_overrides,
)

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph
    from langgraph.graph import StateGraph

    from orcheo_agentensor.storage import Store


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


T = TypeVar("T")
_Ending = Literal["finished", "failed", "interrupted", "paused"]

_logger = logging.getLogger(__name__)
_MOST_ERROR_TEXT = 2_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run gets: `runnable` is handed to the graph, `config` is what is recorded.

    `base` is the stored version that the config was merged over, if any; `refs` is recorded too.
    """

    runnable: RunnableConfig | None
    config: RunConfig
    base: int | None = None
    refs: Mapping[str, Any] = field(default_factory=dict)


class RunLog:
    """Writes the records of one workflow's runs; the graph is asked whether a run has paused."""

    def __init__(self, store: Store, workflow_id: str, graph: Runnable[Any, Any]) -> None:
        self.store = store
        self._workflow_id = workflow_id
        self._graph: Any = graph

    @contextmanager
    def recorded(self, plan: Plan) -> Iterator[RunnableConfig | None]:
        """Record the run inside the block; gives the config to run with."""
        run_id = wait_for(self._begin(plan))
        try:
            yield plan.runnable
        except BaseException as error:
            wait_for(self._end(run_id, *_ending(error)))
            raise
        thread = self._thread(plan)
        paused = thread is not None and bool(self._graph.get_state(thread).next)
        wait_for(self._end(run_id, "paused" if paused else "finished"))

    @asynccontextmanager
    async def arecorded(self, plan: Plan) -> AsyncIterator[RunnableConfig | None]:
        """The async twin of `recorded`."""
        run_id = await self._begin(plan)
        try:
            yield plan.runnable
        except BaseException as error:
            await self._end(run_id, *_ending(error))
            raise
        thread = self._thread(plan)
        paused = thread is not None and bool((await self._graph.aget_state(thread)).next)
        await self._end(run_id, "paused" if paused else "finished")

    async def _begin(self, plan: Plan) -> str:
        from orcheo_agentensor.storage import RunRecord

        stored = plan.config.to_json()
        thread_id = plan.config.configurable.get("thread_id")
        refs = {"base_version": plan.base, "trace_id": stored.get("run_id"), **plan.refs}
        record = RunRecord(
            run_id=self.store.new_id(),
            workflow_id=self._workflow_id,
            mode="run",
            job_hash=content_hash({"mode": "run", "config": stored}),
            config=stored,
            thread_id=None if thread_id is None else str(thread_id),
            refs={key: value for key, value in refs.items() if value is not None},
            started_at=self.store.clock(),
        )
        await self.store.runs.create(record)
        return record.run_id

    async def _end(self, run_id: str, status: _Ending, error: str | None = None) -> None:
        try:
            await self.store.runs.update(
                run_id, status=status, error=error, ended_at=self.store.clock()
            )
        except AgentensorError as trouble:  # the run itself is over, and its outcome stands
            _logger.warning("run %s is %s, which could not be stored: %s", run_id, status, trouble)

    def _thread(self, plan: Plan) -> RunnableConfig | None:
        """The config of the thread to look at, where the graph keeps one of its own."""
        thread_id = plan.config.configurable.get("thread_id")
        if thread_id is None or not getattr(self._graph, "checkpointer", None):
            return None
        return {"configurable": {"thread_id": thread_id}}


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end from synchronous code, inside a running event loop too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _ending(error: BaseException) -> tuple[_Ending, str | None]:
    from langgraph.errors import GraphDrained, GraphInterrupt, ParentCommand

    if isinstance(error, ParentCommand):  # a jump in the graph around this one
        return "finished", None
    if isinstance(error, GraphInterrupt):
        return "paused", None
    if isinstance(error, GraphDrained) or not isinstance(error, Exception):
        return "interrupted", None
    text = error.message if isinstance(error, AgentensorError) else repr(error)
    return "failed", redact(text)[:_MOST_ERROR_TEXT]


def configure(
    graph: StateGraph[Any, Any, Any, Any] | Runnable[Any, Any],
    *,
    workflow_id: str,
    defaults: Mapping[str, Any] | RunConfig | None = None,
    store: Store | str | None = None,
    settings: Settings | None = None,
) -> Configured:
    """`graph`, with a config that is checked, merged and recorded before each run.

    The config of a call goes over the version it asks for (`configurable.agentensor.use`, an alias
    or a number in `store`), which goes over the defaults kept in the store, which go over
    `defaults`; then limits are capped by `settings`. With a `store` (or the URL of one) every run
    leaves a record of mode "run". Other than that a call does what the graph does, and without any
    config exactly what the bare graph does.

    `graph` may be uncompiled; it is then compiled once, without a checkpointer. Callers are in this
    process and trusted: they may pass live callbacks, which reach every node and are never stored.
    Raises `ConfigError` for bad `defaults` here, and for a bad config at the call.
    """
    return Configured(
        compiled(graph),
        workflow_id=workflow_id,
        defaults=defaults,
        store=store,
        settings=settings or Settings(),
    )


class Configured(WrappedGraph):
    """What `configure` returns: a `Runnable` that runs `graph`; see there."""

    def __init__(
        self,
        graph: Runnable[Any, Any],
        *,
        workflow_id: str,
        defaults: Mapping[str, Any] | RunConfig | None,
        store: Store | str | None,
        settings: Settings,
    ) -> None:
        super().__init__(graph)
        self.workflow_id = workflow_id
        self._defaults, live = RunConfig.trusted(defaults, field="defaults")
        self._callbacks = list(live if isinstance(live, Sequence) else live.handlers)
        self._settings = settings
        self.check(self._defaults.prompts)
        self._log = None if store is None else RunLog(_opened(store), workflow_id, graph)
        if self._log is None:
            self._refuse_use(self._defaults, "defaults")

    # -- Running -------------------------------------------------------------------------------

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the graph's `invoke`."""
        if self._log is None:
            plan = self._plan(config)
            return self._graph_for(plan).invoke(input, plan.runnable, **self._placed(plan, kwargs))
        plan = wait_for(self._stored_plan(config, self._log))
        with self._log.recorded(plan) as runnable:
            return self._graph_for(plan).invoke(input, runnable, **self._placed(plan, kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the graph's `ainvoke`."""
        if self._log is None:
            plan = self._plan(config)
            return await self._graph_for(plan).ainvoke(
                input, plan.runnable, **self._placed(plan, kwargs)
            )
        plan = await self._stored_plan(config, self._log)
        async with self._log.arecorded(plan) as runnable:
            return await self._graph_for(plan).ainvoke(
                input, runnable, **self._placed(plan, kwargs)
            )

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """As the graph's `stream`."""
        if self._log is None:
            plan = self._plan(config)
            yield from self._graph_for(plan).stream(
                input, plan.runnable, **self._placed(plan, kwargs)
            )
            return
        plan = wait_for(self._stored_plan(config, self._log))
        with self._log.recorded(plan) as runnable:
            placed = self._placed(plan, kwargs)
            chunks = cast("Any", self._graph_for(plan).stream(input, runnable, **placed))
            with closing(chunks):
                yield from chunks

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As the graph's `astream`."""
        async with aclosing(self._astream("astream", input, config, kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def astream_events(  # type: ignore[override]
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As the graph's `astream_events` (versions "v1" and "v2")."""
        events = self._astream("astream_events", input, config, kwargs)
        async with aclosing(events):
            async for event in events:
                yield event

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As the graph's `batch`."""
        configs = _one_each(config, len(inputs))
        plans = [self._plan(one, recorded=self._log is not None) for one in configs]
        if not inputs or self._all_at_once(plans):
            return self.graph.batch(
                inputs, _runnables(plans), return_exceptions=return_exceptions, **kwargs
            )

        def call(input: Any, config: RunnableConfig | None) -> Any:
            try:
                return self.invoke(input, config, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        with get_executor_for_config(plans[0].runnable) as executor:
            return list(executor.map(call, inputs, configs))

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As the graph's `abatch`."""
        configs = _one_each(config, len(inputs))
        plans = [self._plan(one, recorded=self._log is not None) for one in configs]
        if not inputs or self._all_at_once(plans):
            return await self.graph.abatch(
                inputs, _runnables(plans), return_exceptions=return_exceptions, **kwargs
            )

        async def call(input: Any, config: RunnableConfig | None) -> Any:
            try:
                return await self.ainvoke(input, config, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        most = plans[0].config.max_concurrency
        return await gather_with_concurrency(most, *map(call, inputs, configs))

    async def _astream(
        self,
        method: str,
        input: Any,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[Any]:
        if self._log is None:
            plan = self._plan(config)
            placed = self._placed(plan, kwargs)
            stream = getattr(self._graph_for(plan), method)
            async with aclosing(stream(input, plan.runnable, **placed)) as parts:
                async for part in parts:
                    yield part
            return
        plan = await self._stored_plan(config, self._log)
        stream = getattr(self._graph_for(plan), method)
        async with (
            self._log.arecorded(plan) as runnable,
            aclosing(stream(input, runnable, **self._placed(plan, kwargs))) as parts,
        ):
            async for part in parts:
                yield part

    def _placed(self, plan: Plan, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call with the prompts in place that bind to the context."""
        bound = context_binds(plan.config.prompts)
        if not bound:
            return kwargs
        self.check(plan.config.prompts)
        context = kwargs.get("context")
        if context is None:  # in a node of another graph: the context around it
            runtime = (plan.runnable or {}).get("configurable", {}).get("__pregel_runtime")
            context = getattr(runtime, "context", None)
        schema = getattr(self.graph, "context_schema", None)
        context = bound_context(schema, context, bound)
        if is_taping():
            from orcheo_agentensor.tape import bound_tree, watched

            context = watched(context, bound_tree(plan.config.prompts, CONTEXT))
        return {**kwargs, "context": context}

    def _all_at_once(self, plans: Sequence[Plan]) -> bool:
        """Whether the graph's own batching will do: no records, one context, the nodes as is."""
        return self._log is None and not any(
            context_binds(plan.config.prompts) or has_overrides(plan.runnable) for plan in plans
        )

    def check(self, prompts: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where the graph has no context for a prompt that binds to it."""
        schema = getattr(self.graph, "context_schema", None)
        check_context_binds(schema, prompts, who=repr(self.workflow_id))

    def _graph_for(self, plan: Plan) -> Any:
        """The graph; with nodes that follow overrides only where a run has some."""
        if not has_overrides(plan.runnable):
            return self.graph
        if not hasattr(self.graph, "nodes"):
            raise ConfigError(
                field="config.configurable.node_overrides",
                value=[*overrides_in(plan.runnable)],
                rule="names nodes, but the workflow is not a graph",
            )
        require_followed(self.graph, plan.config)
        return self._overridable

    @cached_property
    def _overridable(self) -> Any:
        return with_node_overrides(self.graph)

    # -- The config ----------------------------------------------------------------------------

    async def _stored_plan(self, config: RunnableConfig | None, log: RunLog) -> Plan:
        """The plan of a run over what the store has: defaults, and the version asked for."""
        request, _ = RunConfig.trusted(config)
        record = await log.store.workflows.get(self.workflow_id)
        stored = RunConfig.parse(record.default_config if record else None, field="defaults")
        use = merge_configs(self._defaults, stored, request).use
        if use is None:
            return self._plan(config, recorded=True, stored=stored)
        version = await log.store.checkpoints.get(self.workflow_id, use)
        return self._plan(
            config,
            recorded=True,
            stored=stored,
            checkpoint=RunConfig.parse(version.runnable_config, field="checkpoint"),
            base=version.config_version,
        )

    def _plan(
        self,
        config: RunnableConfig | None,
        *,
        recorded: bool = False,
        stored: RunConfig | None = None,
        checkpoint: RunConfig | None = None,
        base: int | None = None,
    ) -> Plan:
        request, live = RunConfig.trusted(config)
        if not recorded:
            self._refuse_use(request, "config")
        workflow = merge_configs(self._defaults, stored or RunConfig())
        merged = resolve_config(
            request, checkpoint=checkpoint, workflow=workflow, settings=self._settings
        )
        runnable = merged.to_runnable(join_callbacks(self._callbacks, live))
        runtime = runtime_configurable(config)
        if runtime:
            runnable["configurable"] = {**runnable.get("configurable", {}), **runtime}
        # Nothing to say: the graph then gets the very config it was called with, or none.
        return Plan(runnable=runnable or config, config=merged, base=base)

    @staticmethod
    def _refuse_use(config: RunConfig, field: str) -> None:
        if config.use is not None:
            raise ConfigError(
                field=f"{field}.configurable.agentensor.use",
                value=config.use,
                rule="names a stored version, but the workflow was configured without a store",
            )


def _opened(store: Store | str) -> Store:
    from orcheo_agentensor.storage import Store

    return Store.from_url(store) if isinstance(store, str) else store


def _one_each(
    config: RunnableConfig | Sequence[RunnableConfig] | None, count: int
) -> list[RunnableConfig | None]:
    """A config for each input; a run id belongs to the first run alone."""
    if isinstance(config, Sequence):
        if len(config) != count:
            raise ConfigError(
                f"config: there are {len(config)} configs for {count} inputs",
                field="config",
                value=len(config),
                rule="must be one config, or one for each input",
            )
        return list(config)
    later = config
    if isinstance(config, Mapping) and "run_id" in config:
        later = cast("RunnableConfig", {k: v for k, v in config.items() if k != "run_id"})
    return [config if index == 0 else later for index in range(count)]


def _runnables(plans: Sequence[Plan]) -> list[RunnableConfig] | None:
    runnables = [plan.runnable for plan in plans]
    if all(runnable is None for runnable in runnables):
        return None
    return [runnable or RunnableConfig() for runnable in runnables]
