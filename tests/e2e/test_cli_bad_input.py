"""Bad input gets one clear message and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import Project, evaluation_job, make_project, training_job


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    return make_project(tmp_path)


CASE = '{"id": "a", "inputs": {"id": "a", "word": "w0"}}\n'

BAD_JOBS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown config key": ({"config": {"recursion_limt": 5}}, ["recursion_limt", "did you mean"]),
    "lc key": ({"config": {"configurable": {"x": {"lc": 1}}}}, ["config.configurable.x.lc"]),
    "live object": ({"config": {"callbacks": ["print"]}}, ["callbacks.0", "registered"]),
    "wrong limit": ({"config": {"max_concurrency": "a"}}, ["max_concurrency", "whole number"]),
    "unknown job field": ({"optimiser": "textgrad"}, ["job.optimiser", "known:"]),
    "unknown nested field": ({"limits": {"concurency": 2}}, ["concurency", "case_timeout"]),
    "value out of range": ({"limits": {"concurrency": 0}}, ["job.limits.concurrency", "0"]),
    "no target": ({"target": None}, ["job.target", "must name"]),
    "target outside the allowlist": ({"target": "os:system"}, ["os:system", "ALLOWED_MODULES"]),
    "target not importable": ({"target": "shopflow:nothing"}, ["no 'nothing'"]),
    "target of a wrong kind": (
        {"target": "shopflow:not_a_target"},
        ["shopflow:not_a_target", "LangGraph"],
    ),
    "evaluator outside the allowlist": ({"evaluators": ["json:loads"]}, ["json:loads", "under"]),
    "unknown evaluator": ({"evaluators": ["exact_mach"]}, ["exact_mach", "did you mean"]),
    "no evaluators": ({"evaluators": []}, ["job.evaluators", "at least one"]),
    "prompt of a wrong form": ({"prompts": {"words": {"txt": "x"}}}, ["prompts.words"]),
    "no dataset": ({"dataset": None}, ["job.dataset", "must name"]),
    "missing dataset file": ({"dataset": "gone.jsonl"}, ["gone.jsonl", "looked at"]),
    "unknown split": ({"dataset": {"path": "words.jsonl", "split": "dev"}}, ["'dev'", "train"]),
    "stored dataset that is not": (
        {"dataset": {"id": "d", "version": "0" * 64}},
        ["no dataset 'd'", "does not exist yet"],
    ),
    "unknown version": (
        {"config": {"configurable": {"agentensor": {"use": "best"}}}},
        ["no versions", "does not exist yet"],
    ),
    "unknown run to reuse": ({"reuse": "gone"}, ["no run 'gone'"]),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_bad_job_is_refused_before_anything_is_written(project: Project, name: str) -> None:
    fields, told = BAD_JOBS[name]
    project.write("bad.yaml", evaluation_job(**fields))
    message = project.refused("evaluate", "bad.yaml")
    assert message.startswith("error: ")
    for text in told:
        assert text in message
    assert not project.database.parent.exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompts": None}, ["job.prompts", "nothing can be trained"]),
        ({"prompts": {"x": {"text": "a", "requires_grad": False}}}, ["only frozen prompts"]),
        ({"optimizer": "sgd"}, ["optimizer.name", "textgrad"]),
        ({"optimizer": {"name": "textgrad", "speed": 2}}, ["optimizer.speed"]),
        ({"optimizer": "textgrad"}, ["AGENTENSOR_MODEL"]),
        ({"budget": {"rollouts": 5}}, ["budget.rollouts", "too small"]),
        ({"stop": [{"type": "boredom"}]}, ["job.stop.0", "boredom"]),
        ({"promote": "maybe"}, ["job.promote", "maybe"]),
    ],
)
def test_a_bad_training_job_is_refused(
    project: Project, fields: dict[str, Any], told: list[str]
) -> None:
    project.write("bad.yaml", training_job(**fields))
    message = project.refused("train", "bad.yaml")
    for text in told:
        assert text in message
    assert not project.database.parent.exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("bad.yaml", "target: a\nlimits: {\n", "bad.yaml:3"),
        ("bad.yaml", "target: a:b\ndataset: x\ntarget: c:d\n", "bad.yaml:3: the key 'target'"),
        ("bad.yaml", "target: !!python/object:os.system x\n", "bad.yaml:1: the tag"),
        ("bad.yaml", "seed: .nan\n", "bad.yaml:1: .nan is not a finite number"),
        ("bad.yaml", "- target\n", "a job is a mapping"),
        ("bad.json", '{"target": "a:b",\n "seed": NaN}', "bad.json:2: is not JSON: NaN"),
        ("bad.json", '{"target": "a:b",\n\n "target": "c:d"}', "bad.json:3"),
        ("bad.json", '{"target": \n', "bad.json:2"),
    ],
)
def test_a_job_file_that_does_not_parse_names_the_line(
    project: Project, name: str, content: str, told: str
) -> None:
    project.write(name, content)
    assert told in project.refused("evaluate", name)
    assert not project.database.parent.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (CASE + "{oops\n", "data.jsonl:2"),
        (CASE + '{"id": "b", "inputs": NaN}\n', "data.jsonl:2"),
        (CASE + CASE, "'a'"),
        ("\n", "holds no case"),
    ],
)
def test_a_bad_dataset_names_the_line(project: Project, content: str, told: str) -> None:
    project.write("data.jsonl", content)
    assert told in project.refused("dataset", "validate", "data.jsonl")
    project.write("bad.yaml", evaluation_job(dataset="data.jsonl"))
    assert told in project.refused("evaluate", "bad.yaml")
    assert not project.database.parent.exists()


def test_every_problem_of_a_job_is_listed(project: Project) -> None:
    project.write("bad.yaml", evaluation_job(limits={"concurrency": 0, "retries": -1}, foo=1))
    message = project.refused("evaluate", "bad.yaml")
    assert "3 problems" in message
    document = json.loads(project.call("evaluate", "bad.yaml", "--json").stdout)
    assert document["exit_code"] == 2
    fields = {problem["field"] for problem in document["error"]["problems"]}
    assert fields == {"job.limits.concurrency", "job.limits.retries", "job.foo"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runs", "show", "gone"], "no run 'gone'"),
        (["resume", "gone"], "no run 'gone'"),
        (["checkpoints", "list", "gone"], "no versions"),
        (["checkpoints", "show", "gone", "1"], "no versions"),
        (["checkpoints", "promote", "gone", "1"], "no store"),
        (["checkpoints", "rollback", "gone"], "no store"),
        (["db", "downgrade", "base", "--yes"], "no store"),
        (["runs", "list", "--store", "mysql://x"], "is not a store"),
        (["evaluate", "evaluate.yaml", "--min-score", "high"], "--min-score"),
        (["evaluate", "evaluate.yaml", "--min-score", "nan"], "--min-score"),
        (["evaluate", "evaluate.yaml", "--min-score", "left=1"], "it has: right"),
        (["evaluate", "evaluate.yaml", "--checkpoint", "NO SUCH"], "must be an alias"),
        (["evaluate", "gone.yaml"], "gone.yaml: cannot be read"),
        (["evaluate"], "make one with: agentensor init"),
        (["evaluate", "evaluate.yaml", "--faster"], "No such option"),
    ],
)
def test_bad_arguments(project: Project, arguments: list[str], told: str) -> None:
    assert told in project.refused(*arguments)
    assert not project.database.parent.exists()


def test_looking_creates_no_database(project: Project) -> None:
    for arguments in (["runs", "list"], ["checkpoints", "list"], ["db", "current"]):
        assert project.call(*arguments).exit_code == 0
    assert not project.database.parent.exists()


def test_wrong_settings_are_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTENSOR_MAX_CONCURRENCY", "many")
    message = project.refused("evaluate", "evaluate.yaml")
    assert "AGENTENSOR_MAX_CONCURRENCY: 'many'" in message


def test_an_unknown_run_lists_the_newest(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "here")
    assert "the newest runs: here" in project.refused("resume", "gone")


def test_a_database_of_a_newer_schema(project: Project) -> None:
    project.ok("db", "upgrade")
    with sqlite3.connect(project.database) as connection:
        connection.execute("UPDATE agentensor_schema SET version_num = '9999'")
    connection.close()
    for arguments in (
        ["evaluate", "evaluate.yaml"],
        ["evaluate", "evaluate.yaml", "--dry-run"],
        ["train", "train.yaml"],
        ["runs", "list"],
        ["checkpoints", "show", "shop"],
        ["checkpoints", "promote", "shop", "1"],
        ["resume", "any"],
        ["db", "upgrade"],
    ):
        message = project.refused(*arguments)
        assert "9999" in message
        assert "upgrade orcheo-agentensor" in message
        assert message.count("\n") == 1
    assert project.ok("db", "current")["revision"] == "9999"


def test_a_file_that_is_no_database(project: Project) -> None:
    project.write("other.db", "this is no database, but long enough to be taken for one" * 20)
    for arguments in (["runs", "list"], ["db", "current"], ["evaluate", "evaluate.yaml"]):
        message = project.refused(*arguments, "--store", "other.db")
        assert "other.db" in message
        assert "internal error" not in message


def test_a_server_that_does_not_answer(project: Project) -> None:
    url = "postgresql://user:hunter2@127.0.0.1:1/none"
    message = project.refused("runs", "list", "--store", url)
    assert "hunter2" not in message
    assert "internal error" not in message
