"""What every `AgentensorNode` is, whatever its base: a job's fields, and how it is run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, PrivateAttr, model_validator

from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tensor import as_prompts, prompts_to_json

_LIVE = ("target", "dataset", "evaluators", "config", "optimizer")
_PLAIN = ("workflow_id", "run_id", "limits", "min_coverage", "replicates", "reuse")
_TRAINING_PLAIN = ("budget", "stop", "checkpoint_every", "promote", "seed")
_TRAINING = ("optimizer", *_TRAINING_PLAIN)


class JobFields(BaseModel):
    """The fields of `EvaluationJob` and `TrainingJob` on a node, with `mode` to tell which.

    What is left out has the job's default. Live objects (a graph, functions, a `Dataset`) are taken
    as well as what a job file may hold. `store` is a `Store` or a database URL; without one the
    node keeps a store in memory for as long as it lives itself.
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

    async def run_job(self) -> dict[str, Any]:
        """Run the subgraph on the job that the fields make; returns its output."""
        from orcheo_agentensor.evaluation import create_evaluation_graph
        from orcheo_agentensor.evaluation.drive import split_live
        from orcheo_agentensor.evaluation.node import run_inside
        from orcheo_agentensor.training import create_training_graph

        create: Any = create_training_graph if self.mode == "train" else create_evaluation_graph
        plain, live = split_live(**{name: getattr(self, name) for name in _LIVE})
        graph = create(**live, store=self._opened, settings=self.settings)
        names = (*_PLAIN, *_TRAINING_PLAIN) if self.mode == "train" else _PLAIN
        job = {**plain, **{name: _as_data(getattr(self, name)) for name in names}}
        if self.prompts is not None:
            job["prompts"] = prompts_to_json(as_prompts(self.prompts))
        given = {name: value for name, value in job.items() if value is not None}
        return await run_inside(graph.compile(name=self.mode), given)


def _as_data(value: Any) -> Any:
    """Models such as `Limits`, `Budget` and stop conditions as data."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_as_data(item) for item in value] if isinstance(value, list | tuple) else value
