"""Processes that tests stop, kill and cut off; what they do is told by what they print."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PRELUDE = """
import asyncio, os, sys
from orcheo_agentensor.storage import *
from orcheo_agentensor.usage import Usage
URL = sys.argv[1]
"""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, with what the tests share importable."""
    folders = [ROOT, HERE, ROOT / "tests" / "storage", ROOT / "tests" / "graph"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), **variables}


def start(code: str, *args: str, prelude: str = PRELUDE, **variables: str) -> subprocess.Popen[str]:
    """Run `code` in a process of its own, with the store's URL as the first of `args`."""
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )


def until(holds: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    while not holds():
        time.sleep(0.005)
