"""Runs that are killed or stopped go on where they were, and repeat nothing that was recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_support import Project, evaluation_job, make_project, steady, training_job, wait_until

from orcheo_agentensor.storage import Store


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return make_project(tmp_path / "first")


def recorded(project: Project, run_id: str) -> list[tuple[str, str]]:
    """Case and prompt set of every rollout in the ledger."""

    async def read() -> list[tuple[str, str]]:
        async with Store.from_url(f"sqlite:///{project.database}") as store:
            rows = await store.runs.case_rows(run_id, limit=None)
            return [(row.rollout.case_id, row.rollout.candidate_hash) for row in rows]

    return asyncio.run(read())


def count_recorded(project: Project) -> int:
    """How many rollouts are committed, whatever the run; cheap enough to poll."""
    with contextlib.closing(sqlite3.connect(project.database)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM agentensor_rollouts").fetchone()
    return int(count)


def versions(project: Project, workflow_id: str = "shop") -> list[Any]:
    """Every version with what does not depend on time or on the run's id."""
    listed = project.ok("checkpoints", "list", workflow_id)["versions"]
    numbers = sorted(version["config_version"] for version in listed)
    return [steady(project.ok("checkpoints", "show", workflow_id, str(n))) for n in numbers]


def unfinish(project: Project, run_id: str, **defaults: Any) -> None:
    """Take a run back to where it was interrupted at its end; `defaults` become the workflow's."""

    async def work() -> None:
        async with Store.from_url(f"sqlite:///{project.database}") as store:
            run = await store.runs.get(run_id)
            await store.runs.update(run_id, status="interrupted", result=None, ended_at=None)
            if defaults:
                await store.workflows.set_defaults(run.workflow_id, defaults, actor="ann")

    asyncio.run(work())


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_finished_run_that_met_an_outage_is_repaired(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = project.folder / "outage"
    project.write(
        "outage.py",
        "import shopflow\n"
        "from pathlib import Path\n"
        "async def answer(inputs, config):\n"
        f"    if Path({str(outage)!r}).exists() and inputs['id'] in ('c1', 'c2'):\n"
        "        raise ConnectionResetError('reset by peer')\n"
        "    return await shopflow.answer(inputs, config)\n",
    )
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow,outage")
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    project.write("shaky.yaml", evaluation_job(target="outage:answer"))
    outage.touch()
    project.refused("evaluate", "shaky.yaml", "--run-id", "r", code=1)
    assert len(project.executions()) == 34
    outage.unlink()
    project.refused("resume", "r", code=1)  # unasked, the result stands
    assert len(project.executions()) == 34
    found = project.ok("resume", "r", "--retry-failed")
    assert found["summary"]["coverage"] == 1.0
    assert sorted(case for case, _ in project.executions()[34:]) == ["c1", "c2"]
    assert "0 failed rollouts" in project.call("resume", "r", "--retry-failed").stderr
    assert len(project.executions()) == 36
    assert "leave --approve and --reject out" in project.refused(
        "resume", "r", "--retry-failed", "--approve"
    )


@pytest.mark.requirement("durability.resume")
def test_a_killed_training_resumes_and_repeats_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 40
    held = {"SHOPFLOW_GATE": str(project.folder / "never"), "SHOPFLOW_FREE": str(free)}
    process = project.start("train", "train.yaml", "--run-id", "t", "--quiet", **held)
    try:
        wait_until(lambda: len(project.executions()) > free)
        wait_until(lambda: count_recorded(project) >= free)
    finally:
        stop(process)
    before = recorded(project, "t")
    started = len(project.executions())
    assert started - 4 <= len(before) <= started

    monkeypatch.chdir("/")  # the modules are found where the job file was
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    project.store = f"sqlite:///{project.database}"
    found = project.ok("resume", "t")
    assert found["status"] == "finished"
    assert found["best"]["objective"] == 1.0
    after = recorded(project, "t")
    assert len(set(after)) == len(after) == found["usage"]["rollouts"]
    assert set(before) <= set(after)
    # What was in flight when the process died may run once more; what was recorded may not.
    twice = [pair for pair, times in Counter(project.executions()).items() if times > 1]
    assert len(twice) <= 4
    assert len(project.executions()) - len(after) == started - len(before)

    other = make_project(project.folder.parent / "second")
    monkeypatch.chdir(other.folder)
    whole = other.ok("train", "train.yaml", "--run-id", "t")
    assert versions(project) == versions(other)
    assert steady(whole) == steady(found)


def test_the_same_job_gives_the_same_versions_on_postgresql(
    project: Project, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    here = project.ok("train", "train.yaml", "--run-id", "same")
    there = Project(project.folder, store=postgres_url)
    assert there.ok("runs", "list")["runs"] == []
    found = there.ok("train", "train.yaml", "--run-id", "same")
    assert steady(found) == steady(here)
    assert versions(there) == versions(project)
    assert there.ok("checkpoints", "promote", "shop", "best")["to_version"] == 4
    assert there.ok("db", "current")["revision"] == project.ok("db", "current")["revision"]
    assert there.ok("resume", "same") == found


def test_the_first_signal_lets_cases_in_flight_finish(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = project.folder / "gate"
    process = project.start("evaluate", "evaluate.yaml", "--run-id", "e", SHOPFLOW_GATE=str(gate))
    try:
        wait_until(lambda: len(project.executions()) == 4)
        monkeypatch.chdir(project.folder)
        for again in (["resume", "e"], ["evaluate", "evaluate.yaml", "--run-id", "e"]):
            assert "being worked on" in project.refused(*again, code=3)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "stopping" in project.said())
        gate.touch()
        assert process.wait() == 130
    finally:
        stop(process)
    assert "agentensor resume e" in project.said()
    assert "Traceback" not in project.said()
    assert len(recorded(project, "e")) == len(project.executions()) == 4
    assert project.ok("runs", "show", "e")["status"] == "interrupted"
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    found = project.ok("resume", "e", "--min-score", "0.5")
    assert found["summary"]["objective"] == 0.5
    assert len(project.executions()) == 36


def test_the_second_signal_cancels(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"SHOPFLOW_GATE": str(project.folder / "never"), "SHOPFLOW_FREE": "20"}
    process = project.start("train", "train.yaml", "--run-id", "t", "--json", **held)
    try:
        wait_until(lambda: len(project.executions()) >= 22)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in project.said())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 130
    finally:
        stop(process)
    document = json.loads((project.folder / "stdout").read_text())
    assert document == {
        "run_id": "t",
        "status": "interrupted",
        "resume": "agentensor resume t",
        "exit_code": 130,
    }
    monkeypatch.chdir(project.folder)
    assert project.ok("runs", "show", "t")["status"] == "interrupted"
    assert project.ok("resume", "t")["best"]["objective"] == 1.0


def test_a_run_started_in_process_says_where_to_resume_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orcheo_agentensor import evaluate

    monkeypatch.chdir(project.folder)
    evaluate(
        lambda inputs: inputs,
        dataset=[{"id": "a", "inputs": 1, "expected_output": 1}],
        evaluators=["exact_match"],
        store=f"sqlite:///{project.database}",
        run_id="live",
    )
    unfinish(project, "live")
    assert "started in process with its own target" in project.refused("resume", "live")


def test_a_job_with_secrets_is_resumed_by_submitting_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    config = {"configurable": {"api_key": "sk-abcdefghijklmnop1234567890"}}
    project.write("secret.yaml", evaluation_job(config=config))
    result = project.call("evaluate", "secret.yaml", "--run-id", "s", "--json")
    assert result.exit_code == 0, result.output
    assert "sk-abc" not in result.output
    assert "sk-abc" not in json.dumps(project.ok("runs", "show", "s"))
    unfinish(project, "s")
    assert "had secrets in its job" in project.refused("resume", "s")
    assert project.ok("evaluate", "secret.yaml", "--run-id", "s")["status"] == "finished"


def test_another_seed_is_another_job(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    project.write("short.yaml", training_job(stop=[{"type": "max_steps", "steps": 0}]))
    project.ok("train", "short.yaml", "--run-id", "t")
    assert "another job" in project.refused("train", "short.yaml", "--run-id", "t", "--seed", "5")
    message = project.refused("train", "short.yaml", "--run-id", "t", "--seed", "5", "--dry-run")
    assert "another job" in message


def test_an_alias_that_moves_leaves_a_run_on_its_version(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    project.ok("train", "train.yaml")
    promote = ("checkpoints", "promote", "shop")
    project.ok(*promote, "1")
    job = ("evaluate", "train.yaml", "--checkpoint", "production", "--run-id", "e")
    first = project.ok(*job)
    assert first["summary"]["objective"] == 0.25
    unfinish(project, "e")
    project.ok(*promote, "4")
    executed = len(project.executions())
    again = project.ok("resume", "e")
    assert again == first
    assert len(project.executions()) == executed
    assert "another job" in project.refused(*job)
    started = project.ok("train", "train.yaml", "--checkpoint", "3", "--run-id", "more")
    assert started["baseline"]["objective"] == 0.75


def test_a_job_that_has_changed_under_a_run_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    found = project.ok("evaluate", "evaluate.yaml", "--run-id", "e")
    unfinish(project, "e")
    assert project.ok("resume", "e") == found
    unfinish(project, "e", tags=["new"])
    told = project.refused("resume", "e")
    assert "config.resolved.tags (['new'], was None) have changed since it was started" in told


def test_changed_code_is_refused_unless_it_is_accepted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    monkeypatch.syspath_prepend(project.folder)
    monkeypatch.delitem(sys.modules, "shopflow", raising=False)  # that of another folder
    job = project.write("job.yaml", evaluation_job())
    run_id = project.ok("evaluate", str(job))["run_id"]
    unfinish(project, run_id)
    module = project.folder / "shopflow.py"
    module.write_text(module.read_text() + "\n# mended\n")
    for command in (["resume", run_id], ["evaluate", str(job), "--run-id", run_id]):
        assert "(shopflow)" in project.refused(*command)
    assert "(shopflow)" in project.refused("evaluate", str(job), "--reuse", run_id, "--dry-run")
    assert project.ok("resume", run_id, "--accept-drift")["run_id"] == run_id
    assert project.ok("evaluate", str(job), "--reuse", run_id)["usage"]["rollouts"] == 0
