"""`TaskNode`: a workflow node whose fields may hold `{{references}}`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ConfigDict

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.overrides import NodeOverride, override_for
from orcheo_agentensor.tape import prompts_in, record_prompt_read
from orcheo_agentensor.templates import interpolate
from orcheo_agentensor.tensor import TextTensor


class TaskNode(BaseModel, ABC):
    """A node with a name and fields, to be added to a graph as it is.

    Subclasses declare fields and implement `run`. Any field may hold templates such as
    `{{config.prompts.tone}}`, `{{inputs.question}}` or `{{results.other_node.title}}`; they are
    resolved anew for each call, on a copy, so one node may run many times at once. Declare a field
    with the types that a reference in it may bring (`int | str` for a number, `str | TextTensor`
    for a prompt); what a reference brings is not validated again.

    The output goes to `results` under the node's name. The name may be a template too: where a
    fan-out runs one node several times, `name="grade_{{inputs.id}}"` keeps every output.
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

        decoded = interpolate(self, template_scope(state, config), on_read=on_read)
        return self.model_copy() if decoded is self else decoded  # type: ignore[no-any-return]

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


def template_scope(
    state: Mapping[str, Any] | BaseModel, config: RunnableConfig | None
) -> dict[str, Any]:
    """What the templates of a node see: the state, with the run's prompts in `config.prompts`."""
    scope = dict(state)
    own = dict(scope.get("config") or {})
    own["prompts"] = {**prompts_in(config), **(own.get("prompts") or {})}
    scope["config"] = own
    return scope
