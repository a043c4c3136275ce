"""Hooks by which `mkdocs.yml` makes a site of pages that are written to be read in the repository.

Pages outside of `docs/`, such as the README, become pages of the site, and links follow them. Of a
link to anything else outside of `docs/` (a test, a module) only the text stays.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

MOVED = {
    "README.md": "start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages beside `docs/`, and what they are called on the site."""

_PARTS = re.compile(r"^( *)```.*?^\1```[ ]*$", re.M | re.S)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^)\s]+)\)")


def outside() -> dict[str, str]:
    """Pages of the repository outside of `docs/` that the site has, and their place there."""
    examples = sorted((ROOT / "examples").rglob("*.md"))
    return {**MOVED, **{path: path for path in (p.relative_to(ROOT).as_posix() for p in examples)}}


def on_config(config: Any) -> Any:
    """Anchors as the repository's own viewer makes them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def slug(text: str, _separator: str = "-") -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def on_files(files: Any, config: Any) -> Any:
    """The pages outside of `docs/` join the others."""
    from mkdocs.structure.files import File

    for path, place in outside().items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page with its links as they are on the site."""
    place = page.file.src_uri
    here = {there: path for path, there in outside().items()}.get(place, f"docs/{place}")
    return rewritten(markdown, here=here, place=place)


def rewritten(markdown: str, *, here: str, place: str) -> str:
    """The text of the page at `here` in the repository, with the links that it has at `place`."""
    pages = outside()

    def link(found: re.Match[str]) -> str:
        to, hash_, anchor = found["to"].partition("#")
        if not to or ":" in to:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), to))
        if (ROOT / path).is_dir():
            path = f"{path}/README.md"
        there = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is None or not (ROOT / path).is_file() or path.endswith((".py", ".yaml")):
            return found["text"]
        relative = posixpath.relpath(there, posixpath.dirname(place) or ".")
        return f"{found['image']}[{found['text']}]({relative}{hash_}{anchor})"

    parts, end = [], 0
    for code in _PARTS.finditer(markdown):
        parts += [_LINK.sub(link, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(link, markdown[end:])])
