"""What holds for every test: how busy the machine is decides nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
WALL_CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}


def wall_clocks(source: str) -> list[int]:
    """The lines that ask a wall clock for the time, or import one by name."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "time"
            and node.func.attr in WALL_CLOCKS
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and WALL_CLOCKS & {name.name for name in node.names}
        )
    ]


def test_no_test_asks_a_wall_clock() -> None:
    """What may not take long is measured by `time.thread_time`, by sizes or by counts; what waits
    for another process polls without a deadline, because a test that hangs is ended anyway."""
    found = {
        str(path.relative_to(TESTS)): lines
        for path in sorted(TESTS.rglob("*.py"))
        if (lines := wall_clocks(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time\nstarted = time.perf_counter()", [2]),
        ("import time\nassert time.time() < 3", [2]),
        ("from time import monotonic", [1]),
        ("import time\ntime.thread_time()\ntime.sleep(1)", []),
    ],
)
def test_wall_clocks_are_found(source: str, lines: list[int]) -> None:
    assert wall_clocks(source) == lines
