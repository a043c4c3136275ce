"""`AgentensorNode`: evaluation and training as a template node, with the fields of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.nodes.task import TaskNode, register_node
from orcheo_agentensor.prompts import as_prompts, prompts_to_json
from orcheo_agentensor.runs.job import EvaluationJob
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.training.job import TrainingJob

_LIVE = ("target", "dataset", "evaluators", "config", "optimizer")
_EVALUATION = tuple(EvaluationJob.model_fields)
_TRAINING = tuple(TrainingJob.model_fields)


def _field(name: str) -> Any:
    """The job's field of that name, left out so far."""
    found = TrainingJob.model_fields[name]
    return Field(default=None, title=found.title, description=found.description)


class JobFields(StrictNumbers):
    """The fields of `EvaluationJob` and `TrainingJob` on a node, with `mode` to tell which.

    A field that is left out has the job's default. Live objects (a graph, functions, a `Dataset`)
    are accepted beside what a job file may hold. `store` is a `Store` or a database URL; without
    one the node has a store in memory of its own.
    """

    mode: Literal["evaluate", "train"] = Field(
        default="evaluate", title="Mode", description="Evaluate the workflow, or train its prompts."
    )
    target: Any = _field("target")
    dataset: Any = _field("dataset")
    evaluators: Any = _field("evaluators")
    prompts: Any = _field("prompts")
    config: Any = _field("config")
    workflow_id: str | None = _field("workflow_id")
    run_id: str | None = _field("run_id")
    limits: Any = _field("limits")
    min_coverage: float | None = _field("min_coverage")
    replicates: int | None = _field("replicates")
    memory_store: str | None = _field("memory_store")
    accept_drift: bool | None = _field("accept_drift")
    retry_failed: bool | None = _field("retry_failed")
    reuse: str | None = _field("reuse")
    cache: bool | None = _field("cache")
    optimizer: Any = _field("optimizer")
    budget: Any = _field("budget")
    stop: Any = _field("stop")
    checkpoint_every: int | Literal["none"] | None = _field("checkpoint_every")
    steps_per_node: int | None = _field("steps_per_node")
    promote: str | None = _field("promote")
    guardrail: Any = _field("guardrail")
    goal: Any = _field("goal")
    objective: Any = _field("objective")
    exclude_nodes: Any = _field("exclude_nodes")
    task: str | None = _field("task")
    cross_validation: int | None = _field("cross_validation")
    publish: Any = _field("publish")
    seed: int | None = _field("seed")
    store: Any = Field(
        default=None, title="Store", description="Where runs and versions are kept: a database URL."
    )
    settings: Settings | None = Field(
        default=None, title="Settings", description="Those of the environment when left out."
    )

    _opened: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        only = [name for name in _TRAINING if name not in _EVALUATION]
        wrong = [name for name in only if getattr(self, name) is not None]
        if self.mode == "evaluate" and wrong:
            raise ValueError(f"mode 'evaluate' does not take {', '.join(wrong)}")
        return self

    def model_post_init(self, context: Any) -> None:
        """Open the store once, so that all calls, and a resumed one, find the same."""
        from orcheo_agentensor.storage import Store

        self._opened = self.store if isinstance(self.store, Store) else Store.from_url(self.store)

    async def run_job(self) -> dict[str, Any]:
        """Run the subgraph on the job that the fields make; returns its output."""
        from orcheo_agentensor.evaluation import create_evaluation_graph
        from orcheo_agentensor.runs.front import split_live
        from orcheo_agentensor.runs.nodes import run_inside
        from orcheo_agentensor.training import create_training_graph

        create: Any = create_training_graph if self.mode == "train" else create_evaluation_graph
        names = _TRAINING if self.mode == "train" else _EVALUATION
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "prompts" in given:
            given["prompts"] = prompts_to_json(as_prompts(given["prompts"]))
        plain, live = split_live(**{name: given.pop(name) for name in _LIVE if name in given})
        graph = create(**live, store=self._opened, settings=self.settings)
        job = {**plain, **{name: _as_data(value) for name, value in given.items()}}
        return await run_inside(graph.compile(name=self.mode), job)


def _as_data(value: Any) -> Any:
    """Models such as `Limits`, `Budget` and stop conditions as data."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_as_data(item) for item in value] if isinstance(value, list | tuple) else value


@register_node(
    "AgentensorNode",
    description="Evaluate a workflow, or train its prompts, as a subgraph of this one",
    category="agentensor",
)
class AgentensorNode(JobFields, TaskNode):
    """Runs the evaluation subgraph (`mode="evaluate"`) or the training subgraph (`"train"`).

    The fields are those of the job. A field that is a text may be a template
    (`dataset="{{inputs.dataset}}"`, `prompts="{{config.prompts}}"`); texts deeper inside are left
    alone, because prompts and cases have braces of their own.

    The output in `results` is that of the subgraph. Its events, checkpoints and interrupts pass
    through the workflow around it.

    Args:
        name: The node's name, under which its output is in `results`.

    Example:
        >>> import asyncio
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import AgentensorNode
        >>> from orcheo_agentensor.nodes import State
        >>> node = AgentensorNode(
        ...     name="check",
        ...     target=lambda inputs: inputs.upper(),
        ...     dataset="{{inputs.cases}}",
        ...     evaluators=["exact_match"],
        ... )
        >>> graph = StateGraph(State).add_node("check", node).add_edge(START, "check").compile()
        >>> inputs = {"cases": [{"inputs": "hi", "expected_output": "HI"}]}
        >>> found = asyncio.run(graph.ainvoke({"inputs": inputs}))["results"]["check"]
        >>> found["summary"]["objective"]
        1.0
    """

    def _templates(self) -> dict[str, Any]:
        return {name: text for name, text in super()._templates().items() if isinstance(text, str)}

    async def run(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """Run the subgraph on the job that the fields make; returns its output."""
        return await self.run_job()
