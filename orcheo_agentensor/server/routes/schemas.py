"""JSON Schemas of jobs, configs and datasets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orcheo_agentensor.config.model import config_schema
from orcheo_agentensor.errors import NotFound
from orcheo_agentensor.evaluation import EvaluationJob
from orcheo_agentensor.server.routes.api import Answer, Call, Operation
from orcheo_agentensor.training import TrainingJob
from orcheo_agentensor.training.job import dataset_schema, schema_of_job

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "config": config_schema,
    "dataset": dataset_schema,
    "evaluation": lambda: schema_of_job(EvaluationJob),
    "training": lambda: schema_of_job(TrainingJob),
}


async def list_schemas(call: Call) -> Answer:
    """The names of the schemas there are."""
    return Answer(content={"schemas": [*SCHEMAS]})


async def get_schema(call: Call) -> Answer:
    """The JSON Schema of a config, a dataset, an evaluation job or a training job."""
    name = call.path("name")
    make = SCHEMAS.get(name)
    if make is None:
        raise NotFound(f"there is no schema {name!r}; schemas: {', '.join(SCHEMAS)}")
    return Answer(content={"$schema": _DIALECT, **make()})


OPERATIONS = (
    Operation(
        method="GET",
        path="/schemas",
        run=list_schemas,
        answer=dict[str, list[str]],
        tag="schemas",
        statuses=(),
    ),
    Operation(
        method="GET",
        path="/schemas/{name}",
        run=get_schema,
        answer=dict[str, Any],
        tag="schemas",
    ),
)
