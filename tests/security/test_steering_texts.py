"""Characters that steer a terminal or mislead a reader come out of no door as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from orcheo_agentensor.cli.app import app

STEERING = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "C1 controls": "\x9b31m\x85\x90",
    "DEL and backspace": "\x7f\x08",
    "bidirectional": "\u202a\u202e\u2066\u2067\u2069\u200e\u200f\u061c",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f",
    "line separators": "\u2028\u2029",
    "tags": "\U000e0041\U000e007f",
}
HOSTILE = "begin " + " ".join(STEERING.values()) + " end"
RAW = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e0fff]"
)
MODULE = f"""
from orcheo_agentensor import get_prompt

HOSTILE = {HOSTILE!r}

def answer(inputs, config):
    if inputs == "crash":
        raise ValueError(HOSTILE)
    return HOSTILE + get_prompt("tone", config)

def right(outputs):
    return {{"score": float("better" in str(outputs)), "comment": HOSTILE}}

class Teacher:
    async def propose(self, request):
        return {{one.name: one.text + " better ``` " + HOSTILE for one in request.components}}
"""


def raw(text: str) -> str:
    """What of `text` is not neutralised."""
    return "".join(RAW.findall(text))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command in a folder whose workflow, cases, prompt and proposals are all hostile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "steering_flow")
    Path("steering_flow.py").write_text(MODULE)
    cases = [
        {"id": f"{split}{n}", "inputs": f"{split} {n} {HOSTILE}", "expected_output": HOSTILE}
        | {"split": split, "metadata": {"note": HOSTILE}}
        for split in ("train", "validation", "holdout")
        for n in range(4)
    ]
    cases[0]["inputs"] = "crash"
    job = {
        "target": "steering_flow:answer",
        "workflow_id": "w",
        "dataset": {"cases": cases, "metadata": {"about": HOSTILE}},
        "evaluators": ["steering_flow:right"],
        "prompts": {"tone": HOSTILE},
        "limits": {"retries": 0},
    }
    Path("evaluate.json").write_text(json.dumps(job))
    training = {"optimizer": {"name": "textgrad", "proposer": "steering_flow:Teacher"}}
    training["budget"] = {"rollouts": 60}  # type: ignore[dict-item]
    Path("train.json").write_text(json.dumps(job | training))
    return lambda *arguments: CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def test_no_command_prints_what_steers_a_terminal(call: Callable[..., Any]) -> None:
    """Tables, progress, questions and diffs; with `--json`, the texts read back as they were."""
    commands = [
        ["evaluate", "evaluate.json", "--run-id", "e"],
        ["train", "train.json", "--run-id", "t"],
        ["runs", "show", "e", "--cases"],
        ["runs", "show", "t"],
        ["checkpoints", "list", "w"],
        ["checkpoints", "show", "w", "best"],
        ["checkpoints", "diff", "w", "1", "best"],
        ["compare", "w@1", "w@best"],
    ]
    said = ""
    for command in commands:
        result = call(*command)
        assert result.exit_code in (0, 1), (command, result.output)
        assert raw(result.output) == "", command
        said += result.output
    assert "begin \N{REPLACEMENT CHARACTER}[2J" in said
    result = call("checkpoints", "show", "w", "1", "--json")
    assert raw(result.stdout) == ""
    assert HOSTILE in _texts(json.loads(result.stdout))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]


def test_no_report_holds_what_misleads_its_reader(call: Callable[..., Any]) -> None:
    for mode, run in (("evaluate", "e"), ("train", "t")):
        assert call(mode, f"{mode}.json", "--run-id", run).exit_code in (0, 1)
        for suffix in ("html", "md", "xml", "json"):
            result = call("report", run, "--output", f"{run}.{suffix}")
            assert result.exit_code == 0, result.output
            text = Path(f"{run}.{suffix}").read_text()
            assert raw(text) == "", (run, suffix)
            assert "begin" in text or (run, suffix) == ("t", "xml")  # it tells of failures only
        ElementTree.parse(f"{run}.xml")
        json.loads(Path(f"{run}.json").read_text())
    fences = [line for line in Path("t.md").read_text().splitlines() if "```" in line]
    assert [line.strip() for line in fences] == ["```diff", "```"]


@pytest.mark.parametrize("kind", STEERING)
def test_an_error_shows_what_was_sent_without_its_effect(
    kind: str, call: Callable[..., Any]
) -> None:
    text = f"no {STEERING[kind]} such"
    job = json.loads(Path("evaluate.json").read_text())
    for change in (
        {"evaluators": [text]},
        {"prompts": {text: "x"}},
        {"dataset": {"id": text, "cases": [{"inputs": 1}]}},
        {"limits": {text: 1}},
        {text: 1},
    ):
        Path("bad.json").write_text(json.dumps({**job, **change}))
        for options in ([], ["--json"]):
            result = call("evaluate", "bad.json", *options)
            assert result.exit_code == 2, (change, result.output)
            assert raw(result.stdout + result.stderr) == "", change
    result = call("runs", "show", text)
    assert result.exit_code == 2
    assert raw(result.output) == ""
