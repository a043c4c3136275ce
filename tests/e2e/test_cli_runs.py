"""`agentensor runs show`: the cases of a run, picked by how they ended."""

from __future__ import annotations

import signal
from typing import Any

import httpx
import pytest
from cli_support import Project, cases, evaluation_job, wait_until

CASES = [
    {
        "id": word,
        "inputs": {"id": word, "word": word},
        "expected_output": {"label": "known"},
        "metadata": {"lang": "en"},
    }
    for word in ("w0", "w1", "w2", "w3", "crash")
]


@pytest.fixture
def evaluated(project: Project) -> Project:
    """A project with a run `r`: two cases pass, two do not, one breaks."""
    project.write("evaluate.yaml", evaluation_job(dataset=CASES, min_coverage=0.5))
    project.call("evaluate", "evaluate.yaml", "--run-id", "r")
    return project


def ids(project: Project, *filters: str) -> list[str]:
    """The cases that a filter shows, in order."""
    return [case["case_id"] for case in project.ok("runs", "show", "r", *filters)["cases"]]


def test_failed_means_not_passed_and_errors_what_broke(evaluated: Project) -> None:
    assert ids(evaluated, "--cases") == ["crash", "w0", "w1", "w2", "w3"]
    assert ids(evaluated, "--failed") == ["crash", "w2", "w3"]
    assert ids(evaluated, "--errors") == ["crash"]
    assert ids(evaluated, "--worst", "2") == ["crash", "w2"]
    assert ids(evaluated, "--where", "right<0.5") == ["w2", "w3"]
    assert ids(evaluated, "--where", "right>=0.5", "--failed") == []
    shown = evaluated.call("runs", "show", "r", "--failed", "--limit", "2").stdout
    for text in ("crashed on purpose", '"word": "w2"', '{"label": "unknown"}', "2 of 3 shown"):
        assert text in shown
    none = evaluated.call("runs", "show", "r", "--where", "right>1").stdout
    assert "no case of run r is like that; --cases shows all" in none


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        (["--where", "tone<0.5"], "run 'r' has no score of 'tone'; it has: right"),
        (["--where", "right"], "--where: 'right' must be EVALUATOR, one of"),
        (["--case", "nope"], "run 'r' has no rollout of case nope"),
        (["--case", "w0", "--failed"], "leave the other filters out"),
    ],
)
def test_a_filter_that_names_nothing_ends_with_two(
    evaluated: Project, filters: list[str], told: str
) -> None:
    said = evaluated.refused("runs", "show", "r", *filters)
    assert told in " ".join(said.split())


def test_a_case_is_shown_with_its_path_messages_and_tool_calls(project: Project) -> None:
    case: dict[str, Any] = {"id": "a", "inputs": {"question": "where is it?"}}
    job = evaluation_job(
        target="shopflow:assistant",
        dataset=[{**case, "expected_output": {"reply": "Hi, where is it?"}}],
        evaluators=[{"type": "contains", "value": "parcel"}],
        prompts={"greeting": "Hi"},
    )
    project.write("evaluate.yaml", job)
    project.call("evaluate", "evaluate.yaml", "--run-id", "taped", "--tape")
    shown = project.call("runs", "show", "taped", "--case", "a").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "node 1 look, reads greeting" in lines
    assert "node 2 answer" in lines
    assert 'assistant calls track({"id": 7})' in lines
    assert "tool parcel 7 is in Utrecht" in lines
    assert 'tool call track({"id": 7})' in lines
    [found] = project.ok("runs", "show", "taped", "--case", "a")["cases"]
    assert [node["prompts"] for node in found["nodes"]] == [["greeting"], []]
    assert found["trace_id"] in shown
    project.call("evaluate", "evaluate.yaml", "--run-id", "plain")
    assert "evaluate with --tape" in project.call("runs", "show", "plain", "--case", "a").stdout


def test_the_pages_are_served_to_who_has_the_address_and_end_with_a_signal(
    evaluated: Project,
) -> None:
    process = evaluated.start("view", "--port", "0")
    try:
        wait_until(lambda: "#key=" in (evaluated.folder / "stdout").read_text())
        url, _, key = (evaluated.folder / "stdout").read_text().strip().partition("/#key=")
        page = httpx.get(f"{url}/agentensor/v1/runs/r", headers={"x-agentensor-key": key})
        assert page.json()["status"] == "finished"
        assert httpx.get(f"{url}/agentensor/v1/runs/r").status_code == 401
        port = url.rpartition(":")[2]
        told = evaluated.refused("view", "--port", port)
        assert f"--port {port}: cannot be used" in told
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode in (0, 130)
    assert "Traceback" not in evaluated.said()


def test_without_a_store_there_is_nothing_to_serve(project: Project) -> None:
    assert "there is no store at" in project.refused("view", "--port", "0")


def test_with_a_cache_only_what_is_new_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))

    def executed(**fields: Any) -> int:
        before = len(project.executions())
        project.write("evaluate.yaml", evaluation_job(cache=True, **fields))
        result = project.call("evaluate", "evaluate.yaml", "-q")
        assert result.exit_code == 0, result.output
        return len(project.executions()) - before

    assert executed(dataset=cases(8)) == 8
    assert executed(dataset=cases(8)) == 0
    assert executed(dataset=cases(10)) == 2
    assert executed(dataset=cases(8), prompts={"words": "w0"}) == 8
    assert executed(dataset=cases(10)) == 0  # of an earlier run than the last
    assert executed(dataset=cases(8), workflow_id="another") == 8
    plan = project.ok("evaluate", "evaluate.yaml", "--dry-run")["expected"]
    assert (plan["rollouts"], plan["calls"], plan["tokens"], plan["cost"]) == (8, 0, 0, 0.0)
    assert plan["by"] == project.ok("runs", "list", "--workflow", "another")["runs"][0]["run_id"]
    code = project.folder / "shopflow.py"
    code.write_text(code.read_text().replace('"unknown"', '"not known"'))
    before = len(project.executions())  # in a process of its own, which imports the changed code
    assert project.start("evaluate", "evaluate.yaml", "-q").wait() == 0, project.said()
    assert len(project.executions()) == before + 8
