"""What the code of a graph's nodes says, read without running it: the prompts that it asks for."""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.tape import get_prompt
from orcheo_agentensor.targets.isolation import is_own, names_in, parts_of
from orcheo_agentensor.upstream import parsed

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


def functions_by_node(graph: Any) -> dict[str, list[FunctionType]]:
    """Node of a graph -> the functions that it is made of: its own, and those that these name."""
    found: dict[str, list[FunctionType]] = {}
    for name, node in getattr(graph, "nodes", {}).items():
        if not name.startswith(_HIDDEN):
            parts = parts_of([node.bound, *(node.subgraphs or ())])
            found[name] = [one for one in parts if isinstance(one, FunctionType)]
    return found


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
