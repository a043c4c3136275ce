"""These tests drive the evaluators of other packages (`make compat`); without them they are not
collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from simulated_judge import OpenAIShaped, openai_shaped

collect_ignore_glob = [] if find_spec("openevals") and find_spec("trulens") else ["test_*.py"]

# Before the packages are imported: no telemetry, no tracing, nothing kept outside this machine.
os.environ |= {
    "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
    "LANGSMITH_ENDPOINT": "http://127.0.0.1:9",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRACKING_URI": "sqlite://",
    "OPENAI_API_KEY": "nobody",
    "OPIK_TRACK_DISABLE": "true",
    "RAGAS_DO_NOT_TRACK": "true",
}


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIShaped]:
    """An OpenAI-shaped server that judges; clients find it by OpenAI's own variables."""
    with openai_shaped() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        yield server
