"""SIGTERM and SIGINT in every phase: exit 130, and a resume ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import Project, make_project, steady, training_job

PHASES = {
    "evaluate": ("prepare", "run_cases", "summarize"),
    "train": ("prepare", "baseline", "step", "checkpoint", "holdout", "decide"),
}


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(os, "_exit", sys.exit)  # which a cancelled run waits for nothing by


def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a short training, in its folder."""
    project = make_project(folder)
    project.write("train.yaml", training_job(stop=[{"type": "max_steps", "steps": 2}]))
    monkeypatch.chdir(folder)
    return project


_whole: dict[str, Any] = {}


def whole(mode: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an uninterrupted run of this mode says at its end."""
    if mode not in _whole:
        project = small(folder, monkeypatch)
        _whole[mode] = project.ok(mode, f"{mode}.yaml", "--run-id", "r")
    return _whole[mode]


STOPPED = [
    (mode, phase, [signal.SIGTERM, signal.SIGINT][number % 2 :][:1])
    for mode, phases in PHASES.items()
    for number, phase in enumerate(phases)
]
CANCELLED = [
    (mode, phase, [signal.SIGINT, signal.SIGTERM])
    for mode, phase in (("evaluate", "prepare"), ("train", "step"), ("train", "decide"))
]


@pytest.mark.parametrize(("mode", "phase", "signals"), STOPPED + CANCELLED)
def test_a_signal_in_any_phase(
    mode: str, phase: str, signals: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = whole(mode, tmp_path / "whole", monkeypatch)
    project = small(tmp_path / "stopped", monkeypatch)
    heard: list[None] = []
    stopper = sys.modules["orcheo_agentensor.cli.execution"].Stopper
    node = sys.modules["orcheo_agentensor.runs.nodes"].JobNode
    stop, ainvoke = stopper._stop, node.ainvoke

    def hear(self: Any) -> None:
        heard.append(None)
        stop(self)

    async def signalled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.name == phase:
            for number in signals[len(heard) :]:
                before = len(heard)
                os.kill(os.getpid(), number)
                while len(heard) == before:  # noqa: ASYNC110 - the loop has to hear of it
                    await asyncio.sleep(0)
        return await ainvoke(self, *args, **kwargs)

    monkeypatch.setattr(stopper, "_stop", hear)
    monkeypatch.setattr(node, "ainvoke", signalled)
    result = project.call(mode, f"{mode}.yaml", "--run-id", "r")
    assert result.exit_code == 130
    assert "agentensor resume r" in result.stderr
    assert "Traceback" not in result.output
    assert project.ok("runs", "show", "r")["status"] == "interrupted"
    assert steady(project.ok("resume", "r")) == steady(undisturbed)
