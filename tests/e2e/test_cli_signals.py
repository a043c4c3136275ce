"""SIGTERM and SIGINT in every phase: exit 130, and a resume ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import Project, make_project, steady

from orcheo_agentensor.cli.execution import Stopper
from orcheo_agentensor.runs.nodes import JobNode

PHASES = {
    "evaluate": ("prepare", "run_cases", "summarize"),
    "train": ("prepare", "baseline", "step", "checkpoint", "holdout", "decide"),
}
SMALL = {"stop": [{"type": "max_steps", "steps": 2}], "checkpoint_every": 1}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = make_project(tmp_path)
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    return project


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
@pytest.mark.parametrize(
    ("mode", "phase"), [(mode, phase) for mode, phases in PHASES.items() for phase in phases]
)
def test_a_signal_in_any_phase(
    mode: str, phase: str, signals: list[int], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[None] = []
    stop, ainvoke = Stopper._stop, JobNode.ainvoke

    def hear(self: Stopper) -> None:
        heard.append(None)
        stop(self)

    async def signalled(self: JobNode, *args: Any, **kwargs: Any) -> Any:
        if self.name == phase:
            for number in signals[len(heard) :]:
                before = len(heard)
                os.kill(os.getpid(), number)
                while len(heard) == before:  # noqa: ASYNC110 - the loop has to hear of it
                    await asyncio.sleep(0)
        return await ainvoke(self, *args, **kwargs)

    monkeypatch.setattr(Stopper, "_stop", hear)
    monkeypatch.setattr(JobNode, "ainvoke", signalled)
    result = project.call(mode, f"{mode}.yaml", "--run-id", "r")
    print(result.exit_code, result.stderr)
    assert result.exit_code == 130
    assert "agentensor resume r" in result.stderr
    assert "Traceback" not in result.output
    assert project.ok("runs", "show", "r")["status"] == "interrupted"
    found = project.ok("resume", "r")
    whole = project.ok(mode, f"{mode}.yaml", "--run-id", "whole", "--workflow", "other")
    assert steady(found) == steady(whole)
