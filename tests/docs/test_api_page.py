"""The reference of the Python API is made from the docstrings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent.parent.parent / "docs" / "reference"


def the_script() -> ModuleType:
    """`make_api.py`, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("make_api", FOLDER / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE_API = the_script()


def test_the_page_is_what_the_script_makes() -> None:
    written = (FOLDER / "api.md").read_text(encoding="utf-8")
    assert written == MAKE_API.page(), "run: python docs/reference/make_api.py"
