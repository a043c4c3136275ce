"""The bundled `langgraph.json`, and a server with the flags off."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from dev_server import ROOT, lay_out, running
from langgraph_sdk import Auth
from test_runs import EVALUATION, TRAINING

from orcheo_agentensor import Settings
from orcheo_agentensor.server import create_auth

GRAPHS = {"bare": "./served_graphs.py:bare", "echo": "./served_graphs.py:echo"}


def test_the_bundled_configuration_is_valid() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_cli", "validate", "-c", str(ROOT / "langgraph.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_with_the_flags_off_a_server_is_bare(tmp_path: Path) -> None:
    tokens = [{"sha256": hashlib.sha256(b"key").hexdigest(), "identity": "ana"}]
    folder = lay_out(tmp_path, graphs=GRAPHS, env={})
    (folder / "data").mkdir()
    cases = [{"id": "a", "inputs": {"kind": "card"}, "expected_output": {"answer": "card"}}]
    (folder / "data" / "cases.json").write_text(json.dumps(cases))
    environment = {
        "AGENTENSOR_AUTH_TOKENS": json.dumps([{**tokens[0], "scopes": ["run", "train"]}]),
        "AGENTENSOR_DATASET_DIR": str(folder / "data"),
        "AGENTENSOR_DEV_SERVER": "false",
    }
    with running(folder, environment=environment) as server:
        key = {"authorization": "Bearer key"}
        with httpx.Client(base_url=server.url, headers=key, timeout=None) as http:
            odd: dict[str, Any] = {"oddity": 1, "configurable": {"agentensor": {"x": 99}}}
            using: dict[str, Any] = {"configurable": {"agentensor": {"use": 99}}}
            for graph in GRAPHS:
                body = {"assistant_id": graph, "input": {}, "config": odd}
                answer = http.post("/runs/wait", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["one"]["agentensor"] == {"x": 99}
                refused = http.post("/runs/wait", json={**body, "config": using})
                assert refused.status_code == 422
                assert "runnable_config_enabled is off" in refused.text
            answer = http.post("/runs/wait", json={"assistant_id": "training", "input": TRAINING})
            assert answer.status_code == 403
            assert answer.json()["error"]["type"] == "Forbidden"
            inside = {**EVALUATION, "dataset": "cases.json"}
            answer = http.post("/runs/wait", json={"assistant_id": "evaluation", "input": inside})
            assert answer.json()["summary"]["n_ok"] == 1
            outside = {**EVALUATION, "dataset": {"path": "../langgraph.json"}}
            answer = http.post("/runs/wait", json={"assistant_id": "evaluation", "input": outside})
            assert "AGENTENSOR_DATASET_DIR" in answer.text


async def test_without_tokens_only_the_development_set_up_is_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    let_in = create_auth(Settings(dev_server=True))._authenticate_handler
    assert let_in is not None
    assert (await let_in(headers={}))["identity"] == "local"
    keep_out = create_auth(Settings(dev_server=False))._authenticate_handler
    assert keep_out is not None
    assert "nobody is let in" in caplog.text
    for given in ({}, *({b"authorization": value} for value in (b"", b"Bearer ", b"Bearer x"))):
        with pytest.raises(Auth.exceptions.HTTPException) as caught:
            await keep_out(headers=given)
        assert caught.value.status_code == 401


async def test_a_cron_may_run_while_a_token_of_its_owner_may() -> None:
    """The server hands on the identity alone when a cron fires."""
    token = {"sha256": "0" * 64, "identity": "ana", "scopes": ["run"]}
    own = create_auth(Settings(auth_tokens=[token]))._global_handlers[0]  # type: ignore[list-item]
    for name, permissions, may in (("ana", (), True), ("ben", (), False)):
        context = Auth.types.AuthContext(
            user=SimpleNamespace(identity=name),
            permissions=permissions,
            resource="threads",
            action="create_run",
        )
        if may:
            assert await own(context, {}) == {"owner": name}
            continue
        with pytest.raises(Auth.exceptions.HTTPException):
            await own(context, {})
