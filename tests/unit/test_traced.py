"""A run of the shell has a LangSmith project of its own."""

from __future__ import annotations

import pytest
from langsmith.run_helpers import get_tracing_context
from langsmith.utils import get_env_var

from orcheo_agentensor.cli.execution import traced_as


@pytest.mark.parametrize(
    ("tracing", "project", "found"),
    [("true", None, "agentensor r"), ("true", "mine", None), ("false", None, None)],
)
def test_a_traced_run_has_its_own_project_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tracing: str, project: str | None, found: str | None
) -> None:
    for prefix in ("LANGSMITH", "LANGCHAIN"):
        monkeypatch.delenv(f"{prefix}_PROJECT", raising=False)
        monkeypatch.delenv(f"{prefix}_TRACING_V2", raising=False)
        monkeypatch.setenv(f"{prefix}_TRACING", tracing)
    if project is not None:
        monkeypatch.setenv("LANGSMITH_PROJECT", project)
    get_env_var.cache_clear()
    try:
        with traced_as("r"):
            assert get_tracing_context()["project_name"] == found
        assert get_tracing_context()["project_name"] is None
    finally:
        get_env_var.cache_clear()
