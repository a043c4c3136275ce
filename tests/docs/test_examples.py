"""The examples run as their READMEs say, each copied into a folder of its own."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a user without settings; few cases at once, because the machine may be busy."""
    for name in [key for key in os.environ if key.startswith("AGENTENSOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTENSOR_MAX_CONCURRENCY", "2")


def copied(name: str, tmp_path: Path) -> Path:
    """A copy of an example, to run in."""
    return Path(shutil.copytree(EXAMPLES / name, tmp_path / name))


def run(folder: Path, script: str) -> str:
    """What a script of an example prints."""
    done = subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_and_has_a_readme() -> None:
    index = (EXAMPLES / "README.md").read_text("utf-8")
    for folder in sorted(path for path in EXAMPLES.iterdir() if path.is_dir()):
        assert (folder / "README.md").is_file()
        assert f"({folder.name}/README.md)" in index


def test_the_script_promotes_a_better_prompt(tmp_path: Path) -> None:
    printed = run(copied("script", tmp_path), "improve.py")
    assert "decision: promoted" in printed
    assert printed.splitlines()[-2:] == ["bare:     praise", "promoted: bug"]


def test_the_cells_of_the_notebook_run() -> None:
    pytest.importorskip("pandas")
    notebook = json.loads((EXAMPLES / "notebook" / "train_a_prompt.ipynb").read_text("utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] != "code":
            continue
        source = compile(
            "".join(cell["source"]), cell["id"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        if source.co_flags & inspect.CO_COROUTINE:
            asyncio.run(FunctionType(source, names)())
        else:
            exec(source, names)  # noqa: S102 - our own notebook
    assert names["report"].objective == 13 / 24
    assert "<table" in names["report"]._repr_html_()
    assert names["after"].objective == 1.0


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the served graph, as a server imports from it."""
    folder = copied("served_graph", tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in ("served", "support"):
        sys.modules.pop(name, None)


async def test_the_served_graph_answers_with_what_is_promoted(served: Path) -> None:
    run(served, "release.py")
    path, _, name = json.loads((served / "langgraph.json").read_text())["graphs"][
        "support"
    ].partition(":")
    app = getattr(importlib.import_module(Path(path).stem), name)
    store = app.workflow.store
    try:
        answer = await app.ainvoke({"question": "Where?"})
        assert answer["answer"] == "[You are helpful and brief.] Where?"
        [record] = await store.runs.list(workflow_id="support")
        assert record.refs["base_version"] == 2
        await store.aliases.rollback("support", "production", actor="ann", reason="too brief")
        answer = await app.ainvoke({"question": "Where?"})
        assert answer["answer"] == "[You are helpful.] Where?"
    finally:
        await store.close()
