"""The tutorial for the shell, followed from top to bottom."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orcheo_agentensor.cli.app import app

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorial" / "from-the-shell.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, few cases at once (a busy machine runs this), and no module left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTENSOR_MAX_CONCURRENCY", "2")
    monkeypatch.delenv("AGENTENSOR_DATABASE_URL", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("triage", None)


def test_every_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = ""
    for language, text in BLOCKS:
        if language != "console":
            name, content = re.fullmatch(r"# ([\w.]+)\n(.*)", text, re.S).groups()  # type: ignore[union-attr]
            (tmp_path / name).write_text(content)
            continue
        for line in text.splitlines():
            command, *arguments = shlex.split(line.removeprefix("$ "))
            if command == "export":
                monkeypatch.setenv(*arguments[0].split("=", 1))
                continue
            assert command == "agentensor"
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert done.exit_code == 0, f"{line}\n{done.output}"
            printed += done.output
    assert "decision: promoted" in printed
    assert "'production' moved back from version 1 to version 2" in printed
