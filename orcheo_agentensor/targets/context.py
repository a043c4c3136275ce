"""The context of a graph: which fields it has, and the prompts that are put into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from orcheo_agentensor.errors import ConfigError, shorten
from orcheo_agentensor.kinds import is_runnable, is_state_graph
from orcheo_agentensor.prompts import (
    CONFIGURABLE,
    CONTEXT,
    OFFERED,
    Path,
    TextTensor,
    as_tensor,
    path_in,
    put,
)
from orcheo_agentensor.tape import bind_of

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph


def compiled(graph: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A `StateGraph` compiled, a compiled one as it is."""
    return graph.compile() if is_state_graph(graph) else graph


def check_graph(graph: Any, function: str) -> None:
    """Refuse what is neither a graph nor another Runnable, with what to make of a function."""
    if is_state_graph(graph) or is_runnable(graph):
        return
    rule = "must be a LangGraph graph or another Runnable"
    hint = f"; of a function make one: RunnableLambda({getattr(graph, '__name__', 'function')})"
    rule += hint if callable(graph) else ""
    raise ConfigError(
        f"{function}(): graph={shorten(graph)} {rule}", field="graph", value=graph, rule=rule
    )


def context_binds(prompts: Mapping[str, Any]) -> list[tuple[str, Path, str]]:
    """The prompts that bind into the context: name, path and text."""
    found = []
    for name, prompt in prompts.items():
        path = path_in(bind_of(prompt), CONTEXT)
        if path is not None:
            found.append((name, path, as_tensor(prompt, field=f"prompts.{name}").text))
    return found


def field_names(schema: Any) -> tuple[str, ...]:
    """The fields of a context schema: a dataclass, a pydantic model or a `TypedDict`."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return tuple(schema.model_fields)
    if is_dataclass(schema):
        return tuple(field.name for field in fields(schema) if field.init)
    names: list[str] = []
    for base in reversed(getattr(schema, "__mro__", (schema,))):
        names += getattr(base, "__annotations__", {})
    return tuple(dict.fromkeys(names))


def check_context(schema: Any, given: Any, prompts: Mapping[str, Any], *, who: str) -> None:
    """Raise `ConfigError` where a run could not have its context, naming the prompt or the field.

    `given` are the values that the config brings. A `TypedDict` is not held to its required keys,
    because LangGraph does not hold it to them.
    """
    check_context_binds(schema, prompts, who=who)
    if schema is None:
        return
    bound = context_binds(prompts)
    there = {*given, *(path[0] for _, path, _ in bound)}
    for missing in (name for name in _required(schema) if name not in there):
        raise ConfigError(
            f"config.configurable.{missing}: the context of {who} requires {missing!r}; give it "
            f"in config.configurable, or bind a prompt to 'context.{missing}'",
            field=f"config.configurable.{missing}",
            value=None,
            rule="is required by the context of the target",
        )
    if bound:
        bound_context(schema, dict(given), bound)


def context_problems(schema: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """What `schema` refuses of the values given for its fields: (path, value, rule).

    A field that is missing is a problem too, except in a `TypedDict`, which LangGraph does not hold
    to its required keys. Nothing where pydantic knows no way to validate the schema.
    """
    if schema is None:
        return
    try:
        adapter = TypeAdapter(schema)
    except Exception:  # noqa: BLE001 - a field of any type, or one that is named before it is there
        return
    try:
        adapter.validate_python(
            {name: given[name] for name in field_names(schema) if name in given}
        )
    except ValidationError as error:
        for found in error.errors(include_url=False):
            if found["type"] != "missing" or not is_typeddict(schema):
                rule = found["msg"][0].lower() + found["msg"][1:]
                value = None if found["type"] == "missing" else found["input"]
                yield ".".join(map(str, found["loc"])), value, rule


def check_context_binds(schema: Any, prompts: Mapping[str, Any], *, who: str) -> None:
    """Raise `ConfigError` naming a prompt that binds to a context field there is not."""
    if schema is None:
        refuse_context(prompts, f"{who} has no context_schema")
        return
    names = field_names(schema)
    for name, path, _ in context_binds(prompts):
        if path[0] not in names:
            raise ConfigError(
                field=f"prompts.{name}.bind",
                value=".".join((CONTEXT, *path)),
                rule=f"names no field of the context of {who}; it has: {', '.join(names)}",
            )


def refuse_context(prompts: Mapping[str, Any], why: str) -> None:
    """Raise `ConfigError` naming the first prompt that binds into a context there is not."""
    for name, path, _ in context_binds(prompts):
        raise ConfigError(
            field=f"prompts.{name}.bind",
            value=".".join((CONTEXT, *path)),
            rule=f"needs a graph with a context, and {why}; bind to 'configurable.<path>' instead",
        )


def with_context(
    schema: Any, live: Any, given: Mapping[str, Any], prompts: Mapping[str, Any]
) -> Any:
    """The context of a run: `live`, over it what is `given` by the config, over that the prompts.

    Raises `ConfigError` naming the field or prompt for which there is no place.
    """
    context: Any = given if live is None or isinstance(live, Mapping) else live
    if isinstance(live, Mapping):
        context = {**live, **given}
    elif isinstance(live, BaseModel):
        context = live.model_copy(update=dict(given))
    elif is_dataclass(live) and not isinstance(live, type):
        context = replace(live, **given)
    elif live is not None and given:
        raise ConfigError(
            field="config.configurable",
            value=sorted(given),
            rule=f"names fields of a context that was given as a {type(live).__name__}",
        )
    bound = context_binds(prompts)
    return bound_context(schema, context, bound) if bound else context


def bound_context(schema: Any, context: Any, bound: list[tuple[str, Path, str]]) -> Any:
    """`context` with the bound texts in place, as an object of `schema`.

    Raises `ConfigError` naming the prompt for which there is no place, or what the schema refuses.
    """
    for name, path, text in bound:
        if isinstance(context, dict) and len(path) > 1 and path[0] not in context:
            context = {**context, path[0]: default_of(schema, path[0])}
        context = put({} if context is None else context, path, text, field=f"prompts.{name}.bind")
    if not isinstance(context, dict):
        return context
    try:
        return _constructed(schema, context, {path for _, path, _ in bound})
    except (TypeError, ValidationError) as error:
        raise ConfigError(
            f"the context of the target cannot be made: {error}",
            field="config.configurable",
            value=sorted(context),
            rule=f"must suit the context {getattr(schema, '__name__', schema)}",
        ) from error


def _constructed(schema: Any, values: dict[str, Any], paths: set[Path]) -> Any:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema(**values)
    kind = next((one for one in (schema, *get_args(schema)) if is_dataclass(one)), None)
    if kind is None or not isinstance(kind, type):
        return values
    inner = {path[0] for path in paths if len(path) > 1}
    hints = get_type_hints(kind) if inner else {}
    for key in inner:
        if isinstance(values[key], dict):
            below = {path[1:] for path in paths if path[0] == key}
            values = {**values, key: _constructed(hints[key], values[key], below)}
    return kind(**values)


def _required(schema: Any) -> list[str]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return [
            name
            for name, field in schema.model_fields.items()
            if field.is_required() and field.validation_alias is None
        ]
    if not is_dataclass(schema):
        return []
    return [
        field.name
        for field in fields(schema)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]


def found_prompts(target: Any) -> dict[str, TextTensor]:
    """The prompts that the graph of a target holds with their texts.

    They are what `trainable_prompts()` of its nodes and middleware gives (ours have it), and the
    fields of its context that are marked `langgraph_type: "prompt"`.
    """
    inner = getattr(target, "inner", target)
    found: dict[str, TextTensor] = {}
    for name, text in _marked(getattr(inner, "context_schema", None)):
        found[name] = TextTensor(text, bind=f"{CONTEXT}.{name}")
    for holder in _holders(getattr(inner, "runnable", inner), set(), _DEEPEST):
        found |= holder.trainable_prompts()
    return found


_DEEPEST = 12


def _holders(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """What has `trainable_prompts` in a graph, its nested graphs, and the closures of its nodes."""
    if id(value) in seen or not depth or isinstance(value, str | int | float | type | None):
        return
    seen.add(id(value))
    inside: list[Any] = []
    if callable(getattr(value, "trainable_prompts", None)):
        yield value
        return
    if isinstance(value, list | tuple):
        inside = list(value)
    elif isinstance(value, Mapping):
        inside = list(value.values())
    elif (builder := getattr(value, "builder", None)) is not None:
        inside = [spec.runnable for spec in builder.nodes.values()]
    else:
        inside = [getattr(value, name, None) for name in ("func", "afunc", "__self__", "bound")]
        for cell in getattr(value, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a cell that is empty
                inside.append(cell.cell_contents)
    for one in inside:
        yield from _holders(one, seen, depth - 1)


def _marked(schema: Any) -> Iterator[tuple[str, str]]:
    """The fields of a context that are marked as prompts, with the texts that they begin with."""
    if schema is None:
        return
    try:
        hints = get_type_hints(schema, include_extras=True)
    except Exception:  # noqa: BLE001 - a type that is named before it is there
        hints = {}
    marks: dict[str, list[Any]] = {name: [*get_args(hint)[1:]] for name, hint in hints.items()}
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        for name, field in schema.model_fields.items():
            marks.setdefault(name, []).append(field.json_schema_extra)
    elif is_dataclass(schema):
        for one in fields(schema):
            marks.setdefault(one.name, []).append(one.metadata)
    for name, notes in marks.items():
        notes = [getattr(note, "json_schema_extra", note) for note in notes]
        held = [note for note in notes if isinstance(note, Mapping)]
        held += [note["json_schema_extra"] for note in held if "json_schema_extra" in note]
        marked = any(isinstance(n, Mapping) and n.get("langgraph_type") == "prompt" for n in held)
        if marked and isinstance(text := default_of(schema, name), str):
            yield name, text


def context_fields(target: Any) -> list[str]:
    """The fields of the context of a target; none where it has no context."""
    schema = getattr(getattr(target, "inner", target), "context_schema", None)
    return [] if schema is None else list(field_names(schema))


def bind_places(target: Any, configurable: Mapping[str, Any]) -> list[str]:
    """The places of a target that hold texts, to which a prompt could bind."""
    inner = getattr(target, "inner", target)
    schema = getattr(inner, "context_schema", None)
    texts: list[str] = []
    if schema is not None:
        try:
            hints = get_type_hints(schema)
        except Exception:  # noqa: BLE001 - a type that is named before it is there
            hints = {}
        texts = [n for n in field_names(schema) if str in _members(hints.get(n, str))]
    from orcheo_agentensor.targets.placing import places_of

    declared = [
        spec.id
        for spec in getattr(getattr(inner, "runnable", None), "config_specs", ())
        if str in _members(spec.annotation) and not spec.id.startswith(("thread_", "checkpoint_"))
    ]
    for server in getattr(inner, "servers", ())[:1]:
        fields = server.assistant.placement("auto").fields.items()
        texts += [n for n, one in fields if one.get("type") == "string" and OFFERED not in one]
        configurable = {**server.assistant.values, **configurable}
    declared += [key for key, value in configurable.items() if isinstance(value, str)]
    names = dict.fromkeys(name for name in declared if name not in {*texts, "thread_id"})
    return [
        *(f"{CONTEXT}.{name}" for name in texts),
        *(f"{CONFIGURABLE}.{name}" for name in names),
        *places_of(getattr(inner, "runnable", None)),
    ]


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that an annotation admits, without its `Annotated` and `Optional`."""
    return (kind, *(member for part in get_args(kind) for member in _members(part)))


def default_of(schema: Any, key: str) -> Any:
    """What a field of a context begins with; None where it has no default."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        field = schema.model_fields.get(key)
        if field is None or field.is_required():
            return None
        return field.get_default(call_default_factory=True, validated_data={})
    for found in fields(schema) if is_dataclass(schema) else ():
        if found.name == key and found.default is not MISSING:
            return found.default
        if found.name == key and found.default_factory is not MISSING:
            return found.default_factory()
    return None
