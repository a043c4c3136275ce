"""The documentation holds what it says: its Python runs, its links lead somewhere.

Every block fenced as `python` is run, the blocks of one page in order and in one namespace, in an
empty folder, with top-level `await`. Other fences are only read; `py` is Python that needs a
server, which the tests of the server run.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^ *```[ ]*$", re.M | re.S
)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\((?P<to>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<text>.+?) *$", re.M)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The blocks of a language with the number of the line before each."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start("code")), found["code"])
        for found in FENCE.finditer(text)
        if found["language"].strip() == language
    ]


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page make."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    slugs = set()
    for found in HEADING.finditer(text):
        plain = re.sub(r"[^\w\- ]", "", found["text"].replace("`", "").lower())
        slugs.add(plain.strip().replace(" ", "-"))
    return slugs


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=page_id)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = blocks(page, "python")
    monkeypatch.chdir(tmp_path)
    for name in ("AGENTENSOR_MODEL", "AGENTENSOR_DATABASE_URL", "AGENTENSOR_ALLOWED_MODULES"):
        monkeypatch.delenv(name, raising=False)
    # A module of its own, so that types defined on the page can be looked up by their name.
    module = types.ModuleType(f"page_{page.stem}".lower())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with asyncio.Runner() as runner:
        for line, source in code:
            tree = ast.increment_lineno(ast.parse(source, str(page)), line)
            block = compile(tree, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if block.co_flags & inspect.CO_COROUTINE:
                runner.run(types.FunctionType(block, module.__dict__)())
            else:
                exec(block, module.__dict__)  # noqa: S102 - the project's own documentation


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    lost = []
    for found in LINK.finditer(text):
        target = found["to"] or found["image"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        is_page = place.suffix == ".md" and place.exists()
        if not place.exists() or (anchor and is_page and anchor not in anchors(place)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_fence_says_what_it_holds(page: Path) -> None:
    languages = {found["language"].strip() for found in FENCE.finditer(page.read_text("utf-8"))}
    assert languages <= {"python", "py", "bash", "console", "text", "json", "yaml", "ini", "diff"}
