"""The documentation holds what it says: its Python runs, its links lead somewhere.

Every block fenced as `python` is run, the blocks of one page in order and in one namespace, in an
empty folder, as pasted into one plain Python file. Other fences are only read; `py` is Python that
needs a server or Orcheo, which their tests run, and may `await` where its page says so.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orcheo_agentensor.cli.app import app

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    page
    for place in (
        ROOT.glob("*.md"),
        (ROOT / "docs").rglob("*.md"),
        (ROOT / "examples").rglob("*.md"),
    )
    for page in place
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^ *```[ ]*$", re.M | re.S
)
FENCES = {"python", "py", "pycon", "bash", "console", "text", "json", "yaml", "ini", "diff"}
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
    # Latencies that are measured beside many others on a busy machine may differ past a guardrail.
    monkeypatch.setenv("AGENTENSOR_MAX_CONCURRENCY", "2")
    # A module of its own, so that types defined on the page can be looked up by their name.
    module = types.ModuleType(f"page_{page.stem}".lower())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, source in code:
        tree = ast.increment_lineno(ast.parse(source, str(page)), line)
        exec(compile(tree, str(page), "exec"), module.__dict__)  # noqa: S102 - our own pages


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
    assert languages <= FENCES


def test_every_page_of_docs_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    listed = {found["to"] for found in LINK.finditer(index)}
    pages = {
        str(page.relative_to(ROOT / "docs"))
        for kind in ("tutorial", "howto", "reference", "explanation")
        for page in (ROOT / "docs" / kind).glob("*.md")
    }
    assert pages - listed == set()


def test_the_readme_is_a_script_and_its_commands_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTENSOR_MAX_CONCURRENCY", "2")
    page = ROOT / "README.md"
    (tmp_path / "my_app.py").write_text("\n".join(code for _, code in blocks(page, "python")))
    done = subprocess.run(
        [sys.executable, "my_app.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "decision: promoted" in done.stdout
    bare, served = "{'text': 'a crash', 'label': 'praise'}", "{'text': 'a crash', 'label': 'bug'}"
    assert done.stdout.splitlines()[-1] == f"{bare} {served}"
    commands = [line for _, code in blocks(page, "text") for line in code.splitlines()]
    commands = [line for line in commands if line.startswith("agentensor ")]
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
