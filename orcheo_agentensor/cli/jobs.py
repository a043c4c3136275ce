"""`agentensor evaluate`, `train`, `run` and `resume`: a job file carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.compare import Against, Alpha, MaxDrop, against_baseline
from orcheo_agentensor.cli.jobfile import PROJECT_FILE, Overrides, is_sweep
from orcheo_agentensor.errors import BadInput


def evaluate(
    job: options.JobFile = Path(PROJECT_FILE),
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the cases of this split.")
    ] = None,
    seed: options.Seed = None,
    concurrency: options.Concurrency = None,
    isolate: options.Isolate = False,
    reuse: options.Reuse = None,
    cache: options.Cache = False,
    tape: options.Tape = False,
    accept_drift: options.AcceptDrift = False,
    min_score: options.MinScore = None,
    baseline: Against = None,
    max_drop: MaxDrop = None,
    alpha: Alpha = 0.05,
    dry_run: options.DryRun = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Evaluate again after each change of a file, with what is recorded."
        ),
    ] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Evaluate a workflow on a dataset.

    A training job will do as well: what only training needs is left out.
    """
    if watch:
        from orcheo_agentensor.cli.watch import watch as evaluate_again

        if run_id is not None:
            raise BadInput(
                field="--run-id", value=run_id, rule="is of one run: leave it out with --watch"
            )
        return evaluate_again([job.parent, Path.cwd()])
    from orcheo_agentensor.cli.execution import start_run

    return start_run(
        "evaluate",
        job,
        Overrides(
            run_id=run_id,
            seed=seed,
            concurrency=concurrency,
            isolate=isolate,
            checkpoint=checkpoint,
            split=split,
            reuse=reuse,
            cache=cache,
            accept_drift=accept_drift,
        ),
        min_score=min_score,
        against=against_baseline(baseline, max_drop=max_drop, alpha=alpha),
        taped=tape,
        dry_run=dry_run,
        store=store,
        as_json=as_json,
        quiet=quiet,
    )


def train(
    job: options.JobFile = Path(PROJECT_FILE),
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    seed: options.Seed = None,
    concurrency: options.Concurrency = None,
    isolate: options.Isolate = False,
    reuse: options.Reuse = None,
    cache: options.Cache = False,
    accept_drift: options.AcceptDrift = False,
    override_flag: options.OverrideFlag = False,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Train the prompts of a workflow and store the result as a version.

    A job with a `matrix` is a sweep: a run for each combination of its values.
    """
    overrides = Overrides(
        run_id=run_id,
        seed=seed,
        concurrency=concurrency,
        isolate=isolate,
        checkpoint=checkpoint,
        reuse=reuse,
        cache=cache,
        accept_drift=accept_drift,
    )
    flag = options.actor_name(None) if override_flag else None
    shown: dict[str, Any] = {"store": store, "as_json": as_json, "quiet": quiet}
    if is_sweep(job):
        from orcheo_agentensor.cli.sweep import start_sweep

        return start_sweep(job, overrides, overrides_flag=flag, dry_run=dry_run, **shown)
    from orcheo_agentensor.cli.execution import start_run

    return start_run("train", job, overrides, overrides_flag=flag, dry_run=dry_run, **shown)


def run(
    job: options.JobFile = Path(PROJECT_FILE),
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Run a workflow once with a checked and recorded config; its output is printed as JSON.

    With --json the output comes with the id of the run.
    """
    from orcheo_agentensor.cli.run_once import run_once

    overrides = Overrides(run_id=run_id, checkpoint=checkpoint)
    run_once(job, overrides, dry_run=dry_run, store=store, as_json=as_json)


def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")],
    approve: Annotated[
        bool | None,
        typer.Option("--approve/--reject", help="Answer a training that waits for approval."),
    ] = None,
    actor: options.Actor = None,
    reason: options.Reason = "",
    min_score: options.MinScore = None,
    accept_drift: options.AcceptDrift = False,
    retry_failed: options.RetryFailed = False,
    override_flag: options.OverrideFlag = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Go on with a run that was interrupted, failed, or waits for approval.

    Nothing that is recorded runs again, but what --retry-failed asks for. A finished run shows its
    result.
    """
    from orcheo_agentensor.cli.execution import resume_run

    answer = None
    if approve is not None:
        answer = {"approve": approve, "actor": options.actor_name(actor), "reason": reason}
    return resume_run(
        run_id,
        answer=answer,
        min_score=min_score,
        accept_drift=accept_drift,
        overrides_flag=options.actor_name(None) if override_flag else None,
        retry_failed=retry_failed,
        store=store,
        as_json=as_json,
        quiet=quiet,
    )
