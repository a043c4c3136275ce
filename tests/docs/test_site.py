"""The site of the documentation has every page, and its links lead to pages of the site."""

from __future__ import annotations

import importlib.util
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
assert SPEC is not None
assert SPEC.loader is not None
SITE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SITE)
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PAGES = {
    **{page.relative_to(ROOT / "docs").as_posix(): page for page in (ROOT / "docs").rglob("*.md")},
    **{place: ROOT / path for path, place in SITE.outside().items()},
}


def places(nav: Any) -> Iterator[str]:
    """The pages that a part of the navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from places(part)


def test_the_navigation_names_every_page_once() -> None:
    assert sorted(places(CONFIG["nav"])) == sorted(PAGES)


def test_a_page_links_to_pages_of_the_site_only() -> None:
    images = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs/images").iterdir()}
    broken = []
    for place, path in PAGES.items():
        here = path.relative_to(ROOT).as_posix()
        text = SITE.rewritten(path.read_text(), here=here, place=place)
        prose = re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.S)
        for to in re.findall(r"\]\(([^)\s#]+)", prose):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(place), to))
            if "://" not in to and there not in PAGES and there not in images:
                broken.append((place, to))
    assert broken == []


def test_links_out_of_the_documentation_follow_their_page_or_become_text() -> None:
    page = (
        "[start](../../README.md#install), [`a test`](../../tests/unit/test_bind.py), "
        "[here](#top), [faq](../explanation/faq.md), [out](https://x.example)\n"
        "```text\n[kept](../../README.md)\n```\n"
    )
    found = SITE.rewritten(page, here="docs/reference/x.md", place="reference/x.md")
    assert found == (
        "[start](../start.md#install), `a test`, "
        "[here](#top), [faq](../explanation/faq.md), [out](https://x.example)\n"
        "```text\n[kept](../../README.md)\n```\n"
    )
    moved = SITE.rewritten("[a](docs/howto/ci.md)", here="README.md", place="start.md")
    assert moved == "[a](howto/ci.md)"


def test_nothing_of_the_site_is_loaded_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert "extra_javascript" not in CONFIG
    assert "extra_css" not in CONFIG
    assert "://" not in (ROOT / "mkdocs.yml").read_text()
