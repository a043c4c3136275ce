"""A store that fills up or is damaged under a run: exit 3, and what was paid for comes back."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import Project, evaluation_job, make_project, training_job

HARM = """
import os, resource
from pathlib import Path
import shopflow

calls = []

async def answer(inputs, config):
    calls.append(inputs)
    path = Path(os.environ["DATABASE"])
    if len(calls) == 20 and not os.path.exists("mended"):
        if os.environ["HARM"] == "full":
            size = path.with_name(path.name + "-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        else:
            for file in (path, path.with_name(path.name + "-wal")):
                size = file.stat().st_size
                with file.open("r+b") as damaged:
                    damaged.seek(4096)
                    damaged.write(os.urandom(size - 4096))
    return await shopflow.answer(inputs, config)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    project = make_project(tmp_path)
    project.write("harm.py", HARM)
    project.write("job.yaml", evaluation_job(target="harm:answer"))
    project.write("train.yaml", training_job(target="harm:answer"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "harm", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow,harm")
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    monkeypatch.setenv("DATABASE", str(project.database))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield project
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_a_command_with_3_and_db_recover_brings_the_rows_back(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM", "full")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = project.refused("evaluate", "job.yaml", "--run-id", "r", code=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    (saved,) = project.database.parent.glob("*.saved-*.db")
    assert f"agentensor db recover {saved}" in told.replace("\n", " ")
    paid = len(project.executions())
    assert paid < 36
    (project.folder / "mended").touch()
    assert project.ok("db", "recover", str(saved))["runs"]["r"] > 0
    project.ok("db", "check")
    assert "agentensor resume r" in project.call("db", "recover", str(saved)).stdout
    assert project.ok("resume", "r")["summary"]["coverage"] == 1.0
    assert paid <= len(project.executions()) <= 36 + 4  # what was running at the end


def test_a_file_that_is_damaged_under_a_training_ends_it_with_3(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM", "damage")
    told = project.refused("train", "train.yaml", "--run-id", "r", code=3)
    assert "run 'r' could not go on" in told
    assert "malformed" in told
    assert "malformed" in project.refused("db", "check", code=2)
