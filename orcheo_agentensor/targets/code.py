"""What the code of a graph's nodes says, read without running it: the prompts that it asks for, and
what it holds that no prompt reaches."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
import linecache
import re
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from orcheo_agentensor.errors import shorten
from orcheo_agentensor.kinds import is_tool
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.tape import TARGET_NODE, get_prompt
from orcheo_agentensor.targets.isolation import is_own, names_in, parts_of
from orcheo_agentensor.upstream import parsed

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

_HIDDEN = "__"
_NOT_KNOWN = object()
_Trees: TypeAlias = dict[str, ast.Module | None]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call in the code of a function."""

    function: FunctionType
    node: ast.Call

    def argument(self, number: int, name: str) -> ast.expr | None:
        """What is given for a parameter, by position or by name."""
        named = next((one.value for one in self.node.keywords if one.arg == name), None)
        return self.node.args[number] if number < len(self.node.args) else named


def parts_by_node(graph: Any) -> dict[str, list[Any]]:
    """Node of a graph -> what it is made of, and what that holds."""
    return {
        name: [*parts_of([node.bound, *(node.subgraphs or ())])]
        for name, node in getattr(graph, "nodes", {}).items()
        if not name.startswith(_HIDDEN)
    }


def functions_by_node(graph: Any) -> dict[str, list[FunctionType]]:
    """Node of a graph -> the functions that it is made of: its own, and those that these name."""
    return {
        name: [one for one in parts if isinstance(one, FunctionType)]
        for name, parts in parts_by_node(graph).items()
    }


def calls_of(function: FunctionType, called: str, trees: _Trees) -> Iterator[Call]:
    """The calls of what goes by the name `called`, as itself or as an attribute.

    The calls are found by their places in the file, which the compiled code has as well: so those
    of lambdas and nested functions are found, too. Nothing where there is no source. `trees` keeps
    the files that were parsed.
    """
    if called not in names_in(function.__code__):
        return
    tree = _tree_of(function, trees)
    places = {
        (at.lineno, at.col_offset, at.end_lineno, at.end_col_offset)
        for code in _codes(function.__code__)
        for instruction in dis.get_instructions(code)
        if (at := instruction.positions) is not None
    }
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
        if name == called and place in places:
            yield Call(function=function, node=node)


def _tree_of(function: FunctionType, trees: _Trees) -> ast.Module | None:
    file = function.__code__.co_filename
    if file not in trees:
        source = "".join(linecache.getlines(file, function.__globals__))
        try:
            trees[file] = parsed(partial(ast.parse, source, file)) if source else None
        except (SyntaxError, ValueError):
            trees[file] = None
    return trees[file]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def value_of(expression: ast.expr | None, function: FunctionType) -> Any:
    """What a constant, a name or a part of what a name holds is worth to a function; None for
    anything that only running it would tell."""
    found = _value(expression, inspect.getclosurevars(function))
    return None if found is _NOT_KNOWN else found


def _value(expression: ast.expr | None, scope: inspect.ClosureVars) -> Any:
    if isinstance(expression, ast.Constant):
        return expression.value
    if isinstance(expression, ast.Name):
        return {**scope.globals, **scope.nonlocals}.get(expression.id, _NOT_KNOWN)
    if isinstance(expression, ast.Attribute):
        around = _value(expression.value, scope)
        held = vars(around) if hasattr(around, "__dict__") else {}
        return held.get(expression.attr, _NOT_KNOWN)
    if isinstance(expression, ast.Subscript) and isinstance(expression.slice, ast.Constant):
        around, key = _value(expression.value, scope), expression.slice.value
        known = isinstance(around, dict) and key in around
        return around[key] if known else _NOT_KNOWN
    return _NOT_KNOWN


@dataclass(kw_only=True)
class AskedFor:
    """A prompt that nodes ask for by `get_prompt`, with the text that they have without one."""

    text: str | None
    nodes: list[str]


def prompts_asked_for(graph: Any) -> dict[str, AskedFor]:
    """The prompts that the nodes of a graph ask for, where the code says their names."""
    found: dict[str, AskedFor] = {}
    trees: _Trees = {}
    for node, functions in functions_by_node(graph).items():
        for function in functions:
            if function is get_prompt or not (_may_ask(function)):
                continue
            for call in calls_of(function, get_prompt.__name__, trees):
                name = value_of(call.argument(0, "name"), function)
                if not isinstance(name, str):
                    continue
                default = value_of(call.argument(2, "default"), function)
                text = default.text if isinstance(default, TextTensor) else default
                asked = found.setdefault(name, AskedFor(text=None, nodes=[]))
                if asked.text is None and isinstance(text, str):
                    asked.text = text
                if node not in asked.nodes:
                    asked.nodes.append(node)
    return found


def _may_ask(function: FunctionType) -> bool:
    """Whether a function is the project's, or that of the bundled workflow."""
    module = sys.modules.get(function.__module__ or "")
    return is_own(module) or str(function.__module__).startswith("orcheo_agentensor.demo.")


# -- What no prompt can be bound to ----------------------------------------------------------------

_LONG, _SHORT = 80, 15
"""From so many characters on a text in a node is taken for a prompt; for less where it is given as
the message of a system."""

_SAID = frozenset({"debug", "info", "warning", "error", "exception", "critical", "print", "log"})
_MESSAGES = frozenset({"SystemMessage", "SystemMessagePromptTemplate"})
_TOLD = frozenset({"description", "help", "doc"})


@dataclass(frozen=True, kw_only=True)
class Unreached:
    """A text or a tool in the code of a node to which no prompt can be bound.

    `what` says what it is, `lines` are those that make it reachable.
    """

    node: str
    where: str
    what: str
    text: str
    lines: tuple[str, str]

    def __str__(self) -> str:
        first, second = self.lines
        return (
            f"{self.what} in node {self.node!r} ({self.where}): {shorten(self.text)}; to train it, "
            f"write: {first}, and there: {second}"
        )


def unreached_in(graph: Any) -> list[Unreached]:
    """What the project's functions in the nodes of a graph hold that no prompt reaches: texts in
    their code, f-strings, texts that they close over, and functions that they give to models as
    tools."""
    found: dict[tuple[str, str], Unreached] = {}
    trees: _Trees = {}
    names: set[str] = set()
    made = {id(code) for tool in _tools_of(graph) for code in _codes_of_tool(tool)}
    by_node = functions_by_node(graph)
    if not hasattr(graph, "nodes"):  # a function, or a chain
        by_node = {TARGET_NODE: [one for one in parts_of(graph) if isinstance(one, FunctionType)]}
    for node, functions in by_node.items():
        for function in functions:
            if not is_own(sys.modules.get(function.__module__ or "")):
                continue
            tree = _tree_of(function, trees)
            body = None if tree is None else _body_of(function, tree)
            looked = [*_closed_over(function)]
            if body is not None:
                looked += [*_texts_in(body), *_tools_in(body, function, made)]
            for one in sorted(looked, key=lambda look: look.line):
                where = f"{_shown(function)}:{one.line}"
                if (where, one.text) not in found:
                    lines = one.lines or _asking(_free(f"{node}_prompt", names), one)
                    found[where, one.text] = Unreached(
                        node=node, where=where, what=one.what, text=one.text, lines=lines
                    )
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What stands on a line. `given` goes behind a `get_prompt` in its place; `lines` are those
    that make it reachable, where that is no `get_prompt`."""

    line: int
    what: str
    text: str
    given: str = ""
    lines: tuple[str, str] | None = None


def _asking(name: str, look: _Look) -> tuple[str, str]:
    asked = f"get_prompt({name!r}, default={shorten(look.text, 60)}){look.given}"
    return f"from {get_prompt.__module__.partition('.')[0]} import get_prompt", asked


def _free(name: str, names: set[str]) -> str:
    """A name for a prompt that none before it has."""
    free = name = re.sub(r"\W+", "_", name).strip("_").lower()
    for number in itertools.count(2):
        if free not in names:
            break
        free = f"{name}_{number}"
    names.add(free)
    return free


def _shown(function: FunctionType) -> str:
    path = Path(function.__code__.co_filename)
    with suppress(ValueError):
        return path.relative_to(Path.cwd()).as_posix()
    return path.name


def _body_of(function: FunctionType, tree: ast.Module) -> ast.AST | None:
    """The part of a file that defines a function."""
    first = function.__code__.co_firstlineno
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            decorators = getattr(node, "decorator_list", [])
            name = getattr(node, "name", "<lambda>")
            starts = {node.lineno, *(one.lineno for one in decorators)}
            if name == function.__name__ and first in starts:
                return node
    return None


def _closed_over(function: FunctionType) -> Iterator[_Look]:
    """Texts that a factory has put into a function."""
    line = function.__code__.co_firstlineno
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a cell that is set later
            text = cell.cell_contents
            if isinstance(text, str) and is_prompt(name, text):
                yield _Look(line=line, what=f"the text {name!r} that is closed over", text=text)
    for text in function.__defaults__ or ():
        if isinstance(text, str) and is_prompt("", text):
            yield _Look(line=line, what="a default argument", text=text)


def _texts_in(body: ast.AST) -> Iterator[_Look]:
    """Texts in the code of a function, but docstrings, messages of errors and logs, and what
    `get_prompt` has for a default."""
    waiting: list[tuple[ast.AST, bool]] = [(one, False) for one in ast.iter_child_nodes(body)]
    while waiting:
        node, is_system = waiting.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            continue
        if isinstance(node, ast.Raise | ast.Assert) or (
            isinstance(node, ast.keyword) and node.arg in _TOLD
        ):
            continue
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if called == get_prompt.__name__ or called in _SAID:
                continue
            is_system = is_system or called in _MESSAGES
        is_system = is_system or _is_system(node)
        least = _SHORT if is_system else _LONG
        if isinstance(node, ast.JoinedStr):
            text, given = _template_of(node)
            if len(text) >= least and has_words(text):
                arguments = ", ".join(f"{name}={code}" for name, code in given.items())
                given_then = f".format({arguments})" if given else ""
                yield _Look(line=node.lineno, what="an f-string", text=text, given=given_then)
            continue
        if isinstance(node, ast.Constant):
            text = node.value if isinstance(node.value, str) else ""
            if len(text) >= least and has_words(text):
                yield _Look(line=node.lineno, what="a text", text=text)
            continue
        waiting += [(one, is_system) for one in ast.iter_child_nodes(node)]


def _is_system(node: ast.AST) -> bool:
    """Whether code makes the message of a system: `("system", …)` or `{"role": "system", …}`."""
    entries: Sequence[ast.AST | None] = ()
    if isinstance(node, ast.Tuple | ast.List):
        entries = node.elts[:1]
    elif isinstance(node, ast.Dict):
        entries = node.values
    return any(isinstance(one, ast.Constant) and one.value == "system" for one in entries)


def _template_of(node: ast.JoinedStr) -> tuple[str, dict[str, str]]:
    """An f-string as a template, and the code of what goes into its places."""
    text, given = "", dict[str, str]()
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
        elif isinstance(part, ast.FormattedValue):
            code = ast.unparse(part.value)
            known = next((name for name, one in given.items() if one == code), None)
            number = 1 + sum(name != one for name, one in given.items())
            name = known or (code if code.isidentifier() else f"x{number}")
            given[name] = code
            spec = ast.unparse(part.format_spec)[2:-1] if part.format_spec is not None else ""
            text += f"{{{name}:{spec}}}" if spec else f"{{{name}}}"
    return text, given


def _tools_of(graph: Any) -> Iterator[BaseTool]:
    return (part for part in parts_of(graph) if is_tool(part))


def _codes_of_tool(tool: BaseTool) -> Iterator[Any]:
    return filter(None, (getattr(tool, "func", None), getattr(tool, "coroutine", None)))


def _tools_in(body: ast.AST, function: FunctionType, made: Container[int]) -> Iterator[_Look]:
    """Functions and schemas that a function gives to `bind_tools` by itself: what a model is told
    of them stands in their docstrings."""
    for node in ast.walk(body):
        if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "bind_tools"):
            continue
        call = Call(function=function, node=node)
        given = call.argument(0, "tools")
        entries = given.elts if isinstance(given, ast.List | ast.Tuple) else [given]
        for entry in entries:
            tool = value_of(entry, function)
            several = tool if isinstance(tool, list | tuple) else [tool]
            for one in several:
                if is_tool(one) or id(one) in made:
                    continue
                name = getattr(one, "__name__", None) or (ast.unparse(entry) if entry else "?")
                lines = ("from langchain_core.tools import tool", f"@tool above def {name}")
                if one is None:  # made in the node itself, or in a way that only running tells
                    lines = (lines[0], f"@tool above def {name}, at the top of the module")
                told = inspect.getdoc(one) if one is not None else None
                what = f"the tool {name} that bind_tools is given"
                yield _Look(line=node.lineno, what=what, text=told or name, lines=lines)


def is_prompt(name: str, text: str) -> bool:
    """Whether a text is probably a prompt, by its name and its length."""
    called = re.search("prompt|instruction|persona|system|guideline", name.lower())
    called = called or re.match(r"\s*(you are|act as)\b", text.lower())
    return len(text) > (_SHORT if called else 300 if name.isupper() else _LONG) and has_words(text)


def has_words(text: str) -> bool:
    """Whether a text says something itself, and is no mere "{question}"."""
    return len(re.findall(r"\w{3,}", re.sub(r"\{[^{}]*\}", "", text))) > 1
