"""Type checkers on user code: what is right passes, what is wrong is refused at its line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
USER_CODE = Path(__file__).with_name("user_code.py")


def marked(*marks: str) -> set[int]:
    """The lines that end with one of `marks`."""
    lines = USER_CODE.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith(marks)}


def mypy_lines() -> set[int]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--strict-equality", str(USER_CODE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(rf"{re.escape(USER_CODE.name)}:(\d+): error", done.stdout)
    assert found, done.stdout + done.stderr
    return {int(line) for line in found}


def pyright_lines() -> set[int]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "--outputjson",
            "--pythonpath",
            sys.executable,
            "--level",
            "error",
            str(USER_CODE),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    return {found["range"]["start"]["line"] + 1 for found in report["generalDiagnostics"]}


def test_mypy_refuses_what_is_wrong_and_nothing_else() -> None:
    assert mypy_lines() == marked("# refused", "# refused by mypy")


def test_pyright_refuses_what_is_wrong_and_nothing_else() -> None:
    assert pyright_lines() == marked("# refused")
