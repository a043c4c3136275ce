"""The `agentensor` command, with its small commands `schema`, `judge`, `demo` and `version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import (
    admin,
    checkpoints,
    compare,
    datasets,
    jobs,
    options,
    project,
    prompts,
    runs,
    view,
)
from orcheo_agentensor.cli.errors import EXIT_CODES, command
from orcheo_agentensor.cli.output import console, print_json, show, show_table
from orcheo_agentensor.display import number, percent
from orcheo_agentensor.errors import BadInput

schema_app = typer.Typer(help="Print JSON Schemas.", no_args_is_help=True)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@command(schema_app, "config")
def config() -> None:
    """The schema of a run's config."""
    from orcheo_agentensor.config.model import config_schema

    print_json({"$schema": _DIALECT, **config_schema()})


@command(schema_app, "job")
def job(
    kind: Annotated[
        Literal["evaluation", "training", "run"], typer.Argument(help="The kind of job.")
    ] = "evaluation",
) -> None:
    """The schema of a job file."""
    from orcheo_agentensor.cli.run_once import RunJob
    from orcheo_agentensor.evaluation import EvaluationJob
    from orcheo_agentensor.runs.schema import with_forms
    from orcheo_agentensor.training import TrainingJob

    models: Any = {"evaluation": EvaluationJob, "training": TrainingJob, "run": RunJob}
    schema = models[kind].model_json_schema()
    print_json({"$schema": _DIALECT, **(with_forms(schema) if kind == "run" else schema)})


@command(schema_app, "dataset")
def dataset() -> None:
    """The schema of a dataset in JSON or YAML; each line of JSONL is a `Case`."""
    from orcheo_agentensor.runs.schema import dataset_schema

    print_json({"$schema": _DIALECT, **dataset_schema()})


@command(schema_app, "manifest")
def manifest() -> None:
    """The schema of a run's manifest."""
    from orcheo_agentensor.runs.manifest import manifest_schema

    print_json({"$schema": _DIALECT, **manifest_schema()})


judge_app = typer.Typer(help="Check LLM judges.", no_args_is_help=True)


@command(judge_app, "calibrate")
def calibrate(
    job: options.JobFile,
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help="A dataset whose cases have `output` and a person's `label` in their metadata.",
        ),
    ],
    evaluator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The evaluator of the job; needed where it has several."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask an evaluator of a job about labelled outputs, and compare it with the labels."""
    import asyncio

    from orcheo_agentensor.cli.jobfile import Overrides, load_job
    from orcheo_agentensor.datasets import Dataset
    from orcheo_agentensor.evaluators import bind_evaluators
    from orcheo_agentensor.evaluators import calibrate as compare
    from orcheo_agentensor.evaluators.binding import completed

    specs = load_job(job, Overrides()).get("evaluators", [])
    bound = bind_evaluators(specs, settings=options.load_settings())
    found = [one for one in bound if evaluator in (None, one.name)]
    if len(found) != 1:
        raise BadInput(
            field="evaluator",
            value=evaluator,
            rule=f"must be one of: {', '.join(e.name for e in bound)}",
        )
    dataset = Dataset.load(labels)
    judge = completed(found[0], dataset.metadata)
    result = asyncio.run(compare(judge, dataset.cases))
    if as_json:
        print_json({"evaluator": found[0].name, **result})
        return
    show(f"evaluator  {found[0].name}")
    show(f"labels     {result['n']} compared, {result['failures']} without a verdict")
    show(f"agreement  {percent(result['agreement'])}")
    show(f"kappa      {number(result['kappa'])}")
    columns = sorted({verdict for row in result["confusion"].values() for verdict in row})
    rows = [
        (human, *(row.get(verdict, 0) for verdict in columns))
        for human, row in result["confusion"].items()
    ]
    show_table(("label", *(f">judged {verdict}" for verdict in columns)), rows)


app = typer.Typer(
    name="agentensor",
    help="Evaluate LangGraph workflows and train their prompts.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command(app, "init")(project.init)
command(app, "doctor")(project.doctor)
command(app, "evaluate")(jobs.evaluate)
command(app, "train")(jobs.train)
command(app, "run")(jobs.run)
command(app, "resume")(jobs.resume)
command(app, "compare")(compare.compare)
command(app, "report")(compare.report)
command(app, "export")(compare.export)
command(app, "view")(view.view)
command(app, "publish")(checkpoints.publish)
command(app, "stats")(runs.stats)
app.add_typer(runs.app, name="runs")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(admin.workflows_app, name="workflows")
app.add_typer(datasets.app, name="dataset")
app.add_typer(prompts.app, name="prompts")
app.add_typer(judge_app, name="judge")
app.add_typer(admin.database_app, name="db")
app.add_typer(schema_app, name="schema")


@command(app, "demo")
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

    settings = options.load_settings()
    # By name, because the demo stands above the command line in the order of imports.
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


@command(app, "version")
def version(as_json: options.AsJson = False) -> None:
    """Print the version of this release."""
    from orcheo_agentensor import __version__

    if as_json:
        print_json({"version": __version__})
    else:
        show(__version__)


def main() -> None:
    """The entry point of the console script."""
    app()
