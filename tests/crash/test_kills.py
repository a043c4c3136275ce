"""Trainings killed at random moments repeat no recorded call, and end as undisturbed ones.

`AGENTENSOR_KILLS=200` is how many kills there are for each database; without it one, on SQLite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kills import CONCURRENCY
from processes import HERE, environment


def test_random_kills_repeat_nothing_and_change_nothing(store_url: str) -> None:
    if "AGENTENSOR_KILLS" not in os.environ and "postgresql" in store_url:
        pytest.skip("AGENTENSOR_KILLS asks for kills on PostgreSQL")
    kills = os.environ.get("AGENTENSOR_KILLS", "1")
    told = subprocess.run(
        [sys.executable, str(HERE / "kills.py"), store_url, kills, "1"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")
    found = json.loads(told.stdout)
    sys.stdout.write(told.stdout)  # for whoever asks with -rP
    assert found["kills"] == int(kills)
    assert (found["repeated"], found["other_end"]) == (0, 0)
    assert found["most_lost"] <= 2 * CONCURRENCY + 1  # and the proposer's call
