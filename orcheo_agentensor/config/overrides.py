"""Per-node overrides: what `configurable.node_overrides.<node>` may say, and how a node gets it.

A node is named as in its graph; one inside a subgraph by the names on the way to it, joined by
`|` as in LangGraph's own namespaces. An override reaches the node that it names and no other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from orcheo_agentensor.entrypoints import chat_model
from orcheo_agentensor.errors import BadInput, RunFailed, shorten
from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.upstream import var_child_runnable_config
from orcheo_agentensor.usage import is_counting

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig


NODE_OVERRIDES = "node_overrides"
MODEL_FIELDS = ("model", "temperature")
"""Overrides that only a node which looks for them can follow; the others suit every node."""

T = TypeVar("T")
_Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
_MODEL = r"^[A-Za-z0-9_-]+(?:[:/][A-Za-z0-9_.:/@-]+)?$|^[A-Za-z0-9_.-]+$"


class NodeOverride(StrictNumbers):
    """What a run changes about one node."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str | None = Field(
        default=None,
        pattern=_MODEL,
        max_length=200,
        description='Another chat model, the LangChain way: "openai:gpt-5-mini".',
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, allow_inf_nan=False, description="The temperature of its model."
    )
    timeout: float | None = Field(
        default=None, gt=0, le=86_400, allow_inf_nan=False, description="Seconds the node may take."
    )
    tags: list[_Text] = Field(
        default_factory=list, max_length=100, description="Further tags of what the node runs."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Further metadata of what the node runs."
    )

    def model_fields_given(self) -> dict[str, Any]:
        """The overrides that only some nodes can follow, as far as they are given."""
        found = {name: getattr(self, name) for name in MODEL_FIELDS}
        return {name: value for name, value in found.items() if value is not None}

    @contextmanager
    def patched(self, config: RunnableConfig) -> Iterator[RunnableConfig]:
        """`config` as the node is to see it: tags, metadata, and `configurable.model` and such.

        What the node calls without passing the config on gets it as well.
        """
        patched: RunnableConfig = {**config}
        if self.tags:
            patched["tags"] = [*dict.fromkeys([*(config.get("tags") or []), *self.tags])]
        if self.metadata:
            patched["metadata"] = {**(config.get("metadata") or {}), **self.metadata}
        given = self.model_fields_given()
        if given:
            patched["configurable"] = {**(config.get("configurable") or {}), **given}
        token = var_child_runnable_config.set(patched)
        try:
            yield patched
        finally:
            var_child_runnable_config.reset(token)

    async def in_time(self, node: str, work: Awaitable[T]) -> T:
        """The outcome of `work`; raises `RunFailed` where it takes longer than the timeout."""
        if self.timeout is None:
            return await work
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise RunFailed(
                f"node {node!r} took longer than the {self.timeout:g} s that its override allows"
            ) from None


def override_problems(value: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """What is wrong with the shape of `node_overrides`: (path, value, rule)."""
    if value is None:
        return
    if not isinstance(value, dict):
        yield path, value, 'must be an object such as {"NODE": {"temperature": 0}}'
        return
    known = ", ".join(NodeOverride.model_fields)
    for node, given in value.items():
        if not isinstance(given, dict):
            yield f"{path}.{node}", given, f"must be an object of {known}"
            continue
        if any(isinstance(item, float) and not math.isfinite(item) for item in given.values()):
            continue  # reported as no JSON
        try:
            NodeOverride.model_validate(given)
        except ValidationError as error:
            for entry in error.errors(include_url=False):
                field = ".".join([path, str(node), *map(str, entry["loc"])])
                rule = entry["msg"][0].lower() + entry["msg"][1:]
                if entry["type"] == "extra_forbidden":
                    rule = f"is not something to override; known: {known}"
                elif entry["type"] == "string_pattern_mismatch":
                    rule = 'must name a chat model, such as "openai:gpt-5-mini"'
                yield field, entry["input"], rule


def overrides_in(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """All overrides of a run, by node."""
    configurable = (config or {}).get("configurable") or {}
    found = configurable.get(NODE_OVERRIDES)
    return found if isinstance(found, Mapping) else {}


def override_for(config: Mapping[str, Any] | None) -> NodeOverride | None:
    """The override for the node that runs with `config`, if there is one."""
    overrides = overrides_in(config)
    if not overrides:
        return None
    metadata = (config or {}).get("metadata") or {}
    path = node_path(metadata.get("langgraph_checkpoint_ns"))
    given = overrides.get(path or str(metadata.get("langgraph_node") or ""))
    return None if given is None else NodeOverride.model_validate(given)


def node_path(namespace: object) -> str:
    """The names of the nodes in a checkpoint namespace of LangGraph, outermost first."""
    return "|".join(part.split(":")[0] for part in str(namespace or "").split("|"))


def overridden_model(chat: BaseChatModel, config: Mapping[str, Any] | None = None) -> BaseChatModel:
    """`chat`, or what an override of the node that runs with `config` puts in its place.

    For nodes that build their model themselves; declare that one does, so that requests may
    override it: `add_node(..., metadata={"overrides": ["model", "temperature"]})`. With
    `"chat_model": True` beside it, a server refuses names that no chat model has. Raises
    `RunFailed` where a temperature is asked for and the model has none.
    """
    if not overrides_in(config):
        return chat
    override = override_for(config)
    return chat if override is None else with_model(chat, override)


def model_trouble(name: str) -> str | None:
    """Why there cannot be a chat model of this name here, or None. Blocks: it imports and builds.

    For a check before a run; what is missing may be a provider, its package, or its key.
    """
    from langchain.chat_models import init_chat_model

    try:
        init_chat_model(name)
    except Exception as error:  # noqa: BLE001 - every provider has errors of its own
        return shorten(str(error).split("\n")[0]).strip("'\"")
    return None


def with_model(chat: BaseChatModel, override: NodeOverride) -> BaseChatModel:
    """`chat` changed as far as `override` says."""
    if override.model is not None:
        from langchain.chat_models import init_chat_model

        try:
            make = chat_model if is_counting() else init_chat_model
            chat = make(override.model)
        except (ImportError, ValueError) as error:
            raise BadInput(
                field="node_overrides.model", value=override.model, rule=f"cannot be used: {error}"
            ) from error
    if override.temperature is None:
        return chat
    if "temperature" not in type(chat).model_fields:
        raise RunFailed(f"{type(chat).__name__} has no temperature that could be overridden")
    return chat.model_copy(update={"temperature": override.temperature})
