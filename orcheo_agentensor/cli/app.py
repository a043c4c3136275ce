"""The `agentensor` command: parse, call, print."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orcheo_agentensor.cli import (
    checkpoints,
    database,
    datasets,
    jobs,
    options,
    publish,
    resume,
    runs,
    schemas,
    workflows,
)
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled

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
resume.register(app)
publish.register(app)
app.add_typer(runs.app, name="runs")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(workflows.app, name="workflows")
app.add_typer(datasets.app, name="dataset")
app.add_typer(database.app, name="db")
app.add_typer(schemas.app, name="schema")


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

    from orcheo_agentensor.cli.output import console
    from orcheo_agentensor.cli.stores import load_settings

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
