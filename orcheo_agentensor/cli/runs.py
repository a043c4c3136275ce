"""`agentensor runs`: the stored runs, with their status, results and cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import options, output
from orcheo_agentensor.cli.errors import command
from orcheo_agentensor.cli.output import print_json, show, show_table
from orcheo_agentensor.display import number, percent, spent, when
from orcheo_agentensor.errors import NotFound

if TYPE_CHECKING:
    from orcheo_agentensor.storage import CaseRow, RunRecord, Store

app = typer.Typer(help="Look at runs.", no_args_is_help=True)

_BRIEF = {
    "run_id",
    "workflow_id",
    "mode",
    "status",
    "error",
    "seed",
    "dataset_id",
    "dataset_version",
    "started_at",
    "ended_at",
}
_SCORE = ("name", "score", "passed", "reason", "label", "failure")


@command(app, "list")
def list_runs(
    workflow: Annotated[
        str | None, typer.Option(metavar="WORKFLOW", help="Only runs of this workflow.")
    ] = None,
    mode: Annotated[
        Literal["run", "evaluate", "train"] | None, typer.Option(help="Only runs of this kind.")
    ] = None,
    status: Annotated[
        Literal["running", "finished", "failed", "interrupted", "paused"] | None,
        typer.Option(help="Only runs with this status."),
    ] = None,
    limit: options.Limit = 20,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """List runs, newest first."""
    found = options.read_from(
        store,
        lambda opened: opened.runs.list(
            workflow_id=workflow, mode=mode, status=status, limit=limit
        ),
    )
    if as_json:
        print_json({"runs": [_brief(run) for run in found]})
    elif not found:
        show("no runs")
    else:
        rows = [
            (
                run.run_id,
                run.mode,
                run.workflow_id,
                run.status,
                number(_objective(run)),
                when(run.started_at),
            )
            for run in found
        ]
        show_table(("run", "mode", "workflow", "status", ">objective", "started"), rows)


@command(app, "show")
def show_run(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")],
    cases: Annotated[bool, typer.Option("--cases", help="Show each case.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Show each case that failed.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case", metavar="CASE", help="Show this case and the ids of its traces; repeatable."
        ),
    ] = None,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Print the run's manifest alone, as JSON.")
    ] = False,
    limit: options.Limit = 100,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a run: its job, its result, and with --cases or --failed its cases."""

    from orcheo_agentensor.runs.manifest import Manifest, stored_manifest

    if manifest:
        found = options.read_from(store, lambda opened: opened.runs.manifest(run_id))
        print_json(Manifest.parse(found).to_json())
        return

    async def work(
        opened: Store,
    ) -> tuple[RunRecord, dict[str, Any], list[CaseRow] | None, dict[str, Any]]:
        run = await opened.runs.get(run_id)
        rows = None
        if cases or failed or case:
            rows = await opened.runs.case_rows(
                run_id, failed=failed or None, case_ids=case, limit=limit
            )
            if unknown := sorted({*(case or ())} - {row.rollout.case_id for row in rows}):
                raise NotFound(f"run {run_id!r} has no rollout of case {', '.join(unknown)}")
        usage = (await opened.runs.usage(run_id)).to_json()
        return run, await stored_manifest(opened, run_id), rows, usage

    run, known, rows, usage = options.read_from(store, work)
    if known:
        known = Manifest.parse(known).to_json()
    if as_json:
        document = {**run.model_dump(mode="json"), "usage": usage, "manifest": known or None}
        if rows is not None:
            document["cases"] = [_case(row) for row in rows]
        print_json(document)
        return
    _show(run, known, usage)
    if rows is not None:
        _show_cases(rows, limit)
    for row in rows or () if case else ():
        executed = row.trace_id or "none: another run has executed it"
        show(f"trace      {row.rollout.case_id} {row.rollout.phase}: {executed}")


@command(app, "diff")
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A run, or a file with a manifest.")],
    after: Annotated[str, typer.Argument(metavar="B", help="A run, or a file with a manifest.")],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what differs between two runs: their manifests, and, of stored ones, their results."""
    from orcheo_agentensor.cli.jobfile import read_document
    from orcheo_agentensor.runs.manifest import compare, diff_document

    files = [Path(given) if given.endswith(".json") else None for given in (before, after)]

    async def work(opened: Store) -> dict[str, Any]:
        if not any(files):
            return await compare(opened, before, after)
        found = [
            await opened.runs.manifest(given) if file is None else read_document(file)
            for given, file in zip((before, after), files, strict=True)
        ]
        return diff_document(*found)

    if all(files):
        found = diff_document(*(read_document(file) for file in files if file))
    else:
        found = options.read_from(store, work)
    if as_json:
        print_json(found)
    else:
        output.show_run_diff(found)


@command(app, "rerun")
def rerun(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")],
    job: Annotated[
        Path | None,
        typer.Option(
            "--job", metavar="FILE", help="A job file; its fields go over those of the record."
        ),
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="The id of the new run.")
    ] = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Run a run again from its record, as a new run, and show what differs.

    Nothing recorded is reused, no alias is moved and nothing is published.
    """
    from orcheo_agentensor.cli.execution import rerun_run

    return rerun_run(run_id, job=job, new_id=new_id, store=store, as_json=as_json, quiet=quiet)


@command(app, "evaluators")
def show_evaluator_set(
    evaluator_set: Annotated[
        str, typer.Argument(metavar="SET", help="The `evaluator_set` of a run or version.")
    ],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the evaluators that an evaluator set names."""
    found = options.read_from(store, lambda opened: opened.runs.named_by(evaluator_set))
    if as_json:
        print_json({"evaluator_set": evaluator_set, "evaluators": found})
        return
    rows = [
        (one["name"], f"{one['weight']:g}", one["binding"], one["fingerprint"][:12])
        for one in found
    ]
    show_table(("evaluator", ">weight", "bound as", "fingerprint"), rows)


def _show(run: RunRecord, manifest: dict[str, Any], usage: dict[str, Any]) -> None:
    show(f"run        {run.run_id}")
    show(f"mode       {run.mode} of workflow {run.workflow_id!r}")
    show(f"status     {run.status}{f': {run.error}' if run.error else ''}")
    show(f"time       {when(run.started_at)} to {when(run.ended_at)}")
    if run.dataset_id:
        show(f"dataset    {run.dataset_id} {(run.dataset_version or '')[:12]}")
    output.show_manifest(manifest)
    if run.mode == "train":
        show(f"seed       {run.seed}")
    show(f"spent      {spent(usage)}")
    result = run.result or {}
    if summary := result.get("summary"):
        output.show_evaluators(summary)
        output.show_measures(summary)
    if decision := result.get("decision"):
        output.show_gain(result.get("holdout"))
        show(f"decision   {decision['status']}")
        for reason in decision["reasons"]:
            show(f"  - {reason}")
    if run.status != "finished" and run.mode != "run":
        show(f"to go on   agentensor resume {run.run_id}")


def _show_cases(rows: list[CaseRow], limit: int) -> None:
    lines = []
    for row in rows:
        rollout = row.rollout
        reasons = [rollout.failure["reason"]] if rollout.failure else []
        reasons += [
            f"{s.name}: {s.failure['reason'] if s.failure else s.reason}"
            for s in row.scores
            if s.failure or s.reason
        ]
        scores = ", ".join(
            f"{s.name} {'failed' if s.failure else number(s.score)}" for s in row.scores
        )
        prompts, latency = rollout.candidate_hash[:8], f"{rollout.latency_ms:.0f}"
        lines.append((rollout.case_id, rollout.phase, prompts, scores, latency, "; ".join(reasons)))
    show_table(("case", "phase", "prompts", "scores", ">ms", "reasons"), lines)
    if len(rows) == limit:
        show(f"the first {limit}; more with --limit")


def _case(row: CaseRow) -> dict[str, Any]:
    rollout = row.rollout
    return {
        "case_id": rollout.case_id,
        "phase": rollout.phase,
        "replicate": rollout.replicate,
        "candidate": rollout.candidate_hash,
        "trace_id": row.trace_id,
        "output": rollout.output,
        "failure": rollout.failure,
        "attempts": rollout.attempts,
        "latency_ms": rollout.latency_ms,
        "usage": rollout.usage.to_json(),
        "scores": [{name: getattr(score, name) for name in _SCORE} for score in row.scores],
    }


def _objective(run: RunRecord) -> float | None:
    found: float | None = ((run.result or {}).get("summary") or {}).get("objective")
    return found


def _brief(run: RunRecord) -> dict[str, Any]:
    decision = (run.result or {}).get("decision") or {}
    return {
        **run.model_dump(mode="json", include=_BRIEF),
        "objective": _objective(run),
        "decision": decision.get("status"),
    }


def stats(
    workflow: Annotated[
        str | None, typer.Argument(metavar="WORKFLOW", help="All workflows when left out.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="A date or time (2026-05-01), or a span: 24h, 7d."),
    ] = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Add up runs: configs applied, SLA, throughput, failures, regressions after trainings."""
    start = options.moment(since)
    found = options.read_from(store, lambda opened: opened.runs.stats(workflow, since=start))
    if as_json:
        began = None if start is None else start.isoformat()
        print_json({"workflow_id": workflow, "since": began, **found})
        return
    counted, config, sla = found["runs"], found["config_applied"], found["sla"]
    show(f"runs         {counted['total']} ({_counts(counted['by_status'])})")
    goal = f"{config['applied']} of {config['runs']}, at least {config['goal']:.0%} wanted"
    show(f"config       applied in {percent(config['share'])} of runs that had one ({goal})")
    show(f"SLA          {percent(sla['share'])} of {sla['cases']} cases within")
    speed = found["throughput"]
    show(f"throughput   {number(speed['per_minute'])} rollouts a minute ({speed['rollouts']})")
    for who, kinds in found["failures"].items():
        show(f"failures     {who}: {_counts(kinds)}")
    regressions = found["regressions"]
    show(f"trained      {regressions['promoted']} promoted, {len(regressions['regressed'])} worse")
    for one in regressions["regressed"]:
        show(f"  - {one['workflow_id']} version {one['version']}: {one['why']}")


def _counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in kinds.items()) or "none"
