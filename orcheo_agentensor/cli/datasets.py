"""`agentensor dataset`: look at dataset files before they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled

if TYPE_CHECKING:
    from orcheo_agentensor.datasets import Dataset

app = typer.Typer(help="Check dataset files.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A .jsonl, .json, .yaml, .yml or .csv file.")
]


@app.command("validate", epilog=EXIT_CODES)
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


@app.command("hash", epilog=EXIT_CODES)
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
