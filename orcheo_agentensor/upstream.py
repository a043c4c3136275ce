"""What this package takes from other packages beyond their public API, in one place.

Each entry says which public way was tried and why it does not do. `tests/unit/test_upstream.py`
tests every entry and fails, naming it, where an upgrade breaks it.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import sqlite3

    import aiosqlite
    from langchain_core.runnables import RunnableConfig

T = TypeVar("T")


class _Waiting:
    """A finder of modules that finds none itself: each is handed to those who wait for it, once it
    has been run."""

    def __init__(self) -> None:
        self.acts: dict[str, list[Callable[[ModuleType], None]]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find of a module that is waited for."""
        if name not in self.acts:
            return None
        others = [one for one in sys.meta_path if one is not self and hasattr(one, "find_spec")]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if module.__name__ == name:  # a loader may be that of several
                    for act in self.acts.pop(name, ()):
                        act(module)

            loader.exec_module = exec_module
        return spec


_waiting = _Waiting()


def when_imported(name: str, act: Callable[[ModuleType], None]) -> None:
    """Call `act` with a module: now where it has been imported, else before anybody else sees it.

    Tried: importing the module is the public way. Those that we wait for bring all of LangChain,
    which takes longer than an evaluation of a function that needs none of it.
    """
    if name in sys.modules:
        act(importlib.import_module(name))  # waits where another thread imports it
        return
    if _waiting not in sys.meta_path:
        sys.meta_path.insert(0, _waiting)
    _waiting.acts.setdefault(name, []).append(act)


var_child_runnable_config: ContextVar[RunnableConfig | None]
if (_with_config := "langchain_core.runnables.config") in sys.modules:
    var_child_runnable_config = importlib.import_module(_with_config).var_child_runnable_config
else:
    var_child_runnable_config = ContextVar("child_runnable_config", default=None)
    _ours = {"var_child_runnable_config": var_child_runnable_config}
    when_imported(_with_config, lambda module: vars(module).update(_ours))
"""The config of the run around us, in LangChain's own variable.

Where LangChain is imported after us it takes ours as its own: a target that imports LangChain
when it is called has the config of its rollout from its first call on.

Tried: a parameter `config` is the public way, and reaches nothing that a function calls without
handing it on. `langchain_core.runnables.config` has the variable, and takes LangChain with it.
"""


def register_handler(handler: ContextVar[Any]) -> None:
    """Have LangChain call the callback handler in this variable, in all that it runs.

    Tried: `register_configure_hook` is the public way, and its module imports LangSmith. Nothing of
    LangChain looks for hooks before that module is there.
    """
    when_imported(
        "langchain_core.tracers.context",
        lambda module: module.register_configure_hook(handler, inheritable=True),
    )


STREAM_KEY = "__pregel_stream"
"""The key of `configurable` under which LangGraph hands the host's stream to a subgraph that is
streamed with it.

Tried: `get_stream_writer()` and `Runtime.stream_writer` write into the stream of the graph they are
called in, whether or not that graph is streamed; nothing public tells which it is.
"""


CACHE_KEY = "__pregel_cache"
RUNTIME_KEY = "__pregel_runtime"
"""The keys of `configurable` under which a graph hands its node cache and its store (in a
`Runtime`) to the graphs inside it; a graph that finds them there leaves its own alone.

Tried: `compile(cache=…, store=…)` is the public way, and cannot be used for a graph that is
already compiled, and that a function, a sequence or a retry around it calls.
"""


CHECKPOINTER_KEY = "__pregel_checkpointer"
CHECKPOINTS_KEY = "checkpoint_map"


def checkpoint_of(configurable: Mapping[str, Any]) -> dict[str, Any] | None:
    """Thread, namespace and id of the checkpoint that the graph around a node stands at; None for
    a graph without a checkpointer.

    Tried: `get_state()` is the public way, needs the compiled graph, and reads the checkpoint from
    the database; the config of a node has no `checkpoint_id` of its own.
    """
    if configurable.get(CHECKPOINTER_KEY) is None:
        return None
    namespace = str(configurable.get("checkpoint_ns") or "").rpartition("|")[0]
    return {
        "thread_id": str(configurable.get("thread_id")),
        "checkpoint_ns": namespace,
        "checkpoint_id": (configurable.get(CHECKPOINTS_KEY) or {}).get(namespace),
    }


def copy_of_store(source: Any, empty: Any) -> Any:
    """`empty`, an `InMemoryStore`, filled with copies of what another one holds.

    Tried: `search` and `put` are public, and embed every item again for each copy.
    """
    empty._data.update(copy.deepcopy(source._data))
    for namespace, vectors in source._vectors.items():
        empty._vectors[namespace].update(copy.deepcopy(vectors))
    return empty


def is_streamed_by_host(configurable: Mapping[str, Any]) -> bool:
    """Whether the graph around a node streams what the node's own subgraphs write, too."""
    return STREAM_KEY in configurable


def node_function(bound: Any) -> Any:
    """What a node was made of where that is a function or another callable; else None.

    Tried: `StateGraph.nodes[…].runnable` and `CompiledStateGraph.nodes[…].bound` are public, but
    give LangGraph's own `RunnableCallable`, whose `func` and `afunc` are the only way back.
    """
    return getattr(bound, "func", None) or getattr(bound, "afunc", None)


def takes_config(bound: Any) -> bool:
    """Whether a node's function has a parameter for the config.

    Tried: `inspect.signature(node_function(bound))` does not know by which names and annotations
    LangGraph finds the parameter; `RunnableCallable.func_accepts` is what it found.
    """
    return "config" in getattr(bound, "func_accepts", ())


def reads_any_config(part: Any) -> bool:
    """Whether an object is a model of `init_chat_model` that takes any field from the config.

    Tried: its `config_specs` are empty, as are those of a model that takes no field.
    """
    return getattr(part, "_configurable_fields", None) == "any" and hasattr(part, "_config_prefix")


def private_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those attributes of a compiled graph that are no arguments of its constructor.

    Tried: `Pregel.copy()` is the public way to an equal graph, and drops these: outputs of
    `version="v2"` are then no longer the models of the state (`_output_mapper`, `_state_mapper`),
    and a saver no longer knows the state's types (`_serde_allowlist`).
    """
    return {name: value for name, value in attributes.items() if re.match("_[a-z]", name)}


def close_waiting_callbacks() -> None:
    """Close the coroutines that LangChain has made for the handlers after the one that raises.

    To be called from a callback that is about to raise. LangChain makes a coroutine for each
    handler before it awaits the first; where one raises, the others are left as they are, and
    Python complains of each: "coroutine 'ahandle_event' was never awaited".

    Tried: a handler that does not run inline is awaited together with the others, but LangChain
    leaves it out of `on_llm_start` where any other handler runs inline.
    """
    frame = sys._getframe(1)
    while (above := frame.f_back) is not None:
        frame = above
        pending = frame.f_locals.get("non_inline_tasks")
        if frame.f_code.co_name in ("on_chat_model_start", "on_llm_start") and pending is not None:
            for task in (*frame.f_locals.get("inline_tasks", ()), *pending):
                if inspect.iscoroutine(task) and inspect.getcoroutinestate(task) == "CORO_CREATED":
                    task.close()
            return


def read_by_import(*, above: int) -> bool:
    """Whether the frame so many calls above the caller's is an import, or the body of a module.

    Tried: nothing public tells a module who reads an attribute of it.
    """
    reader = sys._getframe(above + 1)
    importing = reader.f_globals.get("__name__") == "importlib._bootstrap"
    return importing or reader.f_code.co_name == "<module>"


def silence_refusals(handler: type) -> None:
    """Keep LangChain from warning of what `handler` raises: the run itself ends with that error.

    Tried: `raise_error` makes LangChain raise what a handler raises, but it logs a warning of it
    first, and a handler cannot keep it from that.
    """
    name = handler.__name__

    def is_other(record: logging.LogRecord) -> bool:
        return not (isinstance(record.args, tuple) and name in record.args)

    logging.getLogger("langchain_core.callbacks.manager").addFilter(is_other)


def streams_for_host(handler: object) -> bool:
    """Whether a callback handler is LangGraph's own, which streams the messages of a graph.

    Tried: `stream_mode` is public and reaches only the graph that is streamed. A rollout that is
    handed this handler with the others would stream its messages as if they were the host's.
    """
    return type(handler).__module__.startswith("langgraph.pregel.")


def allow_in_checkpoints(kind: type) -> None:
    """Let every serializer of LangGraph read objects of this type from a checkpoint.

    Tried: `JsonPlusSerializer(allowed_msgpack_modules=…)` is the public way, and ours is made so.
    A saver that others have made, as every host's and server's, warns of the type, or refuses it:
    a graph adds the types of its state to a saver's list only where that has one.
    """
    from langgraph.checkpoint.serde import _msgpack

    _msgpack.SAFE_MSGPACK_TYPES |= {(kind.__module__, kind.__name__)}


async def on_connection(
    connection: aiosqlite.Connection, call: Callable[[sqlite3.Connection], T]
) -> T:
    """The result of `call` with the connection that aiosqlite has, in the thread that has it.

    Tried: `execute`, `commit` and closing a cursor are public, and each is a turn of that thread,
    for which the event loop waits: seven of them for what LangGraph writes of one superstep.
    """
    run: Any = connection._execute
    found: T = await run(lambda: call(connection._conn))
    return found


def in_langgraph_server() -> bool:
    """Whether this process is a LangGraph server.

    Tried: `langgraph_sdk.get_client(url=None)` is the public way to the server of this process.
    Where there is none it does not say so: it imports one, or gives a client that never answers.
    """
    return "langgraph_api.server" in sys.modules


def own_runs_are_in_memory() -> bool:
    """Whether the LangGraph server that this process is keeps its runs, and their events, in it.

    Tried: `/info` is public and says the same of every server. Events that such a server is asked
    to keep for those who come back stay in its memory until it stops.
    """
    runtime = sys.modules.get("langgraph_runtime.ops")
    return getattr(runtime, "__name__", "").startswith("langgraph_runtime_inmem")


def served_graphs() -> Mapping[str, Any]:
    """The graphs of the LangGraph server that this process is, and factories of graphs, by id.

    Tried: the SDK's assistants give the names of graphs and their schemas, not the graphs, whose
    nodes a request's `node_overrides` are checked against.
    """
    from langgraph_api.graph import GRAPHS

    graphs: Mapping[str, Any] = GRAPHS
    return graphs


def allowed_origins() -> tuple[list[str], str | None]:
    """The web origins that the server lets in, and a pattern for more: `http.cors` of its config.

    Tried: a preflight request to the server itself says it for one origin, and only after the
    request at hand, which a form of another site sends without one.
    """
    from langgraph_api import config

    cors: dict[str, Any] | None = config.CORS_CONFIG
    if cors is None:
        return list(config.CORS_ALLOW_ORIGINS), None
    return list(cors.get("allow_origins") or ()), cors.get("allow_origin_regex")


def assistant_id_of(name: str) -> str:
    """The id of the assistant that a request means: a graph's id means its default assistant.

    Tried: `client.assistants.search(graph_id=…, metadata={"created_by": "system"})` finds it too,
    with a request of the server to itself for each request that it reviews.
    """
    from langgraph_api.graph import get_assistant_id

    return str(get_assistant_id(name))


def server_user() -> tuple[Any, list[str]] | None:
    """The user, with permissions, of a request that the server sends itself; None without one.

    Tried: `request.user` of Starlette holds the user of a request over the network; a request of
    the server to itself (a cron, a `RemoteGraph`) has none, and nothing else in it names its user.
    """
    from langgraph_api.utils import get_auth_ctx

    context = get_auth_ctx()
    return None if context is None else (context.user, list(context.permissions))


def ragas_function(metric: Any) -> Any:
    """The function that a metric of Ragas was made of by `@discrete_metric` and the like, or None.

    Tried: `score` takes any keyword and warns of those that the function does not take; nothing
    public tells which it takes.
    """
    return getattr(metric, "_func", None)


_parsing = threading.Lock()


def source_of(thing: Any) -> str:
    """The source of a class, function or module, also while another thread parses code.

    Tried: `inspect.getsource` parses the module of a class, and CPython before 3.11.8 and 3.12.2
    counts the depth of a syntax tree in one place for all threads
    (https://github.com/python/cpython/issues/106905): where two threads parse at once, one of
    them gets a `SystemError`. Our own threads take turns; LangGraph parses nodes in any thread, so
    the source is asked for again.

    Raises:
        OSError: there is no source.
        TypeError: the thing is built in.
        SyntaxError: a class stands in a file that is no Python.
    """
    return parsed(lambda: inspect.getsource(thing))


def parsed(parse: Callable[[], T], *, times: int = 10) -> T:
    """What a function that parses Python returns, asked again where another thread disturbed it.

    Tried: `ast.parse` alone; see `source_of`.
    """
    for _ in range(times - 1):
        try:
            with _parsing:
                return parse()
        except SystemError:
            continue
    with _parsing:
        return parse()
