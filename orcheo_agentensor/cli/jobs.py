"""`agentensor evaluate`, `train` and `run`: a job file carried out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled

if TYPE_CHECKING:
    from orcheo_agentensor.cli.gates import Gate
    from orcheo_agentensor.cli.jobfile import Overrides
    from orcheo_agentensor.cli.work import Mode

_TRAINING_ONLY = ("optimizer", "budget", "stop", "checkpoint_every", "promote", "seed")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("evaluate", epilog=EXIT_CODES)(evaluate)
    app.command("train", epilog=EXIT_CODES)(train)
    app.command("run", epilog=EXIT_CODES)(run)


@handled
def evaluate(
    job: options.JobFile,
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the cases of this split.")
    ] = None,
    concurrency: options.Concurrency = None,
    reuse: options.Reuse = None,
    min_score: options.MinScore = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Evaluate a workflow on a dataset.

    A training job will do as well: what only training needs is left out.
    """
    from orcheo_agentensor.cli.gates import parse_gates
    from orcheo_agentensor.cli.jobfile import Overrides

    overrides = Overrides(
        run_id=run_id, concurrency=concurrency, checkpoint=checkpoint, split=split, reuse=reuse
    )
    return _carry_out(
        "evaluate",
        job,
        overrides,
        gates=parse_gates(min_score),
        dry_run=dry_run,
        store=store,
        as_json=as_json,
        quiet=quiet,
    )


@handled
def train(
    job: options.JobFile,
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The seed of the search; goes over the job's.")
    ] = None,
    concurrency: options.Concurrency = None,
    reuse: options.Reuse = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Train the prompts of a workflow and store the result as a version."""
    from orcheo_agentensor.cli.jobfile import Overrides

    overrides = Overrides(
        run_id=run_id, seed=seed, concurrency=concurrency, checkpoint=checkpoint, reuse=reuse
    )
    return _carry_out(
        "train",
        job,
        overrides,
        gates=[],
        dry_run=dry_run,
        store=store,
        as_json=as_json,
        quiet=quiet,
    )


@handled
def run(
    job: options.JobFile,
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Run a workflow once with a checked and recorded config; its output is printed as JSON.

    With --json the output comes with the id of the run.
    """
    from orcheo_agentensor.cli.jobfile import Overrides, load_job
    from orcheo_agentensor.cli.runjob import carry_out
    from orcheo_agentensor.cli.stores import load_settings, make_importable

    settings = load_settings()
    make_importable(job.parent, Path.cwd())
    data = load_job(job, Overrides(run_id=run_id, checkpoint=checkpoint))
    return carry_out(data, settings=settings, store_url=store, dry_run=dry_run, as_json=as_json)


def _carry_out(
    mode: Mode,
    path: Path,
    overrides: Overrides,
    *,
    gates: list[Gate],
    dry_run: bool,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    from orcheo_agentensor.cli.ending import Ending
    from orcheo_agentensor.cli.gates import require_known
    from orcheo_agentensor.cli.jobfile import load_job
    from orcheo_agentensor.cli.stopping import Stopper, run_main
    from orcheo_agentensor.cli.stores import load_settings, make_importable, named_store
    from orcheo_agentensor.cli.work import Desk

    settings = load_settings()
    make_importable(path.parent, Path.cwd())
    data = load_job(path, overrides)
    if mode == "evaluate":
        data = _for_evaluation(data)
    desk = Desk(mode=mode, store=named_store(store, settings), settings=settings)
    ending = Ending(
        mode=mode, as_json=as_json, store_url=store, gates=gates, job=shlex.quote(str(path))
    )
    stopper, folder = Stopper(), str(path.parent.resolve())

    async def main() -> int:
        prepared = await desk.check(data)
        require_known(gates, [evaluator.name for evaluator in prepared.evaluators])
        if dry_run:
            from orcheo_agentensor.cli.dryrun import show_plan

            show_plan(prepared, as_json=as_json)
            return ExitCode.OK
        async with desk.store:
            found = await desk.begin(
                prepared, data, stopper, folder=folder, silent=quiet or as_json
            )
            return ending.report(found, await desk.store.runs.get(found["run_id"]))

    return run_main(main(), stopper)


def _for_evaluation(data: dict[str, Any]) -> dict[str, Any]:
    """An evaluation job from either kind; a training job is checked as one first."""
    if not any(name in data for name in _TRAINING_ONLY):
        return data
    from orcheo_agentensor.training.job import TrainingJob

    TrainingJob.parse({key: value for key, value in data.items() if value is not None})
    return {key: value for key, value in data.items() if key not in _TRAINING_ONLY}
