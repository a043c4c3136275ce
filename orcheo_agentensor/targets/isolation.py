"""What a target is made of, and what keeps one rollout of it apart from another.

A target is followed through wrappers, closures and the names that its functions use, as far as
the code is the project's own: to the graphs that it runs, and to the files that it comes from.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.evaluators.binding import source_hash
from orcheo_agentensor.json_values import canonical_json, content_hash
from orcheo_agentensor.kinds import is_pregel, is_runnable
from orcheo_agentensor.upstream import CACHE_KEY, RUNTIME_KEY, copy_of_store, node_function

if TYPE_CHECKING:
    from langgraph.pregel import Pregel

MemoryStore = Literal["fresh", "shared", "seeded"]
"""What the LangGraph `Store` of a rollout holds at its beginning: nothing; what the rollouts
before it have left; or a copy of what the target's own store held when the run began."""

_MOST_ENTRIES = 1_000  # of a container; more are data
_PAGE = 1_000  # items of a store read at once


_ROLLOUT: ContextVar[dict[str, Any] | None] = ContextVar("agentensor_rollout", default=None)
"""What the calls of a rollout have in common that calls its target several times."""


@contextmanager
def one_rollout() -> Iterator[None]:
    """All calls of a target inside are one rollout: they have one cache and one store."""
    token = _ROLLOUT.set({})
    try:
        yield
    finally:
        _ROLLOUT.reset(token)


class Isolation:
    """Gives each rollout a node cache of its own, and the LangGraph `Store` that the job asks for.

    Both travel in `configurable`, under LangGraph's own keys, to every graph that the target runs.
    """

    def __init__(
        self,
        graphs: Iterable[Pregel[Any, Any, Any, Any]],
        mode: MemoryStore,
        context: Any,
        *,
        needs_labels: bool,
    ) -> None:
        from langgraph.cache.memory import InMemoryCache
        from langgraph.runtime import Runtime
        from langgraph.store.memory import InMemoryStore

        graphs = list(graphs)
        self.context = context
        self._stops = [
            f"{when} {', '.join(['every node'] if nodes == '*' else map(repr, nodes))}"
            for graph in graphs
            for when, nodes in (
                ("before", graph.interrupt_before_nodes),
                ("after", graph.interrupt_after_nodes),
            )
            if nodes
        ]
        self.needs_labels = needs_labels
        self.has_saver = any(graph.checkpointer for graph in graphs)
        self.keeps = mode != "shared" and any(graph.store or graph.cache for graph in graphs)
        self._cache = next((graph.cache for graph in graphs if graph.cache), None)
        self._store = next((graph.store for graph in graphs if graph.store), None)
        self._mode = mode
        self._seed: asyncio.Future[Any] | None = None
        self._new_cache, self._runtime = InMemoryCache, Runtime
        self._new_store = functools.partial(
            InMemoryStore, index=getattr(self._store, "index_config", None)
        )
        if mode == "seeded" and self._store is None:
            raise BadInput(
                field="job.memory_store",
                value=mode,
                rule="needs a graph with a store to copy from: compile it with store=…",
            )
        if mode == "shared" and self._store is None:  # as on a server, which has one for all
            self._store = self._new_store()

    def require_no_stops(self, name: str) -> None:
        """Raise `BadInput` for a graph that stops at breakpoints, naming their nodes."""
        if self._stops:
            raise BadInput(
                f"target: {name!r} has breakpoints ({'; '.join(dict.fromkeys(self._stops))}), at "
                "which each rollout would end with a half-finished state; compile the graph "
                "without interrupt_before and interrupt_after",
                field="target",
                value=name,
                rule="must run to its end",
            )

    async def keys(self) -> dict[str, Any]:
        """What goes into the `configurable` of one rollout."""
        held = _ROLLOUT.get()
        if held is None:
            return await self._made()
        if not held:
            held.update(await self._made())
        return held

    async def _made(self) -> dict[str, Any]:
        runtime = self._runtime(context=self.context, store=await self._own_store())
        found: dict[str, Any] = {RUNTIME_KEY: runtime}
        if self._cache is not None:
            found[CACHE_KEY] = self._new_cache(serde=self._cache.serde)
        return found

    async def _own_store(self) -> Any:
        if self._mode == "shared":
            return self._store
        if self._mode == "fresh":
            return self._new_store()
        if self._seed is None:
            self._seed = asyncio.ensure_future(self._read_seed())
        return copy_of_store(await self._seed, self._new_store())

    async def _read_seed(self) -> Any:
        seed = self._new_store()
        if isinstance(self._store, type(seed)):
            return copy_of_store(self._store, seed)
        items: list[Any] = []
        while page := await cast("Any", self._store).asearch((), limit=_PAGE, offset=len(items)):
            items += page
        for item in items:
            await seed.aput(item.namespace, item.key, item.value)
        return seed


def isolation_of(
    target: Any, *, name: str, mode: MemoryStore, context: Any = None
) -> Isolation | None:
    """The isolation of a target that runs graphs; None for one that runs none.

    Raises `BadInput` where `mode` asks for a store that the target cannot have, and for a
    `context` that no graph takes.
    """
    parts = [*parts_of(target)]
    graphs = [part for part in parts if is_pregel(part)]
    if context is not None and not any(graph.context_schema for graph in graphs):
        raise BadInput(
            field="context",
            value=type(context).__name__,
            rule=f"is for graphs with a context_schema, and {name!r} runs none",
        )
    if not graphs and mode != "fresh":
        raise BadInput(
            field="job.memory_store",
            value=mode,
            rule=f"is for targets that run a LangGraph graph here, and {name!r} does not",
        )
    if not graphs:
        return None
    return Isolation(graphs, mode, context, needs_labels=any(map(_may_read_labels, parts)))


def _may_read_labels(part: Any) -> bool:
    """Whether a part of a graph may look at the metadata of calls, or hand it on: a handler or a
    remote graph, code that names metadata or the labels in it, and code that is not looked into."""
    if not isinstance(part, FunctionType):
        return not _HEARS.isdisjoint(base.__name__ for base in type(part).__mro__)
    module = _module_of(part)
    if is_own(module):
        return any(map(_is_of_labels, _words_in(part.__code__)))
    package = "" if module is None else package_of(module.__name__) or module.__name__
    return not package.startswith(_KNOWN)


_HEARS = frozenset({"BaseCallbackHandler", "BaseCallbackManager", "RemoteGraph"})
_KNOWN = ("langchain", "langgraph", "langsmith", "pydantic", __package__.partition(".")[0])


def _words_in(code: CodeType) -> Iterator[str]:
    """The names that code uses, and its texts."""
    yield from names_in(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words_in(constant)
        elif isinstance(constant, str):
            yield constant


def _is_of_labels(word: str) -> bool:
    return word == "metadata" or word.startswith("agentensor_")


def parts_of(target: Any) -> Iterator[Any]:
    """The target and what it is made of: wrapped runnables, graphs, nodes, functions, objects."""
    seen: dict[int, Any] = {}
    waiting = [target]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or part is None or isinstance(part, str | bytes | int | float):
            continue
        seen[id(part)] = part  # which also keeps its id from being used again
        yield part
        waiting.extend(_inside(part))


def _inside(part: Any) -> Iterable[Any]:
    if isinstance(part, Mapping | list | tuple | set | frozenset):
        entries = part.values() if isinstance(part, Mapping) else part
        return [*entries] if len(part) <= _MOST_ENTRIES else ()
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, MethodType):
        return [part.__self__, part.__func__]
    if isinstance(part, staticmethod | classmethod):
        return [part.__func__]
    if isinstance(part, FunctionType):
        return [*_cells(part), *_named(part), vars(part).get("__wrapped__")]
    if is_pregel(part):
        return [inner for node in part.nodes.values() for inner in (node.bound, node.subgraphs)]
    if isinstance(part, ModuleType):
        return ()
    if isinstance(part, type):
        return [*vars(part).values()] if is_own(_module_of(part)) else ()
    held = getattr(part, "__dict__", {})
    ours = type(part).__module__.startswith(f"{__package__}.")  # a target of this package
    if ours or is_runnable(part) or is_own(_module_of(type(part))):
        return [type(part), *held.values()]
    return [held.get("__wrapped__")]


def _cells(function: FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is set later
            continue


def _named(function: FunctionType) -> Iterator[Any]:
    """The globals that a function of the project names, and what it names in its modules."""
    if not is_own(_module_of(function)):
        return
    names = set(names_in(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield value
        if isinstance(value, ModuleType) and is_own(value):
            yield from (vars(value)[inner] for inner in names & vars(value).keys())


def names_in(code: CodeType) -> Iterator[str]:
    """The names that code uses: globals, attributes and imports, of functions in it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def _module_of(defined: Any) -> ModuleType | None:
    return sys.modules.get(getattr(defined, "__module__", None) or "")


def is_own(module: ModuleType | None) -> bool:
    """Whether a module is the project's own: not installed, and not this package's."""
    path = getattr(module, "__file__", None)
    if not isinstance(path, str) or not path.endswith(".py") or path.startswith(_not_own()):
        return False
    return "/site-packages/" not in path  # of another environment, which this one sees, too


@functools.cache
def _not_own() -> tuple[str, ...]:
    installed = [
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    return (*(f"{path}/" for path in installed), f"{Path(__file__).parents[1]}/")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a target comes from.

    `modules` are the project's modules that its functions, nodes and objects are defined in, and
    those that these import, each with the hash of its file. `graph` is the hash of the structure
    of the graphs that it runs, None where it runs none. `code` is the hash of that, and of what no
    module tells apart: lambdas, nested functions with the texts that they close over, and the
    arguments of partials. `packages` are the installed packages that its parts come from, by the
    names they are imported by; `models` are the chat models among its parts; `folder` is where the
    first of the modules is.
    """

    modules: dict[str, str]
    code: str | None
    graph: str | None
    packages: frozenset[str]
    models: tuple[Any, ...]
    folder: Path | None

    def to_ref(self, fingerprint: str) -> dict[str, Any]:
        """As `changed_source` compares it."""
        found = {"target": fingerprint, "modules": self.modules, "code": self.code}
        return {key: value for key, value in found.items() if value}


def provenance_of(target: Any) -> Provenance:
    """What a target comes from; reads files."""
    own: list[ModuleType] = []
    code: list[Any] = []
    graphs: list[Any] = []
    packages: set[str] = set()
    models: list[Any] = []
    for part in parts_of(target):
        kind = part if isinstance(part, FunctionType | type) else type(part)
        module = _module_of(kind)
        if module is not None and is_own(module):
            own.append(module)
        elif module is not None and (name := package_of(module.__name__)) is not None:
            packages.add(name)
        if is_pregel(part):
            graphs.append(
                {
                    name: [getattr(node_function(node.bound), "__qualname__", ""), *node.triggers]
                    for name, node in part.nodes.items()
                }
            )
        elif isinstance(part, functools.partial):
            given: list[tuple[Any, Any]] = [*enumerate(part.args), *part.keywords.items()]
            code.append({str(key): text for key, text in given if isinstance(text, str)})
        elif isinstance(part, FunctionType) and _is_nameless(part, module):
            closed = [value for value in _cells(part) if isinstance(value, str)]
            code.append([part.__qualname__, source_hash(part), closed])
        elif hasattr(part, "_llm_type") and not isinstance(part, type):
            models.append(part)
    modules = _with_imports([*own])
    edges = sorted(map(list, getattr(target, "edges", ())))
    structure = [edges, sorted(graphs, key=canonical_json)]
    graph = content_hash(structure) if graphs or edges else None
    told = [graph, sorted(code, key=canonical_json)]
    return Provenance(
        modules=modules,
        code=content_hash(told) if code or graph else None,
        graph=graph,
        packages=frozenset(packages),
        models=tuple(models),
        folder=next((Path(str(one.__file__)).parent for one in own), None),
    )


def _is_nameless(function: FunctionType, module: ModuleType | None) -> bool:
    """Whether the file of a function's module does not tell it from others of its name."""
    if module is not None and getattr(module, "__file__", None) and not is_own(module):
        return False
    return "<" in function.__qualname__ or getattr(module, "__file__", None) is None


def package_of(module: str) -> str | None:
    """The name that the installed package of a module is imported by."""
    name = module.partition(".")[0]
    known = sys.stdlib_module_names
    return None if name in known or name in ("__main__", __package__.partition(".")[0]) else name


def _with_imports(modules: list[ModuleType]) -> dict[str, str]:
    """Module -> hash of its file, for these and the project's modules that they import."""
    found: dict[str, str] = {}
    while modules:
        module = modules.pop()
        if module.__name__ in found:
            continue
        try:
            source = Path(str(module.__file__)).read_bytes()
            found[module.__name__] = hashlib.sha256(source).hexdigest()[:16]
        except OSError:  # it is gone, so nothing will be compared with it
            found[module.__name__] = ""
        for value in [*vars(module).values()]:
            known = value if isinstance(value, ModuleType) else _module_of(value)
            if known is not None and is_own(known):
                modules.append(known)
    return found


def changed_source(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> list[str]:
    """The modules whose code has changed between two runs of one target, called `name`.

    A module that is in one of them alone says nothing: what a package holds depends on what else
    was imported. Where the target itself uses another module, one of those that it had names it.
    """
    if before.get("target") != now.get("target"):
        return []
    old, new = before.get("modules", {}), now.get("modules", {})
    both = old.keys() & new.keys()
    changed = sorted(name for name in both if old[name] and new[name] and old[name] != new[name])
    codes = {source["code"] for source in (before, now) if "code" in source}
    return changed or ([name] if len(codes) == 2 else [])
