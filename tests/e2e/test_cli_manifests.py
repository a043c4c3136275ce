"""`agentensor runs show --manifest`, `diff`, `rerun`: what a run was made of, and it once more."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from cli_support import Project, evaluation_job, make_project, training_job

from orcheo_agentensor import Manifest, evaluate


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = make_project(tmp_path / "first")
    monkeypatch.chdir(found.folder)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    return found


@pytest.mark.requirement("audit.manifest")
def test_a_manifest_is_printed_alone_and_with_its_run(project: Project) -> None:
    project.ok("train", "train.yaml", "--run-id", "t")
    found = json.loads(project.call("runs", "show", "t", "--manifest").stdout)
    assert Manifest.parse(found).to_json() == found
    assert found == project.ok("runs", "show", "t")["manifest"]
    assert found["target"]["entrypoint"] == "shopflow:answer"
    assert found["training"]["optimizer"]["options"]["proposer"] == "shopflow:Teacher"
    assert found["training"]["proposer"]["object"]["module"] == "shopflow"
    assert found["live"] == {}
    text = project.call("runs", "show", "t").stdout
    for told in ("optimizer  textgrad", "proposer   Teacher", "evaluators right", "langgraph"):
        assert told in text


@pytest.mark.requirement("audit.evaluator-set")
def test_an_evaluator_set_is_resolved_to_its_evaluators(project: Project) -> None:
    project.ok("train", "train.yaml", "--run-id", "t")
    version = project.ok("checkpoints", "show", "shop", "1")
    [found] = project.ok("runs", "evaluators", version["evaluator_set"])["evaluators"]
    assert (found["name"], found["spec"]) == ("right", "shopflow:right")
    assert "no run that is known" in project.refused("runs", "evaluators", "abc")


@pytest.mark.requirement("audit.diff")
def test_the_difference_of_two_runs_is_shown_by_its_path(project: Project) -> None:
    project.ok("train", "train.yaml", "--run-id", "a")
    other = training_job(seed=2, stop=[{"type": "max_steps", "steps": 1}])
    project.write("other.yaml", other)
    project.ok("train", "other.yaml", "--run-id", "b")
    found = project.ok("runs", "diff", "a", "b")
    changed = {one["path"]: (one["before"], one["after"]) for one in found["manifest"]}
    assert changed["seed"] == (1, 2)
    assert set(changed) == {"seed", "job.stop"}
    assert "best.objective" in {one["path"] for one in found["results"]}
    assert "job.stop" in project.call("runs", "diff", "a", "b").stdout
    same = project.ok("runs", "diff", "a", "a")
    assert (same["manifest"], same["results"], same["cases"]["other_scores"]) == ([], [], [])


@pytest.mark.requirement("audit.diff")
def test_exported_manifests_are_compared_and_a_newer_schema_is_refused(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "e")
    exported = project.call("runs", "show", "e", "--manifest").stdout
    project.write("e.json", exported)
    assert project.ok("runs", "diff", "e", "e.json")["manifest"] == []
    project.write("new.json", json.dumps({**json.loads(exported), "schema": 2}))
    told = project.refused("runs", "diff", "e.json", "new.json")
    assert told.strip().endswith("upgrade orcheo-agentensor")
    assert "manifest.schema: 2 is newer than 1" in told


@pytest.mark.requirement("audit.manifest")
def test_a_run_of_a_newer_release_is_refused_by_each_command_that_reads_its_manifest(
    project: Project,
) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "e")
    with sqlite3.connect(project.database) as database:
        database.execute('UPDATE agentensor_runs SET manifest = \'{"schema": 2, "new": {}}\'')
    project.write("other.yaml", evaluation_job(replicates=2))
    for command in (
        ("runs", "show", "e"),
        ("runs", "diff", "e", "e"),
        ("runs", "rerun", "e"),
        ("evaluate", "other.yaml", "--run-id", "e"),
    ):
        told = project.refused(*command)
        assert told.count("manifest.schema: 2 is newer than 1, which this release reads") == 1
    assert len(project.ok("runs", "list")["runs"]) == 1


@pytest.mark.requirement("audit.rerun")
def test_a_run_is_run_again_from_a_copy_of_its_database_elsewhere(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = project.ok("train", "train.yaml", "--run-id", "t")
    there = Project(tmp_path / "second")
    there.folder.mkdir()
    shutil.copy(project.folder / "shopflow.py", there.folder)
    shutil.copytree(project.database.parent, there.folder / ".agentensor")
    shutil.rmtree(project.folder)
    monkeypatch.chdir(there.folder)
    again = there.ok("runs", "rerun", "t", "--run-id", "again")
    assert again["rerun_of"] == "t"
    assert again["best"]["prompts"] == first["best"]["prompts"]
    differs = again["differences"]
    assert (differs["manifest"], differs["results"]) == ([], [])
    assert differs["cases"]["other_scores"] == []
    assert differs["cases"]["compared"] > 36
    assert there.ok("runs", "show", "again")["manifest"]["rerun_of"] == "t"


@pytest.mark.requirement("audit.rerun")
def test_a_rerun_says_what_has_changed(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "e")
    project.ok("workflows", "flag", "shop", "runnable_config_enabled", "on")
    project.write("defaults.yaml", {"recursion_limit": 11})
    project.ok("workflows", "defaults", "shop", "defaults.yaml")
    project.write("job.yaml", {"prompts": {"words": "w0 w1 w2"}})
    found = project.ok("runs", "rerun", "e", "--job", "job.yaml")
    changed = {one["path"]: one["after"] for one in found["differences"]["manifest"]}
    assert changed["config.resolved.recursion_limit"] == 11
    assert changed["config.sources.recursion_limit"] == "default"
    assert changed["config.resolved.configurable.prompts.words.text"] == "w0 w1 w2"
    results = {one["path"]: one["after"] for one in found["differences"]["results"]}
    assert results["summary.objective"] == 0.75


def test_a_rerun_of_a_promoting_training_promotes_nothing(project: Project) -> None:
    project.write("auto.yaml", training_job(promote="auto"))
    project.ok("train", "auto.yaml", "--run-id", "t")
    before = project.ok("checkpoints", "show", "shop", "production")["config_version"]
    found = project.call("runs", "rerun", "t")
    assert "a rerun moves no alias: promote is never, it was auto" in found.stderr
    assert found.exit_code == 0
    after = project.ok("checkpoints", "show", "shop", "production")["config_version"]
    assert after == before


@pytest.mark.requirement("audit.rerun")
def test_what_a_rerun_cannot_rebuild_is_named_with_what_to_give(project: Project) -> None:
    import shopflow

    store = f"sqlite:///{project.database}"
    evaluate(
        shopflow.answer,
        dataset="words.jsonl",
        evaluators=[shopflow.right, "json_valid"],
        prompts={"words": "w0"},
        config={"configurable": {"api_key": "sk-123456789012345678"}},
        store=store,
        run_id="e",
    )
    told = project.refused("runs", "rerun", "e")
    assert "target: function answer of shopflow (give shopflow:answer)" in told
    assert "evaluators: function right of shopflow (give shopflow:right), 'json_valid'" in told
    assert "config.configurable.api_key: was a secret, which is not stored" in told
    assert len(project.ok("runs", "list")["runs"]) == 1
    job = {key: evaluation_job()[key] for key in ("target", "evaluators")}
    project.write("give.yaml", {**job, "config": {"configurable": {"api_key": "other"}}})
    found = project.ok("runs", "rerun", "e", "--job", "give.yaml")
    changed = {one["path"] for one in found["differences"]["manifest"]}
    assert {"target.entrypoint", "evaluators.json_valid.weight"} <= changed


@pytest.mark.requirement("dataset.metadata")
def test_a_stored_dataset_is_shown_with_every_version_of_its_metadata(project: Project) -> None:
    for rubric in ("Be right.", "Be right and kind."):
        dataset = {"path": "words.jsonl", "metadata": {"domains": ["shop"], "rubric": rubric}}
        project.write("e.yaml", evaluation_job(dataset=dataset))
        project.ok("evaluate", "e.yaml", "--run-id", f"r{len(rubric)}")
    found = project.ok("dataset", "show", "words")
    assert found["metadata"]["rubric"] == "Be right and kind."
    old = found["versions"][1]
    assert old["metadata"]["rubric"] == "Be right."
    show = ("dataset", "show", "words", "--metadata-version", old["metadata_version"])
    text = project.call(*show).stdout
    assert "rubric     Be right.\n" in text
    assert 'domains    ["shop"]' in text
    assert "rubric     Be right.\n" in project.call("runs", "show", "r9").stdout
    assert "rubric     Be right and kind.\n" in project.call("runs", "show", "r18").stdout


def test_a_manifest_of_a_newer_release_in_the_store_is_refused(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "e")
    with sqlite3.connect(project.database) as database:
        database.execute("UPDATE agentensor_runs SET manifest = json_set(manifest, '$.schema', 3)")
    commands = [
        ("runs", "show", "e"),
        ("runs", "show", "e", "--manifest"),
        ("runs", "diff", "e", "e"),
        ("runs", "rerun", "e"),
        ("evaluate", "evaluate.yaml", "--run-id", "e"),
    ]
    for command in commands:
        assert "manifest.schema: 3 is newer than 1" in project.refused(*command)
