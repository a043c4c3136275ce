"""`agentensor workflows`: flags, defaults and owners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from orcheo_agentensor.cli.app import app


def test_what_is_set_is_listed(tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "a.db"), "--json"]

    def call(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["workflows", *words, *store])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if done.stdout.strip() else None

    file = tmp_path / "defaults.yaml"
    file.write_text("tags: [ours]\n")
    call("flag", "w", "agent_trainer_enabled", "off")
    call("defaults", "w", str(file), "--actor", "ana")
    call("owner", "w", "ana")
    [found] = call("list")["workflows"]
    assert found["owner"] == "ana"
    assert found["default_config"] == {"tags": ["ours"]}
    assert found["feature_flags"] == {"agent_trainer_enabled": False}
    call("flag", "w", "agent_trainer_enabled", "unset")
    call("owner", "w", "none")
    [found] = call("list")["workflows"]
    assert (found["owner"], found["feature_flags"]) == (None, {})
    file.write_text("tgas: [ours]\n")
    call("defaults", "w", str(file), code=2)
