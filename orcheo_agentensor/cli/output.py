"""Printing: results to stdout, all else to stderr; printed text is never read as markup."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_WIDTH = 120
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@lru_cache(maxsize=2)
def console(*, stderr: bool = False) -> Console:
    """The console for stdout or stderr; it follows redirections."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PLAIN_WIDTH
    return made


def clean(text: object) -> str:
    """Text without control characters: prompts and outputs may not steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def say(text: str, *, style: str | None = None) -> None:
    """A line for the user, on stderr."""
    console(stderr=True).print(clean(text), style=style, soft_wrap=True)


def show(text: str = "", *, style: str | None = None) -> None:
    """A line of a result, on stdout."""
    console().print(clean(text), style=style, soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout; finite numbers only."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # an output that cannot take every character
        sys.stdout.write(json.dumps(document, allow_nan=False, indent=2) + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; columns named with a leading `>` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in rows:
        table.add_row(*(Text(clean("-" if cell is None else cell)) for cell in row))
    console().print(table)


def show_diff(diff: str) -> None:
    """Print a unified diff to stdout, in colours on a terminal."""
    for line in diff.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        show(line, style="bold" if line.startswith(("+++", "---")) else style)


def show_next(*commands: str) -> None:
    """Suggest what to run next."""
    show("Next:")
    for command in commands:
        show(f"  {command}", style="cyan")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; `-` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(value: Sequence[float] | None) -> str:
    """A 95 % interval for people."""
    return "-" if not value else f"[{value[0]:.3f}, {value[1]:.3f}]"


def percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{value:.1%}"


def money(value: float | None) -> str:
    """A cost in US dollars; unknown where a model's price is."""
    return "price unknown" if value is None else f"${value:.4f}"


def when(value: Any) -> str:
    """A date for people."""
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def spent(usage: Mapping[str, Any]) -> str:
    """The rollouts, calls, tokens and money of a run."""
    return (
        f"{usage['rollouts']} rollouts, {usage['calls']} model calls, "
        f"{usage['tokens']} tokens, {money(usage['cost'])}"
    )


def compared(before: float | None, after: float | None) -> tuple[str, str, str]:
    """Two numbers and the change from the first to the second, as cells of a table."""
    change = "-" if before is None or after is None else f"{after - before:+.3f}"
    return number(before), number(after), change


def show_plan(plan: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a job would run, as `execution.describe` gives it."""
    if as_json:
        print_json({"dry_run": True, **plan, "exit_code": 0})
        return
    show(f"target     {plan['target']} (workflow {plan['workflow_id']!r})")
    dataset = plan["dataset"]
    times = f", each run {plan['replicates']} times" if plan["replicates"] > 1 else ""
    show(f"dataset    {dataset['id']} {dataset['version'][:12]}, {dataset['cases']} cases{times}")
    if dataset["splits"]:
        show(f"splits     {_listed(dataset['splits'])}")
    prompts = [
        name if prompt["requires_grad"] else f"{name} (frozen)"
        for name, prompt in plan["prompts"].items()
    ]
    start = f", from version {plan['base_version']}" if plan["base_version"] else ""
    show(f"prompts    {', '.join(prompts) or 'none'}{start}")
    show(f"limits     {_listed(plan['limits'])}")
    if training := plan.get("training"):
        computed = "" if training["budget_given"] else " (computed)"
        show(f"optimizer  {training['optimizer']['name']}, seed {training['seed']}")
        show(f"budget     {_listed(training['budget'])}{computed}")
        show(f"uses       {_listed(training['cases'])}")
    rows = [(e["name"], f"{e['weight']:g}", e["binding"]) for e in plan["evaluators"]]
    show_table(("evaluator", ">weight", "bound as"), rows)
    show("dry run: nothing was written")


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def show_evaluators(summary: Mapping[str, Any]) -> None:
    """Print the table of evaluators with the objective."""
    rows: list[Sequence[object]] = [
        (
            name,
            number(entry["mean"]),
            interval(entry["ci95"]),
            percent(entry["pass_rate"]),
            entry["n"],
            entry["failures"],
        )
        for name, entry in summary["evaluators"].items()
    ]
    if len(rows) != 1:
        rows.append(("objective (weighted)", number(summary["objective"]), "", "", "", ""))
    show_table(("evaluator", ">mean", ">95 % interval", ">passed", ">scored", ">failures"), rows)


def show_measures(summary: Mapping[str, Any], usage: Mapping[str, Any] | None = None) -> None:
    """Print coverage, failures, latency, tokens and cost."""
    times = f", each run {summary['replicates']} times" if "replicates" in summary else ""
    show(
        f"coverage {percent(summary['coverage'])} of {summary['cases']} cases{times}; "
        f"target failures {summary['n_target_failed']}, "
        f"evaluator failures {summary['n_evaluator_failed']}"
    )
    latency = summary["latency_ms"]
    late = f", {summary['over_sla']} over the limit" if "over_sla" in summary else ""
    show(f"latency p50 {_ms(latency['p50'])}, p95 {_ms(latency['p95'])}{late}")
    show(f"spent: {spent(usage or summary['usage'])}")


def show_evaluation(
    found: Mapping[str, Any], gates: Sequence[Mapping[str, Any]], *, store: str
) -> None:
    """Print the result of an evaluation."""
    summary, run_id = found["summary"], found["run_id"]
    show_evaluators(summary)
    show_measures(summary, found["usage"])
    _show_missed(found["status"])
    for gate in gates:
        met, value = gate["met"], number(gate["value"])
        text = f"{gate['name']} {value}, at least {gate['minimum']:g} wanted"
        show(f"{'met' if met else 'missed'}: {text}", style="green" if met else "red")
    show(f"run {run_id}")
    failed = summary["cases"] - summary["n_ok"]
    more = [f"agentensor runs show {run_id} --failed{store}"] if failed else []
    show_next(f"agentensor runs show {run_id} --cases{store}", *more)


def _show_missed(status: str) -> None:
    if status == "missed_threshold":
        show("missed: coverage is below the job's min_coverage", style="red")


def show_training(found: Mapping[str, Any], *, job: str | None, store: str) -> None:
    """Print the result of a training; `job` is the job file, for a suggested command."""
    baseline, best, holdout = found["baseline"], found["best"], found["holdout"]
    _show_versions(baseline, best, holdout)
    show_gain(holdout)
    decision = found["decision"]
    goal = decision["target_gain"]
    if goal["met"] is not None:
        met = "met" if goal["met"] else "missed"
        show(
            f"goal of +10 % on {goal['split']}: {met} "
            f"({number(goal['baseline'])} to {number(goal['best'])})"
        )
    show_measures(found["summary"], found["usage"])
    if decision.get("stopped"):
        show(f"stopped: {decision['stopped']}")
    _show_missed(found["status"])
    status, workflow_id = decision["status"], found["workflow_id"]
    colour = {"promoted": "green", "rejected": "red"}.get(status, "yellow")
    show(f"decision: {status}", style=colour)
    _show_reasons(decision["reasons"], found["diff"])
    first, last = baseline["config_version"], best["config_version"]
    show(f"stored: workflow {workflow_id!r}, version {last}; run {found['run_id']}")
    commands = [f"show {workflow_id} {last}"]
    if first != last:
        commands.append(f"diff {workflow_id} {first} {last}")
        if status == "promoted":
            commands.append(f"show {workflow_id} production")
        elif status == "kept":
            commands.append(f"promote {workflow_id} {last} --alias production")
    commands = [f"agentensor checkpoints {command}{store}" for command in commands]
    if job is not None:
        split = " --split holdout" if holdout is not None else ""
        commands.append(f"agentensor evaluate {job} --checkpoint {last}{split}{store}")
    show_next(*commands)


def _show_reasons(reasons: Iterable[str], diff: str) -> None:
    for reason in reasons:
        show(f"  - {reason}")
    if diff:
        show()
        show_diff(diff)
        show()


def _show_versions(
    baseline: Mapping[str, Any], best: Mapping[str, Any], holdout: Mapping[str, Any] | None
) -> None:
    names = sorted({*baseline["scores"], *best["scores"]})
    if len(names) == 1:
        names = []  # the objective is its score
    rows: list[Sequence[object]] = [
        ("version", baseline["config_version"], best["config_version"], "", ""),
        ("validation", *compared(baseline["objective"], best["objective"]), ""),
    ]
    scores = baseline["scores"], best["scores"]
    rows += [(f"  {name}", *compared(*(of.get(name) for of in scores)), "") for name in names]
    if holdout is not None:
        before, after = holdout["baseline"], holdout["best"]
        change = compared(before["objective"], after["objective"])
        rows.append(("holdout", *change, interval(holdout["ci95"])))
        rows += [
            (f"  {name}", *compared(_mean(before, name), _mean(after, name)), "") for name in names
        ]
        p95 = before["latency_ms"]["p95"], after["latency_ms"]["p95"]
        rows.append(("holdout p95", _ms(p95[0]), _ms(p95[1]), "", ""))
        rows += _costs_per_case(holdout.get("deltas") or {})
    show_table(("", ">baseline", ">best", ">change", ">95 % interval"), rows)


def _costs_per_case(deltas: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """The time, tokens and money of a holdout case, before and after."""
    forms = {"latency_ms": _ms, "tokens": "{:.0f}".format, "cost": "${:.2g}".format}
    for name, text in forms.items():
        found = deltas.get(name) or {}
        change = found.get("difference")
        if change is None or (name != "latency_ms" and not (found["baseline"] or found["best"])):
            continue
        ends = [f"{'-' if end < 0 else ''}{text(abs(end))}" for end in found.get("ci95") or ()]
        yield (
            f"holdout {name.removesuffix('_ms')} per case",
            text(found["baseline"]),
            text(found["best"]),
            f"{'-' if change < 0 else '+'}{text(abs(change))}",
            f"[{', '.join(ends)}]" if ends else "",
        )


def show_gain(holdout: Mapping[str, Any] | None) -> None:
    """Print the gain on held-out cases, in a sentence."""
    if holdout is None:
        show("nothing was measured on held-out cases: the gain is unproved", style="yellow")
        return
    show(
        f"holdout gain {holdout['gain']:+.4f} {interval(holdout['ci95'])} "
        f"on {holdout['n']} cases, p = {holdout['p_value']:.4f}"
    )


def show_request(request: Mapping[str, Any], *, store: str) -> None:
    """Print the question of a training that waits for approval, and how to answer it."""
    show(request["question"], style="bold")
    show_gain(request["holdout"])
    _show_reasons(request["reasons"], request["diff"])
    run_id = request["run_id"]
    show_next(
        f'agentensor resume {run_id} --approve --reason "…"{store}',
        f'agentensor resume {run_id} --reject --reason "…"{store}',
    )


def _mean(summary: Mapping[str, Any], name: str) -> float | None:
    found: float | None = summary["evaluators"].get(name, {}).get("mean")
    return found


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
