"""`AgentensorNode`: a whole evaluation or training as one node of a workflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, PrivateAttr, model_validator

from orcheo_agentensor.nodes.base import TaskNode, template_scope
from orcheo_agentensor.nodes.registry import register_node
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import record_prompt_read
from orcheo_agentensor.templates import interpolate
from orcheo_agentensor.tensor import TextTensor, as_prompts, prompts_to_json

_LIVE = ("target", "dataset", "evaluators", "config", "optimizer")
_PLAIN = ("workflow_id", "run_id", "limits", "min_coverage", "replicates", "reuse")
_TRAINING_PLAIN = ("budget", "stop", "checkpoint_every", "promote", "seed")
_TRAINING = ("optimizer", *_TRAINING_PLAIN)


@register_node(
    "AgentensorNode",
    description="Evaluate a workflow, or train its prompts, as a subgraph of this one",
    category="agentensor",
)
class AgentensorNode(TaskNode):
    """Runs the evaluation subgraph (`mode="evaluate"`) or the training subgraph (`"train"`).

    The fields are those of `EvaluationJob` and `TrainingJob`; what is left out has the job's
    default. Live objects (a graph, functions, a `Dataset`) are taken as well as what a job file
    may hold. A field that is a text may be a template (`dataset="{{inputs.dataset}}"`,
    `prompts="{{config.prompts}}"`); texts deeper inside are left alone, because prompts and cases
    have braces of their own.

    The output in `results` is that of the subgraph. Its events, checkpoints and interrupts pass
    through the workflow around it. `store` is a `Store` or a database URL; without one the node
    keeps a store in memory for as long as it lives itself.
    """

    mode: Literal["evaluate", "train"] = "evaluate"
    target: Any = None
    dataset: Any = None
    evaluators: Any = None
    prompts: Any = None
    config: Any = None
    workflow_id: str | None = None
    run_id: str | None = None
    limits: Any = None
    min_coverage: float | None = None
    replicates: int | None = None
    reuse: str | None = None
    optimizer: Any = None
    budget: Any = None
    stop: Any = None
    checkpoint_every: int | None = None
    promote: str | None = None
    seed: int | None = None
    store: Any = None
    settings: Settings | None = None

    _opened: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        wrong = [name for name in _TRAINING if getattr(self, name) is not None]
        if self.mode == "evaluate" and wrong:
            raise ValueError(f"mode 'evaluate' does not take {', '.join(wrong)}")
        return self

    def model_post_init(self, context: Any) -> None:
        """Open the store once, so that all calls, and a resumed one, find the same."""
        from orcheo_agentensor.storage import Store

        self._opened = self.store if isinstance(self.store, Store) else Store.from_url(self.store)

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
        from orcheo_agentensor.evaluation import create_evaluation_graph
        from orcheo_agentensor.evaluation.drive import split_live
        from orcheo_agentensor.evaluation.node import run_inside
        from orcheo_agentensor.training import create_training_graph

        create: Any = create_training_graph if self.mode == "train" else create_evaluation_graph
        plain, live = split_live(**{name: getattr(self, name) for name in _LIVE})
        graph = create(**live, store=self._opened, settings=self.settings)
        job = {**plain, **{name: _as_data(getattr(self, name)) for name in self._plain_fields()}}
        if self.prompts is not None:
            job["prompts"] = prompts_to_json(as_prompts(self.prompts))
        given = {name: value for name, value in job.items() if value is not None}
        return await run_inside(graph.compile(name=self.name), given)

    def _plain_fields(self) -> tuple[str, ...]:
        return (*_PLAIN, *_TRAINING_PLAIN) if self.mode == "train" else _PLAIN


def _as_data(value: Any) -> Any:
    """Models such as `Limits`, `Budget` and stop conditions as data."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_as_data(item) for item in value] if isinstance(value, list | tuple) else value
