"""The simulation of a cluster gives the measured points again, and the page says what it gives."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "scale.md"


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return import_module("benchmarks.cluster.simulate")


def test_the_simulation_gives_the_measured_points_again(simulate: Any) -> None:
    points = [point for point in simulate.measured() if point["kind"] == "remote"]
    for point in points[-2:]:
        assert simulate.again(point) == pytest.approx(point["per_second"], rel=0.1)
    shown = PAGE.read_text(encoding="utf-8")
    for point in points:
        assert f"| {point['workers']} | {point['concurrency']} | {point['per_second']} |" in shown
