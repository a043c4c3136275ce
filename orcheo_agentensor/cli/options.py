"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file, in YAML or JSON.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where runs and versions are kept: sqlite:///PATH or postgresql://… "
        "[default: AGENTENSOR_DATABASE_URL]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
RunId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The id of the run; a known one goes on where it stopped."),
]
Concurrency = Annotated[
    int | None, typer.Option(metavar="N", help="Most cases in flight; goes over the job's limit.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION|ALIAS",
        help="Start from the prompts and settings of this stored version, not the job's prompts.",
    ),
]
Reuse = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Use the recorded rollouts of this run where they fit."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, show what would run, write nothing.")
]
MinScore = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[EVALUATOR=]X",
        help="Exit with 1 when the objective (or this evaluator's mean) is below X; repeatable.",
    ),
]
Workflow = Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's id.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A version's number, or an alias.")]
Actor = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides. [default: your user name]")
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the log.")]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Most rows to show.")]


def actor_name(given: str | None) -> str:
    """The actor of a command: the one given, else the name of the user at the shell."""
    if given:
        return given
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "unknown"
