"""The pages that talk to a server, run against one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent.parent / "docs"


async def follow(name: str, served: Any, *, blocks: int) -> dict[str, Any]:
    """Run the `py` blocks of a page in one namespace, which is returned."""
    page = DOCS / name
    found = re.findall(r"^```py\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len(found) == blocks
    names: dict[str, Any] = {}
    for source in found:
        code = source.replace("http://localhost:2024", served.url)
        block = compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await eval(block, names)  # noqa: S307 - the project's own documentation
    return names


async def test_the_tutorial_works(served: Any, capsys: Any) -> None:
    names = await follow("tutorial/on-a-server.md", served, blocks=3)
    printed = capsys.readouterr().out
    assert "1 run_started" in printed
    assert "run_finished" in printed
    assert names["result"]["status"] == "finished"


async def test_what_the_reference_calls_works(served: Any, capsys: Any) -> None:
    names = await follow("reference/server.md", served, blocks=1)
    assert capsys.readouterr().out.strip() == names["found"]["queue"] == "payments"
