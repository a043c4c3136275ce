"""The files that services and tools read say what the project says elsewhere."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PREFIX = "Programming Language :: Python :: "
CLAIMED = [
    classifier.removeprefix(PREFIX)
    for classifier in PROJECT["project"]["classifiers"]
    if classifier.startswith(PREFIX)
]
NOT_CLAIMED_YET = ["3.14"]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def targets() -> set[str]:
    """The targets of the Makefile that a person calls."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert found
    return set(found[1].split())


def test_ci_runs_every_python_that_is_claimed() -> None:
    test = load(".github/workflows/ci.yml")["jobs"]["test"]
    assert test["strategy"]["matrix"]["python"] == CLAIMED + NOT_CLAIMED_YET
    for version in NOT_CLAIMED_YET:
        assert f"'{version}'" in test["continue-on-error"]


def test_the_oldest_python_is_the_same_everywhere() -> None:
    oldest = CLAIMED[0]
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"--python-version {oldest}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_ci_calls_targets_that_make_has() -> None:
    workflow = load(".github/workflows/ci.yml")
    # YAML 1.1 reads the key `on` as a boolean.
    assert {"push", "pull_request", "schedule"} <= set(workflow[True])
    assert workflow["permissions"] == {"contents": "read"}
    called = []
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        called += [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    assert [command[0] for command in called] == ["make"] * 3
    assert {command[1] for command in called} == {"test", "test-orcheo", "check-locks"} <= targets()


def test_pre_commit_uses_the_tools_of_our_environment() -> None:
    repositories = load(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "mypy"]
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_an_issue_form_asks_questions_with_labels_and_ids(name: str) -> None:
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in {"textarea", "dropdown"}
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_contributing_names_files_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+\.\w+)?)`", text))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    called = set(re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE))
    assert {"test", "lint", "lock"} <= called <= targets()


def test_decisions_are_numbered_told_alike_and_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(folder.glob("[0-9]*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04d}" for n in range(1, len(pages) + 1)]
    index = (folder / "README.md").read_text(encoding="utf-8")
    architecture = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"^\*\*(\w+)\.\*\* ", text, flags=re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequence",
        ]
        title = text.splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({page.name})" in index
        assert f"- [{title.partition(' ')[2]}](../decisions/{page.name})" in architecture


def test_the_architecture_names_files_and_names_that_there_are() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "orcheo_agentensor"
    for name in set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", text)):
        assert (package / name).exists() or (ROOT / name).exists()
    source = "\n".join(path.read_text("utf-8") for path in package.rglob("*.py"))
    for name in set(re.findall(r"`([A-Z]\w+[a-z]\w+)`", text)):
        assert re.search(rf"\b(class )?{name}\b", source), name
    walks = re.findall(r"^## The walk of .*?(?=^## )", text, re.M | re.S)
    assert len(walks) == 4
    assert all(len(re.findall(r"^\d+\. ", walk, re.M)) <= 15 for walk in walks)
