"""The tutorials for the shell, followed from top to bottom."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orcheo_agentensor.cli.app import app

ROOT = Path(__file__).parent.parent.parent
OURS = ("app", "helpdesk", "teacher", "triage")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, few cases at once (a busy machine runs this), and no module left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTENSOR_MAX_CONCURRENCY", "2")
    for name in ("AGENTENSOR_DATABASE_URL", "AGENTENSOR_ALLOWED_MODULES", "AGENTENSOR_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


def followed(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each command of a tutorial prints; its files are saved first, as it says."""
    text = (ROOT / "docs" / "tutorial" / page).read_text(encoding="utf-8")
    printed = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if language != "console":
            name, content = re.fullmatch(r"# ([\w.]+)\n(.*)", block, re.S).groups()  # type: ignore[union-attr]
            (folder / name).write_text(content)
            continue
        for line in block.splitlines():
            command, *arguments = shlex.split(line.removeprefix("$ "))
            if command == "export":
                monkeypatch.setenv(*arguments[0].split("=", 1))
            elif command == "python":
                printed.append(run(arguments, folder, monkeypatch))
            else:
                assert command == "agentensor"
                done = CliRunner().invoke(app, arguments, catch_exceptions=False)
                assert done.exit_code == 0, f"{line}\n{done.output}"
                printed.append(done.output)
    return printed


def run(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a script prints. It runs in this process, where the modules that it imports stay: an app
    among them is one that goes on running."""
    said = io.StringIO()
    with monkeypatch.context() as patched, contextlib.redirect_stdout(said):
        patched.setattr(sys, "argv", arguments)
        patched.setattr(sys, "path", [str(folder), *sys.path])
        runpy.run_path(arguments[0], run_name="__main__")
    return said.getvalue()


def test_every_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "".join(followed("from-the-shell.md", tmp_path, monkeypatch))
    assert "decision: promoted" in printed
    assert "'production' moved back from version 1 to version 2" in printed


def test_fifteen_minutes_lead_to_a_promoted_prompt_in_the_running_app_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples" / "third_party_graph", tmp_path, dirs_exist_ok=True)
    code = {path: path.read_bytes() for path in (tmp_path / "helpdesk").glob("*.py")}
    printed = followed("fifteen-minutes.md", tmp_path, monkeypatch)
    assert "./helpdesk/graph.py:ROUTER_PROMPT" in printed[0]
    assert [one.strip() for one in printed if one.strip() in ("general", "billing")] == [
        "general",
        "billing",
        "general",
    ]
    assert "decision: promoted" in "".join(printed)
    assert "holiday" in printed[-1]
    assert {path: path.read_bytes() for path in code} == code
