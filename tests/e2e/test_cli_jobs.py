"""`evaluate`, `train`, `run` and what their options do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import Project, evaluation_job, make_project, steady, training_job

from orcheo_agentensor import Manifest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    made = make_project(tmp_path)
    monkeypatch.setenv("SHOPFLOW_LOG", str(made.log))
    return made


@pytest.mark.requirement("door.shell")
def test_evaluate_prints_scores_and_what_to_do_next(project: Project) -> None:
    result = project.call("evaluate", "evaluate.yaml", "--run-id", "first")
    assert result.exit_code == 0, result.output
    for text in ("right", "0.500", "50.0%", "coverage 100.0% of 36 cases", "p95", "run first"):
        assert text in result.stdout
    assert "agentensor runs show first --cases" in result.stdout
    assert "36/36 cases, score 0.500, 0 failed" in result.stderr
    assert len(project.executions()) == 36


def test_evaluate_json_is_one_document_and_stderr_is_silent(project: Project) -> None:
    result = project.call("evaluate", "evaluate.yaml", "--json")
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    assert result.stderr == ""
    assert document["status"] == "finished"
    assert document["exit_code"] == 0
    assert document["summary"]["objective"] == 0.5
    assert document["summary"]["evaluators"]["right"]["mean"] == 0.5


def test_a_known_run_id_repeats_nothing(project: Project) -> None:
    first = project.ok("evaluate", "evaluate.yaml", "--run-id", "once")
    again = project.ok("evaluate", "evaluate.yaml", "--run-id", "once")
    assert first == again
    assert len(project.executions()) == 36
    assert "another job" in project.refused(
        "evaluate", "evaluate.yaml", "--run-id", "once", "--split", "train"
    )


def test_reuse_takes_recorded_rollouts(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "one")
    found = project.ok("evaluate", "evaluate.yaml", "--reuse", "one")
    assert found["usage"]["rollouts"] == 0
    assert found["summary"]["objective"] == 0.5
    assert len(project.executions()) == 36


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (["0.5"], 0),
        (["0.51"], 1),
        (["right=0.5", "0.2"], 0),
        (["0.2", "right=0.9"], 1),
    ],
)
@pytest.mark.requirement("door.shell")
def test_min_score_gates(project: Project, gates: list[str], code: int) -> None:
    options = [part for gate in gates for part in ("--min-score", gate)]
    result = project.call("evaluate", "evaluate.yaml", "--json", *options)
    assert result.exit_code == code
    document = json.loads(result.stdout)
    assert document["exit_code"] == code
    assert all(gate["met"] for gate in document["gates"]) == (code == 0)


@pytest.mark.requirement("kpi.stats", "kpi.valid-runs")
def test_stats_add_up_runs(project: Project) -> None:
    words = ("w0", "w1", "crash", "crash")
    cases = [
        {"id": f"{n}", "inputs": {"id": f"{n}", "word": word}, "expected_output": {}}
        for n, word in enumerate(words)
    ]
    job = evaluation_job(
        dataset=cases,
        evaluators=["json_valid"],
        limits={"case_sla_ms": 500, "retries": 0},
        min_coverage=0.5,
        config={"tags": ["nightly"]},
    )
    project.write("stats.yaml", job)
    assert project.call("evaluate", "stats.yaml").exit_code == 0
    found = project.ok("stats", "shop", "--since", "1d")
    assert found["runs"] == {
        "total": 1,
        "by_mode": {"evaluate": 1},
        "by_status": {"finished": 1},
    }
    assert found["config_applied"] == {"runs": 1, "applied": 1, "share": 1.0, "goal": 0.99}
    assert found["sla"] == {"cases": 4, "within": 2, "share": 0.5}
    assert found["failures"] == {"target": {"exception": 2}, "evaluator": {}}
    assert found["throughput"]["rollouts"] == 4
    assert project.ok("stats", "--since", "2999-01-01")["runs"]["total"] == 0
    assert project.ok("stats", "other")["config_applied"]["share"] is None
    text = project.call("stats").stdout
    assert "50.0% of 4 cases within" in text
    assert "--since" in project.refused("stats", "--since", "yesterday")


def test_a_flag_that_is_off_refuses_training_and_an_operator_may_override_it(
    project: Project,
) -> None:
    project.ok("workflows", "flag", "shop", "agent_trainer_enabled", "off")
    assert "agent_trainer_enabled" in project.refused("train", "train.yaml", "--run-id", "no")
    assert not project.log.exists()
    found = project.ok("train", "train.yaml", "--run-id", "yes", "--override-flag")
    assert found["status"] == "finished"
    refs = project.ok("runs", "show", "yes")["refs"]
    assert refs["agent_trainer_enabled_overridden_by"]


@pytest.mark.requirement("kpi.phases")
def test_a_phase_sets_the_flags_of_a_workflow(project: Project) -> None:
    found = project.ok("workflows", "phase", "shop", "dev")
    assert found["feature_flags"] == {
        "phase": "dev",
        "agent_trainer_enabled": True,
        "runnable_config_enabled": False,
    }
    project.write("auto.yaml", training_job(promote="auto"))
    assert "job.promote" in project.refused("train", "auto.yaml")
    assert project.ok("workflows", "phase", "shop", "unset")["feature_flags"] == {}


def test_too_few_cases_within_the_sla_end_with_one(project: Project) -> None:
    cases = [
        {"id": word, "inputs": {"id": word, "word": word}, "expected_output": {"label": "known"}}
        for word in ("w0", "crash")
    ]
    limits = {"case_sla_ms": 500, "min_within_sla": 0.95, "retries": 0}
    project.write("sla.yaml", evaluation_job(dataset=cases, limits=limits, min_coverage=0.5))
    result = project.call("evaluate", "sla.yaml")
    assert result.exit_code == 1
    assert "50.0% of cases within 500 ms" in result.stdout
    assert "missed: SLA: 50.0% of the cases within 500 ms is below 95.0%" in result.stdout


def test_coverage_below_the_minimum_is_a_missed_threshold(project: Project) -> None:
    cases = [
        {"id": "a", "inputs": {"id": "a", "word": "w0"}, "expected_output": {"label": "known"}},
        {"id": "b", "inputs": {"id": "b", "word": "crash"}, "expected_output": {"label": "known"}},
    ]
    project.write("job.yaml", evaluation_job(dataset=cases))
    result = project.call("evaluate", "job.yaml", "--run-id", "half")
    assert result.exit_code == 1
    assert "coverage 50.0%" in result.stdout
    assert "missed: coverage: 0.500 is below 1.000" in result.stdout
    assert "runs show half --failed" in result.stdout
    shown = project.call("runs", "show", "half", "--failed")
    words = shown.stdout.split()  # the table may wrap
    assert {"crashed", "purpose"} <= set(words)
    assert project.ok("runs", "show", "half", "--failed")["cases"][0]["case_id"] == "b"
    project.write("job.yaml", evaluation_job(dataset=cases, min_coverage=0.5))
    assert project.call("evaluate", "job.yaml").exit_code == 0


def test_dry_run_shows_the_bindings_and_writes_nothing(project: Project) -> None:
    before = sorted(project.folder.iterdir())
    plan = project.ok("evaluate", "evaluate.yaml", "--dry-run", "--split", "train")
    assert plan["evaluators"][0]["binding"].startswith("langsmith: right(")
    assert plan["dataset"]["cases"] == 12
    unknown = {"calls": None, "tokens": None, "cost": None, "by": None}
    assert plan["expected"] == {"rollouts": 12, **unknown}
    plan = project.ok("train", "train.yaml", "--dry-run", "--seed", "9")
    assert plan["seed"] == 9
    assert plan["training"]["trainable"] == ["words"]
    result = project.call("train", "train.yaml", "--dry-run")
    assert "rules (frozen)" in result.stdout
    assert "nothing was written" in result.stdout
    project.write("greet.yaml", {"target": "shopflow:greeter", "prompts": {"greeting": "Hi"}})
    assert project.ok("run", "greet.yaml", "--dry-run")["workflow_id"] == "shopflow-greeter"
    (project.folder / "greet.yaml").unlink()
    assert sorted(project.folder.iterdir()) == before
    assert project.executions() == []


@pytest.mark.requirement("door.shell", "checkpoint.exact")
def test_train_stores_versions_that_evaluate_to_their_metrics(project: Project) -> None:
    result = project.call("train", "train.yaml", "--run-id", "t")
    assert result.exit_code == 0, result.output
    for text in ("holdout gain +0.7500", "decision: kept", "+w0 w", "target score 1 reached"):
        assert text in result.stdout
    assert "agentensor checkpoints promote shop" in result.stdout
    assert "new best" in result.stderr
    assert "/200 rollouts" in result.stderr

    best = project.ok("checkpoints", "show", "shop", "best")
    assert best["runnable_config"]["configurable"]["prompts"]["rules"]["text"] == "never change"
    measured = project.ok("evaluate", "train.yaml", "--checkpoint", "best", "--split", "validation")
    assert steady(measured["summary"]["evaluators"]) == steady(best["metrics"]["evaluators"])
    assert measured["summary"]["objective"] == best["metrics"]["objective"] == 1.0
    first = project.ok("evaluate", "train.yaml", "--checkpoint", "1", "--split", "validation")
    assert first["summary"]["objective"] == 0.25


def test_train_json_has_the_whole_result(project: Project) -> None:
    found = project.ok("train", "train.yaml", "--seed", "2", "--concurrency", "2")
    assert found["baseline"]["objective"] == 0.25
    assert found["best"]["objective"] == 1.0
    assert found["holdout"]["gain"] == 0.75
    assert found["decision"]["status"] == "kept"
    assert "+++ words (after)" in found["diff"]
    assert found["usage"]["rollouts"] == len(project.executions()) <= 200
    assert project.ok("runs", "show", found["run_id"])["seed"] == 2


def test_approval_is_asked_for_and_given(project: Project) -> None:
    project.write("ask.yaml", training_job(promote="ask"))
    result = project.call("train", "ask.yaml", "--run-id", "ask")
    assert result.exit_code == 0, result.output
    assert "Promote version" in result.stdout
    assert "agentensor resume ask --approve" in result.stdout
    assert project.ok("runs", "list", "--status", "paused")["runs"][0]["run_id"] == "ask"
    shown = project.ok("resume", "ask")
    assert shown["status"] == "awaiting_approval"
    assert "+++ words (after)" in shown["request"]["diff"]
    executed = len(project.executions())
    done = project.ok("resume", "ask", "--approve", "--actor", "ann", "--reason", "looks good")
    assert done["decision"]["status"] == "promoted"
    assert len(project.executions()) == executed
    version = project.ok("checkpoints", "show", "shop", "production")
    assert version["config_version"] == done["best"]["config_version"]
    move = next(m for m in version["alias_log"] if m["alias"] == "production")
    assert (move["actor"], move["reason"]) == ("ann", "looks good")


def test_approval_can_be_declined(project: Project) -> None:
    project.write("ask.yaml", training_job(promote="ask"))
    project.ok("train", "ask.yaml", "--run-id", "ask")
    done = project.ok("resume", "ask", "--reject", "--reason", "not now")
    assert done["decision"]["status"] == "kept"
    assert "no version" in project.refused("checkpoints", "show", "shop", "production")


@pytest.mark.requirement("audit.manifest", "door.shell")
def test_run_prints_the_output_and_records_the_run(project: Project) -> None:
    job: dict[str, Any] = {
        "target": "shopflow:greeter",
        "workflow_id": "greeter",
        "inputs": {"question": "who is there?"},
        "prompts": {"greeting": "Hello"},
        "config": {"tags": ["tried"]},
    }
    project.write("greet.yaml", job)
    result = project.call("run", "greet.yaml", "--run-id", "hi")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["reply"] == "Hello, who is there?"
    record = project.ok("runs", "show", "hi")
    assert (record["mode"], record["status"]) == ("run", "finished")
    assert record["config"]["tags"] == ["tried"]
    project.write(
        "greet.json",
        json.dumps({**job, "target": {"entrypoint": job["target"], "output": "reply"}}),
    )
    again = project.ok("run", "greet.json", "--run-id", "again")
    assert again["output"] == "Hello, who is there?"
    manifest = Manifest.parse(json.loads(project.call("runs", "show", "hi", "--manifest").stdout))
    assert (manifest.mode, manifest.target.entrypoint) == ("run", "shopflow:greeter")
    assert manifest.config.sources["configurable.prompts.greeting.text"] == "request"
    assert (manifest.evaluators, manifest.dataset, manifest.training) == ([], None, None)
    differs = {
        one["path"]: one["after"] for one in project.ok("runs", "diff", "hi", "again")["manifest"]
    }
    assert differs == {
        "target.entrypoint": None,
        "target.entrypoint.entrypoint": "shopflow:greeter",
        "target.entrypoint.output": "reply",
    }
    assert "can be resumed" in project.refused("resume", "hi")


def test_a_run_that_fails_ends_with_3(project: Project) -> None:
    project.write("broken.yaml", {"target": "shopflow:broken", "inputs": {}})
    assert "out of order" in project.refused("run", "broken.yaml", "--run-id", "b", code=3)
    record = project.ok("runs", "show", "b")
    assert record["status"] == "failed"
    assert "out of order" in record["error"]


def test_the_debug_variable_shows_where_an_error_comes_from(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTENSOR_DEBUG", "1")
    project.write("broken.yaml", {"target": "shopflow:broken", "inputs": {}})
    result = project.call("run", "broken.yaml")
    assert "Traceback" in result.stderr


def test_an_unexpected_error_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(*_: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("orcheo_agentensor.datasets.Dataset.load", trouble)
    result = project.call("dataset", "hash", "words.jsonl", "--json")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: internal error: ZeroDivisionError: oh")
    assert "AGENTENSOR_DEBUG" in result.stderr
    assert json.loads(result.stdout)["exit_code"] == 3


def test_a_judge_is_calibrated_against_labels(project: Project) -> None:
    project.write(
        "labels.jsonl",
        "".join(
            json.dumps({"id": str(n), "inputs": "q", "expected_output": "good", "metadata": data})
            + "\n"
            for n, data in enumerate(
                [
                    {"output": "good", "label": True},
                    {"output": "good", "label": False},
                    {"output": "bad", "label": False},
                    {"output": "bad", "label": 0},
                ]
            )
        ),
    )
    project.write("judge.yaml", {"evaluators": ["exact_match", "json_valid"]})
    asked = ("judge", "calibrate", "judge.yaml", "labels.jsonl")
    assert "must be one of: exact_match, json_valid" in project.refused(*asked)
    found = project.ok(*asked, "--evaluator", "exact_match")
    assert (found["n"], found["agreement"], found["kappa"]) == (4, 0.75, 0.5)
    assert found["confusion"] == {"fail": {"fail": 2, "pass": 1}, "pass": {"pass": 1}}
    shown = project.call(*asked, "--evaluator", "exact_match").stdout
    assert "agreement  75.0%" in shown
    assert "judged pass" in shown
    project.write("labels.jsonl", '{"id": "a", "inputs": "q"}\n')
    assert "must have 'output' in its metadata" in project.refused(
        *asked, "--evaluator", "exact_match"
    )


def test_every_start_says_how_each_evaluator_is_called(project: Project) -> None:
    result = project.call("evaluate", "evaluate.yaml")
    assert "  right: langsmith: right(" in result.stderr
    assert "  right: langsmith: right(" in project.call("train", "train.yaml").stderr
