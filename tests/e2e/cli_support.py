"""What the tests of the command line share: a small project, and ways to run commands in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from orcheo_agentensor.cli.app import app

HERE = Path(__file__).parent
SCRIPT = Path(sys.executable).with_name("agentensor")


@dataclass
class Project:
    """A folder with a workflow's module, a dataset and job files."""

    folder: Path
    store: str | None = None

    @property
    def log(self) -> Path:
        """Where the target notes its executions."""
        return self.folder / "executions.log"

    @property
    def database(self) -> Path:
        """The file of the default store."""
        return self.folder / ".agentensor" / "agentensor.db"

    def write(self, name: str, content: Any) -> Path:
        """A file: text as it is, anything else as YAML."""
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    def call(self, *arguments: str, input: str | None = None) -> Result:
        """Run a command in this process."""
        given = [*arguments, "--store", self.store] if self.store else [*arguments]
        return CliRunner().invoke(app, given, input=input, catch_exceptions=False)

    def ok(self, *arguments: str) -> Any:
        """Run a command with `--json` that must succeed; gives its document."""
        result = self.call(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, *arguments: str, code: int = 2) -> str:
        """Run a command that must end with `code`; gives what it says on stderr."""
        result = self.call(*arguments)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return str(result.stderr)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the console script; stderr goes to the file `stderr`, stdout to `stdout`."""
        with (self.folder / "stdout").open("w") as out, (self.folder / "stderr").open("w") as err:
            return subprocess.Popen(
                [str(SCRIPT), *arguments],
                cwd=self.folder,
                env={**os.environ, "SHOPFLOW_LOG": str(self.log), **environment},
                stdout=out,
                stderr=err,
                text=True,
            )

    def said(self) -> str:
        """What the started command has written to stderr so far."""
        return (self.folder / "stderr").read_text()

    def executions(self) -> list[tuple[str, str]]:
        """Case and prompt of every execution of the target, in order."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


def make_project(folder: Path) -> Project:
    """A project with `evaluate.yaml`, `train.yaml` and `words.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project(folder)
    shutil.copy(HERE / "shopflow.py", folder)
    project.write("words.jsonl", "".join(json.dumps(case) + "\n" for case in cases()))
    project.write("evaluate.yaml", evaluation_job())
    project.write("train.yaml", training_job())
    return project


def cases(count: int = 36) -> list[dict[str, Any]]:
    """Cases over four words, in three splits."""
    splits = ("train", "validation", "holdout")
    return [
        {
            "id": f"c{n}",
            "inputs": {"id": f"c{n}", "word": f"w{n % 4}"},
            "expected_output": {"label": "known"},
            "split": splits[n // 4 % 3],
        }
        for n in range(count)
    ]


def evaluation_job(**fields: Any) -> dict[str, Any]:
    """An evaluation of the target with a prompt that knows two of the four words."""
    return {
        "target": "shopflow:answer",
        "workflow_id": "shop",
        "dataset": {"path": "words.jsonl"},
        "evaluators": ["shopflow:right"],
        "prompts": {"words": "w0 w1"},
        "limits": {"concurrency": 4, "retries": 0},
        **fields,
    }


def training_job(**fields: Any) -> dict[str, Any]:
    """A training that teaches the target all four words."""
    return {
        **evaluation_job(
            prompts={"words": "w0", "rules": {"text": "never change", "requires_grad": False}}
        ),
        "optimizer": {"name": "textgrad", "minibatch": 4, "proposer": "shopflow:Teacher"},
        "budget": {"rollouts": 200},
        "stop": [{"type": "target_score", "score": 1.0}],
        "seed": 1,
        **fields,
    }


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; in vain, until the test's time is up."""
    while not condition():
        time.sleep(0.01)


def steady(document: Any) -> Any:
    """A document without what a clock or chance decides."""
    measured = ("latency_ms", "created_at", "id", "sla", "langgraph", "blocked")
    if isinstance(document, dict):
        return {key: steady(value) for key, value in document.items() if key not in measured}
    return [steady(entry) for entry in document] if isinstance(document, list) else document
