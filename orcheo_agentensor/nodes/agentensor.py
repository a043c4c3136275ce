"""`AgentensorNode`: a whole evaluation or training as one node of a workflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from langchain_core.runnables import RunnableConfig

from orcheo_agentensor.nodes.base import TaskNode, template_scope
from orcheo_agentensor.nodes.job_fields import JobFields
from orcheo_agentensor.nodes.registry import register_node
from orcheo_agentensor.tape import record_prompt_read
from orcheo_agentensor.templates import interpolate
from orcheo_agentensor.tensor import TextTensor


@register_node(
    "AgentensorNode",
    description="Evaluate a workflow, or train its prompts, as a subgraph of this one",
    category="agentensor",
)
class AgentensorNode(JobFields, TaskNode):
    """Runs the evaluation subgraph (`mode="evaluate"`) or the training subgraph (`"train"`).

    The fields are those of `JobFields`. A field that is a text may be a template
    (`dataset="{{inputs.dataset}}"`, `prompts="{{config.prompts}}"`); texts deeper inside are left
    alone, because prompts and cases have braces of their own.

    The output in `results` is that of the subgraph. Its events, checkpoints and interrupts pass
    through the workflow around it.
    """

    def decode_variables(
        self, state: Mapping[str, Any], config: RunnableConfig | None = None
    ) -> Self:
        """A copy of this node with its text fields resolved."""

        def on_read(name: str, _tensor: TextTensor) -> None:
            record_prompt_read(name, config)

        fields = {name: getattr(self, name) for name in type(self).model_fields}
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        decoded = interpolate(texts, template_scope(state, config), on_read=on_read)
        return self.model_copy(update=decoded)

    async def run(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """Run the subgraph on the job that the fields make; returns its output."""
        return await self.run_job()
