"""The project that most tests of the command line start from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_support import Project, make_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in a folder of its own, which is the working directory."""
    made = make_project(tmp_path / "shop")
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return made
