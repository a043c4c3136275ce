"""What is installed, and the least that is asked for, is newer than what is known to be broken."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
FIXED = {
    "fastapi": ("0.109.1", "CVE-2024-24762"),
    "httpx": ("0.23.0", "CVE-2021-41945"),
    "langchain": ("0.3.0", "CVE-2024-8309"),
    "langchain-core": ("1.4.9", "CVE-2026-45134, CVE-2026-44843, CVE-2026-34070, CVE-2025-68664"),
    "langchain-openai": ("1.1.14", "CVE-2026-41488"),
    "langgraph": ("1.0.10", "CVE-2026-28277"),
    "langgraph-checkpoint": ("4.1.1", "CVE-2026-48775, CVE-2026-27794, CVE-2025-64439"),
    "langgraph-checkpoint-sqlite": ("3.0.1", "CVE-2025-67644, CVE-2025-64104"),
    "langsmith": ("0.8.0", "CVE-2026-45134, CVE-2026-41182, CVE-2026-25528"),
    "orjson": ("3.11.6", "CVE-2025-67221, CVE-2024-27454"),
    "pydantic": ("2.4.0", "CVE-2024-3772"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
    "scipy": ("1.10.0", "CVE-2023-25399"),
    "starlette": ("1.3.1", "CVE-2026-54283, CVE-2026-48818, CVE-2026-48710, CVE-2025-62727"),
}
"""The first release without each of these; of a dependency that is not listed none is known."""

GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
DIRECT = [Requirement(line) for group in GROUPS for line in group]


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_a_direct_dependency_has_a_floor_that_is_not_known_to_be_broken(
    requirement: Requirement,
) -> None:
    bounds = {one.operator: Version(one.version) for one in requirement.specifier}
    assert {">=", "<"} <= bounds.keys()
    fixed = Version(FIXED.get(requirement.name, ("0", ""))[0])
    assert bounds[">="] >= fixed, FIXED[requirement.name]
    try:
        installed = Version(version(requirement.name))
    except PackageNotFoundError:  # of an extra
        assert str(requirement) not in PROJECT["dependencies"]
    else:
        assert requirement.specifier.contains(installed)


def test_every_package_in_the_table_is_a_direct_dependency() -> None:
    assert FIXED.keys() <= {requirement.name for requirement in DIRECT}
