"""Makes the tables of `benchmarks.md` from what was recorded in `benchmarks/recorded/optimizers`.

    python docs/explanation/make_benchmarks.py

`tests/docs/test_benchmarks_page.py` checks that the page is what this makes. To record a measure:
`python -m benchmarks.optimizers --only rules --record`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).parent / "benchmarks.md"
BEGIN, END = "<!-- recorded: begin -->\n", "<!-- recorded: end -->\n"

sys.path.insert(0, str(ROOT))

from benchmarks.optimizers.results import GOAL_IS, RECORDED, TITLES  # noqa: E402


def recorded() -> dict[str, Any]:
    """What was recorded, by measure."""
    return {
        name: json.loads(path.read_text())
        for name in TITLES
        if (path := RECORDED / f"{name}.json").is_file()
    }


def sections(found: Mapping[str, Any]) -> Iterator[str]:
    """The tables, where a peer is ahead, and what was not run."""
    for name, one in found.items():
        yield f"### {TITLES[name]}\n"
        yield table(one["measured"]["rows"])
        told = ", ".join(f"{key} {value}" for key, value in one["environment"].items())
        yield f"{one['measured']['setup']}\n\n{told}.\n"
    missed = [
        (row["target"].startswith(GOAL_IS), f"- {TITLES[name]}: {row['name']}")
        for name, one in found.items()
        for row in one["measured"]["rows"]
        if row["met"] is False
    ]
    for alone, title in (
        (False, "Where a setting of gepa is ahead of our default"),
        (True, "Goals of our own that are missed"),
    ):
        if lines := [line for goal, line in missed if goal is alone]:
            yield f"### {title}\n"
            yield "\n".join(lines) + "\n"
    if missing := [name for name in TITLES if name not in found]:
        yield "### Not run\n"
        yield (
            "\n".join(
                f"- {TITLES[name]}: `python -m benchmarks.optimizers --only {name} --record`"
                for name in missing
            )
            + "\n"
        )


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of a measure."""
    sides = list(dict.fromkeys(side for row in rows for side in row["cells"]))
    lines = [["", *sides, "target", ""], ["---", *["---:"] * (len(sides) + 2)]]
    for row in rows:
        cells = (row["cells"].get(side, "") for side in sides)
        verdict = {True: "met", False: "missed", None: ""}[row["met"]]
        lines.append([row["name"], *cells, row["target"], verdict])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page(text: str) -> str:
    """The page with its tables made anew."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n" + "\n".join(sections(recorded())) + f"\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
