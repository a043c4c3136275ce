"""Runs the measures and prints tables; `--record` writes what the documentation shows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.optimizers import (
    banking,
    coin,
    latency,
    overshoot,
    real_model,
    resume,
    routing,
    rules,
    unread,
)
from benchmarks.optimizers.results import (
    FULL,
    QUICK,
    RECORDED,
    TITLES,
    NotHere,
    Plan,
    Result,
    as_table,
    plain,
)

MEASURES: dict[str, Callable[[Plan], Result]] = {
    "rules": rules.rule_task,
    "harder": rules.harder,
    "interference": rules.interference,
    "forgetting": rules.forgetting,
    "noise": rules.noise,
    "trouble": rules.trouble,
    "coin": coin.run,
    "unread": unread.run,
    "resume": resume.run,
    "overshoot": overshoot.run,
    "banking": banking.run,
    "routing": routing.run,
    "latency": latency.run,
    "real_model": real_model.run,
}
assert [*MEASURES] == [*TITLES]
PACKAGES = ("orcheo-agentensor", "gepa", "langgraph")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every target was met, 1 otherwise."""
    options = _parse(arguments)
    plan = QUICK if options.quick else FULL
    if options.seeds:
        plan = replace(plan, seeds=options.seeds)
    console = Console()
    environment = describe(seeds=plan.seeds)
    console.print(", ".join(f"{key} {value}" for key, value in environment.items()))
    found: dict[str, Result] = {}
    for name in options.only or MEASURES:
        started = time.process_time() + os.times().children_user
        try:
            with console.status(f"measuring {name}"):
                found[name] = MEASURES[name](plan)
        except NotHere as missing:
            console.print(f"{name} is not measured. {missing}")
            continue
        console.print(as_table(name, found[name]))
        spent = time.process_time() + os.times().children_user - started
        console.print(f"{spent:.0f} s of processor time")
        if options.record:
            RECORDED.mkdir(parents=True, exist_ok=True)
            written = {"environment": environment, "measured": plain(asdict(found[name]))}
            text = json.dumps(written, ensure_ascii=False, indent=1)
            (RECORDED / f"{name}.json").write_text(f"{text}\n")
    missed = [row for result in found.values() for row in result.rows if row.met is False]
    return 1 if missed else 0


def describe(*, seeds: int) -> dict[str, Any]:
    """Date, machine, versions and the seeds of every search."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": seeds,
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
        "--record",
        action="store_true",
        help=f"write each measure to {RECORDED.relative_to(Path(__file__).parents[2])}; then make "
        "docs/explanation/benchmarks.md anew: python docs/explanation/make_benchmarks.py",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
