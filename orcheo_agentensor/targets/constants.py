"""Prompts that are constants of modules: each run reads its own texts, at once with others.

A constant is never changed. A function of the project that reads it by name is given code that asks
for the text of the run around it first, and so is a module of which it is an attribute; outside a
run both give what the module holds. Texts travel in a context variable, into threads as well.
"""

from __future__ import annotations

import ast
import concurrent.futures
import dis
import functools
import gc
import linecache
import sys
import threading
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias, TypeVar

from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.prompts import constant_in, text_of
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import bind_of, record_prompt_read
from orcheo_agentensor.targets.isolation import is_own, names_in
from orcheo_agentensor.upstream import parsed, read_by_import

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]
"""The module that defines a constant, and its name there."""

_READ = "__agentensor_read__"


@dataclass(frozen=True)
class Replacement:
    """What a run reads in place of a global: a prompt's text with its name, or another object."""

    value: Any
    prompt: str | None = None


Values: TypeAlias = Mapping[Key, Replacement]

_values: ContextVar[Values | None] = ContextVar("agentensor_constants", default=None)


def _read(module: str, name: str, held: Any) -> Any:
    given = (_values.get() or {}).get((module, name))
    if given is None:
        return held
    if given.prompt is not None:
        record_prompt_read(given.prompt)
    return given.value


# -- Which constants a run binds -------------------------------------------------------------------


def load_constants(
    prompts: Mapping[str, Any], *, settings: Settings, trusted: Container[str] = ()
) -> None:
    """Import the modules of the constants to which `prompts` bind, where the operator allows them.

    Of those that are `trusted`, because a caller in this process gave them, a module that is loaded
    already will do.

    Raises `EntrypointNotAllowed` or `EntrypointNotFound`, and `ConfigError` naming the prompt whose
    constant is no text, or is read in a function that `functools` caches.
    """
    for name, prompt in prompts.items():
        bind = constant_in(bind_of(prompt))
        if bind is None:
            continue
        if name not in trusted or loaded_module(bind) is None:
            load_entrypoint(bind, settings=settings, what="prompt")
        key = _constant(bind, field=f"prompts.{name}.bind")
        if (cached := _hooks.cached(key)) is not None:
            raise ConfigError(
                field=f"prompts.{name}.bind",
                value=bind,
                rule=f"is read in {cached}, whose results functools caches: the first text would "
                "stay for all others. Read the constant outside of the cached function",
            )


def values_of(prompts: Mapping[str, Any]) -> dict[Key, Replacement]:
    """What a run reads in place of the constants to which its prompts bind."""
    found: dict[Key, Replacement] = {}
    for name, prompt in prompts.items():
        if (bind := constant_in(bind_of(prompt))) is not None:
            key = _constant(bind, field=f"prompts.{name}.bind")
            found[key] = Replacement(text_of(prompt, field=f"prompts.{name}"), name)
    return found


def value_of_global(module: str, name: str, value: Any) -> tuple[Key, Replacement]:
    """What a run reads in place of any global of a module, such as a chain."""
    _hooks.hook((module, name), vars(sys.modules[module])[name])
    return (module, name), Replacement(value)


def has_readers(bind: str) -> bool:
    """Whether a function of the project may read a constant when it is called."""
    return _hooks.has_readers(_constant(bind, field="bind"))


def kept_texts(folder: Path) -> list[tuple[Path, str, str, bool]]:
    """The texts that the loaded modules of a folder define: file, name, text, and whether a
    function of the project names it, so that a run may read it."""
    folder = folder.resolve()
    named = {
        name
        for functions in _own_functions().values()
        for function in functions
        for name in names_in(function.__code__)
    }
    found: dict[tuple[Path, str], tuple[Path, str, str, bool]] = {}
    modules = [one for one in {*sys.modules.values()} if is_own(one)]
    for module in sorted(modules, key=lambda one: one.__name__):
        file = Path(str(module.__file__)).resolve()
        if not file.is_relative_to(folder):
            continue
        texts = {name: one for name, one in vars(module).items() if isinstance(one, str)}
        try:
            tree = parsed(partial(ast.parse, file.read_text("utf-8")))
        except (OSError, SyntaxError, ValueError):
            continue
        for name in filter(texts.__contains__, _assigned(tree)):
            text = texts[name]
            aliases = {
                other
                for elsewhere in modules
                for other, one in vars(elsewhere).items()
                if one is text
            }
            place = file.relative_to(folder)
            found[place, name] = (place, name, text, not named.isdisjoint({name, *aliases}))
    return list(found.values())


def _assigned(tree: ast.Module) -> Iterator[str]:
    """The names that a module assigns at its top, in their order."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (one.id for one in targets if isinstance(one, ast.Name))


def loaded_module(spec: str) -> ModuleType | None:
    """The module that holds the attribute of `"module:NAME"` or `"./path.py:NAME"`, if loaded."""
    where, _, _ = spec.rpartition(":")
    if not where.endswith(".py"):
        return sys.modules.get(where)
    tails = [root / where for root in (Path.cwd(), *map(Path, sys.path))]
    files = {str(tail.resolve()) for tail in tails if tail.is_file()}
    for module in [*sys.modules.values()]:
        file = None if module.__name__ == "__main__" else getattr(module, "__file__", None)
        if file is not None and str(Path(file).resolve()) in files:
            return module
    return None


def _constant(bind: str, *, field: str) -> Key:
    """The constant that a prompt binds to, with hooks wherever it is read."""
    key = _hooks.keys.get(bind)
    module = sys.modules.get(key[0]) if key is not None else loaded_module(bind)
    if module is None:
        raise ConfigError(field=field, value=bind, rule="names a module that is not imported")
    key = (module.__name__, bind.rpartition(":")[2])
    held = vars(module).get(key[1])
    if not isinstance(held, str):
        kind = type(held).__name__ if key[1] in vars(module) else "not there"
        rule = f"must name a text of a module, and is {kind}"
        raise ConfigError(field=field, value=bind, rule=rule)
    _hooks.hook(key, held)
    _hooks.keys[bind] = key
    return key


# -- The run around a read -------------------------------------------------------------------------


@contextmanager
def reading(values: Values) -> Iterator[None]:
    """Whatever runs inside the block, in its tasks and threads too, reads these values."""
    if not values:
        yield
        return
    _hooks.look_again()
    token = _values.set(values)
    _threads.begin()
    try:
        yield
    finally:
        _threads.end()
        _values.reset(token)


class _Threads:
    """Hands the values on to threads that are started, and calls put into pools, while runs last.

    Python does that for context variables itself from 3.14 on, where it is told to.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._theirs: tuple[Any, Any] = (None, None)
        self._ours: tuple[Any, Any] = (None, None)

    def begin(self) -> None:
        with self._lock:
            self._running += 1
            if self._running > 1:
                return
            start: Any = threading.Thread.start
            submit: Any = concurrent.futures.ThreadPoolExecutor.submit

            @functools.wraps(start)
            def carrying_start(thread: threading.Thread) -> None:
                values, run = _values.get(), thread.run
                if values is not None:
                    vars(thread)["run"] = lambda: _called(values, run)
                start(thread)

            @functools.wraps(submit)
            def carrying_submit(pool: Any, call: Any, /, *args: Any, **kwargs: Any) -> Any:
                # A pool's own threads outlive the run, so that they must not begin with its values.
                values = _values.get()
                return _called(None, submit, pool, _called, values, call, *args, **kwargs)

            self._theirs, self._ours = (start, submit), (carrying_start, carrying_submit)
            self._put(*self._ours)

    def end(self) -> None:
        with self._lock:
            self._running -= 1
            now = (threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit)
            if not self._running and now == self._ours:  # else someone else has wrapped ours
                self._put(*self._theirs)

    def _put(self, start: Any, submit: Any) -> None:
        threading.Thread.start = start  # type: ignore[method-assign]
        concurrent.futures.ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]


def _called(values: Values | None, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    token = _values.set(values)
    try:
        return call(*args, **kwargs)
    finally:
        _values.reset(token)


_threads = _Threads()


# -- Where a constant is read ----------------------------------------------------------------------


class _Hooks:
    """The functions and modules that ask for a run's value before they give a global.

    They stay hooked: what a function makes while it runs would otherwise be missed.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        """Bind -> the constant that it names."""
        self._lock = threading.RLock()
        self._held: dict[Key, Any] = {}
        self._names: dict[str, dict[str, Key]] = {}
        """Module -> its globals that hold one of the constants, with its key."""
        self._readers: dict[Key, list[weakref.ref[FunctionType]]] = {}
        self._originals: dict[CodeType, tuple[Any, ...]] = {}
        """Hooked code -> the identity of what it was made of."""
        self._seen = 0

    def hook(self, key: Key, held: Any) -> None:
        """Hook every function and module that reads this global."""
        if self._held.get(key) is not held:
            with self._lock:
                self._held[key] = held
                self._hook_all()

    def look_again(self) -> None:
        """Hook modules that were imported since."""
        if len(sys.modules) != self._seen:
            with self._lock:
                self._hook_all()

    def readers(self, key: Key) -> list[FunctionType]:
        """The functions that read the global by its name."""
        return [one for ref in self._readers.get(key, ()) if (one := ref()) is not None]

    def has_readers(self, key: Key) -> bool:
        """Whether a function names the global, or names it as an attribute of its module."""
        if self.readers(key):
            return True
        return any(
            key[1] in names_in(function.__code__)
            for functions in _own_functions().values()
            for function in functions
        )

    def cached(self, key: Key) -> str | None:
        """A function that reads the global, and whose results are cached."""
        for module in [*sys.modules.values()]:
            for value in [*vars(module).values()] if is_own(module) else ():
                inner = getattr(value, "__wrapped__", None)
                if hasattr(value, "cache_info") and isinstance(inner, FunctionType):
                    names = {*names_in(inner.__code__)}
                    if any(name in names for name in (key[1], *self._aliases(inner, key))):
                        return f"{module.__name__}.{inner.__qualname__}"
        return None

    def _aliases(self, function: FunctionType, key: Key) -> list[str]:
        """The names of the constant among the globals of a function."""
        names = self._names.get(function.__module__, {})
        return [name for name, known in names.items() if known == key]

    def key_in(self, module: str, name: str) -> Key | None:
        """The constant that a global of a module holds."""
        return self._names.get(module, {}).get(name)

    def _hook_all(self) -> None:
        self._seen = len(sys.modules)
        packages = {key[0].partition(".")[0] for key in self._held}
        functions: dict[int, list[FunctionType]] | None = None
        for name, module in [*sys.modules.items()]:
            if not isinstance(module, ModuleType) or name != module.__name__:
                continue
            if name.partition(".")[0] not in packages and not is_own(module):
                continue
            found = {own: key for key in self._held for own in self._names_in(module, key)}
            known = self._names.get(name, {}) if _READ in vars(module) else {}
            if found and found != known:
                self._names[name] = found
                functions = _own_functions(packages) if functions is None else functions
                self._hook_module(module, found, functions.get(id(vars(module)), []))

    def _names_in(self, module: ModuleType, key: Key) -> Iterator[str]:
        """The globals of a module that are this constant, under its own name or another."""
        held = self._held[key]
        if module.__name__ == key[0]:
            if key[1] in vars(module):
                yield key[1]
            return
        defined = vars(sys.modules[key[0]]).values() if key[0] in sys.modules else ()
        # Python makes one object of equal texts in a module: then the name tells them apart.
        is_single = sum(value is held for value in defined) == 1
        for name, value in [*vars(module).items()]:
            if value is held and (is_single or name == key[1]):
                yield name

    def _hook_module(
        self, module: ModuleType, names: Mapping[str, Key], functions: Iterable[FunctionType]
    ) -> None:
        vars(module)[_READ] = _read
        if not isinstance(module, _Hooked):
            kind = type(module)
            body = {"__module__": kind.__module__}
            module.__class__ = type(kind.__name__, (_Hooked, kind), body)
        by_file: dict[str, list[FunctionType]] = {}
        for function in functions:
            if not names.keys().isdisjoint(names_in(function.__code__)):
                by_file.setdefault(function.__code__.co_filename, []).append(function)
        for file, there in by_file.items():
            source = "".join(linecache.getlines(file, vars(module)))
            pairs = _hooked_codes(source, file, names)
            self._originals |= {code: identity for identity, code in pairs.items()}
            for function in there:
                identity = self._originals.get(function.__code__) or _identity(function.__code__)
                code = pairs.get(identity)
                if code is not None:
                    function.__code__ = code
                    for name in names.keys() & {*names_in(code)}:
                        ref = weakref.ref(function)
                        self._readers.setdefault(names[name], []).append(ref)


class _Hooked(ModuleType):
    """A module that gives a run's text where its constant is read as an attribute, or imported."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("__") or _values.get() is None:
            return found
        key = _hooks.key_in(super().__getattribute__("__name__"), name)
        if key is None:
            return found
        if read_by_import(above=1):  # which would keep what it gets
            return found
        return _read(*key, found)


_hooks = _Hooks()


def _own_functions(packages: Container[str] = ()) -> dict[int, list[FunctionType]]:
    """Every function of the project, methods and closures too, by the id of its globals."""
    found: dict[int, list[FunctionType]] = {}
    own: dict[int, bool] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType:
            place = id(one.__globals__)
            if place not in own:
                name = str(one.__globals__.get("__name__"))
                own[place] = name.partition(".")[0] in packages or is_own(sys.modules.get(name))
            if own[place]:
                found.setdefault(place, []).append(one)
    return found


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_codes(constant)


def _identity(code: CodeType) -> tuple[Any, ...]:
    """What tells the code of a function from all others of its file, and from that of another
    version of the file."""
    where = tuple(code.co_positions())
    return code.co_qualname, code.co_firstlineno, code.co_code, code.co_names, where


def _hooked_codes(
    source: str, file: str, names: Mapping[str, Key]
) -> dict[tuple[Any, ...], CodeType]:
    """The code of each function in a file -> the same with reads of the globals `names` hooked."""
    try:
        tree = parsed(lambda: ast.parse(source, file))
        before = compile(source, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return {}
    reads = {
        _position(instruction.positions)
        for code in _all_codes(before)
        for instruction in dis.get_instructions(code)
        if instruction.opname == "LOAD_GLOBAL" and instruction.argval in names
    }
    after = compile(_Hooking(reads, names).visit(tree), file, "exec", dont_inherit=True)
    new_codes = _by_place(after)
    return {
        _identity(old): new
        for place, olds in _by_place(before).items()
        # Code that can never run is left out by the compiler, and not always in both.
        if len(olds) == len(new_codes.get(place, ()))
        for old, new in zip(olds, new_codes[place], strict=True)
        if old.co_freevars == new.co_freevars
    }


def _by_place(code: CodeType) -> dict[tuple[str, int], list[CodeType]]:
    """A code and all that is in it, by name and line."""
    found: dict[tuple[str, int], list[CodeType]] = {}
    for one in _all_codes(code):
        found.setdefault((one.co_qualname, one.co_firstlineno), []).append(one)
    return found


def _position(found: Any) -> tuple[Any, ...]:
    return found.lineno, found.col_offset, found.end_lineno, found.end_col_offset


class _Hooking(ast.NodeTransformer):
    """Makes `NAME` at the positions given `__agentensor_read__("module", "NAME", NAME)`."""

    def __init__(self, reads: set[tuple[Any, ...]], names: Mapping[str, Key]) -> None:
        self._reads = reads
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self._names or _position(node) not in self._reads:
            return node
        key = [ast.Constant(part) for part in self._names[node.id]]
        call = ast.Call(ast.Name(_READ, ast.Load()), [*key, node], [])
        return ast.fix_missing_locations(ast.copy_location(call, node))
