"""`TaskNode`: workflow nodes with Orcheo's state shape, and the registry of their kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.message import add_messages
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from orcheo_agentensor.config.overrides import NodeOverride, override_for
from orcheo_agentensor.errors import BadInput, NotFound
from orcheo_agentensor.nodes.templates import interpolate
from orcheo_agentensor.prompts import TextTensor, as_tensor
from orcheo_agentensor.tape import prompts_in, record_prompt_read


def merge_results(
    left: Mapping[str, Any] | None, right: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The reducer of `results`: outputs by node name, a later one in place of an earlier."""
    return {**(left or {}), **(right or {})}


def keep_latest(_left: Any, right: Any) -> Any:
    """The reducer of a value that several nodes of one superstep may write: the last one stays."""
    return right


class State(TypedDict, total=False):
    """A workflow state for template nodes.

    `inputs` holds the inputs of the run, `results` the output of each node by its name, `messages`
    the conversation, `structured_response` the last structured output (as JSON), and `config` the
    run's config as JSON, with the prompts under `config["prompts"]`.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    inputs: dict[str, Any]
    results: Annotated[dict[str, Any], merge_results]
    structured_response: Annotated[Any, keep_latest]
    config: dict[str, Any]


class TaskNode(BaseModel, ABC):
    """A node with a name and fields, to be added to a graph as it is.

    Subclasses declare fields and implement `run`. Any field may hold templates such as
    `{{config.prompts.tone}}`, `{{inputs.question}}` or `{{results.other_node.title}}`; they are
    resolved anew for each call, on a copy, so one node may run many times at once. Declare a field
    with the types that a reference in it may resolve to (`int | str` for a number, `str |
    TextTensor` for a prompt); resolved values are not validated again.

    Args:
        name: The node's name, under which its output is in `results`. It may be a template, too:
            where a fan-out runs one node several times, `name="grade_{{inputs.id}}"` keeps every
            output.

    Raises:
        TemplateError: A reference leads nowhere; the message lists what there is.

    Example:
        >>> import asyncio
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import TaskNode
        >>> from orcheo_agentensor.nodes import State
        >>> class Greet(TaskNode):
        ...     text: str
        ...     async def run(self, state, config):
        ...         return self.text.upper()
        >>> node = Greet(name="greet", text="Hello {{inputs.name}}!")
        >>> graph = StateGraph(State).add_node("greet", node).add_edge(START, "greet").compile()
        >>> asyncio.run(graph.ainvoke({"inputs": {"name": "Ada"}}))["results"]
        {'greet': 'HELLO ADA!'}
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str

    def decode_variables(
        self, state: Mapping[str, Any], config: RunnableConfig | None = None
    ) -> Self:
        """A copy of this node with every template in its fields resolved.

        Prompts come from `state["config"]["prompts"]`, and those not there from the runnable
        config's `configurable.prompts`. Each prompt read is put on the tape, if one is recorded.
        Raises `TemplateError` for a reference that leads nowhere.
        """

        def on_read(name: str, _tensor: TextTensor) -> None:
            record_prompt_read(name, config)

        fields, scope = self._templates(), _scope(state, config)
        decoded = dict(interpolate(fields, scope, on_read=on_read))
        for own in self.trainable_prompts():
            if own in scope["config"]["prompts"]:
                field = own.removeprefix(f"{self.name}.")
                decoded[field] = as_tensor(scope["config"]["prompts"][own], field=own)
                on_read(own, decoded[field])
        return self.model_copy(update={k: v for k, v in decoded.items() if v is not fields[k]})

    def trainable_prompts(self) -> dict[str, TextTensor]:
        """The fields that hold a `TextTensor`, as the prompts `NODE.FIELD`: a run that brings one
        of that name has it in the field's place."""
        fields = {f"{self.name}.{name}": getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in fields.items() if isinstance(one, TextTensor)}

    def _templates(self) -> dict[str, Any]:
        """The fields that may hold templates."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    async def __call__(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """Run once, as a LangGraph node; returns the state update.

        An override of the run for this node (`configurable.node_overrides`) is followed.
        """
        override = override_for(config)
        if override is None:
            return await self._update(state, config)
        node = self._overridden(override)
        with override.patched(config) as patched:
            return await override.in_time(self.name, node._update(state, patched))

    async def _update(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        node = self.decode_variables(state, config)
        return {"results": {node.name: await node.run(state, config)}}

    def _overridden(self, override: NodeOverride) -> Self:
        """A copy with the fields that a run overrides."""
        given = override.model_fields_given()
        lacking = [name for name in given if name not in type(self).model_fields]
        if lacking:
            raise BadInput(
                field=f"node_overrides.{self.name}.{lacking[0]}",
                value=given[lacking[0]],
                rule=f"is nothing that a {type(self).__name__} has",
            )
        return self.model_copy(update=given)

    @abstractmethod
    async def run(self, state: Mapping[str, Any], config: RunnableConfig) -> Any:
        """Do the node's work and return its output; the fields hold resolved values."""


def _scope(state: Mapping[str, Any] | BaseModel, config: RunnableConfig | None) -> dict[str, Any]:
    """The state, with the run's prompts in `config.prompts`."""
    given = dict(state)
    own = given.get("config") or {}
    prompts = {**prompts_in(config), **(own.get("prompts") or {})}
    return {**given, "config": {**own, "prompts": prompts}}


NodeType = TypeVar("NodeType", bound=type[TaskNode])


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeMetadata:
    """The name, the description and the category of a registered node."""

    name: str
    description: str = ""
    category: str = "general"


class NodeRegistry:
    """Node classes by name."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[NodeMetadata, type[TaskNode]]] = {}

    def register(self, metadata: NodeMetadata, node: type[TaskNode]) -> None:
        """Add `node`. A name is taken once; registering a reloaded class again replaces it."""
        taken = self._nodes.get(metadata.name)
        if taken is not None and _qualified(taken[1]) != _qualified(node):
            raise BadInput(
                f"node name {metadata.name!r} is taken by {_qualified(taken[1])}",
                field="name",
                value=metadata.name,
                rule="must be unique",
            )
        self._nodes[metadata.name] = (metadata, node)

    def get(self, name: str) -> type[TaskNode]:
        """The node class called `name`; raises `NotFound`, listing the names there are."""
        return self._entry(name)[1]

    def metadata(self, name: str) -> NodeMetadata:
        """The metadata of the node called `name`."""
        return self._entry(name)[0]

    def list(self) -> list[NodeMetadata]:
        """The metadata of all nodes, by name."""
        return [self._nodes[name][0] for name in sorted(self._nodes)]

    def _entry(self, name: str) -> tuple[NodeMetadata, type[TaskNode]]:
        if name not in self._nodes:
            there = ", ".join(sorted(self._nodes)) or "none"
            raise NotFound(f"no node is called {name!r}; registered: {there}")
        return self._nodes[name]


registry = NodeRegistry()
"""The registry that `register_node` adds to."""


def register_node(
    name: str, *, description: str = "", category: str = "general"
) -> Callable[[NodeType], NodeType]:
    """Class decorator: register a `TaskNode` under `name`."""

    def decorate(node: NodeType) -> NodeType:
        registry.register(NodeMetadata(name=name, description=description, category=category), node)
        return node

    return decorate


def _qualified(node: type[TaskNode]) -> str:
    return f"{node.__module__}.{node.__qualname__}"
