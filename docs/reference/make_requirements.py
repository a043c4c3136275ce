"""Makes `requirements.md`: what the package has to do, and the tests that prove it.

    python docs/reference/make_requirements.py

A test says by `@pytest.mark.requirement("config.merged")` what it proves. The marks are read from
the source of the tests. `tests/docs/test_requirements_page.py` checks that the page is what this
makes, and that no mark names a requirement that there is not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
PAGE = FOLDER / "requirements.md"
TESTS = FOLDER.parents[1] / "tests"
MARK = "requirement"

REQUIREMENTS: dict[str, dict[str, str]] = yaml.safe_load(
    (FOLDER / "requirements.yaml").read_text(encoding="utf-8")
)
"""Group -> name -> what has to hold."""


def marks() -> dict[str, list[tuple[str, str]]]:
    """Requirement -> the tests that name it, as file and name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        place = path.relative_to(TESTS).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in _named(node):
                    found.setdefault(name, []).append((place, node.name))
    return found


def _named(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(f"mark.{MARK}"):
            yield from (str(ast.literal_eval(argument)) for argument in decorator.args)


def known() -> set[str]:
    """The names of all requirements."""
    return {name for group in REQUIREMENTS.values() for name in group}


def page() -> str:
    """The text of the page."""
    found = marks()
    untested = [name for group in REQUIREMENTS.values() for name in group if name not in found]
    lines = [
        "# Requirements",
        "",
        "What the package has to do ([requirements.yaml](requirements.yaml)), and the tests that",
        "prove it, made from their marks by `docs/reference/make_requirements.py` (`make docs`).",
        "",
        f"{len(known())} requirements, {len(untested)} of them without a test.",
    ]
    for title, group in REQUIREMENTS.items():
        lines += ["", f"## {title}", "", "| requirement | proved by |", "|---|---|"]
        for name, text in group.items():
            tests = [
                f"[{test.removeprefix('test_').replace('_', ' ')}](../../tests/{place})"
                for place, test in found.get(name, [])
            ]
            lines.append(f"| `{name}`: {text} | {'; '.join(tests) or '**untested**'} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
