"""Logs in JSON: what a run writes to stderr, line by line."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from cli_support import Project, cases, evaluation_job

from orcheo_agentensor.logs import JsonFormatter, configure_logging

LOUD = '''
import logging
import warnings

from shopflow import right


async def answer(inputs):
    """Says too much, and fails on one case."""
    logging.getLogger("loud").warning("asked with password=%s", "hunter22-secret")
    if inputs["id"] == "c1":
        warnings.warn("a line\\nand another", stacklevel=1)
        raise ValueError("no answer for api_key=sk-live-1234567890abcdef")
    return {"label": "known"}
'''


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_log_in_json_has_a_line_each_with_the_ids_and_no_secrets(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("loud.py", LOUD)
    dataset = cases(3)
    project.write("loud.yaml", evaluation_job(target="loud:answer", dataset=dataset, prompts={}))
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "loud,shopflow")
    monkeypatch.setenv("AGENTENSOR_LOG_FORMAT", "json")
    said = project.call("evaluate", "loud.yaml", "--run-id", "r1").stderr
    assert "hunter22" not in said
    assert "sk-live" not in said
    found = lines_of(said)
    assert all({"time", "level", "logger", "message", "run_id"} <= line.keys() for line in found)
    assert {line["run_id"] for line in found} == {"r1"}
    assert next(line["event"] for line in found if "event" in line) == "run_started"
    assert found[-1]["event"] == "run_finished"
    asked = [line for line in found if line["logger"] == "loud"]
    assert {line["case_id"] for line in asked} == {"c0", "c1", "c2"}
    assert asked[0]["message"] == "asked with password=[redacted]"
    (failed,) = [line for line in found if line.get("event") == "case_finished"]
    assert (failed["level"], failed["case_id"]) == ("warning", "c1")
    assert "no answer for api_key=[redacted]" in failed["message"]
    assert failed["data"]["target_failure"]["kind"] == "exception"
    (warned,) = [line for line in found if line["logger"] == "py.warnings"]
    assert "a line\nand another" in warned["message"]

    (refused,) = lines_of(project.refused("evaluate", "none.yaml"))
    assert (refused["level"], "run_id" in refused) == ("error", False)
    assert "none.yaml: cannot be read" in refused["message"]

    monkeypatch.setenv("AGENTENSOR_LOG_LEVEL", "debug")
    project.write("loud.yaml", evaluation_job(target="loud:answer", dataset=cases(4), prompts={}))
    found = lines_of(project.call("evaluate", "loud.yaml").stderr)
    finished = [line for line in found if line.get("event") == "case_finished"]
    assert sorted(line["level"] for line in finished) == ["debug", "debug", "debug", "warning"]

    monkeypatch.setenv("AGENTENSOR_LOG_FORMAT", "jsn")
    assert "AGENTENSOR_LOG_FORMAT: 'jsn'" in project.refused("evaluate", "loud.yaml")
    monkeypatch.delenv("AGENTENSOR_LOG_FORMAT")
    assert "4/4 cases" in project.call("evaluate", "loud.yaml").stderr


def test_the_handlers_of_a_server_get_the_format_and_what_structlog_hands_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(written)])
    ours = logging.getLogger("orcheo_agentensor")
    level = ours.level
    try:
        configure_logging("json", level="error")
        told = {"event": "POST /runs 200", "request_id": "q", "authorization": "Bearer abc"}
        logging.getLogger("some.server").warning(told)
        ours.warning("left out")
        try:
            raise ValueError("password=hunter22")
        except ValueError:
            ours.exception("broken %d and %d", 1)  # arguments that do not fit
    finally:
        ours.setLevel(level)
        logging.captureWarnings(False)
    request, broken = lines_of(written.getvalue())
    assert request["message"] == "POST /runs 200"
    assert request["data"] == {"request_id": "q", "authorization": "[redacted]"}
    assert broken["message"] == "broken %d and %d (1,)"
    assert broken["error"].endswith("ValueError: password=[redacted]")


@pytest.mark.parametrize("odd", [float("nan"), {1: object()}, "\udc80\u202e\n", {"a": {2, 3}}])
def test_whatever_is_logged_is_one_line_of_json(odd: Any) -> None:
    record = logging.makeLogRecord({"name": "shop", "msg": {"event": odd, "more": odd}})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    line.encode()
    assert json.loads(line, parse_constant=pytest.fail)["logger"] == "shop"
