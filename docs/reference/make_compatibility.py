"""Make docs/reference/compatibility.md of the tests that are marked `compat`.

The rows are read from the tests' sources, so that no package has to be there. `make compat` runs
those of tests/compat, and then this; `make test` runs the others, and fails where the page is not
what this makes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "compatibility.md"

HEAD = """\
# Compatibility

`docs/reference/make_compatibility.py` makes this page from the tests that are marked `compat`: each
row is a test that passes. `make compat` runs those of evaluators, in an environment of its own, and
compares the numbers with those that the package itself gives on the same data. `make test` runs the
others, and fails where this page is out of date.

- *works*: unmodified.
- *works with …*: it needs that of the case, the job or the call.
- *refused*: before anything runs, with what to write instead.
- *not tried*: no test says.

Contents:

- [Evaluators](#evaluators)
- [Targets](#targets)
- [Usage that providers report](#usage-that-providers-report)
"""

TABLES = {
    "evaluators": ("Evaluators", "Package", "Evaluator"),
    "targets": ("Targets", "Kind", "Target"),
    "usage": ("Usage that providers report", "Provider", "Where the counts are"),
}

PACKAGES = [
    *("agentevals", "arize-phoenix-evals", "autoevals", "deepeval", "langsmith", "mlflow"),
    *("openevals", "opik", "pydantic-evals", "ragas", "scikit-learn", "trulens-core"),
]

NOT_TRIED = {
    "evaluators": [
        ("Azure AI Evaluation, Vertex AI evaluation, Giskard", "their evaluator classes"),
        ("DeepEval", "multimodal, voice and MCP metrics"),
        ("MLflow", "scorers registered on a tracking server"),
        ("Opik", "metrics that need models or corpora from elsewhere: BERTScore, METEOR, VADER"),
    ],
    "targets": [("other frameworks", "agents of CrewAI, AutoGen, pydantic-ai as they are")],
    "usage": [("IBM watsonx, Writer, Fireworks", "shapes of their own")],
}

Row = tuple[str, str, str]
"""The family, the form and the state."""


def marks(source: str) -> Iterator[tuple[str, Row]]:
    """The rows that the tests of a file are marked with, each with its table."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called not in ("compat", "pytest.mark.compat"):
            continue
        table, family, form = (ast.literal_eval(argument) for argument in node.args)
        options = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
        (state, what), *_ = [*options.items(), ("works", "")]
        if table not in TABLES or state not in ("works", "works_with", "refused"):
            raise ValueError(f"{ast.unparse(node)}: no such table or state")
        shown = f"{state.replace('_', ' ')}: write {what}" if state == "refused" else state
        yield table, (family, form, f"works with {what}" if state == "works_with" else shown)


def rows() -> dict[str, list[Row]]:
    """Every row of each table, in order; none may be there twice."""
    found: dict[str, list[Row]] = {table: [] for table in TABLES}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for table, row in marks(path.read_text(encoding="utf-8")):
            if row[:2] in [other[:2] for other in found[table]]:
                raise ValueError(f"{path.name}: {row[:2]} is marked twice")
            found[table].append(row)
    for table, untried in NOT_TRIED.items():
        found[table] += [(*one, "not tried") for one in untried]
    return {table: sorted(there, key=order) for table, there in found.items()}


def order(row: Row) -> tuple[bool, str]:
    """Families by name, in the tests' order; what was not tried comes last."""
    return row[2] == "not tried", row[0].lower()


def versions() -> str:
    """The packages that the tests ran with, as locked."""
    locked = (ROOT / "requirements" / "compat.txt").read_text(encoding="utf-8")
    found = dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==([^ ;]+)", locked, flags=re.MULTILINE))
    return ", ".join(f"{name} {found[name]}" for name in PACKAGES)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for table, there in rows().items():
        title, family, form = TABLES[table]
        parts.append(f"## {title}\n")
        if table == "evaluators":
            parts.append(f"Tried with {versions()}.\n")
        parts += [f"| {family} | {form} | State |", "|---|---|---|"]
        parts += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in there
        ]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
