"""The tables of the page of benchmarks are those that were recorded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "explanation"
SPEC = importlib.util.spec_from_file_location("make_benchmarks", DOCS / "make_benchmarks.py")
assert SPEC is not None
assert SPEC.loader is not None
MAKE: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAKE)


def test_the_page_is_what_the_script_makes_of_what_was_recorded() -> None:
    text = MAKE.PAGE.read_text()
    assert MAKE.page(text) == text
    found = MAKE.recorded()
    assert "rules" in found
    for name, one in found.items():
        assert {"date", "machine", "cores", "python", "gepa", "seeds"} <= one["environment"].keys()
        assert MAKE.TITLES[name] in text
    assert {path.stem for path in MAKE.RECORDED.iterdir()} == found.keys()


def test_what_was_not_run_and_where_a_peer_is_ahead_is_said() -> None:
    row = {"name": "a task", "cells": {"gepa": "1", "reflective": "2"}, "target": "≤ 1"}
    measured = {"setup": "Told.", "rows": [{**row, "met": False}]}
    told = "\n".join(MAKE.sections({"rules": json.loads(json.dumps(
        {"environment": {"date": "2026-01-01", "seeds": 1}, "measured": measured}
    ))}))  # fmt: skip
    assert "| a task | 1 | 2 | ≤ 1 | missed |" in told
    assert "date 2026-01-01, seeds 1." in told
    assert "### Where a setting of gepa is ahead of our default" in told
    assert "- Banking messages: `python -m benchmarks.optimizers --only banking --record`" in told


def test_a_goal_that_is_missed_is_told_apart_from_a_peer_that_is_ahead() -> None:
    row = {"name": "a task", "cells": {"reflective": "1"}, "target": "goal ≥ 2", "met": False}
    measured = {"setup": "Told.", "rows": [row]}
    told = "\n".join(MAKE.sections({"rules": {"environment": {}, "measured": measured}}))
    assert f"### Goals of our own that are missed\n\n- {MAKE.TITLES['rules']}: a task" in told
    assert "ahead of our default" not in told
