"""Printing: results to stdout, all else to stderr, and no markup from other people's text."""

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
    from rich.table import Table


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


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """A table; columns named with a leading `>` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=Text(clean(title)) if title else None)
    made.title_justify = "left"
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in rows:
        made.add_row(*(Text(clean("-" if cell is None else cell)) for cell in row))
    return made


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = ""
) -> None:
    """Print a table to stdout."""
    console().print(table(columns, rows, title=title))


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


def show_evaluators(summary: Mapping[str, Any]) -> None:
    """The table of evaluators with the objective."""
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
    """Coverage, failures, latency, tokens and cost."""
    times = f", each run {summary['replicates']} times" if "replicates" in summary else ""
    show(
        f"coverage {percent(summary['coverage'])} of {summary['cases']} cases{times}; "
        f"target failures {summary['n_target_failed']}, "
        f"evaluator failures {summary['n_evaluator_failed']}"
    )
    latency = summary["latency_ms"]
    late = f", {summary['over_sla']} over the limit" if "over_sla" in summary else ""
    spent = usage or summary["usage"]
    show(f"latency p50 {_ms(latency['p50'])}, p95 {_ms(latency['p95'])}{late}")
    show(
        f"spent: {spent['rollouts']} rollouts, {spent['calls']} model calls, "
        f"{spent['tokens']} tokens, {money(spent['cost'])}"
    )


def show_evaluation(
    found: Mapping[str, Any], gates: Sequence[Mapping[str, Any]], *, store: str
) -> None:
    """The end of an evaluation."""
    summary, run_id = found["summary"], found["run_id"]
    show_evaluators(summary)
    show_measures(summary, found["usage"])
    if found["status"] == "missed_threshold":
        show("missed: coverage is below the job's min_coverage", style="red")
    for gate in gates:
        met, value = gate["met"], number(gate["value"])
        text = f"{gate['name']} {value}, at least {gate['minimum']:g} wanted"
        show(f"{'met' if met else 'missed'}: {text}", style="green" if met else "red")
    show(f"run {run_id}")
    failed = summary["cases"] - summary["n_ok"]
    more = [f"agentensor runs show {run_id} --failed{store}"] if failed else []
    show_next(f"agentensor runs show {run_id} --cases{store}", *more)


def show_training(
    found: Mapping[str, Any], *, workflow_id: str, diff: str, job: str | None, store: str
) -> None:
    """The end of a training."""
    baseline, best, holdout = found["baseline"], found["best"], found["holdout"]
    _show_comparison(baseline, best, holdout)
    show_gain(holdout)
    decision, usage = found["decision"], found["usage"]
    goal = decision["target_gain"]
    if goal["met"] is not None:
        met = "met" if goal["met"] else "missed"
        show(
            f"goal of +10 % on {goal['split']}: {met} "
            f"({number(goal['baseline'])} to {number(goal['best'])})"
        )
    show_measures(found["summary"], usage)
    if decision.get("stopped"):
        show(f"stopped: {decision['stopped']}")
    if found["status"] == "missed_threshold":
        show("missed: coverage is below the job's min_coverage", style="red")
    colour = {"promoted": "green", "rejected": "red"}.get(decision["status"], "yellow")
    show(f"decision: {decision['status']}", style=colour)
    for reason in decision["reasons"]:
        show(f"  - {reason}")
    if diff:
        show()
        show_diff(diff)
        show()
    first, last = baseline["config_version"], best["config_version"]
    show(f"stored: workflow {workflow_id!r}, version {last}; run {found['run_id']}")
    commands = _after_training(workflow_id, first, last, decision["status"], store)
    if job is not None:
        split = " --split holdout" if holdout is not None else ""
        commands.append(f"agentensor evaluate {job} --checkpoint {last}{split}{store}")
    show_next(*commands)


def _after_training(workflow_id: str, first: int, last: int, status: str, store: str) -> list[str]:
    commands = [f"agentensor checkpoints show {workflow_id} {last}{store}"]
    if first != last:
        commands.append(f"agentensor checkpoints diff {workflow_id} {first} {last}{store}")
        if status == "promoted":
            commands.append(f"agentensor checkpoints show {workflow_id} production{store}")
        elif status == "kept":
            commands.append(
                f"agentensor checkpoints promote {workflow_id} {last} --alias production{store}"
            )
    return commands


def _show_comparison(
    baseline: Mapping[str, Any], best: Mapping[str, Any], holdout: Mapping[str, Any] | None
) -> None:
    names = sorted({*baseline["scores"], *best["scores"]})
    rows: list[Sequence[object]] = [
        ("version", baseline["config_version"], best["config_version"], "", ""),
        ("validation", *_pair(baseline["objective"], best["objective"]), ""),
    ]
    if len(names) > 1:
        rows += [
            (f"  {name}", *_pair(baseline["scores"].get(name), best["scores"].get(name)), "")
            for name in names
        ]
    if holdout is not None:
        before, after = holdout["baseline"], holdout["best"]
        rows.append(
            (
                "holdout",
                *_pair(before["objective"], after["objective"]),
                interval(holdout["ci95"]),
            )
        )
        if len(names) > 1:
            rows += [
                (f"  {name}", *_pair(_mean(before, name), _mean(after, name)), "") for name in names
            ]
        p95 = before["latency_ms"]["p95"], after["latency_ms"]["p95"]
        rows.append(("holdout p95", _ms(p95[0]), _ms(p95[1]), "", ""))
        rows += _dearer(holdout.get("deltas") or {})
    show_table(("", ">baseline", ">best", ">change", ">95 % interval"), rows)


def _dearer(deltas: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """What a holdout case takes: time, tokens and money."""
    shown = {"latency_ms": _ms, "tokens": "{:.0f}".format, "cost": "${:.2g}".format}
    for name, text in shown.items():
        found = deltas.get(name) or {}
        change = found.get("difference")
        if change is None or (name != "latency_ms" and not (found["baseline"] or found["best"])):
            continue
        sign = "-" if change < 0 else "+"
        ends = found.get("ci95")
        yield (
            f"holdout {name.removesuffix('_ms')} per case",
            text(found["baseline"]),
            text(found["best"]),
            f"{sign}{text(abs(change))}",
            ""
            if ends is None
            else f"[{', '.join(('-' if e < 0 else '') + text(abs(e)) for e in ends)}]",
        )


def show_gain(holdout: Mapping[str, Any] | None) -> None:
    """The gain on held-out cases, in a sentence."""
    if holdout is None:
        show("nothing was measured on held-out cases: the gain is unproved", style="yellow")
        return
    show(
        f"holdout gain {holdout['gain']:+.4f} {interval(holdout['ci95'])} "
        f"on {holdout['n']} cases, p = {holdout['p_value']:.4f}"
    )


def show_request(request: Mapping[str, Any], *, store: str) -> None:
    """What a training that waits for approval asks."""
    show(request["question"], style="bold")
    show_gain(request["holdout"])
    for reason in request["reasons"]:
        show(f"  - {reason}")
    if request["diff"]:
        show()
        show_diff(request["diff"])
        show()
    run_id = request["run_id"]
    show_next(
        f'agentensor resume {run_id} --approve --reason "…"{store}',
        f'agentensor resume {run_id} --reject --reason "…"{store}',
    )


def _pair(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = "-" if before is None or after is None else f"{after - before:+.3f}"
    return number(before), number(after), change


def _mean(summary: Mapping[str, Any], name: str) -> float | None:
    found: float | None = summary["evaluators"].get(name, {}).get("mean")
    return found


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
