"""`agentensor runs`: the stored runs, with their status, results and cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from orcheo_agentensor.cli import options, output
from orcheo_agentensor.cli.errors import command
from orcheo_agentensor.cli.output import print_json, show, show_table
from orcheo_agentensor.display import milliseconds, number, percent, spent, when
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.reporting.cases import CaseTrace, RecordedCase
    from orcheo_agentensor.storage import RunRecord, Store

    _Found: TypeAlias = tuple[
        RunRecord, dict[str, Any], Sequence[RecordedCase], int, dict[str, Any]
    ]

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
    cases: Annotated[bool, typer.Option("--cases", help="Show the cases.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Show the cases that did not pass.")
    ] = False,
    errors: Annotated[
        bool,
        typer.Option("--errors", help="Show the cases in which the target or an evaluator broke."),
    ] = False,
    worst: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Show the N worst cases, the worst first."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEST", help="Show the cases with such a score, as 'tone<0.5'; repeatable."
        ),
    ] = None,
    phase: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only cases of this phase of a training.")
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case",
            metavar="CASE",
            help="Show this case in full: its path, messages, tool calls and trace; repeatable.",
        ),
    ] = None,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Print the run's manifest alone, as JSON.")
    ] = False,
    limit: options.Limit = 100,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a run: its job, its result, and where asked its cases with outputs and reasons."""

    from orcheo_agentensor.reporting.cases import case_traces, recorded_cases
    from orcheo_agentensor.runs.manifest import Manifest, stored_manifest
    from orcheo_agentensor.storage.case_filters import CaseFilters, ScoreTest

    if manifest:
        found = options.read_from(store, lambda opened: opened.runs.manifest(run_id))
        print_json(Manifest.parse(found).to_json())
        return
    filters = CaseFilters(
        passed=False if failed else None,
        failed=True if errors else None,
        where=[ScoreTest.parse(text) for text in where or ()],
        phase=phase,
    )
    listed = cases or failed or errors or bool(worst or where or phase)
    if case and listed:
        raise BadInput(
            field="--case", value=case, rule="shows whole cases: leave the other filters out"
        )
    most = worst or limit

    async def work(opened: Store) -> _Found:
        run = await opened.runs.get(run_id)
        rows: Sequence[RecordedCase] = []
        total = 0
        if case:
            rows = await case_traces(opened, run, case)
        elif listed:
            rows = await recorded_cases(opened, run, worst=worst is not None, limit=most, **filters)
            total = await opened.runs.count_rows(run_id, **filters)
        usage = (await opened.runs.usage(run_id)).to_json()
        return run, await stored_manifest(opened, run_id), rows, total, usage

    run, known, rows, total, usage = options.read_from(store, work)
    if known:
        known = Manifest.parse(known).to_json()
    if as_json:
        document = {**run.model_dump(mode="json"), "usage": usage, "manifest": known or None}
        if listed or case:
            document["cases"] = [
                {**row.model_dump(mode="json"), "candidate": row.candidate_hash} for row in rows
            ]
        print_json(document)
        return
    if not case:
        _show(run, known, usage)
    for row in rows:
        show_case(row)
    if listed and not rows:
        show(f"no case of run {run_id} is like that; --cases shows all")
    elif listed and total > len(rows):
        show(f"{len(rows)} of {total} shown; more with {'--worst' if worst else '--limit'} N")


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


_BRIEF_TEXT = 300
"""Characters of an input or output in a list of cases."""


def show_case(case: RecordedCase) -> None:
    """Print a case; one with its trace in full."""
    from orcheo_agentensor.reporting.cases import CaseTrace

    trace = case if isinstance(case, CaseTrace) else None
    word = "passed" if case.passed else "not passed" if case.failure is None else "failed"
    times = f", replicate {case.replicate}" if case.replicate else ""
    tried = f", {case.attempts} attempts" if case.attempts > 1 else ""
    show()
    show(
        f"{case.case_id}  {word}  ({case.phase}{times}, prompts {case.candidate_hash[:8]}, "
        f"{milliseconds(case.latency_ms)}{tried})",
        style="bold green" if case.passed else "bold red",
    )
    _show_value("inputs", case.inputs, whole=trace is not None)
    _show_value("expected", case.expected_output, whole=trace is not None)
    if case.failure is not None:
        _show_value("failure", f"{case.failure['kind']}: {case.failure['reason']}", whole=True)
    else:
        _show_value("output", case.output, whole=trace is not None)
    for one in case.scores:
        said = "failed" if one.failure else one.label if one.score is None else number(one.score)
        reason = one.failure["reason"] if one.failure else one.reason or ""
        _show_value(one.name, f"{said or '-'}  {reason}".rstrip(), whole=trace is not None)
    if trace is not None:
        _show_trace(trace)


def _show_trace(trace: CaseTrace) -> None:
    for number_, node in enumerate(trace.nodes, start=1):
        reads = f", reads {', '.join(node.prompts)}" if node.prompts else ""
        inside = f" in {' / '.join(part.split(':')[0] for part in node.path)}" if node.path else ""
        show(f"  node {number_}     {node.node}{inside}{reads}")
        for name, text in (("in", node.inputs), ("out", node.output)):
            if text:
                _show_value(f"  {name}", text, whole=True)
    if not trace.taped:
        show("  path       what nodes took in and gave out was not recorded: evaluate with --tape")
    for message in trace.messages:
        called = ", ".join(f"{c['name']}({_text(c['args'])})" for c in message.tool_calls)
        text = " ".join(part for part in (message.content, called and f"calls {called}") if part)
        _show_value(message.role, text, whole=True)
    for call in trace.tool_calls:
        _show_value("tool call", f"{call['name']}({_text(call['args'])})", whole=True)
    executed = trace.trace_id or "none: another run has executed it"
    show(f"  trace      {trace.case_id} {trace.phase}: {executed}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _show_value(name: str, value: Any, *, whole: bool) -> None:
    if value is None:
        return
    text = _text(value)
    if not whole:
        text = " ".join(text.split())
        text = text if len(text) <= _BRIEF_TEXT else f"{text[:_BRIEF_TEXT]}…"
    first, *more = text.splitlines() or [""]
    show(f"  {name:<10} {first}")
    for line in more:
        show(f"  {'':<10} {line}")


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
