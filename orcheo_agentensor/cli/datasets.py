"""`agentensor dataset`: check, convert, compare and cut dataset files, and make them of runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import command
from orcheo_agentensor.cli.output import (
    print_json,
    require_new,
    say,
    show,
    show_metadata,
    show_table,
    write_whole,
)
from orcheo_agentensor.display import when
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.datasets import Case
    from orcheo_agentensor.storage import DatasetRecord, Store

app = typer.Typer(help="Check, convert and make datasets.", no_args_is_help=True)

_SUFFIXES = ".jsonl, .ndjson, .json, .yaml, .yml, .csv or .tsv file"
File = Annotated[Path, typer.Argument(metavar="FILE", help=f"A {_SUFFIXES}, or one of them .gz.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help=r"The .jsonl file to write. \[default: -]"),
]


@command(app, "validate")
def validate(file: File, as_json: options.AsJson = False) -> None:
    """Read a dataset and say what is in it; errors name the line."""
    from orcheo_agentensor.datasets import Dataset

    dataset = Dataset.load(file)
    splits = dataset.splits()
    left_out = len(dataset) - sum(splits.values())
    if as_json:
        print_json(
            {
                "id": dataset.id,
                "version": dataset.version,
                "metadata_version": dataset.metadata_version,
                "cases": len(dataset),
                "splits": splits,
                "without_split": left_out,
                "metadata": dataset.metadata,
            }
        )
        return
    counts = [f"{name} {count}" for name, count in splits.items()]
    show(f"dataset    {dataset.id}")
    show(f"version    {dataset.version}")
    show(f"cases      {len(dataset)}")
    show(f"splits     {', '.join(counts) or 'none'}")
    if splits and left_out:
        show(f"           {left_out} cases have no split")
    show_metadata(dataset.metadata)


@command(app, "show")
def show_dataset(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The id of a stored dataset.")],
    version: Annotated[
        str | None, typer.Option(metavar="HASH", help="The version of its cases; else the newest.")
    ] = None,
    metadata_version: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="The version of its metadata; else the newest."),
    ] = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a dataset that a run has stored: its versions, its metadata and its counts."""

    async def work(opened: Store) -> tuple[DatasetRecord, list[DatasetRecord]]:
        found = await opened.datasets.get(dataset, version, metadata_version)
        return found, await opened.datasets.list(dataset)

    found, every = options.read_from(store, work)
    if as_json:
        versions = [one.model_dump(mode="json") for one in every]
        print_json({**found.model_dump(mode="json"), "versions": versions})
        return
    counts = [f"{name} {count}" for name, count in found.counts.get("splits", {}).items()]
    show(f"dataset    {found.dataset_id}")
    show(f"version    {found.version}")
    show(f"metadata   {found.metadata_version}")
    show(f"cases      {found.counts.get('cases')}")
    show(f"splits     {', '.join(counts) or 'none'}")
    show_metadata(found.metadata)
    if len(every) > 1:
        rows = [
            (one.version[:12], one.metadata_version[:12], when(one.created_at)) for one in every
        ]
        show_table(("version", "metadata", "stored"), rows)


@command(app, "hash")
def content_hash(file: File, as_json: options.AsJson = False) -> None:
    """Print a dataset's version: the hash of its cases, whatever the file format."""
    from orcheo_agentensor.datasets import Dataset

    dataset = Dataset.load(file)
    if as_json:
        print_json({"id": dataset.id, "version": dataset.version})
    else:
        show(dataset.version)


@command(app, "convert")
def convert(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help=f"A {_SUFFIXES} or .parquet, or a folder of files."),
    ],
    form: Annotated[
        str,
        typer.Option("--from", metavar="TOOL", help="The tool that wrote it; auto tells it."),
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Where a field comes from, as inputs.question=Question; the rest is metadata; "
            "repeatable.",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The encoding of the file, such as cp1252; else UTF-8."),
    ] = None,
    typed: Annotated[
        bool, typer.Option("--typed", help="Read numbers, true, false and null in cells of tables.")
    ] = False,
    output: Output = None,
    force: options.Force = False,
) -> None:
    """Turn a file of another tool, or a table with columns of its own, into a dataset.

    What was taken for what is said on stderr. Fields that have no place elsewhere go to metadata.
    """
    from orcheo_agentensor.datasets import Dataset
    from orcheo_agentensor.datasets.formats import read_foreign

    columns = dict(_pair(given) for given in column or [])
    require_new(output, force=force)
    known: Any = form  # an unknown one is refused with the list
    found = read_foreign(file, form=known, columns=columns, encoding=encoding, typed=typed)
    dataset = Dataset.from_imported(found, id=file.stem)
    say(f"{file.name} was read as {found.form}: {len(dataset)} cases")
    for note in found.notes:
        say(f"note: {note}")
    _write(dataset.cases_to_json(), output)


@command(app, "diff")
def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A dataset file.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one.")],
    as_json: options.AsJson = False,
) -> None:
    """Show which cases two files do not share, by their ids; the changed ones with their fields."""
    from orcheo_agentensor.datasets import Dataset

    old, new = ({case.id: case for case in Dataset.load(file)} for file in (before, after))
    changed = {
        key: [name for name, value in case.to_json().items() if value != old[key].to_json()[name]]
        for key, case in new.items()
        if key in old and case.content_hash != old[key].content_hash
    }
    document: dict[str, Any] = {
        "added": [key for key in new if key not in old],
        "removed": [key for key in old if key not in new],
        "changed": changed,
        "same": len(old.keys() & new.keys()) - len(changed),
    }
    if as_json:
        print_json(document)
        return
    for sign, keys in (("+", document["added"]), ("-", document["removed"])):
        for key in keys:
            show(f"{sign} {key}")
    for key, fields in changed.items():
        show(f"~ {key}: {', '.join(fields)}")
    show(f"{document['same']} cases are the same")


@command(app, "split")
def split(
    file: File,
    train: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE")] = 0.5,
    validation: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE")] = 0.25,
    holdout: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE")] = 0.25,
    stratify: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Keep the shares in each of its values, as metadata.x."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the draw.")] = 0,
    output: Output = None,
    force: options.Force = False,
) -> None:
    """Give each case a split; earlier splits are replaced."""
    from orcheo_agentensor.datasets import Dataset

    require_new(output, force=force)
    shares = {"train": train, "validation": validation, "holdout": holdout}
    wanted = {name: share for name, share in shares.items() if share}
    dataset = Dataset.load(file).with_splits(wanted, seed=seed, stratify=stratify)
    say(", ".join(f"{name} {count}" for name, count in dataset.splits().items()))
    _write(dataset.cases_to_json(), output)


@command(app, "sample")
def sample(
    file: File,
    count: Annotated[
        int, typer.Option("--cases", "-n", min=1, metavar="N", help="How many.")
    ] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the draw.")] = 0,
    output: Output = None,
    force: options.Force = False,
) -> None:
    """Draw cases, each at most once; the same seed and file give the same cases."""
    from orcheo_agentensor.datasets import Dataset

    require_new(output, force=force)
    _write(Dataset.load(file).sample(count, seed=seed).cases_to_json(), output)


@command(app, "stats")
def stats(file: File, as_json: options.AsJson = False) -> None:
    """Count splits, languages, domains, repeated inputs, and what fields the cases have."""
    from orcheo_agentensor.datasets import Dataset
    from orcheo_agentensor.json_values import canonical_json

    dataset = Dataset.load(file)
    fields = Counter(name for case in dataset for name in _fields(case))
    lengths = sorted(len(canonical_json(case.inputs)) for case in dataset)
    repeated = len(dataset) - len({canonical_json(case.inputs) for case in dataset})
    values: dict[str, Counter[str]] = {}
    for case in dataset:
        for key, value in case.metadata.items():
            if isinstance(value, str | bool | int):
                values.setdefault(key, Counter())[str(value)] += 1
    document: dict[str, Any] = {
        "id": dataset.id,
        "cases": len(dataset),
        "splits": dataset.splits(),
        "fields": dict(fields),
        "repeated_inputs": repeated,
        "input_characters": {
            "median": lengths[len(lengths) // 2],
            "most": lengths[-1],
            "all": sum(lengths),
        },
        "metadata": {
            key: dict(counts.most_common(20)) for key, counts in values.items() if len(counts) <= 50
        },
    }
    if as_json:
        print_json(document)
        return
    show(f"cases      {len(dataset)}, {repeated} of them with inputs of an earlier one")
    show(f"inputs     {lengths[len(lengths) // 2]} characters at the median, {lengths[-1]} at most")
    show_table(("field", ">cases"), sorted(fields.items()))
    for key, counts in document["metadata"].items():
        show_table((f"metadata.{key}", ">cases"), counts.items())


@command(app, "from-run")
def from_run(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")],
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only cases that failed, did not pass, or scored below 1."),
    ] = False,
    outputs: Annotated[
        bool,
        typer.Option("--outputs", help="Take each output as the expected one, to be corrected."),
    ] = False,
    output: Output = None,
    force: options.Force = False,
    store: options.StoreUrl = None,
) -> None:
    """Make a dataset of the cases that a run recorded."""
    from orcheo_agentensor.datasets import Case

    require_new(output, force=force)

    async def work(opened: Store) -> list[dict[str, Any]]:
        run = await opened.runs.get(run_id)
        if run.dataset_id is None:
            raise BadInput(field="run", value=run_id, rule="must be an evaluation or a training")
        _, stored = await opened.datasets.load(run.dataset_id, run.dataset_version)
        rows = await opened.runs.case_rows(run_id, passed=False if failed else None, limit=None)
        wanted = {row.rollout.case_id: row.rollout for row in rows}
        cases = [case for case in map(Case.model_validate, stored) if case.id in wanted]
        if outputs:
            cases = [
                case.model_copy(update={"expected_output": wanted[case.id].output})
                if wanted[case.id].failure is None
                else case
                for case in cases
            ]
        return [await opened.media.restored(case.to_json()) for case in cases]

    cases = options.read_from(store, work)
    if not cases:
        raise BadInput(f"run {run_id!r} has no such case", field="run", value=run_id)
    say(f"{len(cases)} cases of run {run_id}")
    _write(cases, output)


def _fields(case: Case) -> Iterable[str]:
    for name in ("inputs", "expected_output", "metadata"):
        value = getattr(case, name)
        if isinstance(value, dict):
            yield from (f"{name}.{key}" for key in value)
        elif value is not None:
            yield name


def _pair(given: str) -> tuple[str, str]:
    field, equals, source = given.partition("=")
    if not (field and equals and source):
        raise BadInput(field="--column", value=given, rule="must be FIELD=COLUMN")
    return field.strip(), source.strip()


def _write(cases: Iterable[dict[str, Any]], output: Path | None) -> None:
    """Print cases as JSONL, or write them to a file that appears when it is complete."""
    lines = (
        json.dumps({key: value for key, value in case.items() if value not in (None, {})},
                   ensure_ascii=False)
        for case in cases
    )  # fmt: skip
    if output is None:
        for line in lines:
            print(line)  # noqa: T201 - the result of the command
        return
    write_whole(output, (f"{line}\n" for line in lines))
