"""Targets: what a caller may name as one, and those that run in this process.

These are functions, graphs and other runnables; assistants on servers are in `remote.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from orcheo_agentensor.config.model import RunConfig, config_error
from orcheo_agentensor.config.overrides import NODE_OVERRIDES, overrides_in
from orcheo_agentensor.entrypoints import lasting_module, load_entrypoint
from orcheo_agentensor.errors import AgentensorError, BadInput, RunFailed
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.kinds import is_pregel, is_runnable
from orcheo_agentensor.media import with_media_at_hand
from orcheo_agentensor.prompts import CONTEXT, part_in, put
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import (
    bind_of,
    bound_tree,
    is_taping,
    prompt_tree,
    prompts_in,
    record_root,
    record_target_run,
    watched,
    watched_config,
)
from orcheo_agentensor.targets.constants import Values, reading, values_of
from orcheo_agentensor.targets.context import (
    check_context,
    check_context_binds,
    compiled,
    context_binds,
    context_problems,
    field_names,
    refuse_context,
    with_context,
)
from orcheo_agentensor.targets.conversation import (
    Conversation,
    ConversationSpec,
    TalkingTarget,
    parse_conversation,
)
from orcheo_agentensor.targets.isolation import Isolation, MemoryStore, isolation_of
from orcheo_agentensor.targets.output import is_large, pick, to_json_output
from orcheo_agentensor.targets.overriding import (
    require_followed,
    require_nodes,
)
from orcheo_agentensor.upstream import var_child_runnable_config

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig

    from orcheo_agentensor.targets.served import Workflow


_FORMS = (
    'a LangGraph graph, a Runnable, a function (inputs, config), "module:attribute", '
    '{"entrypoint": "module:attribute", "output": "path"}, or {"url": ..., "assistant": ...}'
)
_REMOTE = frozenset({"url", "assistant"})
_MOST_COPIES = 16
"""Most sets of texts whose copies of the graph are kept."""
_OVERRIDES = f"job.config.configurable.{NODE_OVERRIDES}"


@runtime_checkable
class Target(Protocol):
    """The workflow under test, whatever it is made of.

    `name` is shown to users; `fingerprint` takes part in the content keys of rollouts; `edges`
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


@runtime_checkable
class ConnectedTarget(Protocol):
    """A target on other machines: it is connected before it runs, and it can go away."""

    async def connect(self, config: RunnableConfig) -> Target:
        """Find the target there; runs with this config use the target returned."""
        ...

    async def came_back(self, *, lost: bool) -> bool:
        """Wait until the target answers, and say whether a failed attempt is worth repeating.

        `lost` says that the attempt lost its connection. Raises `TargetUnavailable` where the
        target stays away.
        """
        ...

    async def disconnect(self) -> None:
        """Close the connections that `run` has opened; a later `run` opens them again."""
        ...


@dataclass(frozen=True)
class CallableTarget:
    """A function `(inputs, config) -> output` or `(inputs) -> output`, async or sync.

    A sync function runs in a thread. `get_prompt("NAME")` works inside either. A generator gives
    its parts joined, where they can be added, else the last one.
    """

    function: Callable[..., Any]
    name: str
    fingerprint: str
    takes_config: bool
    is_async: bool
    edges: tuple[tuple[str, str], ...] = ()
    isolation: Isolation | None = None
    takes_thread: bool = False
    """Whether it takes one message of a conversation, and its `thread_id`."""

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        memory_store: MemoryStore = "fresh",
        context: Any = None,
    ) -> CallableTarget:
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
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        unknown = any(p.default is p.empty and p.name not in ("config", "thread_id") for p in named)
        if len(required) > 2 or not (positional or takes_any) or unknown:
            raise BadInput(
                f"target: {shown!r} must take (inputs) or (inputs, config)",
                field="target",
                value=shown,
                rule="must take (inputs) or (inputs, config)",
            )
        takes_config = len(required) == 2 or (
            len(positional) > 1 and positional[1].name == "config"
        )
        by_name = {p.name for p in named} & {"config", "thread_id"}
        if by_name:
            takes_config = True
            function = _config_by_name(function, by_name)
        call = getattr(function, "__call__", function)  # noqa: B004 - its code is inspected
        return cls(
            function=function,
            name=shown,
            fingerprint=f"{lasting_module(function)}:{shown}",
            takes_config=takes_config,
            is_async=inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call),
            isolation=isolation_of(function, name=shown, mode=memory_store, context=context),
            takes_thread="thread_id" in by_name,
        )

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where a prompt binds into a context, or a node is to be overridden: a
        function has neither."""
        require_nodes(self, overrides_in({"configurable": configurable}), field=_OVERRIDES)
        refuse_context(prompts, f"{self.name!r} is a function")

    def run(
        self, inputs: Any, config: RunnableConfig, *, rollout_id: str
    ) -> Coroutine[Any, Any, Any]:
        """Call the function with this config as the ambient one."""
        if "callbacks" not in config:
            return self._call(inputs, config)
        return as_root_run(self._call, self.name, inputs, config)

    async def _call(self, inputs: Any, config: RunnableConfig) -> Any:
        if self.isolation is not None:
            own = await self.isolation.keys()
            config = {**config, "configurable": {**config.get("configurable", {}), **own}}
        prompts = (config.get("configurable") or {}).get("prompts")
        taped = bool(prompts) and is_taping()
        if taped:
            config = watched_config(config, prompt_tree(prompts_in(config)))
        token = var_child_runnable_config.set(config)
        try:
            arguments = (inputs, config) if self.takes_config else (inputs,)
            if prompts:
                with reading(values_of(prompts)):
                    result = await self._result(arguments)
            elif self.is_async:  # without a call for each case
                result = await self.function(*arguments)
            else:
                result = await self._result(arguments)
            if taped:
                record_target_run(inputs, result)
            return result
        finally:
            var_child_runnable_config.reset(token)

    async def _result(self, arguments: tuple[Any, ...]) -> Any:
        if self.is_async:
            return await self.function(*arguments)
        result = await run_in_thread(self.function, *arguments)
        if inspect.isawaitable(result):
            return await result
        if inspect.isasyncgen(result):
            return _joined([part async for part in result])
        if inspect.isgenerator(result):
            return _joined(await run_in_thread(list, result))
        return result


async def as_root_run(
    call: Callable[[Any, RunnableConfig], Awaitable[Any]],
    name: str,
    inputs: Any,
    config: RunnableConfig,
) -> Any:
    """Call what reports no run of its own as the run with the `run_id` of `config`, where it has
    `callbacks`: then somebody traces it. Inside, the config is without that id, which would be that
    of each call."""
    if "callbacks" not in config:
        return await call(inputs, config)
    from langchain_core.runnables.config import get_async_callback_manager_for_config

    own: Any = {key: value for key, value in config.items() if key != "run_id"}
    manager = get_async_callback_manager_for_config(own)
    run = await manager.on_chain_start({}, inputs, name=name, run_id=config.get("run_id"))
    try:
        own["callbacks"] = run.get_child()
        output = await call(inputs, own)
    except BaseException as error:
        await run.on_chain_error(error)
        raise
    await run.on_chain_end(output)
    return output


def _config_by_name(function: Callable[..., Any], names: Collection[str]) -> Callable[..., Any]:
    """`function`, which takes these by keyword, taking its config as the second argument."""

    def given(config: RunnableConfig) -> dict[str, Any]:
        thread_id = (config.get("configurable") or {}).get("thread_id")
        found = {"config": config, "thread_id": thread_id}
        return {name: found[name] for name in names}

    def sync(inputs: Any, config: RunnableConfig) -> Any:
        return function(inputs, **given(config))

    async def awaited(inputs: Any, config: RunnableConfig) -> Any:
        return await function(inputs, **given(config))

    chosen = awaited if inspect.iscoroutinefunction(function) else sync
    return functools.wraps(function)(chosen)


def _joined(parts: list[Any]) -> Any:
    """The parts of a stream as one value, as LangChain joins them."""
    whole = None
    for part in parts:
        try:
            whole = part if whole is None else whole + part
        except TypeError:
            whole = part
    return whole


@dataclass(frozen=True)
class RunnableTarget:
    """Any LangChain `Runnable`: a compiled graph, a `RemoteGraph`, a chain."""

    runnable: Runnable[Any, Any]
    name: str
    fingerprint: str
    edges: tuple[tuple[str, str], ...] = ()
    context_schema: Any = None
    is_remote: bool = False
    isolation: Isolation | None = None
    workflow: Workflow | None = None
    _watched: dict[str, Runnable[Any, Any]] = field(default_factory=dict, repr=False, compare=False)
    _placed: dict[str, tuple[Any, Values]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        runnable: Runnable[Any, Any],
        *,
        name: str | None = None,
        memory_store: MemoryStore = "fresh",
        context: Any = None,
    ) -> RunnableTarget:
        """Wrap `runnable`, reading the graph's edges and context schema where it is a graph."""
        shown = name or runnable.get_name()
        isolation = isolation_of(runnable, name=shown, mode=memory_store, context=context)
        if not is_pregel(runnable):
            # By name, because its module takes long to import.
            remote = any(base.__name__ == "RemoteGraph" for base in type(runnable).__mro__)
            return cls(
                runnable=runnable,
                name=shown,
                fingerprint=shown,
                is_remote=remote,
                isolation=isolation,
            )
        return cls(
            runnable=runnable,
            name=shown,
            fingerprint=shown,
            isolation=isolation,
            edges=_edges(runnable),
            context_schema=runnable.context_schema,
            workflow=getattr(runnable, "workflow", None),
        )

    @property
    def needs_labels(self) -> bool:
        """Whether labels have to be in the metadata of its config, also where nobody listens."""
        if self.isolation is None or self.workflow is not None or not is_pregel(self.runnable):
            return True
        return self.isolation.needs_labels

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where a run could not have its context, or its node overrides."""
        who = repr(self.name)
        if self.is_remote:
            return
        if _in_parts(prompts):
            from orcheo_agentensor.targets.placing import check_parts  # loads LangChain's templates

            check_parts(self.runnable, prompts, who=who)
        if overrides_in({"configurable": configurable}) and hasattr(self.runnable, "nodes"):
            config = RunConfig.model_construct(configurable=dict(configurable))
            require_followed(self.runnable, config, field="job.config")
        else:
            require_nodes(self, overrides_in({"configurable": configurable}), field=_OVERRIDES)
        if self.workflow and not self.workflow.by_flag:  # its defaults may bring what is missing
            check_context_binds(self.context_schema, prompts, who=who)
            return
        given = {k: v for k, v in configurable.items() if k in field_names(self.context_schema)}
        if self.isolation is not None and self.isolation.context is not None:
            check_context_binds(self.context_schema, prompts, who=who)
            with_context(self.context_schema, self.isolation.context, given, prompts)
            return
        check_context(self.context_schema, given, prompts, who=who)
        wrong = [
            (f"job.config.configurable.{path}", value, rule)
            for path, value, rule in context_problems(self.context_schema, given)
            if path.split(".")[0] in given
        ]
        if wrong:
            raise config_error(wrong, "job.config")

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Invoke as a root run: nothing of the graph we run in leaks into the target.

        Prompts that bind to the context are put there; a remote graph takes its context from
        `configurable`, and a graph of `configure` or `serve` puts its prompts and overrides in
        place itself.
        """
        by_itself = self.workflow is not None and await self.workflow.is_on()
        configurable = dict(config.get("configurable") or {})
        runnable = self.runnable
        kwargs: dict[str, Any] = {}
        prompts = configurable.get("prompts") or {}
        if self.context_schema is not None:
            given = {k: configurable[k] for k in self._context_fields if k in configurable}
            live = None if self.isolation is None else self.isolation.context
            binding = {} if by_itself else prompts
            kwargs["context"] = with_context(self.context_schema, live, given, binding)
        elif self.is_remote:
            for name, path, text in context_binds(prompts):
                configurable = put(configurable, path, text, field=f"prompts.{name}.bind")
            if prompts:
                configurable["prompts"] = with_media_at_hand(prompts)
            configurable.pop("thread_id", None)  # its server then makes one for this run alone
            config = {**config, "configurable": configurable}
        if self.isolation is not None:
            configurable |= await self.isolation.keys()
            config = {**config, "configurable": configurable}
        values: Values = {}
        if prompts and not by_itself and not self.is_remote:
            runnable, held = await self._with_texts(prompts)
            values = {**held, **values_of(prompts)}
        if prompts and is_taping():
            runnable = self._watching(runnable, prompts, kwargs, context_too=not by_itself)
        if configurable.get(NODE_OVERRIDES) and self.edges and not by_itself:
            from orcheo_agentensor.targets.wrapped import with_node_overrides

            runnable = with_node_overrides(runnable)
        record_root()
        token = var_child_runnable_config.set(None)
        try:
            if self.is_remote:
                output = await as_root_run(runnable.ainvoke, self.name, inputs, config)
            else:
                with reading(values):
                    output = await runnable.ainvoke(inputs, config, **kwargs)
        finally:
            var_child_runnable_config.reset(token)
        if isinstance(output, Mapping) and "__interrupt__" in output:
            raise RunFailed(
                "the target paused with interrupt(); a target under evaluation must run to its end"
            )
        return output

    @cached_property
    def _context_fields(self) -> tuple[str, ...]:
        return field_names(self.context_schema)

    async def _with_texts(self, prompts: Mapping[str, Any]) -> tuple[Any, Values]:
        """The graph with the texts of prompts in the parts of it that they bind to."""
        if not _in_parts(prompts):
            return self.runnable, {}
        from orcheo_agentensor.targets.placing import placed

        key = repr(sorted((str(bind_of(one)), str(one)) for one in prompts.values()))
        if key not in self._placed:
            made = await run_in_thread(placed, self.runnable, prompts)
            while len(self._placed) >= _MOST_COPIES:
                self._placed.pop(next(iter(self._placed)))
            self._placed[key] = made
            return made
        return self._placed[key]

    def _watching(
        self,
        runnable: Runnable[Any, Any],
        prompts: Mapping[str, Any],
        kwargs: dict[str, Any],
        *,
        context_too: bool,
    ) -> Runnable[Any, Any]:
        """The graph to run for a tape, which sees reads of bound prompts; the context too."""
        from orcheo_agentensor.targets.wrapped import watched_graph  # imports LangGraph

        if "context" in kwargs and context_too:
            kwargs["context"] = watched(kwargs["context"], bound_tree(prompts, CONTEXT))
        tree = prompt_tree(prompts)
        if runnable is not self.runnable:
            return watched_graph(runnable, tree)
        key = repr(tree)  # one job binds its prompts to the same places in every rollout
        if key not in self._watched:
            self._watched[key] = watched_graph(self.runnable, tree)
        return self._watched[key]


def _in_parts(prompts: Mapping[str, Any]) -> bool:
    """Whether a prompt binds to a part of the graph."""
    return any(part_in(bind_of(one)) for one in prompts.values())


def _edges(graph: Any) -> tuple[tuple[str, str], ...]:
    """The static edges of a graph.

    LangGraph draws it by a run on no input, in which a cache policy's own `key_func` may fail; then
    those that it was built from.
    """
    try:
        return tuple((edge.source, edge.target) for edge in graph.get_graph().edges)
    except Exception:  # noqa: BLE001 - whatever a user's function raises
        return tuple(getattr(getattr(graph, "builder", None), "edges", ()))


def check_target(
    target: Target, configurable: Mapping[str, Any], prompts: Mapping[str, Any]
) -> None:
    """Raise `BadInput` for a target that stops at breakpoints, and `ConfigError` where it cannot
    have `prompts` in the places they bind to."""
    isolation = getattr(target, "isolation", None)
    if isolation is not None:
        isolation.require_no_stops(target.name)
    check = getattr(target, "check", None)
    if check is not None:
        check(configurable, prompts)


@dataclass(frozen=True)
class PickedTarget:
    """A target whose output is the part of `inner`'s at the dotted path `output`."""

    inner: Target
    output: str
    name: str
    fingerprint: str
    edges: tuple[tuple[str, str], ...]

    @property
    def needs_labels(self) -> bool:
        """As that of `inner`."""
        return bool(getattr(self.inner, "needs_labels", True))

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        check_target(self.inner, configurable, prompts)

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        result = await self.inner.run(inputs, config, rollout_id=rollout_id)
        if is_large(result):
            return pick(await run_in_thread(to_json_output, result), self.output)
        return pick(to_json_output(result), self.output)


@dataclass(frozen=True, kw_only=True)
class FactoryTarget:
    """A function that builds the workflow for each rollout, as a LangGraph server calls one.

    It may be async, take the config, and be a context manager or generator that ends what it has
    opened once the rollout is over. `connect` builds it once, to see what it is.
    """

    factory: Callable[..., Any]
    name: str
    memory_store: MemoryStore
    context: Any
    output: str | None = None
    fingerprint: str = ""
    edges: tuple[tuple[str, str], ...] = ()
    built: Target | None = None

    async def connect(self, config: RunnableConfig) -> Target:
        """Build the workflow with the config of the job; raises `BadInput` where that fails."""
        try:
            async with self._building(config, {}) as workflow:
                built = _from_object(workflow, self.name, self.memory_store, self.context)
        except AgentensorError:
            raise
        except (Exception, SystemExit) as error:  # which would end a server
            raise _not_built(self.name, error) from error
        check_target(built, config.get("configurable") or {}, prompts_in(config))
        found = replace(self, built=built, fingerprint=built.fingerprint, edges=built.edges)
        return found if self.output is None else _picked(found, self.output)

    async def came_back(self, *, lost: bool) -> bool:
        """It has no server to wait for."""
        return False

    async def disconnect(self) -> None:
        """Each rollout closes what it has opened."""

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        """Build the workflow with this rollout's config, and run it."""
        taped = bool(prompts_in(config)) and is_taping()
        tree = prompt_tree(prompts_in(config)) if taped else {}
        building: Any = {key: value for key, value in config.items() if key != "run_id"}
        building = watched_config(building, tree) if taped else building
        values = values_of(prompts_in(config))
        async with self._building(building, values) as workflow:
            if isinstance(self.built, RunnableTarget):
                target: Target = replace(
                    self.built, runnable=compiled(workflow), _watched={}, _placed={}
                )
            else:
                target = _from_object(workflow, self.name, self.memory_store, self.context)
            result = await target.run(inputs, config, rollout_id=rollout_id)
            if taped:  # where the prompt was read in building
                record_target_run(inputs, result)
            return result

    @asynccontextmanager
    async def _building(self, config: RunnableConfig, values: Values) -> AsyncIterator[Any]:
        make = self.factory
        if inspect.isasyncgenfunction(make):
            make = asynccontextmanager(make)
        elif inspect.isgeneratorfunction(make):
            make = contextmanager(make)
        parameters = inspect.signature(make).parameters.values()
        given = [config for p in parameters if p.kind is not p.KEYWORD_ONLY]
        named = {p.name: config for p in parameters if p.kind is p.KEYWORD_ONLY}
        async with AsyncExitStack() as stack:
            with reading(values):
                made = make(*given, **named)
                if inspect.isawaitable(made):
                    made = await made
                if hasattr(made, "__aenter__"):
                    made = await stack.enter_async_context(made)
                elif hasattr(made, "__enter__"):
                    made = stack.enter_context(made)
            yield made


def _is_factory(found: Any) -> bool:
    """Whether a function builds a workflow: it takes a config and nothing else, or nothing at all
    and is more than a plain function, which is called once."""
    if not inspect.isfunction(found):
        return False
    parameters = inspect.signature(found).parameters.values()
    if parameters:
        configs = [p.name == "config" or "RunnableConfig" in str(p.annotation) for p in parameters]
        return all(configs) and len(configs) == 1
    kinds = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    made_of = inspect.unwrap(found)  # of `asynccontextmanager` and `contextmanager`
    return any(kind(made_of) for kind in kinds)


def _picked(inner: Target, output: str) -> PickedTarget:
    known_as = f"{inner.fingerprint}#{output}"
    return PickedTarget(inner, output, inner.name, known_as, inner.edges)


def resolve_target(
    spec: Any, *, settings: Settings, memory_store: MemoryStore = "fresh", context: Any = None
) -> Target:
    """The target that `spec` names or is.

    `spec` is one of: a compiled or uncompiled LangGraph graph, any `Runnable` (a `RemoteGraph`
    too), an async or sync function `(inputs, config) -> output`, a `"module:attribute"` or
    `"./path/file.py:attribute"` string, or a mapping with `entrypoint` and, to keep a part of the
    output, `output` (a dotted path). A no-argument factory that returns a graph is called; one
    that takes the config, or is async, a generator or a context manager, builds the graph of each
    rollout. A mapping with `url` and `assistant` is a workflow on LangGraph servers; without `url`
    it is one of the server that we run on.

    Raises `BadInput`, `EntrypointNotAllowed` or `EntrypointNotFound`.
    """
    if isinstance(spec, str):
        found = load_entrypoint(spec, settings=settings, what="target")
        return _from_object(_called(found, spec), spec, memory_store, context)
    if isinstance(spec, Conversation):
        return _talking(
            spec.target, spec.spec, settings=settings, memory_store=memory_store, context=context
        )
    if isinstance(spec, Mapping) and (talk := spec.get("conversation")) is not None:
        return _talking(
            {key: value for key, value in spec.items() if key != "conversation"},
            parse_conversation(talk, field="target.conversation"),
            settings=settings,
            memory_store=memory_store,
            context=context,
        )
    if isinstance(spec, Mapping) and "entrypoint" not in spec and not _REMOTE.isdisjoint(spec):
        from orcheo_agentensor.targets.remote import RemoteTarget

        for field, value in (("job.memory_store", memory_store), ("context", context)):
            if value not in ("fresh", None):
                rule = "is for targets in this process; an assistant has what its server gives it"
                raise BadInput(field=field, value=value, rule=rule)
        return RemoteTarget.parse(spec, settings=settings)
    if isinstance(spec, Mapping):
        unknown = set(spec) - {"entrypoint", "output"}
        if unknown or not isinstance(spec.get("entrypoint"), str):
            raise BadInput(field="target", value=dict(spec), rule=f"must be {_FORMS}")
        inner = resolve_target(
            spec["entrypoint"], settings=settings, memory_store=memory_store, context=context
        )
        if not spec.get("output"):
            return inner
        output = str(spec["output"])
        if isinstance(inner, FactoryTarget):
            return replace(inner, output=output)
        return _picked(inner, output)
    return _from_object(spec, None, memory_store, context)


def _talking(
    target: Any,
    spec: ConversationSpec,
    *,
    settings: Settings,
    memory_store: MemoryStore,
    context: Any,
) -> Target:
    inner = resolve_target(target, settings=settings, memory_store=memory_store, context=context)
    return TalkingTarget.of(inner, spec, settings=settings)


def _called(found: Any, spec: str) -> Any:
    """What a plain graph factory returns; anything else as it is."""
    if not inspect.isfunction(found) or inspect.signature(found).parameters or _is_factory(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:  # whatever a user's factory raises
        raise _not_built(spec, error) from error


def _not_built(name: str, error: BaseException) -> BadInput:
    return BadInput(
        f"target: {name!r} could not be built: {type(error).__name__}: {error}",
        field="target",
        value=name,
        rule="must build without an error",
    )


def _from_object(value: Any, name: str | None, memory_store: MemoryStore, context: Any) -> Target:
    value = compiled(value)
    found: RunnableTarget | CallableTarget
    if is_runnable(value):
        found = RunnableTarget.of(value, name=name, memory_store=memory_store, context=context)
    elif isinstance(value, Target):
        return value
    elif _is_factory(value):
        shown = name or value.__name__
        known_as = f"{lasting_module(value)}:{shown}"
        return FactoryTarget(
            factory=value,
            name=shown,
            memory_store=memory_store,
            context=context,
            fingerprint=known_as,
        )
    elif callable(value):
        found = CallableTarget.of(value, name=name, memory_store=memory_store, context=context)
    else:
        raise BadInput(field="target", value=name or value, rule=f"must be {_FORMS}")
    if memory_store != "fresh":  # whose rollouts are no others' to reuse
        found = replace(found, fingerprint=f"{found.fingerprint}#store={memory_store}")
    return found
