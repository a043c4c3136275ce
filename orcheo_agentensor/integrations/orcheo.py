"""The Orcheo plugin: `AgentensorNode` as a `TaskNode` of Orcheo. Imported only where Orcheo is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.errors import ConfigError, MissingExtra

try:
    from agentensor.tensor import TextTensor as TheirTensor
    from orcheo.graph.state import State
    from orcheo.nodes.base import TaskNode
    from orcheo.nodes.registry import NodeMetadata
    from orcheo.plugins import PluginAPI
except ImportError as error:
    raise MissingExtra("orcheo>=0.46", extra="orcheo") from error

from orcheo_agentensor.integrations.orcheo_workflow import orcheo_target
from orcheo_agentensor.nodes.job_fields import JobFields
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.templates import interpolate
from orcheo_agentensor.tensor import TextTensor

NODE_NAME = "orcheo_agentensor.AgentensorNode"
"""The name in Orcheo's registry, whose own nodes may hold the plain one."""

_WITH_BRACES = ("target", "dataset", "evaluators", "prompts", "optimizer", "store", "settings")
_REFERENCE = re.compile(r"\s*\{\{[^{}]+\}\}\s*")
_PLACEHOLDER = re.compile(r"\{\{|\[\[")


class AgentensorNode(JobFields, TaskNode):  # type: ignore[misc]
    """Evaluates a workflow (`mode="evaluate"`) or trains its prompts (`"train"`) inside Orcheo.

    The fields are those of `JobFields`; a target may be made of Orcheo's nodes, see
    `OrcheoWorkflow`, and `output` is then the part of its output that evaluators see. Orcheo
    resolves templates and credentials in the fields; cases, evaluators and prompts have braces of
    their own and are resolved only as a whole (`dataset="{{inputs.dataset}}"`,
    `prompts={"x": "{{config.prompts.x}}"}`).

    The payload in `node_results` is the output of the subgraph.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    output: str | None = Field(
        None, title="Output", description="Dotted path to the part of a workflow's output to score."
    )

    def model_post_init(self, context: Any) -> None:
        """As every job's node, but a store with a placeholder has to wait for its run."""
        if not (isinstance(self.store, str) and _PLACEHOLDER.search(self.store)):
            super().model_post_init(context)

    def _decoded_updates(self, state: State) -> dict[str, Any]:
        return {**self.__dict__, **self._compute_run_updates(state)}

    def _compute_run_updates(self, state: State) -> dict[str, Any]:
        """The fields that templates change. Raises `TemplateError` for one that leads nowhere."""
        decoded = {
            name: self._decode_value(value, state)
            for name, value in self.__dict__.items()
            if isinstance(value, str) or name not in _WITH_BRACES
        }
        if isinstance(self.prompts, Mapping):
            decoded["prompts"] = {
                name: self._decode_value(text, state) if _is_reference(text) else text
                for name, text in self.prompts.items()
            }
        return {name: value for name, value in decoded.items() if value is not self.__dict__[name]}

    def _decode_string_value(self, value: str, state: State) -> Any:
        """As Orcheo, which leaves a reference that leads nowhere as it stands; here that raises."""
        decoded = super()._decode_string_value(value, state)
        unresolved = decoded is value and _is_reference(value)
        return interpolate(value.strip(), dict(state)) if unresolved else decoded

    async def run(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Run the subgraph on the job that the fields make; returns its output."""
        settings = self.settings or Settings()
        target = self.target
        if target is not None:
            target = orcheo_target(target, output=self.output, settings=settings)
        prompts = None if self.prompts is None else _prompts(self.prompts)
        job = self.model_copy(update={"target": target, "prompts": prompts, "settings": settings})
        if job._opened is None:
            job._opened = Store.from_url(self.store)
        return await job.run_job()


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _prompts(given: Any) -> dict[str, Any]:
    """Prompts as Orcheo has them (`TrainablePrompt`, its `TextTensor`, either's JSON) as ours."""
    if not isinstance(given, Mapping):
        raise ConfigError(field="prompts", value=given, rule="must map names to prompts")
    return {str(name): _prompt(value) for name, value in given.items()}


def _prompt(value: Any) -> Any:
    if isinstance(value, TheirTensor) and not isinstance(value, TextTensor):
        return TextTensor(
            value.text, requires_grad=value.requires_grad, metadata=dict(value.metadata)
        )
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):  # the model is the optimizer's, here
        return {key: part for key, part in value.items() if key != "model_kwargs"}
    return value


def register(api: PluginAPI) -> None:
    """Orcheo's hook: add the node to its registry, as `AgentensorNode` too where that is free."""
    api.register_node(_metadata(NODE_NAME), AgentensorNode)
    with suppress(ValueError):  # Orcheo keeps a name for who has it: 0.46 has such a node itself
        api.register_node(_metadata(AgentensorNode.__name__), AgentensorNode)


def _metadata(name: str) -> NodeMetadata:
    return NodeMetadata(
        name=name,
        description="Evaluate a workflow, or train its prompts, resumably and with a holdout",
        category="agentensor",
        restricted=True,  # it reads files that a job names: not for authors who are not trusted
    )
