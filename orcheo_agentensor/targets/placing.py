"""Prompts that a graph holds itself: in its agents, its templates, and the tools of its models.

A run gets a copy of the graph with its own texts in place. The copy goes only as deep as it has to:
what holds no such text is shared with the graph, which stays as it is.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.tools import BaseTool
from pydantic import BaseModel, create_model

from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.prompts import part_in, text_of
from orcheo_agentensor.tape import TARGET_NODE, bind_of
from orcheo_agentensor.targets.constants import Key, Values, value_of_global
from orcheo_agentensor.targets.isolation import is_own, names_in, parts_of

_PREBUILT = ("langgraph.prebuilt.", "langchain.agents.")
_HIDDEN = "__"
_MOST_ENTRIES = 1_000


def places_of(runnable: Any) -> dict[str, str]:
    """Bind -> text of every part of a graph or chain that a prompt can be put into."""
    if not isinstance(runnable, Runnable):
        return {}
    placer = _Placer({}, runnable)
    placer.whole(runnable)
    return placer.found


def arguments_of(runnable: Any) -> dict[str, str]:
    """Bind -> description of every argument that models are told of a tool; empty where it has
    none, which a prompt can be put into as well."""
    found: dict[str, str] = {}
    tools = parts_of(runnable) if isinstance(runnable, Runnable) else ()
    for tool in tools:
        if not isinstance(tool, BaseTool):
            continue
        told: Any = tool.tool_call_schema
        schema = told if isinstance(told, dict) else told.model_json_schema()
        for name, one in (schema.get("properties") or {}).items():
            bind = f"tools.{tool.name}.args.{name}.description"
            if part_in(bind) is not None:
                found.setdefault(bind, one.get("description") or "")
    return dict(sorted(found.items()))


def check_parts(runnable: Any, prompts: Mapping[str, Any], *, who: str) -> None:
    """Raise `ConfigError` naming a prompt that binds to a part which there is not."""
    if not any(part_in(bind_of(prompt)) for prompt in prompts.values()):
        return
    places = places_of(runnable)
    for name, prompt in prompts.items():
        bind = part_in(bind_of(prompt))
        if bind is not None and bind not in places and not _is_argument(bind, runnable):
            there = f"there are: {', '.join(places)}" if places else "there is none"
            raise ConfigError(
                field=f"prompts.{name}.bind",
                value=bind,
                rule=f"is no part of {who} that a text can be put into; {there}. A text that its "
                "code makes while it runs is reached by two lines in the node: from "
                f"orcheo_agentensor import get_prompt, then get_prompt({name!r}, default=…)",
            )


def placed(runnable: Any, prompts: Mapping[str, Any]) -> tuple[Any, Values]:
    """A copy of a graph or chain with the texts of `prompts` in the parts that they bind to, and
    what a run reads in place of globals that hold such parts."""
    texts = {
        bind: text_of(prompt, field=f"prompts.{name}")
        for name, prompt in prompts.items()
        if (bind := part_in(bind_of(prompt))) is not None
    }
    if not texts:
        return runnable, {}
    placer = _Placer(texts, runnable)
    clone = placer.whole(runnable)
    return clone, dict(value_of_global(*key, one) for key, one in placer.globals.items())


def _is_argument(bind: str, runnable: Any) -> bool:
    """Whether a bind names an argument that has no description yet."""
    _, name, *rest = bind.split(".")
    tools = [one for one in parts_of(runnable) if isinstance(one, BaseTool) and one.name == name]
    return len(rest) > 2 and any(rest[1] in tool.args for tool in tools)


@dataclass
class _Place:
    """A node, by its path; the numbers of the messages in its templates go on counting."""

    path: str
    messages: int = 0
    seen: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    """Visited objects, which have to stay alive with their ids, and what became of them."""


class _Placer:
    """Walks through a graph, and makes copies where a text is to be put."""

    def __init__(self, texts: Mapping[str, str], runnable: Any) -> None:
        self.found: dict[str, str] = {}
        self.globals: dict[Key, Any] = {}
        self._texts = texts
        self._tools: dict[str, BaseTool] = {}
        self._made_of: dict[int, BaseTool] = {}
        for tool in parts_of(runnable):
            if isinstance(tool, BaseTool) and tool.name not in self._tools:
                self._tools[tool.name] = tool
                for code in (getattr(tool, "func", None), getattr(tool, "coroutine", None)):
                    if code is not None:
                        self._made_of[id(code)] = tool

    def whole(self, runnable: Any) -> Any:
        """A copy of the target with the texts in place."""
        from langgraph.pregel import Pregel

        found = (
            self._graph(runnable, "")
            if isinstance(runnable, Pregel)
            else self._visit(runnable, _Place(TARGET_NODE))
        )
        for tool in self._tools.values():
            self.found[f"tools.{tool.name}.description"] = tool.description
            for name, schema in tool.args.items():
                if isinstance(schema, Mapping) and schema.get("description"):
                    self.found[f"tools.{tool.name}.args.{name}.description"] = schema["description"]
        return found

    # -- Texts ---------------------------------------------------------------------------------

    def _system_prompt(self, text: str, place: _Place) -> str:
        """What is to stand in place of a system prompt that is found in a node."""
        around = place.path.rpartition(".")[0]  # an agent that is a node has its model in a node
        names = [f"{path}.system_prompt" for path in (around, place.path) if path]
        bind = next((name for name in names if self.found.get(name, text) == text), None)
        if bind is None:
            bind = f"{place.path}.prompt.{place.messages}"
            place.messages += 1
        self.found[bind] = text
        return self._texts.get(bind, text)

    def _message(self, text: str, number: int, place: _Place) -> str:
        bind = f"{place.path}.prompt.{number}"
        self.found[bind] = text
        return self._texts.get(bind, text)

    def _template(self, template: ChatPromptTemplate, place: _Place) -> Any:
        first, messages = place.messages, list(template.messages)
        place.messages += len(messages)
        for index, message in enumerate(messages):
            prompt = getattr(message, "prompt", None)
            if isinstance(prompt, PromptTemplate):
                text = self._message(prompt.template, first + index, place)
                if text != prompt.template:
                    changed = prompt.model_copy(update={"template": text})
                    messages[index] = message.model_copy(update={"prompt": changed})
            elif isinstance(message, BaseMessage) and isinstance(message.content, str):
                text = self._message(message.content, first + index, place)
                if text != message.content:
                    messages[index] = message.model_copy(update={"content": text})
        is_same = all(a is b for a, b in zip(messages, template.messages, strict=True))
        return template if is_same else template.model_copy(update={"messages": messages})

    def _tool(self, tool: BaseTool) -> BaseTool:
        """A tool as models are to be told of it."""
        update: dict[str, Any] = {}
        if (text := self._texts.get(f"tools.{tool.name}.description")) is not None:
            update["description"] = text
        arguments = {
            name: text
            for name in tool.args
            if (text := self._texts.get(f"tools.{tool.name}.args.{name}.description")) is not None
        }
        if arguments:
            update["args_schema"] = _described(tool, arguments)
        return tool.model_copy(update=update) if update else tool

    def _bound(self, binding: RunnableBinding[Any, Any], place: _Place) -> Any:
        """A model with tools bound: bound anew where one of them is described anew."""
        inner = self._visit(binding.bound, place)
        update: dict[str, Any] = {} if inner is binding.bound else {"bound": inner}
        told = binding.kwargs.get("tools")
        if isinstance(told, list):
            tools = [self._tool_told(one) for one in told]
            if any(a is not b for a, b in zip(tools, told, strict=True)):
                model: Any = binding.bound
                kwargs = model.bind_tools(tools).kwargs
                update["kwargs"] = {**binding.kwargs, "tools": kwargs["tools"]}
        return binding.model_copy(update=update) if update else binding

    def _tool_told(self, told: Any) -> Any:
        """The tool that a model was told of in its own form, if it is described anew."""
        if not isinstance(told, Mapping):
            return told
        inner = told.get("function")
        name = (inner if isinstance(inner, Mapping) else told).get("name")
        tool = self._tools.get(str(name))
        changed = tool if tool is None else self._tool(tool)
        return told if changed is tool else changed

    # -- Ways through a graph ------------------------------------------------------------------

    def _graph(self, graph: Any, prefix: str) -> Any:
        nodes = {}
        for name, node in graph.nodes.items():
            nodes[name] = node
            if name.startswith(_HIDDEN):
                continue
            bound = self._visit(node.bound, _Place(f"{prefix}{name}"))
            if bound is not node.bound:
                is_graph = node.subgraphs and node.bound in node.subgraphs
                nodes[name] = node.copy(
                    {"bound": bound, **({"subgraphs": [bound]} if is_graph else {})}
                )
        if all(nodes[name] is node for name, node in graph.nodes.items()):
            return graph
        clone = copy.copy(graph)
        clone.nodes = nodes
        return clone

    def _visit(self, value: Any, place: _Place) -> Any:
        """`value`, or a copy of it where a text is to be put into it."""
        if value is None or isinstance(value, str | bytes | int | float | type | ModuleType):
            return value
        known = place.seen.get(id(value))
        if known is not None:
            return known[1]
        place.seen[id(value)] = (value, value)  # what holds itself is not followed twice
        found = self._copied(value, place)
        place.seen[id(value)] = (value, found)
        return found

    def _copied(self, value: Any, place: _Place) -> Any:
        from langgraph.pregel import Pregel

        if isinstance(value, Pregel):
            return self._graph(value, f"{place.path}.")
        if isinstance(value, SystemMessage):
            if not isinstance(value.content, str):
                return value
            text = self._system_prompt(value.content, place)
            return value if text == value.content else value.model_copy(update={"content": text})
        if isinstance(value, ChatPromptTemplate):
            return self._template(value, place)
        if isinstance(value, PromptTemplate):
            text = self._message(value.template, place.messages, place)
            place.messages += 1
            same = text == value.template
            return value if same else value.model_copy(update={"template": text})
        if isinstance(value, BaseTool):
            return self._tool(value)
        if isinstance(value, BaseLanguageModel | BasePromptTemplate | BaseMessage):
            return value
        if isinstance(value, RunnableBinding):
            return self._bound(value, place)
        if isinstance(value, FunctionType):
            return self._function(value, place)
        if isinstance(value, MethodType):
            owner, code = self._visit(value.__self__, place), self._visit(value.__func__, place)
            is_same = owner is value.__self__ and code is value.__func__
            return value if is_same else MethodType(code, owner)
        if isinstance(value, functools.partial):
            args = [self._visit(one, place) for one in value.args]
            named = {name: self._visit(one, place) for name, one in value.keywords.items()}
            code = self._visit(value.func, place)
            held = [*value.args, *value.keywords.values(), value.func]
            is_same = all(a is b for a, b in zip([*args, *named.values(), code], held, strict=True))
            return value if is_same else functools.partial(code, *args, **named)
        if isinstance(value, list | tuple | dict):
            return self._entries(value, place)
        if isinstance(value, Runnable) or is_own(sys.modules.get(type(value).__module__)):
            return self._object(value, place)
        return value

    def _entries(self, value: Any, place: _Place) -> Any:
        if len(value) > _MOST_ENTRIES or type(value) not in (list, tuple, dict):
            return value
        held = [*value.values()] if isinstance(value, dict) else [*value]
        entries = [self._entry(one, place) for one in held]
        if all(a is b for a, b in zip(entries, held, strict=True)):
            return value
        return (
            dict(zip(value, entries, strict=True))
            if isinstance(value, dict)
            else type(value)(entries)
        )

    def _entry(self, entry: Any, place: _Place) -> Any:
        """An entry of a container; a function among tools is described by the tool made of it."""
        tool = self._made_of.get(id(entry))
        changed = tool if tool is None else self._tool(tool)
        return self._visit(entry, place) if changed is tool else changed

    def _object(self, value: Any, place: _Place) -> Any:
        held = {name: one for name, one in vars(value).items() if not name.startswith(_HIDDEN)}
        changed = {}
        for name, one in held.items():
            own = isinstance(one, MethodType) and one.__self__ is value
            found = one if own else self._visit(one, place)
            if found is not one:
                changed[name] = found
        if not changed:
            return value
        if isinstance(value, BaseModel):
            return value.model_copy(update=changed)
        clone = copy.copy(value)
        for name, one in held.items():
            if isinstance(one, MethodType) and one.__self__ is value:
                changed[name] = MethodType(one.__func__, clone)
        for name, one in changed.items():
            object.__setattr__(clone, name, one)
        return clone

    def _function(self, function: FunctionType, place: _Place) -> Any:
        for key, one in _globals_of(function):
            found = self._visit(one, place)
            if found is not one:
                self.globals[key] = found
        cells = []
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                held = cell.cell_contents
            except ValueError:  # it is set later
                cells.append(cell)
                continue
            is_prompt = name == "prompt" and function.__module__.startswith(_PREBUILT)
            if isinstance(held, str) and is_prompt:
                text = self._system_prompt(held, place)
                cells.append(cell if text == held else CellType(text))
            else:
                found = self._visit(held, place)
                cells.append(cell if found is held else CellType(found))
        defaults = self._visit(function.__defaults__, place)
        if defaults is function.__defaults__ and all(
            a is b for a, b in zip(cells, function.__closure__ or (), strict=True)
        ):
            return function
        return _remade(function, tuple(cells), defaults)


def _globals_of(function: FunctionType) -> Iterator[tuple[Key, Any]]:
    """The globals that a function of the project names, and what it names in its modules."""
    module = sys.modules.get(function.__module__)
    if module is None or not is_own(module) or function.__globals__ is not vars(module):
        return
    names = sorted(set(names_in(function.__code__)))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            for inner in names if is_own(value) else ():
                if inner in vars(value):
                    yield (value.__name__, inner), vars(value)[inner]
        elif value is not None:
            yield (module.__name__, name), value


def _remade(
    function: FunctionType, cells: tuple[CellType, ...], defaults: tuple[Any, ...] | None
) -> FunctionType:
    """A function as it is, with other cells."""
    made = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells)
    functools.update_wrapper(made, function)
    wrapped = vars(function).get("__wrapped__")
    vars(made).pop("__wrapped__")
    if wrapped is not None:
        vars(made)["__wrapped__"] = wrapped
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _described(tool: BaseTool, texts: Mapping[str, str]) -> Any:
    """The schema of a tool's arguments with other descriptions."""
    schema: Any = tool.args_schema if tool.args_schema is not None else tool.get_input_schema()
    if isinstance(schema, dict):
        schema = copy.deepcopy(schema)
        for name, text in texts.items():
            schema["properties"][name]["description"] = text
        return schema
    fields: dict[str, Any] = {}
    for name, text in texts.items():
        info = copy.copy(schema.model_fields[name])
        info.description = text
        fields[name] = (info.annotation, info)
    return create_model(schema.__name__, __base__=schema, __doc__=schema.__doc__, **fields)
