"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUITE = """
import pytest

RUNS = []


def target(n):
    RUNS.append(n)
    return min(n, 3)


CASES = [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(6)]
suite = pytest.mark.agentensor(target, dataset=CASES, evaluators=["exact_match"])


@suite
def test_case(agentensor_case):
    assert agentensor_case.passed, agentensor_case.reasons


@suite
def test_threshold(agentensor):
    assert agentensor.scores["exact_match"].mean >= 0.6
    assert len(RUNS) == 6


def test_without_a_mark(agentensor):
    pass
"""


def test_each_case_is_a_test_and_all_of_them_are_run_once(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    plugin = ["-p", "orcheo_agentensor.testing.pytest_plugin"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = subprocess.run(
        [sys.executable, *command, *plugin, "test_suite.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "2 failed, 5 passed, 1 error" in found.stdout, found.stdout
    assert "test_case[c4]" in found.stdout
    assert "expected 4, got 3" in found.stdout
    assert "the fixture needs a mark such as @pytest.mark.agentensor" in found.stdout
