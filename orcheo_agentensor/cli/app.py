"""`agentensor schema`: JSON Schemas, for editors and for checks before submitting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import admin, checkpoints, jobs, options, runs
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled

if TYPE_CHECKING:
    from orcheo_agentensor.datasets import Dataset


schema_app = typer.Typer(help="Print JSON Schemas.", no_args_is_help=True)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@schema_app.command("config", epilog=EXIT_CODES)
@handled
def config() -> int:
    """The schema of a run's config."""
    from orcheo_agentensor.config.model import config_schema

    return _print(config_schema())


@schema_app.command("job", epilog=EXIT_CODES)
@handled
def job(
    kind: Annotated[
        Literal["evaluation", "training", "run"], typer.Argument(help="The kind of job.")
    ] = "evaluation",
) -> int:
    """The schema of a job file."""
    return _print(job_schema(kind))


@schema_app.command("dataset", epilog=EXIT_CODES)
@handled
def dataset() -> int:
    """The schema of a dataset in JSON or YAML; each line of JSONL is a `Case`."""
    from orcheo_agentensor.training.job import dataset_schema

    return _print(dataset_schema())


def job_schema(kind: Literal["evaluation", "training", "run"]) -> dict[str, Any]:
    """The schema of a job, with the schemas of its config and its dataset in it."""
    from orcheo_agentensor.cli.jobs import RunJob
    from orcheo_agentensor.evaluation import EvaluationJob
    from orcheo_agentensor.training import TrainingJob
    from orcheo_agentensor.training.job import schema_of_job

    models: Any = {"evaluation": EvaluationJob, "training": TrainingJob, "run": RunJob}
    return schema_of_job(models[kind])


def _print(schema: dict[str, Any]) -> int:
    from orcheo_agentensor.cli.output import print_json

    print_json({"$schema": _DIALECT, **schema})
    return ExitCode.OK


dataset_app = typer.Typer(help="Check dataset files.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A .jsonl, .json, .yaml, .yml or .csv file.")
]


@dataset_app.command("validate", epilog=EXIT_CODES)
@handled
def validate(file: File, as_json: options.AsJson = False) -> int:
    """Read a dataset and say what is in it; errors name the line."""
    from orcheo_agentensor.cli.output import print_json, show

    dataset = _load(file)
    splits = dataset.splits()
    left_out = len(dataset) - sum(splits.values())
    if as_json:
        print_json(
            {
                "id": dataset.id,
                "version": dataset.version,
                "cases": len(dataset),
                "splits": splits,
                "without_split": left_out,
                "metadata": dataset.metadata,
            }
        )
        return ExitCode.OK
    counts = [f"{name} {count}" for name, count in splits.items()]
    show(f"dataset    {dataset.id}")
    show(f"version    {dataset.version}")
    show(f"cases      {len(dataset)}")
    show(f"splits     {', '.join(counts) or 'none'}")
    if splits and left_out:
        show(f"           {left_out} cases have no split")
    return ExitCode.OK


@dataset_app.command("hash", epilog=EXIT_CODES)
@handled
def content_hash(file: File, as_json: options.AsJson = False) -> int:
    """Print a dataset's version: the hash of its cases, whatever the file format."""
    from orcheo_agentensor.cli.output import print_json, show

    dataset = _load(file)
    if as_json:
        print_json({"id": dataset.id, "version": dataset.version})
    else:
        show(dataset.version)
    return ExitCode.OK


def _load(file: Path) -> Dataset:
    from orcheo_agentensor.datasets import Dataset

    return Dataset.load(file)


app = typer.Typer(
    name="agentensor",
    help="Evaluate LangGraph workflows and train their prompts.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
jobs.register(app)
jobs.register_resume(app)
checkpoints.register(app)
app.add_typer(runs.app, name="runs")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(admin.workflows_app, name="workflows")
app.add_typer(dataset_app, name="dataset")
app.add_typer(admin.database_app, name="db")
app.add_typer(schema_app, name="schema")


@app.command("demo", epilog=EXIT_CODES)
@handled
def demo(
    memorise: Annotated[
        bool,
        typer.Option(
            "--memorise", help="With a proposer that memorises: the guardrail refuses it."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the search.")] = 0,
    store: options.StoreUrl = None,
) -> int:
    """Train the bundled support-triage workflow, offline and in under two minutes."""
    import asyncio
    from importlib import import_module

    from orcheo_agentensor.cli.options import load_settings
    from orcheo_agentensor.cli.output import console

    settings = load_settings()
    run_demo: Any = import_module("orcheo_agentensor.demo.run").run_demo
    code: int = asyncio.run(
        run_demo(
            store_url=store or settings.database_url,
            memorise=memorise,
            seed=seed,
            settings=settings,
            console=console(),
        )
    )
    return code


@app.command("version", epilog=EXIT_CODES)
@handled
def version(as_json: options.AsJson = False) -> int:
    """Print the version of this release."""
    from orcheo_agentensor import __version__
    from orcheo_agentensor.cli.output import print_json, show

    if as_json:
        print_json({"version": __version__})
    else:
        show(__version__)
    return ExitCode.OK


def main() -> None:
    """The entry point of the console script."""
    app()
