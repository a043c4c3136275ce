"""Runs the measures, prints a table and writes `benchmarks/results/evaluation.json`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.evaluation import (
    checkpoints,
    efficiency,
    fairness,
    graphs,
    processes,
    scaling,
    tape,
    throughput,
)
from benchmarks.evaluation.measure import FULL, QUICK, Plan, Result, Row

MEASURES: dict[str, Callable[[Plan], Result]] = {
    "throughput": throughput.run,
    "efficiency": efficiency.run,
    "scaling": scaling.run,
    "processes": processes.run,
    "graphs": graphs.run,
    "tape": tape.run,
    "checkpoints": checkpoints.run,
    "fairness": fairness.run,
}
PACKAGES = ("orcheo-agentensor", "pydantic-evals", "langgraph", "pydantic", "sqlalchemy")
RESULTS = Path(__file__).resolve().parents[1] / "results" / "evaluation.json"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every target was met, 1 otherwise."""
    options = _parse(arguments)
    plan = QUICK if options.quick else FULL
    console = Console()
    environment = describe()
    console.print(", ".join(f"{key} {value}" for key, value in environment.items()))
    found: dict[str, Result] = {}
    for name in options.only or MEASURES:
        with console.status(f"measuring {name}"):
            found[name] = MEASURES[name](plan)
        console.print(_table(name, found[name]))
    console.print(_goals(found))
    if not options.quick and not options.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            json.dumps(
                {
                    "environment": environment,
                    "measures": {name: asdict(result) for name, result in found.items()},
                },
                ensure_ascii=False,
                indent=2,
            )
        )
        console.print(
            f"written to {RESULTS.relative_to(Path.cwd(), walk_up=True)}"
            if sys.version_info >= (3, 12)
            else f"written to {RESULTS}"
        )
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[*MEASURES], help="one measure; may be given again"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that everything runs"
    )
    return parser.parse_args(arguments)


def _table(name: str, result: Result) -> Table:
    table = Table(title=name, caption=result.setup, title_justify="left", caption_justify="left")
    for column in ("", "median", "range", "target", ""):
        table.add_column(column, justify="left" if not column else "right")
    for row in result.rows:
        table.add_row(row.name, _value(row.value, row.unit), _range(row), row.target, _verdict(row))
    return table


def _goals(found: dict[str, Result]) -> Table:
    """Every row with a target, in one table."""
    table = Table(title="goals", title_justify="left")
    for column in ("", "median", "target", ""):
        table.add_column(column, justify="left" if not column else "right")
    for name, result in found.items():
        for row in result.rows:
            if row.target:
                shown = _value(row.value, row.unit)
                table.add_row(f"{name}: {row.name}", shown, row.target, _verdict(row))
    return table


def _value(value: float, unit: str) -> str:
    digits = 0 if value == int(value) else 1 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f} {unit}".strip()


def _range(row: Row) -> str:
    if not row.samples:
        return ""
    return f"{_value(min(row.samples), '')} to {_value(max(row.samples), '')}"


def _verdict(row: Row) -> str:
    return "" if row.met is None else "met" if row.met else "missed"


if __name__ == "__main__":
    sys.exit(main())
