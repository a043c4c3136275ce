"""The page of requirements is what the marks in the tests make of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def script() -> Any:
    place = FOLDER / "make_requirements.py"
    spec = importlib.util.spec_from_file_location("make_requirements", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = script()


def test_the_page_of_requirements_is_what_the_script_makes() -> None:
    written = (FOLDER / "requirements.md").read_text(encoding="utf-8")
    assert written == MAKE.page(), "run: python docs/reference/make_requirements.py"


def test_every_mark_names_a_requirement() -> None:
    assert set(MAKE.marks()) - MAKE.known() == set()


def test_a_requirement_without_a_test_shows(monkeypatch: Any) -> None:
    monkeypatch.setitem(MAKE.REQUIREMENTS, "New", {"new.one": "Something new."})
    assert "| `new.one`: Something new. | **untested** |" in MAKE.page()
