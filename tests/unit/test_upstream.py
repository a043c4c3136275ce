"""Each thing that is used of other packages beyond their public API still works.

A failure here names what an upgrade has broken; `orcheo_agentensor/upstream.py` says what for.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import logging
import re
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager, BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy
from pydantic import BaseModel
from typing_extensions import TypedDict

from orcheo_agentensor import TextTensor, upstream

PACKAGE = Path(upstream.__file__).parent
PRIVATE = re.compile(
    r"_internal\b|__pregel|_getframe|langgraph_api|langgraph_runtime|langgraph\._|langchain_core\._"
)


class Number(TypedDict, total=False):
    """A state of one number."""

    n: int


def node(state: Number, config: RunnableConfig) -> Number:
    """A node that takes the config."""
    return {"n": 1}


async def simple(state: Number) -> Number:
    """A node that takes the state alone."""
    return {"n": 2}


def one_node(function: Any, schema: Any = Number) -> StateGraph[Any, Any, Any, Any]:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(schema)
    graph.add_node("node", function)
    graph.add_edge(START, "node")
    return graph


def test_no_other_file_reaches_into_langgraph_or_langchain() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name == "upstream.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(found.body[0].value)
            for found in ast.walk(tree)
            if isinstance(found, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and found.body
            and isinstance(found.body[0], ast.Expr)
        }
        for found in ast.walk(tree):
            names: list[str] = []
            if isinstance(found, ast.Import):
                names = [alias.name for alias in found.names]
            elif isinstance(found, ast.ImportFrom):
                names = [f"{found.module}.{alias.name}" for alias in found.names]
            elif isinstance(found, ast.Attribute):
                names = [found.attr]
            elif isinstance(found, ast.Constant) and isinstance(found.value, str):
                names = [] if id(found) in docstrings else [found.value]
            for name in names:
                assert not PRIVATE.search(name), (
                    f"{path.relative_to(PACKAGE)}: {name}: move this to upstream.py, with a test"
                )


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_a_node_knows_whether_the_host_streams_its_subgraphs(subgraphs: bool) -> None:
    seen: list[bool] = []

    async def asks(state: Number) -> Number:
        config = var_child_runnable_config.get() or {}
        seen.append(upstream.is_streamed_by_host(config["configurable"]))
        return {}

    graph = one_node(asks).compile()
    async for _ in graph.astream({"n": 0}, subgraphs=subgraphs):
        pass
    assert seen == [subgraphs], f"STREAM_KEY: LangGraph has no {upstream.STREAM_KEY!r} any more"


async def test_the_handler_that_streams_messages_is_known() -> None:
    seen: list[list[bool]] = []

    async def asks(state: Number, config: RunnableConfig) -> Number:
        manager = config["callbacks"]
        assert isinstance(manager, AsyncCallbackManager)
        seen.append([upstream.streams_for_host(one) for one in manager.inheritable_handlers])
        return {}

    graph = one_node(asks).compile()
    given: RunnableConfig = {"callbacks": [AsyncCallbackHandler()]}
    async for _ in graph.astream({"n": 0}, given, stream_mode="messages"):
        pass
    assert sorted(seen[0]) == [False, True], "streams_for_host: another handler streams messages"


async def test_a_graph_takes_its_cache_and_store_from_the_config() -> None:
    ran: list[Any] = []

    async def remembers(state: Number, runtime: Runtime[Any]) -> Number:
        ran.append(runtime.store)
        return {"n": 3}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Number)
    graph.add_node("node", remembers, cache_policy=CachePolicy())
    graph.add_edge(START, "node")
    compiled = graph.compile(cache=InMemoryCache(), store=InMemoryStore())
    for _ in range(2):
        store, cache = InMemoryStore(), InMemoryCache[Any]()
        given = {upstream.RUNTIME_KEY: Runtime(store=store), upstream.CACHE_KEY: cache}
        await compiled.ainvoke({"n": 0}, {"configurable": given})
        assert [found is store for found in ran] == [True], "RUNTIME_KEY, CACHE_KEY: not taken"
        ran.clear()


async def test_a_store_is_copied_with_its_vectors() -> None:
    store = InMemoryStore(index={"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]})
    store.put(("a",), "k", {"text": "x"})
    empty = InMemoryStore(index={"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]})
    copied = upstream.copy_of_store(store, empty)
    found = copied.search(("a",), query="x")
    assert [(item.value, item.score) for item in found] == [({"text": "x"}, 1.0)]
    copied.get(("a",), "k").value["text"] = "y"
    assert store.get(("a",), "k").value == {"text": "x"}  # type: ignore[union-attr]


def test_a_nodes_function_is_found() -> None:
    class Callable(BaseModel):
        async def __call__(self, state: Number) -> Number:
            return {}

    made_of = Callable()
    for function in (node, simple, made_of):
        bound = one_node(function).compile().nodes["node"].bound
        assert upstream.node_function(bound) is function, "node_function: RunnableCallable.func"
    assert upstream.node_function(object()) is None


def test_it_is_known_whether_a_nodes_function_takes_the_config() -> None:
    for function, takes in ((node, True), (simple, False)):
        bound = one_node(function).compile().nodes["node"].bound
        assert upstream.takes_config(bound) is takes, "takes_config: RunnableCallable.func_accepts"


def test_a_copy_of_a_graph_keeps_what_its_constructor_does_not_take() -> None:
    class Model(BaseModel):
        n: int = 0

    graph = one_node(lambda state: {"n": 1}, Model).compile()
    kept = upstream.private_attributes(vars(graph))
    assert {"_output_mapper", "_state_mapper"} <= kept.keys(), "private_attributes: none are there"
    assert not any(name.startswith("__") for name in kept)
    copied = graph.copy()
    outputs: list[Any] = [copied.invoke({}, version="v2").value]
    vars(copied).update(kept)
    outputs.append(copied.invoke({}, version="v2").value)
    assert outputs == [{"n": 1}, Model(n=1)], (
        "private_attributes: where Pregel.copy() keeps them, this is no longer needed"
    )


class Refuses(BaseCallbackHandler):
    """Raises before a model is called."""

    raise_error = run_inline = True

    def __init__(self, *, closes: bool) -> None:
        self.closes = closes

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a chat model."""
        self._refuse()

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a model that completes text."""
        self._refuse()

    def _refuse(self) -> None:
        if self.closes:
            upstream.close_waiting_callbacks()
        raise PermissionError("refused")


class Other(AsyncCallbackHandler):
    """Another handler of the same call."""


async def complaints(event: str, *, closes: bool) -> list[str]:
    """What Python complains of after a handler has refused a model call."""
    manager = AsyncCallbackManager([Refuses(closes=closes), Other(), Other()])
    messages: Any = [["one"], ["two"]] if event == "on_chat_model_start" else ["one", "two"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(PermissionError):
            await getattr(manager, event)({}, messages)
        gc.collect()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("event", ["on_chat_model_start", "on_llm_start"])
async def test_a_handler_that_refuses_a_call_leaves_no_coroutine_behind(event: str) -> None:
    assert await complaints(event, closes=True) == [], (
        f"close_waiting_callbacks: finds no waiting coroutines in AsyncCallbackManager.{event}"
    )
    assert any("never awaited" in text for text in await complaints(event, closes=False)), (
        "close_waiting_callbacks: LangChain closes them itself now; this is no longer needed"
    )


async def test_langchain_warns_of_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Refuses):
        """Refuses as well."""

    upstream.silence_refusals(Silent)
    caplog.set_level(logging.WARNING)
    for handler, warns in ((Silent(closes=True), False), (Refuses(closes=True), True)):
        caplog.clear()
        with pytest.raises(PermissionError):
            await AsyncCallbackManager([handler]).on_chat_model_start({}, [["hello"]])
        told = any("refused" in record.getMessage() for record in caplog.records)
        assert told is warns, "silence_refusals: LangChain words or names its warning otherwise"


@pytest.mark.parametrize("nested", [False, True])
async def test_a_node_knows_the_checkpoint_that_its_graph_stands_at(nested: bool) -> None:
    found: list[Any] = []

    async def look(state: Number, config: RunnableConfig) -> Number:
        found.append(upstream.checkpoint_of(config["configurable"]))
        return {"n": 1}

    graph = one_node(look)
    if nested:
        graph = one_node(graph.compile())
    compiled = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    await compiled.ainvoke({}, config)
    [at] = found
    history = [
        one.config["configurable"]["checkpoint_id"]
        async for one in compiled.aget_state_history(config)
    ]
    assert at["thread_id"] == "t", "checkpoint_of: the thread is not in `configurable`"
    assert bool(at["checkpoint_ns"]) is nested, "checkpoint_of: the namespace has another form"
    known = isinstance(at["checkpoint_id"], str) if nested else at["checkpoint_id"] == history[1]
    assert known, "checkpoint_of: `checkpoint_map` does not hold the graph's checkpoint"
    await graph.compile().ainvoke({}, config)
    assert found[-1] is None, "checkpoint_of: a graph without a checkpointer has one"


SERVER = """
import asyncio, json, os
os.environ |= {"LANGGRAPH_RUNTIME_EDITION": "inmem", "DATABASE_URI": ":memory:",
               "REDIS_URI": "fake", "MIGRATIONS_PATH": "__inmem",
               "LANGSERVE_GRAPHS": json.dumps({}),
               "CORS_CONFIG": json.dumps({"allow_origins": ["https://a.example"],
                                          "allow_origin_regex": "https://b[.].*"})}
from orcheo_agentensor import upstream
assert not upstream.in_langgraph_server(), "in_langgraph_server: says yes too early"
assert not upstream.own_runs_are_in_memory(), "own_runs_are_in_memory: says yes too early"
graphs = upstream.served_graphs()
assert dict(graphs) == {}, "served_graphs: is no mapping of ids to graphs"
graphs["mine"] = object()
known = upstream.assistant_id_of("mine")
assert known != "mine" and len(known) == 36, "assistant_id_of: gives no id for a graph's name"
assert upstream.assistant_id_of("other") == "other", "assistant_id_of: changes other ids"
assert upstream.allowed_origins() == (["https://a.example"], "https://b[.].*"), "allowed_origins"
assert upstream.server_user() is None, "server_user: a user where there is none"
from langgraph_api.utils import with_user
from langgraph_sdk import Auth
class User:
    identity, display_name, is_authenticated, permissions = "ana", "Ana", True, ["run"]
async def asks():
    async with with_user(User(), ["run"]):
        user, scopes = upstream.server_user()
        assert (user.identity, scopes) == ("ana", ["run"]), "server_user: not ana"
asyncio.run(asks())
import langgraph_api.server
assert upstream.in_langgraph_server(), "in_langgraph_server: does not know one"
assert upstream.own_runs_are_in_memory(), "own_runs_are_in_memory: does not know that runtime"
"""


def test_what_is_asked_of_a_langgraph_server_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]


def test_a_model_that_takes_any_field_of_the_config_is_known() -> None:
    from langchain.chat_models import init_chat_model

    assert upstream.reads_any_config(init_chat_model(configurable_fields="any"))
    assert not upstream.reads_any_config(init_chat_model(configurable_fields=["temperature"]))


def test_a_type_of_ours_is_read_from_the_checkpoints_of_any_saver(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream.allow_in_checkpoints(TextTensor)
    kept = TextTensor("Plan.", requires_grad=False)
    for serializer in (JsonPlusSerializer(), JsonPlusSerializer(allowed_msgpack_modules=None)):
        assert serializer.loads_typed(serializer.dumps_typed({"plan": kept})) == {"plan": kept}
    assert caplog.text == ""


def test_the_body_of_a_module_that_reads_is_told_from_a_function() -> None:
    def asked() -> bool:
        return upstream.read_by_import(above=1)

    names: dict[str, Any] = {"asked": asked}
    exec("in_body = asked()\ndef read():\n    return asked()\nin_function = read()", names)  # noqa: S102
    assert (names["in_body"], names["in_function"]) == (True, False)


async def test_a_call_has_the_connection_of_aiosqlite_in_its_own_thread() -> None:
    async with aiosqlite.connect(":memory:") as connection:

        def made(plain: sqlite3.Connection) -> str:
            plain.execute("CREATE TABLE tables (name)")
            plain.execute("INSERT INTO tables VALUES (?)", (threading.current_thread().name,))
            plain.commit()
            return threading.current_thread().name

        thread = await upstream.on_connection(connection, made)
        assert [*await connection.execute_fetchall("SELECT name FROM tables")] == [(thread,)]
    assert thread != threading.current_thread().name


def test_a_source_is_asked_for_again_when_another_thread_parses_at_the_same_time() -> None:
    errors = [SystemError("AST constructor recursion depth mismatch")] * 3

    def disturbed() -> str:
        if errors:
            raise errors.pop()
        return "source"

    assert upstream.parsed(disturbed) == "source"
    assert upstream.source_of(TextTensor).startswith("class TextTensor")
    errors += [SystemError("for ever")] * 20
    with pytest.raises(SystemError, match="for ever"):
        upstream.parsed(disturbed)


def test_a_metric_of_ragas_knows_the_function_it_was_made_of() -> None:
    """`make compat` runs it, where Ragas is there."""
    ragas = pytest.importorskip("ragas.metrics")

    def same(response: str, reference: str) -> str:
        return "pass"

    metric = ragas.discrete_metric(name="same", allowed_values=["pass", "fail"])(same)
    assert upstream.ragas_function(metric) is same
    assert upstream.ragas_function(object()) is None


def in_fresh_process(code: str) -> str:
    """What code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


LATER = """
import sys, threading
from orcheo_agentensor import upstream
assert not any(name.startswith("langchain_core.runnables") for name in sys.modules)
upstream.var_child_runnable_config.set({"tags": ["mine"]})
import langgraph.graph, langgraph.config
from langchain_core.runnables.config import ensure_config
held = {
    name: module.var_child_runnable_config is upstream.var_child_runnable_config
    for name, module in [*sys.modules.items()]
    if hasattr(module, "var_child_runnable_config")
}
print(all(held.values()), len(held) > 3, ensure_config()["tags"])
"""

EARLIER = """
from langchain_core.runnables import config
from orcheo_agentensor import upstream
print(config.var_child_runnable_config is upstream.var_child_runnable_config)
"""


def test_langchain_has_our_variable_for_the_config_around_whichever_is_imported_first() -> None:
    assert in_fresh_process(LATER) == "True True ['mine']"
    assert in_fresh_process(EARLIER) == "True"


HANDLER = """
import sys
from contextvars import ContextVar
from orcheo_agentensor import upstream
if {first}:
    import langchain_core.tracers.context
handler = ContextVar("handler", default=None)
upstream.register_handler(handler)
assert {first} or "langsmith" not in sys.modules
from langchain_core.callbacks import BaseCallbackHandler
class Heard(BaseCallbackHandler):
    def on_chain_start(self, *args, **kwargs):
        print("heard")
handler.set(Heard())
from langchain_core.runnables import RunnableLambda
RunnableLambda(lambda value: value).invoke(1)
"""


@pytest.mark.parametrize("first", [True, False], ids=["before us", "after us"])
def test_a_handler_is_heard_of_whenever_langchain_is_imported(first: bool) -> None:
    assert in_fresh_process(HANDLER.format(first=first)) == "heard"


def test_a_module_is_acted_on_by_all_who_wait_as_soon_as_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_late.py").write_text("word = 'theirs'\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def change(module: Any) -> None:
        module.word += ", ours"

    upstream.when_imported("imported_late", change)
    upstream.when_imported("imported_late", change)
    assert importlib.util.find_spec("imported_late") is not None  # which imports nothing
    from imported_late import word  # type: ignore[import-not-found]

    assert word == "theirs, ours, ours"
    upstream.when_imported("imported_late", change)
    assert sys.modules.pop("imported_late").word == "theirs, ours, ours, ours"
    assert importlib.import_module("imported_late").word == "theirs"  # nobody waits any more
    del sys.modules["imported_late"]
    upstream.when_imported("imported_never", change)
    with pytest.raises(ModuleNotFoundError, match="imported_never"):
        importlib.import_module("imported_never")


def test_every_entry_says_what_was_tried_and_is_tested_here() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    tree = ast.parse(Path(upstream.__file__).read_text(encoding="utf-8"))
    functions = [found for found in tree.body if isinstance(found, ast.FunctionDef)]
    assert len(functions) > 5
    for function in functions:
        assert f"{function.name}(" in tests, f"{function.name} is not tested"
        told = ast.get_docstring(function) or ""
        assert "Tried:" in told or function.name == "is_streamed_by_host", function.name
