"""The examples run as their READMEs say, each copied into a folder of its own."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orcheo_agentensor.cli.app import app

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
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Goes into a copy of an example that is a project of the command line."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*sys.modules}

    def go(name: str) -> Path:
        folder = copied(name, tmp_path)
        monkeypatch.chdir(folder)
        return folder

    yield go
    for name in {*sys.modules} - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def agentensor(line: str, *, code: int = 0) -> str:
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
    assert done.exit_code == code, f"{line}\n{done.output}"
    return done.output


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("ticket_triage", "queue                  0.429", "42 cases fixed"),
        ("tool_agent", "tool_call_match   0.500", "+Look something up. About: "),
        ("multimodal", "exact_match   0.333", "report.html is written"),
    ],
    ids=["ticket_triage", "tool_agent", "multimodal"],
)
def test_the_commands_of_a_readme_measure_train_and_show_the_gain(
    project: Callable[[str], Path], name: str, before: str, after: str
) -> None:
    (block,) = re.findall(
        r"^```bash\n(.*?)^```$", (project(name) / "README.md").read_text("utf-8"), re.M | re.S
    )
    printed = [agentensor(line) for line in block.splitlines()]
    assert before in printed[0]
    assert "decision: promoted" in printed[1]
    assert after in printed[-1]


def test_the_gate_lets_a_prompt_through_and_a_worse_one_not(
    project: Callable[[str], Path],
) -> None:
    folder = project("ci_gate")
    steps = yaml.safe_load((folder / "workflow.yml").read_text("utf-8"))["jobs"]["prompts"]["steps"]
    assert any("gate.sh" in step.get("run", "") for step in steps)
    gate = (folder / "gate.sh").read_text("utf-8").replace(" ||\n    code=$?", "")
    first, compared, report = (
        next(line.strip() for line in reversed(gate.splitlines()) if wanted in line)
        for wanted in ("--cache --min-score 0.9", "--baseline", "agentensor report")
    )
    assert first != compared

    def run(line: str, name: str, *, code: int = 0) -> str:
        return agentensor(line.replace("$base", "main-1").replace("$run", name), code=code)

    run(first, "main-1")
    assert "0 rollouts" in run(compared, "branch-1")
    prompt = folder / "prompts" / "router.txt"
    prompt.write_text(prompt.read_text().replace("refund ", ""))
    assert "6 cases broke" in run(compared, "branch-2", code=1)
    run(report, "branch-2")
    assert "a refund of the deposit" in (folder / "comment.md").read_text()


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
