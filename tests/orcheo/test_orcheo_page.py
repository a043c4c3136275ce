"""The page about Orcheo, run inside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "orcheo.md"


async def test_what_the_page_shows_works(capsys: Any) -> None:
    [source] = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    block = compile(source, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(block, {"__name__": "page"})  # noqa: S307 - the project's own documentation
    assert capsys.readouterr().out.splitlines()[-1] == "0.5"
