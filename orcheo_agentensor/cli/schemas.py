"""`agentensor schema`: JSON Schemas, for editors and for checks before submitting."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled

app = typer.Typer(help="Print JSON Schemas.", no_args_is_help=True)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@app.command("config", epilog=EXIT_CODES)
@handled
def config() -> int:
    """The schema of a run's config."""
    from orcheo_agentensor.config import config_schema

    return _print(config_schema())


@app.command("job", epilog=EXIT_CODES)
@handled
def job(
    kind: Annotated[
        Literal["evaluation", "training", "run"], typer.Argument(help="The kind of job.")
    ] = "evaluation",
) -> int:
    """The schema of a job file."""
    return _print(job_schema(kind))


@app.command("dataset", epilog=EXIT_CODES)
@handled
def dataset() -> int:
    """The schema of a dataset in JSON or YAML; each line of JSONL is a `Case`."""
    return _print(dataset_schema())


def job_schema(kind: Literal["evaluation", "training", "run"]) -> dict[str, Any]:
    """The schema of a job, with the schemas of its config and its dataset in it."""
    from pydantic import BaseModel

    from orcheo_agentensor.cli.runjob import RunJob
    from orcheo_agentensor.config import config_schema
    from orcheo_agentensor.datasets import DatasetSpec
    from orcheo_agentensor.evaluation import EvaluationJob
    from orcheo_agentensor.training import TrainingJob

    models: dict[str, type[BaseModel]] = {
        "evaluation": EvaluationJob,
        "training": TrainingJob,
        "run": RunJob,
    }
    schema = models[kind].model_json_schema()
    _embed(schema, "config", "RunConfig", config_schema())
    if "dataset" in schema["properties"]:
        _embed(schema, "dataset", "DatasetSpec", DatasetSpec.model_json_schema())
    return schema


def _embed(schema: dict[str, Any], field: str, name: str, inner: dict[str, Any]) -> None:
    """Put a model's schema in the place of the plain object among a field's forms."""
    definitions = schema.setdefault("$defs", {})
    definitions |= inner.pop("$defs", {})
    definitions[name] = inner
    schema["properties"][field]["anyOf"] = [
        {"$ref": f"#/$defs/{name}"} if form.get("type") == "object" else form
        for form in schema["properties"][field]["anyOf"]
    ]


def dataset_schema() -> dict[str, Any]:
    """The schema of a dataset document: a list of cases, or an object that holds them."""
    from orcheo_agentensor.datasets import Case

    case = Case.model_json_schema()
    definitions = case.pop("$defs", {})
    cases = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Case"}}
    document = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "metadata": {"type": "object"}, "cases": cases},
        "required": ["cases"],
        "additionalProperties": False,
    }
    return {
        "title": "Dataset",
        "anyOf": [cases, document],
        "$defs": {**definitions, "Case": case},
    }


def _print(schema: dict[str, Any]) -> int:
    from orcheo_agentensor.cli.output import print_json

    print_json({"$schema": _DIALECT, **schema})
    return ExitCode.OK
