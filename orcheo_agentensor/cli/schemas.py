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
    from orcheo_agentensor.training.schemas import dataset_schema

    return _print(dataset_schema())


def job_schema(kind: Literal["evaluation", "training", "run"]) -> dict[str, Any]:
    """The schema of a job, with the schemas of its config and its dataset in it."""
    from orcheo_agentensor.cli.runjob import RunJob
    from orcheo_agentensor.evaluation import EvaluationJob
    from orcheo_agentensor.training import TrainingJob
    from orcheo_agentensor.training.schemas import schema_of_job

    models: Any = {"evaluation": EvaluationJob, "training": TrainingJob, "run": RunJob}
    return schema_of_job(models[kind])


def _print(schema: dict[str, Any]) -> int:
    from orcheo_agentensor.cli.output import print_json

    print_json({"$schema": _DIALECT, **schema})
    return ExitCode.OK
