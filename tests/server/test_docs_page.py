"""The page about the server, run against a server."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "server.md"


async def test_what_the_page_calls_works(served: Any, capsys: Any) -> None:
    blocks = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for source in blocks:
        code = source.replace("http://localhost:2024", served.url)
        block = compile(code, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await eval(block, names)  # noqa: S307 - the project's own documentation
    printed = capsys.readouterr().out
    assert "1 run_started" in printed
    assert "run_finished" in printed
    assert names["result"]["status"] == "finished"
