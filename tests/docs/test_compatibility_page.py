"""The page of what works with what is what the marked tests say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "make_compatibility.py"


@pytest.fixture(scope="module")
def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_compatibility", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_tests_are_marked_with(maker: Any) -> None:
    written = maker.PAGE.read_text(encoding="utf-8")
    assert written == maker.page(), "run `python docs/reference/make_compatibility.py`"
    rows = maker.rows()
    assert min(map(len, rows.values())) > 10


def test_a_mark_is_a_row_with_its_state(maker: Any) -> None:
    source = """
@pytest.mark.compat("targets", "graph", "compiled")
@pytest.mark.parametrize("x", [pytest.param(1, marks=compat("usage", "a", "b", works_with="c"))])
@compat("evaluators", "a", "b", refused="`c`")
def test_it(): ...
"""
    assert sorted(maker.marks(source)) == [
        ("evaluators", ("a", "b", "refused: write `c`")),
        ("targets", ("graph", "compiled", "works")),
        ("usage", ("a", "b", "works with c")),
    ]
    with pytest.raises(ValueError, match="no such table or state"):
        list(maker.marks("@compat('tables', 'a', 'b')\ndef test_it(): ..."))
