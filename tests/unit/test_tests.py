"""What holds for every test: how busy the machine is decides nothing, and code may move."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PACKAGE = "orcheo_agentensor"
LOADED_BY_NAME = {f"{PACKAGE}.cli.app", f"{PACKAGE}.integrations.orcheo"}  # from outside, too
MODULES = {
    ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
    for path in TESTS.parent.glob(f"{PACKAGE}/*/**/*.py")
    if path.stem != "__init__"
} - LOADED_BY_NAME
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


def deep_modules(source: str, modules: Collection[str] = MODULES) -> set[str]:
    """Those of our `modules` in packages that are imported, wherever in the source."""
    imported = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return imported.intersection(modules)


def test_tests_import_from_packages_or_from_the_one_module_they_are_about() -> None:
    """Only tests of units may reach into a package, and each into one module: so a module that
    moves takes one import of its own tests along."""
    found = {path: deep_modules(path.read_text()) for path in sorted(TESTS.rglob("*.py"))}
    allowed = {path: path.parent.name in ("unit", "storage") for path in found}
    assert {
        str(path.relative_to(TESTS)): modules
        for path, modules in found.items()
        if len(modules) > allowed[path]
    } == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ours import Store, tape", set()),
        ("from ours.tape import Tape", set()),
        ("from ours.storage import Store", set()),
        ("from ours.storage import Store, runs", {"ours.storage.runs"}),
        ("def f():\n    from ours.storage.runs import Run", {"ours.storage.runs"}),
        ("import ours.storage.runs, ours.storage", {"ours.storage.runs"}),
    ],
)
def test_deep_modules_are_found(source: str, found: set[str]) -> None:
    assert deep_modules(source, {"ours.storage.runs", "ours.storage.store"}) == found
