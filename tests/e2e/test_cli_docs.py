"""Every command and option is documented, and asking for help is quick."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from cli_support import SCRIPT

from orcheo_agentensor.cli import ExitCode
from orcheo_agentensor.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
SHARED = {"--help", "--store", "--json"}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
            return
        for part, inner in command.commands.items():
            yield from walk(f"{name} {part}", inner)

    yield from walk("agentensor", typer.main.get_command(app))


COMMANDS = dict(commands())
SECTIONS = dict(re.findall(r"^### `([^`]*)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def section(name: str) -> str:
    """What the page says about a command."""
    found = [text for title, text in SECTIONS.items() if re.sub(r" [A-Z\[].*", "", title) == name]
    assert len(found) == 1, f"docs/reference/cli.md has {len(found)} sections for {name}"
    return found[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section(name)
    if name == "agentensor train":
        text += section("agentensor evaluate")
    for parameter in COMMANDS[name].params:
        for option in [*parameter.opts, *parameter.secondary_opts]:
            if option.startswith("--") and option not in SHARED:
                assert f"{option}" in text, (
                    f"docs/reference/cli.md does not explain {name} {option}"
                )


def test_nothing_is_documented_that_is_not_there() -> None:
    for name in SECTIONS:
        assert re.sub(r" [A-Z\[].*", "", name) in COMMANDS
    known = {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known | {"--help"}


def test_every_command_has_help_and_names_the_exit_codes() -> None:
    for name, command in COMMANDS.items():
        assert command.help, name
        for code in ExitCode:
            assert re.search(rf"\b{int(code)}\b", command.epilog), name
    for code in ExitCode:
        assert f"| {int(code)} |" in PAGE


def test_the_job_files_of_the_page_are_valid() -> None:
    from orcheo_agentensor import EvaluationJob, RunConfig, TrainingJob
    from orcheo_agentensor.cli import RunJob

    evaluation, training, run = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    )
    RunConfig.parse(EvaluationJob.parse(evaluation).config)
    TrainingJob.parse({**evaluation, **training})
    RunConfig.parse(RunJob.parse(run).config)


def test_the_console_script_shows_help() -> None:
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    for name in {name.split()[1] for name in COMMANDS}:
        assert name in done.stdout
    assert "130 interrupted" in " ".join(done.stdout.split())


HEAVY = {
    "aiosqlite",
    "alembic",
    "httpx",
    "jinja2",
    "langchain",
    "langchain_core",
    "langgraph",
    "langgraph_sdk",
    "langsmith",
    "numpy",
    "psycopg",
    "pydantic",
    "scipy",
    "sqlalchemy",
    "tenacity",
    "yaml",
}
HELP = """
import contextlib, io
from orcheo_agentensor.cli.app import main
sys.argv = ["agentensor", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""


def imported(code: str) -> tuple[set[str], set[str]]:
    """The packages, and the modules of this package, that are imported after `code` ran."""
    told = "print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{told}"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.split()
    ours = {name for name in names if name.split(".")[0] == "orcheo_agentensor"}
    return {name.split(".")[0] for name in names}, ours


def test_importing_the_package_imports_nothing_else() -> None:
    packages, ours = imported("import orcheo_agentensor")
    assert ours == {"orcheo_agentensor", "orcheo_agentensor.lazy"}
    assert not packages & (HEAVY | {"typer", "rich"})


def test_help_imports_nothing_heavy() -> None:
    packages, ours = imported(HELP)
    assert "typer" in packages
    assert not packages & HEAVY
    light = ("cli", "display", "errors", "lazy", "logs", "media", "redaction")
    allowed = tuple(f"orcheo_agentensor.{name}" for name in light)
    assert not {name for name in ours - {"orcheo_agentensor"} if not name.startswith(allowed)}
