"""One dev server with the tokens of two tenants, for the attacks that need a real one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "server"))

from dev_server import ROOT, Served, lay_out, running  # noqa: E402
from leaky import ENVIRONMENT  # noqa: E402

TOKENS = {
    "canary-token-of-ana": ("ana", ["run", "train", "promote"]),
    "canary-token-of-ben": ("ben", ["run", "train", "promote"]),
    "canary-token-of-nobody": ("nobody", []),
}


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that `make serve` starts, with tokens, and with secrets in its environment."""
    tokens: list[dict[str, Any]] = [
        {
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "identity": identity,
            "scopes": scopes,
        }
        for token, (identity, scopes) in TOKENS.items()
    ]
    environment = {
        **ENVIRONMENT,
        "AGENTENSOR_AUTH_TOKENS": json.dumps(tokens),
        "AGENTENSOR_ALLOWED_MODULES": "served_workflows,leaky",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "server"), str(ROOT)]),
    }
    graphs = {name: f"./served_graphs.py:{name}" for name in ("echo", "context")}
    folder = lay_out(tmp_path_factory.mktemp("guarded"), graphs=graphs)
    with running(folder, environment=environment) as server:
        yield server
