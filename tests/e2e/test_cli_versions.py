"""`checkpoints`, `runs`, `dataset`, `db`, `schema`, `version`, `demo`."""

from __future__ import annotations

import json
import stat
import sys
import types
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cli_support import Project, cases, make_project, training_job

from orcheo_agentensor import RunConfig, __version__


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one training (run `t`, workflow `shop`), for all tests."""
    project = make_project(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
        patch.setattr(sys, "path", [*sys.path])
        project.ok("train", "train.yaml", "--run-id", "t")
    return project


@pytest.fixture
def project(trained: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(trained.folder)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return trained


def test_versions_are_listed(project: Project) -> None:
    versions = project.ok("checkpoints", "list", "shop")["versions"]
    assert [version["config_version"] for version in versions] == [4, 3, 2, 1]
    assert versions[0]["aliases"][:1] == ["best"]
    assert [version["objective"] for version in versions] == [1.0, 0.75, 0.5, 0.25]
    assert [version["parent_version"] for version in versions] == [3, 2, 1, None]
    listed = project.call("checkpoints", "list", "shop").stdout
    assert "baseline" in listed
    assert "new best" in listed
    workflows = project.ok("checkpoints", "list")["workflows"]
    assert workflows[0]["workflow_id"] == "shop"
    assert "shop" in project.call("checkpoints", "list").stdout


def test_a_version_is_shown(project: Project) -> None:
    shown = project.call("checkpoints", "show", "shop", "best").stdout
    for text in ("version    4 of workflow 'shop'", "rules (frozen)", "never change", "right"):
        assert text in shown
    assert "alias '9'; versions: 4, 3, 2, 1" in project.refused("checkpoints", "show", "shop", "9")


def test_two_versions_are_compared(project: Project) -> None:
    shown = project.call("checkpoints", "diff", "shop", "1", "best").stdout
    for text in ("--- words (before)", "+w0 w1 w2 w3", "objective", "0.250", "1.000", "+0.750"):
        assert text in shown
    found = project.ok("checkpoints", "diff", "shop", "1", "4")
    assert found["measured_alike"] is True
    assert [metrics["objective"] for metrics in found["metrics"]] == [0.25, 1.0]
    assert "the same" in project.call("checkpoints", "diff", "shop", "4", "4").stdout


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
@pytest.mark.requirement("checkpoint.complete")
def test_an_export_is_a_runnable_config(project: Project, name: str) -> None:
    assert project.call("checkpoints", "export", "shop", "best", "-o", name).exit_code == 0
    text = (project.folder / name).read_text()
    config = RunConfig.parse(yaml.safe_load(text))
    assert config.prompts["words"].text == "w0 w1 w2 w3"
    assert not config.prompts["rules"].requires_grad
    assert stat.S_IMODE((project.folder / name).stat().st_mode) & 0o600 == 0o600
    assert [p for p in project.folder.iterdir() if p.name.startswith(f".{name}")] == []
    printed = json.loads(project.call("checkpoints", "export", "shop", "4").stdout)
    assert printed == yaml.safe_load(text)


@pytest.mark.parametrize("name", ["config.txt", "gone/config.json"])
def test_an_export_to_a_wrong_place(project: Project, name: str) -> None:
    assert "--output" in project.refused("checkpoints", "export", "shop", "1", "-o", name)


@pytest.mark.requirement("promotion.alias", "promotion.rollback")
def test_promote_and_roll_back(project: Project) -> None:
    def promote(version: str, *more: str) -> Any:
        return project.ok("checkpoints", "promote", "shop", version, "--alias", "canary", *more)

    assert promote("2", "--expect", "none", "--reason", "try")["from_version"] is None
    refusal = project.refused(
        "checkpoints", "promote", "shop", "3", "--alias", "canary", "--expect", "none"
    )
    assert "points to version 2" in refusal
    move = promote("best", "--expect", "2", "--actor", "ann")
    assert (move["from_version"], move["to_version"], move["actor"]) == (2, 4, "ann")
    result = project.call("checkpoints", "rollback", "shop", "--alias", "canary", "--reason", "no")
    assert "moved back from version 4 to version 2" in result.stdout
    result = project.call("checkpoints", "rollback", "shop", "--alias", "canary")
    assert "moved back from version 2 to version 1" in result.stdout  # the baseline
    assert "nothing before it" in project.refused(
        "checkpoints", "rollback", "shop", "--alias", "canary"
    )
    assert "moves by itself" in project.refused(
        "checkpoints", "promote", "shop", "1", "--alias", "latest"
    )
    assert "--expect" in project.refused(
        "checkpoints", "promote", "shop", "1", "--alias", "canary", "--expect", "x"
    )


def test_a_rejected_version_is_held_back(project: Project) -> None:
    data = cases(36)
    for case in data:  # the holdout has words that the memorised prompt does not save
        if case["split"] == "holdout":
            case["expected_output"] = {"label": "unknown"}
    job = training_job(
        workflow_id="forgetful",
        dataset=data,
        optimizer={"name": "textgrad", "minibatch": 4, "proposer": "shopflow:Memoriser"},
    )
    project.write("forgetful.yaml", job)
    found = project.ok("train", "forgetful.yaml", "--run-id", "forgetful")
    assert found["decision"]["status"] == "rejected"
    version = str(found["best"]["config_version"])
    message = project.refused("checkpoints", "promote", "forgetful", version, code=1)
    assert "was rejected by its training run forgetful" in message
    assert "guardrail" in message
    assert "--force" in message
    assert "no version" in project.refused("checkpoints", "show", "forgetful", "production")
    moved = project.ok("checkpoints", "promote", "forgetful", version, "--force")
    assert moved["to_version"] == int(version)


def test_runs_are_listed_and_shown(project: Project) -> None:
    runs = project.ok("runs", "list", "--workflow", "shop", "--mode", "train")["runs"]
    assert [(run["run_id"], run["status"]) for run in runs] == [("t", "finished")]
    assert runs[0]["decision"] == "kept"
    assert project.ok("runs", "list", "--status", "failed")["runs"] == []
    assert "t" in project.call("runs", "list").stdout
    shown = project.call("runs", "show", "t", "--cases", "--limit", "5").stdout
    for text in ("mode       train", "decision   kept", "seed       1", "5 of 96 shown"):
        assert text in shown
    record = project.ok("runs", "show", "t", "--cases", "--limit", "1000")
    assert len(record["cases"]) == record["usage"]["rollouts"]


def test_a_finished_run_shows_its_result_again(project: Project) -> None:
    found = project.ok("resume", "t")
    assert found["decision"]["status"] == "kept"
    assert "decision: kept" in project.call("resume", "t").stdout


def test_datasets_are_described(project: Project) -> None:
    found = project.ok("dataset", "validate", "words.jsonl")
    assert found["cases"] == 36
    assert found["splits"] == {"train": 12, "validation": 12, "holdout": 12}
    assert "holdout 12" in project.call("dataset", "validate", "words.jsonl").stdout
    version = project.call("dataset", "hash", "words.jsonl").stdout.strip()
    assert version == found["version"]
    project.write("words.json", json.dumps(cases()))
    assert project.ok("dataset", "hash", "words.json")["version"] == version


def test_the_schema_goes_up_and_down(project: Project) -> None:
    store = ("--store", f"sqlite:///{project.folder / 'other.db'}")
    assert project.ok("db", "current", *store)["revision"] is None
    head = project.ok("db", "upgrade", *store)["revision"]
    assert project.ok("db", "current", *store) == {
        "store": store[1],
        "revision": head,
        "head": head,
    }
    result = project.call("db", "downgrade", "base", *store, input="n\n")
    assert result.exit_code == 2
    assert "nothing was changed" in result.stderr
    assert "nothing was changed" in project.refused("db", "downgrade", "base", *store)
    assert project.ok("db", "current", *store)["revision"] == head
    assert project.call("db", "downgrade", "base", *store, input="y\n").exit_code == 0
    assert project.ok("db", "current", *store)["revision"] is None
    assert project.ok("db", "upgrade", *store)["revision"] == head
    assert project.call("db", "downgrade", "base", "--yes", *store).exit_code == 0
    assert "'gone'" in project.refused("db", "upgrade", "--revision", "gone", *store)


def test_the_schemas_accept_what_the_commands_accept(project: Project) -> None:
    def schema(*arguments: str) -> Any:
        found = json.loads(project.call("schema", *arguments).stdout)
        jsonschema.Draft202012Validator.check_schema(found)
        return found

    jobs = {"evaluation": "evaluate.yaml", "training": "train.yaml"}
    for kind, name in jobs.items():
        job = yaml.safe_load((project.folder / name).read_text())
        jsonschema.validate(job, schema("job", kind))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**job, "config": {"recursion_limt": 1}}, schema("job", kind))
    run_job = {"target": "shopflow:greeter", "inputs": {"question": "?"}, "config": {"tags": []}}
    jsonschema.validate(run_job, schema("job", "run"))
    jsonschema.validate(cases(), schema("dataset"))
    jsonschema.validate({"id": "d", "cases": cases()}, schema("dataset"))
    jsonschema.validate(
        {"tags": ["a"], "configurable": {"agentensor": {"use": "best"}}}, schema("config")
    )


def test_the_version_is_printed(project: Project) -> None:
    assert project.call("version").stdout.strip() == __version__
    assert project.ok("version") == {"version": __version__}


def test_the_demo_gets_its_options(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    async def run_demo(**given: Any) -> int:
        seen.update(given)
        return 1

    module = types.ModuleType("orcheo_agentensor.demo.run")
    monkeypatch.setattr(module, "run_demo", run_demo, raising=False)
    monkeypatch.setitem(sys.modules, "orcheo_agentensor.demo.run", module)
    result = project.call("demo", "--memorise", "--seed", "4", "--store", "x.db")
    assert result.exit_code == 1
    assert (seen["store_url"], seen["memorise"], seen["seed"]) == ("x.db", True, 4)


def test_text_from_prompts_cannot_steer_the_terminal(project: Project, tmp_path: Path) -> None:
    job = {
        "target": "shopflow:answer",
        "workflow_id": "steering",
        "dataset": {"path": "words.jsonl", "split": "train"},
        "evaluators": ["shopflow:right"],
        "prompts": {"words": "[red]w0[/red] \x1b[31m"},
        "optimizer": {"name": "textgrad", "minibatch": 4, "proposer": "shopflow:Teacher"},
        "stop": [{"type": "max_steps", "steps": 1}],
    }
    project.write("steering.json", json.dumps(job))
    result = project.call("train", "steering.json")
    assert result.exit_code == 0, result.output
    shown = project.call("checkpoints", "show", "steering", "1").stdout
    assert "[red]w0[/red]" in shown
    assert "\x1b" not in shown + result.output
