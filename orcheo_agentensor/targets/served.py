"""`configure` and `serve`: a graph whose runs get a resolved config and leave a record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_executor_for_config, var_child_runnable_config
from langchain_core.runnables.config import merge_configs as merge_runnable_configs
from langchain_core.runnables.utils import gather_with_concurrency
from langgraph.channels import EphemeralValue
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.runtime import get_runtime
from langgraph.types import StateSnapshot

from orcheo_agentensor.config.model import (
    RunConfig,
    inherited_from,
    join_callbacks,
    runtime_configurable,
)
from orcheo_agentensor.config.overrides import NODE_OVERRIDES, node_path, overrides_in
from orcheo_agentensor.config.resolve import (
    ResolvedConfig,
    merge_configs,
    merge_objects,
    refuse_use,
    resolve,
    settle,
    version_refused,
)
from orcheo_agentensor.errors import AgentensorError, ConfigError, NotFound
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import CONTEXT, TextTensor, constant_in, is_content, part_in
from orcheo_agentensor.redaction import knowing, redact
from orcheo_agentensor.seeds import RUN_ID
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import bound_tree, is_taping, watched
from orcheo_agentensor.targets.constants import Values, load_constants, values_of
from orcheo_agentensor.targets.context import (
    bound_context,
    check_context_binds,
    check_graph,
    compiled,
    context_binds,
    field_names,
)
from orcheo_agentensor.targets.described import (
    SCHEMA,
    config_info,
    described,
    target_info,
    tree_of_process,
    with_environment,
)
from orcheo_agentensor.targets.isolation import provenance_of
from orcheo_agentensor.targets.media import (
    aeach_inside,
    each_inside,
    inside,
    kept_media,
    read_media,
)
from orcheo_agentensor.targets.offered import Forms, Offer
from orcheo_agentensor.targets.overriding import require_followed
from orcheo_agentensor.targets.wrapped import with_node_overrides
from orcheo_agentensor.upstream import in_langgraph_server, private_attributes

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

T = TypeVar("T")
AnyGraph: TypeAlias = "StateGraph[Any, Any, Any, Any] | Runnable[Any, Any]"
_Ending = Literal["finished", "failed", "interrupted", "paused"]

RESOLVED_BY = "agentensor_resolved"
"""The key of a run's metadata that names the workflow its config was resolved for on submission."""

SOURCES = "agentensor_sources"
"""The key of a run's metadata that says where each value of that config comes from."""

_THREAD_KEYS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
_MOST_ERROR_TEXT = 2_000
_logger = logging.getLogger(__name__)


def configure(
    graph: AnyGraph,
    *,
    workflow_id: str,
    defaults: Mapping[str, Any] | RunConfig | None = None,
    store: Store | str | None = None,
    settings: Settings | None = None,
) -> ServedGraph:
    """`graph`, with a config that is checked, merged and recorded before each run.

    The config of a call goes over the version that it asks for (`configurable.agentensor.use`),
    which goes over the defaults kept in the store, which go over `defaults`; then limits are
    capped. Other than that a call does what the graph does, and without any config exactly what
    the bare graph does. Callers are in this process and trusted: they may pass live callbacks,
    which reach every node and are never stored.

    Args:
        graph: A graph, compiled or not (it is then compiled, without a checkpointer). A `Runnable`
            that is no graph becomes a graph of one node.
        workflow_id: The name under which runs are recorded and versions looked up.
        defaults: The config that every run starts from.
        store: A `Store` or the URL of one; every run then leaves a record of mode "run".
        settings: The operator's settings; those of the environment when left out.

    Returns:
        A compiled graph: a server, a host graph and a job take it as they take `graph`.

    Raises:
        ConfigError: `defaults` break a rule, here; the config of a call does, at the call.

    Example:
        >>> from typing import TypedDict
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import configure, get_prompt
        >>> class State(TypedDict, total=False):
        ...     name: str
        ...     reply: str
        >>> builder = StateGraph(State).add_edge(START, "greet")
        >>> builder = builder.add_node(
        ...     "greet", lambda state: {"reply": f"{get_prompt('tone')} {state['name']}"}
        ... )
        >>> app = configure(builder, workflow_id="greet", defaults={"prompts": {"tone": "Hello"}})
        >>> app.invoke({"name": "Ada"})["reply"]
        'Hello Ada'
        >>> app.invoke({"name": "Ada"}, {"prompts": {"tone": "Dear"}})["reply"]
        'Dear Ada'
    """
    from orcheo_agentensor.storage import Store

    check_graph(graph, "configure")
    settings = settings or Settings()
    media: Mapping[str, str] = {}
    if isinstance(defaults, Mapping):
        defaults, media = read_media(defaults, settings)
    parsed, live = RunConfig.trusted(defaults, field="defaults")
    return _served(
        graph,
        Workflow(
            workflow_id=workflow_id,
            store=Store.from_url(store) if isinstance(store, str) else store,
            settings=settings,
            defaults=parsed,
            media=media,
            callbacks=list(live if isinstance(live, Sequence) else live.handlers),
        ),
    )


def serve(
    graph: AnyGraph,
    *,
    workflow_id: str,
    store: Store | str | None = None,
    settings: Settings | None = None,
) -> ServedGraph:
    """`graph` for a LangGraph server: name what this returns in `langgraph.json`.

    While the flag `runnable_config_enabled` is on for `workflow_id`, a run's config goes over the
    stored version that it asks for (`configurable.agentensor.use`) and over the workflow's stored
    defaults, its nodes follow `configurable.node_overrides`, and it leaves a record of mode "run".
    With the flag off it runs as the bare graph does.

    Args:
        graph: A graph, compiled or not.
        workflow_id: The workflow's id; also its name in `langgraph.json`.
        store: A `Store` or the URL of one; that of `settings` when left out.
        settings: The operator's settings; those of the environment when left out.

    Returns:
        A compiled graph.

    Raises:
        ConfigError: The config of a call breaks a rule.

    Example:
        >>> from typing import TypedDict
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import get_prompt, serve
        >>> class State(TypedDict, total=False):
        ...     name: str
        ...     reply: str
        >>> builder = StateGraph(State).add_edge(START, "greet")
        >>> def greet(state: State) -> State:
        ...     return {"reply": f"{get_prompt('tone', default='Hi')} {state['name']}"}
        >>> builder = builder.add_node("greet", greet)
        >>> graph = serve(builder, workflow_id="greet", store="greet.db")
        >>> graph.invoke({"name": "Ada"})["reply"]  # the flag is off: as the bare graph
        'Hi Ada'
    """
    from orcheo_agentensor.storage import Store

    check_graph(graph, "serve")
    settings = settings or Settings()
    opened = store if isinstance(store, Store) else Store.from_url(store or settings.database_url)
    workflow = Workflow(workflow_id=workflow_id, store=opened, settings=settings, by_flag=True)
    return _served(graph, workflow, name=workflow_id)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run gets: `runnable` is handed to the graph, `config` is what is recorded.

    Without a `config` it is a run of the bare graph. `host_node` is the path of the node that the
    run is called in, if there is a graph around it. `media` are those that the prompts refer to, in
    base64. `described` is its part of the manifest; a rollout has none, but that of its job. `ours`
    are the keys of a context that a server was told of beside those of the graph's own.
    """

    runnable: RunnableConfig | None
    config: RunConfig | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    media: Mapping[str, str] = field(default_factory=dict)
    refs: Mapping[str, Any] = field(default_factory=dict)
    host_node: str = ""
    ours: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """How the runs of a served graph get their config; shared by copies of the graph.

    `by_flag` says that runs are left alone unless the workflow's flag `runnable_config_enabled` is
    on. `graph` is the one that is served, and `spec` what a job names it by. `media` are those of
    the prompts in the defaults, in base64.
    """

    workflow_id: str
    store: Store | None
    settings: Settings
    defaults: RunConfig = field(default_factory=RunConfig)
    callbacks: Sequence[BaseCallbackHandler] = ()
    by_flag: bool = False
    graph: Any = None
    spec: str | Mapping[str, Any] | None = None
    media: Mapping[str, str] = field(default_factory=dict)
    _made_of: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    forms: Forms = field(default_factory=Forms, init=False, repr=False, compare=False)

    def made_of(self) -> dict[str, Any]:
        """The manifest of a run, but for its config; read once, when the first run begins. Blocks.

        What the files and the working tree hold later is not what this process has loaded.
        """
        from orcheo_agentensor.targets.local import RunnableTarget

        if not self._made_of:
            target = RunnableTarget.of(self.graph)
            source = provenance_of(target)
            told = {
                "schema": SCHEMA,
                "target": target_info(target, self.spec or self.graph, source),
                "evaluators": [],
                "dataset": None,
                "job": {},
            }
            here = tree_of_process()
            self._made_of.update(with_environment(redact(told), source=source, here=here))
        return self._made_of

    async def is_on(self) -> bool:
        """Whether configs are resolved and runs recorded."""
        if not self.by_flag or self.store is None:
            return True
        return self.forms.take(await self.store.workflows.get(self.workflow_id), self.settings)

    async def plan(self, config: RunnableConfig | None) -> RunPlan:
        """What a run that is called with `config` gets."""
        given: Mapping[str, Any] = config or {}
        reviewed = (given.get("metadata") or {}).get(RESOLVED_BY) == self.workflow_id
        ours = self.forms.added if _is_from_server(given) else ()
        if not reviewed and not await self.is_on():
            if not (given.get("metadata") or {}).get(RUN_ID):  # its job has resolved `use`
                off = f"runnable_config_enabled is off for {self.workflow_id!r}"
                refuse_use(given, "config", off)
            return RunPlan(runnable=config, ours=ours)
        limit = given.get("recursion_limit")
        if not reviewed and _is_from_server(given):  # the limit may be the server's own
            given = {key: value for key, value in given.items() if key != "recursion_limit"}
        request, live = RunConfig.trusted(given)
        host_node, runtime = "", runtime_configurable(given)
        around = _config_around(given)
        offer = self.forms.offer(self) if ours and around is None else None
        if offer is not None:
            request = offer.without(request) if reviewed else offer.folded(request)
        if around is not None:
            inherited, unrecorded = inherited_from(around)
            request, runtime = merge_configs(inherited, request), {**unrecorded, **runtime}
            host_node = node_path((around.get("configurable") or {}).get("checkpoint_ns"))
        if host_node:
            request = _as_named_here(request, f"{host_node}|")
        found = await self._resolved(request, given, reviewed=reviewed, offer=offer)
        media: Mapping[str, str] = {}
        if any(map(is_content, found.config.prompts.values())):
            prompts, media = await kept_media(
                found.config.prompts, store=self.store, known=self.media
            )
            found = replace(found, config=found.config.model_copy(update={"prompts": prompts}))
        callbacks = join_callbacks(self.callbacks, live)
        runnable = found.config.to_runnable(callbacks)
        if limit is not None:
            runnable.setdefault("recursion_limit", limit)
        overrides = overrides_in(runnable)
        if host_node and overrides:  # which nodes find by their names in the host
            named = {f"{host_node}|{name}": override for name, override in overrides.items()}
            runtime = {NODE_OVERRIDES: named, **runtime}
        if runtime:
            runnable["configurable"] = {**runnable.get("configurable", {}), **runtime}
        refs = {
            "rollout_of": found.config.metadata.get(RUN_ID),
            "base_version": found.base_version,
            "trace_id": found.config.run_id and str(found.config.run_id),
            "identity": runtime.get("langgraph_auth_user_id"),
        }
        alone = self.store is not None and refs["rollout_of"] is None
        return RunPlan(
            # Nothing to say: the graph then gets the very config it was called with, or none.
            runnable=runnable or config,
            config=found.config,
            described=config_info(found, callbacks, None) if alone else {},
            media=media,
            refs={key: value for key, value in refs.items() if value},
            host_node=host_node,
            ours=ours,
        )

    async def _resolved(
        self,
        request: RunConfig,
        given: Mapping[str, Any],
        *,
        reviewed: bool,
        offer: Offer | None,
    ) -> ResolvedConfig:
        """The config of a run; one that was resolved on submission is only put over defaults."""
        if reviewed:
            merged = settle(self.defaults, request, settings=self.settings)
            noted = given["metadata"]
            return ResolvedConfig(
                config=merged,
                use=noted.get("agentensor_use"),
                base_version=noted.get("agentensor_version"),
                defaults_version=noted.get("agentensor_defaults_version"),
                known_sources=noted.get(SOURCES, {}),
            )
        try:
            return await resolve(
                request,
                workflow_id=self.workflow_id,
                store=self.store,
                settings=self.settings,
                defaults=self.defaults,
                over_binds=None if offer is None else offer.over_binds,
            )
        except NotFound as error:
            if not _is_from_server(given):
                raise
            raise version_refused(error, self.workflow_id) from None

    def checked(self, config: RunnableConfig | None) -> RunConfig:
        """A config over the defaults in code, without a look into the store."""
        request, _live = RunConfig.trusted(config)
        if self.store is None:
            refuse_use(request, "config")
        return settle(self.defaults, request, settings=self.settings)

    def waited(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of `work`, which waits for nothing but the store, for a sync caller."""
        return run_sync(work) if self.store is not None else _run_at_once(work)


class ServedGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """What `configure` and `serve` return: a graph in all but how its runs get their config.

    It is made of the attributes of the compiled graph it serves, and runs as that graph does: with
    the config resolved, prompts put where they bind, node overrides followed, and a run record
    written. A LangGraph server, a host graph and a job take it for the graph. `bound_config` is
    what `with_config` has set; it is part of the request. `takes_none` says that None is an input
    as any other: to a graph it means to go on.
    """

    def __init__(
        self,
        *,
        workflow: Workflow,
        bound_config: RunnableConfig | None = None,
        takes_none: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(**{"builder": None, "schema_to_mapper": {}, **attributes})
        vars(self).update(private_attributes(attributes))
        self.workflow = workflow
        self.bound_config = bound_config
        self.takes_none = takes_none

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> ServedGraph:
        """A copy whose calls have this config beneath their own."""
        bound = merge_runnable_configs(self.bound_config, config, cast("RunnableConfig", kwargs))
        return self.copy({"bound_config": bound})

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The graph's input schema as JSON Schema."""
        kind = Pregel if self.builder is None else CompiledStateGraph  # of another builder
        return kind.get_input_jsonschema(self, config)

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The graph's output schema as JSON Schema."""
        kind = Pregel if self.builder is None else CompiledStateGraph
        return kind.get_output_jsonschema(self, config)

    def get_context_jsonschema(self) -> dict[str, Any] | None:
        """The schema of the graph's context as JSON Schema, with the prompts and the stored version
        that a form may set."""
        own: dict[str, Any] | None = super().get_context_jsonschema()
        offer = self.workflow.forms.offer(self.workflow)
        return own if offer is None else offer.schema(own)

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """As the graph's `stream`; `invoke` and `batch` run through here as well."""
        plan = self.workflow.waited(self.workflow.plan(self._called_with(config)))
        bare, values = self._bare(plan)
        stream = partial(bare.stream, **self._arguments(plan, input, kwargs))
        around = partial(inside, values, plan.media)
        with self._recorded(plan, kwargs.get("context")), closing(stream()) as parts:
            yield from each_inside(around, parts) if values or plan.media else parts

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As the graph's `astream`; `ainvoke`, `abatch` and `astream_events` run through here."""
        plan = await self.workflow.plan(self._called_with(config))
        prompts = plan.config.prompts.values() if plan.config else ()
        if any(constant_in(one.bind) for one in prompts):  # whose modules are looked for in files
            bare, values = await asyncio.to_thread(self._bare, plan)
        else:
            bare, values = self._bare(plan)
        stream = partial(bare.astream, **self._arguments(plan, input, kwargs))
        context, around = kwargs.get("context"), partial(inside, values, plan.media)
        async with self._arecorded(plan, context), aclosing(stream()) as parts:
            async for part in aeach_inside(around, parts):
                yield part

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As the graph's `batch`; every config is checked before anything runs."""
        configs, most = self._each(config, len(inputs))

        def call(input: Any, config: RunnableConfig | None) -> Any:
            try:
                return self.invoke(input, config, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        with get_executor_for_config({"max_concurrency": most}) as executor:
            return list(executor.map(call, inputs, configs))

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As the graph's `abatch`; every config is checked before anything runs."""
        configs, most = self._each(config, len(inputs))

        async def call(input: Any, config: RunnableConfig | None) -> Any:
            try:
                return await self.ainvoke(input, config, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        return await gather_with_concurrency(most, *map(call, inputs, configs))

    def _called_with(self, config: RunnableConfig | None) -> RunnableConfig | None:
        return merge_runnable_configs(self.bound_config, config) if self.bound_config else config

    def _each(
        self, config: RunnableConfig | Sequence[RunnableConfig] | None, count: int
    ) -> tuple[list[RunnableConfig | None], int | None]:
        """A config for each input, and how many run at once; a run id is for the first run alone.

        Raises `ConfigError` for a bad config.
        """
        if isinstance(config, Sequence):
            if len(config) != count:
                raise ConfigError(
                    f"config: there are {len(config)} configs for {count} inputs",
                    field="config",
                    value=len(config),
                    rule="must be one config, or one for each input",
                )
            configs: list[RunnableConfig | None] = list(config)
        else:
            later = {key: value for key, value in (config or {}).items() if key != "run_id"}
            configs = [config, *[cast("Any", later) or None] * (count - 1)][:count]
        if self.workflow.by_flag:  # which may be off
            return configs, (configs[0] or {}).get("max_concurrency") if configs else None
        checked = [self.workflow.checked(self._called_with(one)) for one in configs]
        return configs, checked[0].max_concurrency if checked else None

    def _bare(self, plan: RunPlan) -> tuple[Any, Values]:
        """The graph that is served, with the texts of the run in its parts and nodes that follow
        overrides; and what the run reads in place of globals."""
        if plan.config is None:
            return super(), {}
        graph, values = self._with_texts(plan.config.prompts)
        if overrides_in(plan.runnable):
            require_followed(graph, plan.config)
            graph = with_node_overrides(graph)
        return super(ServedGraph, graph), values

    def _with_texts(self, prompts: Mapping[str, TextTensor]) -> tuple[Any, Values]:
        """The graph, and values in place of globals, with the texts of prompts that bind to them.

        Raises `EntrypointNotAllowed` for a constant of a module that the operator does not allow.
        """
        if not any(constant_in(one.bind) or part_in(one.bind) for one in prompts.values()):
            return self, {}
        from orcheo_agentensor.targets.placing import check_parts, placed

        defaults = self.workflow.defaults.prompts
        own = [name for name, one in defaults.items() if prompts[name].bind == one.bind]
        load_constants(prompts, settings=self.workflow.settings, trusted=own)
        check_parts(self, prompts, who=repr(self.workflow.workflow_id))
        graph, values = placed(self, prompts)
        return graph, {**values, **values_of(prompts)}

    def _arguments(self, plan: RunPlan, input: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a run of the bare graph."""
        if input is None and self.takes_none:
            input = _NOTHING
        context = self._context(plan, kwargs.get("context"))
        return {**kwargs, "input": input, "config": plan.runnable, "context": context}

    def _context(self, plan: RunPlan, given: Any) -> Any:
        """The context of a run: `given`, with the prompts that bind to it.

        One that is given as an object of keys and values, as a server does, has beneath it what
        the config says of its fields.
        """
        schema = self.context_schema
        if isinstance(given, dict) and schema is not None:
            given = {key: value for key, value in given.items() if key not in plan.ours}
        if plan.config is None:
            return given
        prompts = plan.config.prompts
        bound = context_binds(prompts)
        if given is None and bound and plan.host_node:
            given = getattr(get_runtime(), "context", None)
        if isinstance(given, dict) and schema is not None:
            known = plan.config.configurable
            held = {name: known[name] for name in field_names(schema) if name in known}
            given = merge_objects(held, given)
        if not bound:
            return given
        check_context_binds(schema, prompts, who=repr(self.workflow.workflow_id))
        context = bound_context(schema, given, bound)
        return watched(context, bound_tree(prompts, CONTEXT)) if is_taping() else context

    # -- Records -------------------------------------------------------------------------------

    @contextmanager
    def _recorded(self, plan: RunPlan, context: Any) -> Iterator[None]:
        """Record the run inside the block."""
        run_id = self.workflow.waited(self._begin(plan, context))
        if run_id is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            run_sync(self._end(run_id, *_ending(error, plan)))
            raise
        thread = self._thread(plan)
        run_sync(self._end_at(run_id, plan, self.get_state(thread) if thread else None))

    @asynccontextmanager
    async def _arecorded(self, plan: RunPlan, context: Any) -> AsyncIterator[None]:
        """The async twin of `_recorded`."""
        run_id = await self._begin(plan, context)
        if run_id is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            await self._end(run_id, *_ending(error, plan))
            raise
        thread = self._thread(plan)
        await self._end_at(run_id, plan, await self.aget_state(thread) if thread else None)

    async def _begin(self, plan: RunPlan, context: Any) -> str | None:
        """Make the record of a run, with its manifest; its id, or None for one not recorded."""
        from orcheo_agentensor.storage import RunRecord

        store = self.workflow.store
        if store is None or plan.config is None:
            return None
        stored = plan.config.to_json()
        thread_id = plan.config.configurable.get("thread_id")
        record = RunRecord(
            run_id=store.new_id(),
            workflow_id=self.workflow.workflow_id,
            mode="run",
            job_hash=content_hash({"mode": "run", "config": stored}),
            config=stored,
            thread_id=None if thread_id is None else str(thread_id),
            refs=dict(plan.refs),
            started_at=store.clock(),
        )
        manifest = None
        if plan.described:
            made_of = await asyncio.to_thread(self.workflow.made_of)
            live = None if context is None else described(context)
            manifest = {**made_of, "config": {**plan.described, "context": live}}
        await store.runs.create(record, manifest=manifest)
        return record.run_id

    async def _end_at(self, run_id: str, plan: RunPlan, at: StateSnapshot | None) -> None:
        """End the record of a run that raised nothing, with what its thread stands at."""
        if at is None:
            await self._end(run_id, "finished")
            return
        known = at.config.get("configurable") or {}
        found = {key: known.get(key) for key in ("thread_id", "checkpoint_ns")}
        found["last_checkpoint_id"] = known.get("checkpoint_id")
        refs = {**plan.refs, "langgraph": found}
        await self._end(run_id, "paused" if at.next else "finished", refs=refs)

    async def _end(
        self, run_id: str, status: _Ending, error: str | None = None, **fields: Any
    ) -> None:
        store = cast("Store", self.workflow.store)
        fields |= {"status": status, "error": error, "ended_at": store.clock()}
        try:
            await store.runs.update(run_id, **fields)
        except AgentensorError as trouble:  # the run itself is over, and its outcome stands
            told = "run %s is %s, which could not be stored: %s"
            _logger.warning(told, run_id, status, trouble, extra={"run_id": run_id})

    def _thread(self, plan: RunPlan) -> RunnableConfig | None:
        """The config of the thread to look at, where the graph keeps one of its own."""
        thread_id = plan.config and plan.config.configurable.get("thread_id")
        own = thread_id is not None and self.checkpointer
        return {"configurable": {"thread_id": thread_id}} if own else None


def _served(graph: AnyGraph, workflow: Workflow, **changes: Any) -> ServedGraph:
    served: Any = compiled(graph)
    found = served
    if type(found) not in (CompiledStateGraph, Pregel):
        changes["takes_none"] = not isinstance(found, PregelProtocol)
        found = _one_node_graph(found)
    check_context_binds(
        found.context_schema, workflow.defaults.prompts, who=repr(workflow.workflow_id)
    )
    if workflow.store is None:
        refuse_use(workflow.defaults, "defaults")
    workflow = replace(workflow, graph=served)
    if in_langgraph_server():  # which loads graphs in a thread, and asks for schemas in its loop
        workflow.forms.made(workflow)
    return ServedGraph(workflow=workflow, **{**vars(found), **changes})


def _one_node_graph(runnable: Runnable[Any, Any]) -> Pregel[Any, Any, Any, Any]:
    """A graph that hands its input to `runnable` and gives back what that gives."""
    name = runnable.get_name()
    node = runnable if isinstance(runnable, PregelProtocol) else _OnlyNode(runnable)
    return Pregel(
        nodes={name: NodeBuilder().subscribe_only("input").do(node).write_to("output")},
        channels={"input": EphemeralValue(Any), "output": EphemeralValue(Any)},
        input_channels="input",
        output_channels="output",
        context_schema=getattr(runnable, "context_schema", None),
        checkpointer=getattr(runnable, "checkpointer", None),
        name=name,
    )


_NOTHING = object()
"""Stands for None as the input of a graph."""


class _OnlyNode(Runnable[Any, Any]):
    """A runnable as the only node of a graph."""

    def __init__(self, bound: Runnable[Any, Any]) -> None:
        self.bound = bound

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self.bound.invoke(None if input is _NOTHING else input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return await self.bound.ainvoke(None if input is _NOTHING else input, config, **kwargs)


def _is_from_server(config: Mapping[str, Any]) -> bool:
    """Whether a LangGraph server made this config."""
    configurable = config.get("configurable")
    return isinstance(configurable, Mapping) and {"assistant_id", "graph_id"} <= set(configurable)


def _config_around(config: Mapping[str, Any]) -> RunnableConfig | None:
    """The config of the node, or other runnable, that makes the call; None for a run of its own.

    As in LangGraph, a call that names a thread or checkpoint of its own inherits nothing.
    """
    around = var_child_runnable_config.get()
    own = config.get("configurable")
    if around is None or not isinstance(own, Mapping) or not any(map(own.get, _THREAD_KEYS)):
        return around
    namespace = own.get("checkpoint_ns")
    same = (around.get("configurable") or {}).get("checkpoint_ns") == namespace
    return around if namespace and same else None


def _as_named_here(request: RunConfig, prefix: str) -> RunConfig:
    """`request` with the overrides of a host's nodes below `prefix`, by their names from there."""
    given = overrides_in({"configurable": request.configurable})
    if not given:
        return request
    ours = {name: override for name, override in given.items() if name.startswith(prefix)}
    named = {name.removeprefix(prefix): override for name, override in ours.items()}
    configurable = {**request.configurable, NODE_OVERRIDES: named}
    return request.model_copy(update={"configurable": configurable})


def _run_at_once(work: Coroutine[Any, Any, T]) -> T:
    """The outcome of a coroutine that waits for nothing; an event loop would cost more than it."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    work.close()
    raise RuntimeError("a coroutine that was to wait for nothing waits")


def _ending(error: BaseException, plan: RunPlan) -> tuple[_Ending, str | None]:
    from langgraph.errors import GraphDrained, GraphInterrupt, ParentCommand

    if isinstance(error, ParentCommand):  # a jump in the graph around this one
        return "finished", None
    if isinstance(error, GraphInterrupt):
        return "paused", None
    if isinstance(error, GraphDrained) or not isinstance(error, Exception):
        return "interrupted", None
    text = error.message if isinstance(error, AgentensorError) else repr(error)
    with knowing(plan.config and plan.config.configurable):
        return "failed", redact(text)[:_MOST_ERROR_TEXT]
