"""Runs the measures, prints tables and writes `benchmarks/results/optimizers.json`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.optimizers import banking, coin, latency, overshoot, resume, rules, unread
from benchmarks.optimizers.results import FULL, QUICK, Plan, Result, as_markdown, as_table, plain

MEASURES: dict[str, Callable[[Plan], Result]] = {
    "rules": rules.rule_task,
    "harder": rules.harder,
    "interference": rules.interference,
    "noise": rules.noise,
    "trouble": rules.trouble,
    "coin": coin.run,
    "unread": unread.run,
    "resume": resume.run,
    "overshoot": overshoot.run,
    "banking": banking.run,
    "latency": latency.run,
}
PACKAGES = ("orcheo-agentensor", "gepa", "langgraph")
RESULTS = Path(__file__).resolve().parents[1] / "results" / "optimizers.json"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every target was met, 1 otherwise."""
    options = _parse(arguments)
    plan = QUICK if options.quick else FULL
    if options.seeds:
        plan = replace(plan, seeds=options.seeds)
    console = Console(stderr=options.markdown)
    environment = describe()
    heading = ", ".join(f"{key} {value}" for key, value in environment.items())
    console.print(heading)
    if options.markdown:
        print(f"{heading}\n")
    found: dict[str, Result] = {}
    for name in options.only or MEASURES:
        with console.status(f"measuring {name}"):
            found[name] = MEASURES[name](plan)
        if options.markdown:
            print(as_markdown(name, found[name]), flush=True)
        else:
            console.print(as_table(name, found[name]))
    if plan == FULL and not options.only:
        RESULTS.parent.mkdir(exist_ok=True)
        measures = {name: asdict(result) for name, result in found.items()}
        written = {"environment": environment, "measures": plain(measures)}
        RESULTS.write_text(json.dumps(written, ensure_ascii=False, indent=1))
        console.print(f"written to {RESULTS}")
    missed = [row for result in found.values() for row in result.rows if row.met is False]
    return 1 if missed else 0


def describe() -> dict[str, Any]:
    """Date, machine and versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[*MEASURES], help="one measure; may be given again"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few seeds, to see that everything runs"
    )
    parser.add_argument("--seeds", type=int, help=f"seeds per search ({FULL.seeds})")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables for a page of the documentation"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
