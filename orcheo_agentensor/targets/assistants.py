"""Assistants of a LangGraph server: found by id, by graph or by name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config

from orcheo_agentensor.errors import TargetRefused, shorten
from orcheo_agentensor.targets.placement import Placement, PromptsIn

if TYPE_CHECKING:
    from langgraph_sdk.client import LangGraphClient


def not_langgraph(answer: object) -> TargetRefused:
    """The error for a server that answers something else than a LangGraph server would."""
    return TargetRefused(
        f"url: the server there does not answer as a LangGraph server: {shorten(answer)}",
        field="url",
        value=shorten(answer),
        rule="must be that of a LangGraph server",
    )


@dataclass(frozen=True, kw_only=True)
class Assistant:
    """An assistant as its server has it. `values` is its `configurable`, which its context mirrors;
    `settings` is the rest of its config."""

    id: str
    name: str
    graph_id: str
    version: int
    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    metadata: Mapping[str, Any]
    schemas: Mapping[str, Any]
    edges: tuple[tuple[str, str], ...]

    def placement(self, prompts_in: PromptsIn) -> Placement:
        """How its graph reads prompts."""
        return Placement.of(self.schemas, prompts_in)


async def find_assistant(client: LangGraphClient, name: str, *, ours: bool) -> Assistant:
    """The assistant with this id, the default one of this graph, or the one of this name.

    `ours` says that the server is the one we run on: calls to it are made in nobody's name, so an
    assistant of another owner is treated as not there. Raises `TargetRefused` where there is none,
    or several have the name; and what the SDK raises.
    """
    found = await look_up(client, name, ours=ours)
    if found is None:
        raise TargetRefused(
            f"assistant: {name!r} is no assistant and no graph of that server",
            field="assistant",
            value=name,
            rule="must be an assistant or a graph of the server",
        )
    return await described(client, found)


async def look_up(client: LangGraphClient, name: str, *, ours: bool) -> Mapping[str, Any] | None:
    """As `find_assistant`, as the server has it; None where there is none."""
    if is_id(name):
        found = await _by_id(client, name)
    else:
        found = await _by_name(client, name, ours=ours)
    return None if found is None or (ours and not _is_visible(found)) else found


async def described(client: LangGraphClient, found: Mapping[str, Any]) -> Assistant:
    """An assistant with its schemas and its graph's edges."""
    config = found.get("config") or {}
    schemas = await client.assistants.get_schemas(found["assistant_id"])
    return Assistant(
        id=found["assistant_id"],
        name=found.get("name") or found["graph_id"],
        graph_id=found["graph_id"],
        version=int(found.get("version") or 1),
        values={**(found.get("context") or {}), **(config.get("configurable") or {})},
        settings={k: v for k, v in config.items() if k != "configurable" and v},
        metadata=found.get("metadata") or {},
        schemas=cast("Mapping[str, Any]", schemas),
        edges=await _edges(client, found["assistant_id"]),
    )


def is_id(name: str) -> bool:
    """Whether this is an assistant's id, rather than a name."""
    try:
        UUID(name)
    except ValueError:
        return False
    return True


async def _by_id(client: LangGraphClient, assistant_id: str) -> Mapping[str, Any] | None:
    from langgraph_sdk.errors import NotFoundError

    try:
        return _an_assistant(await client.assistants.get(assistant_id))
    except NotFoundError:
        return None


async def _by_name(client: LangGraphClient, name: str, *, ours: bool) -> Mapping[str, Any] | None:
    from langgraph_sdk.errors import NotFoundError

    default = {"created_by": "system"}
    with suppress(NotFoundError):  # some servers say that there is no such graph
        for assistant in await client.assistants.search(graph_id=name, metadata=default, limit=1):
            return _an_assistant(assistant)
    found = [_an_assistant(one) for one in await client.assistants.search(name=name)]
    named = [a for a in found if a["name"] == name and (not ours or _is_visible(a))]
    if len(named) > 1:
        raise TargetRefused(
            f"assistant: {name!r} is the name of {len(named)} assistants; give the id of "
            f"one: {', '.join(a['assistant_id'] for a in named[:5])}",
            field="assistant",
            value=name,
            rule="must be one assistant",
        )
    return named[0] if named else None


def _an_assistant(answer: object) -> Mapping[str, Any]:
    """What the server has answered, if that is an assistant."""
    if isinstance(answer, Mapping) and {"assistant_id", "graph_id", "name"} <= answer.keys():
        return answer
    raise not_langgraph(answer)


def _is_visible(found: Mapping[str, Any]) -> bool:
    """Whether whoever runs the graph we are in may know of an assistant."""
    config = var_child_runnable_config.get() or {}
    user = (config.get("configurable") or {}).get("langgraph_auth_user_id")
    owner = (found.get("metadata") or {}).get("owner")
    return user is None or owner is None or owner == user


async def _edges(client: LangGraphClient, assistant_id: str) -> tuple[tuple[str, str], ...]:
    """The graph's static edges; none where the server cannot draw it."""
    from langgraph_sdk.errors import APIStatusError

    try:
        drawn = await client.assistants.get_graph(assistant_id)
    except APIStatusError:
        return ()
    return tuple((str(e["source"]), str(e["target"])) for e in drawn.get("edges", ()))
