"""`agentensor train` by a job file with a matrix: many runs, one table, one budget, one resume."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cli_support import Project, steady, training_job

STOPPING = """
import os, signal
from shopflow import answer as known

async def answer(inputs, config):
    found = await known(inputs, config)
    if os.environ.get("STOP_AT") == str(len(open(os.environ["SHOPFLOW_LOG"]).readlines())):
        os.kill(os.getpid(), signal.SIGINT)
    return found
"""


@pytest.fixture
def sweeping(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with `sweep.yaml`: two seeds for each of two prompts to start from."""
    monkeypatch.setenv("SHOPFLOW_LOG", str(project.log))
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow,stopping")
    project.write("stopping.py", STOPPING)
    project.write("sweep.yaml", sweep_job())
    return project


def sweep_job(**fields: Any) -> dict[str, Any]:
    matrix = {"prompts.words": ["w0", "w0 w1"], "seed": [1, 2]}
    return training_job(**{"target": "stopping:answer", "matrix": matrix, **fields})


def test_a_sweep_runs_each_combination_and_repeats_nothing(sweeping: Project) -> None:
    plan = sweeping.ok("train", "sweep.yaml", "--run-id", "s", "--dry-run")
    assert [one["values"] for one in plan["runs"]] == [
        {"prompts.words": words, "seed": seed} for words in ("w0", "w0 w1") for seed in (1, 2)
    ]
    assert not sweeping.database.exists()
    found = sweeping.ok("train", "sweep.yaml", "--run-id", "s")
    assert [one["run_id"] for one in found["runs"]] == ["s-1", "s-2", "s-3", "s-4"]
    assert {one["status"] for one in found["runs"]} == {"finished"}
    assert [one["baseline"]["objective"] for one in found["runs"]] == [0.25, 0.25, 0.5, 0.5]
    assert {one["best"]["objective"] for one in found["runs"]} == {1.0}
    count = len(sweeping.executions())
    assert found["usage"]["rollouts"] == count == sum(r["usage"]["rollouts"] for r in found["runs"])
    assert steady(sweeping.ok("train", "sweep.yaml", "--run-id", "s")) == steady(found)
    table = sweeping.call("train", "sweep.yaml", "--run-id", "s")
    assert "s-4: prompts.words w0 w1, seed 2\n" in table.stdout
    assert f"sweep s, 4 runs; spent: {count} rollouts" in table.stdout
    assert len(sweeping.executions()) == count
    assert sweeping.ok("runs", "show", "s-2")["status"] == "finished"


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_sweep_that_is_stopped_goes_on_as_a_whole(
    sweeping: Project, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    sweeping.write("sweep.yaml", sweep_job(sweep={"parallel": parallel}))
    monkeypatch.setenv("STOP_AT", "70")  # in the second run, or in the first two
    stopped = sweeping.call("train", "sweep.yaml", "--run-id", "s", "--json")
    assert stopped.exit_code == 130
    document = json.loads(stopped.stdout)
    statuses = [one["status"] for one in document["runs"]]
    assert statuses[-1] == "not run"
    assert "interrupted" in statuses
    assert document["resume"].startswith("agentensor train sweep.yaml --run-id s")
    found = sweeping.ok("train", "sweep.yaml", "--run-id", "s")
    assert {one["status"] for one in found["runs"]} == {"finished"}
    assert found["usage"]["rollouts"] == len(sweeping.executions())


def test_a_budget_of_the_sweep_is_shared_and_values_may_go_together(sweeping: Project) -> None:
    workflows = [
        {"name": "one", "target": "shopflow:answer", "workflow_id": "one"},
        {"name": "other", "target": "stopping:answer", "workflow_id": "other"},
    ]
    matrix = {"workflow": workflows, "optimizer.minibatch": [2, 4]}
    job = sweep_job(matrix=matrix, sweep={"budget": {"rollouts": 400, "cost": 2.0}})
    sweeping.write("sweep.yaml", {**job, "budget": {"rollouts": 150, "calls": 50}})
    plan = sweeping.ok("train", "sweep.yaml", "--dry-run")
    plans = [one["plan"] for one in plan["runs"]]
    assert [one["workflow_id"] for one in plans] == ["one", "other", "one", "other"]
    for one in plans:
        assert one["training"]["budget"] == {"rollouts": 100, "calls": 50, "cost": 0.5}
    sweeping.write("sweep.yaml", sweep_job(sweep={"budget": {"rollouts": 80}}))
    told = sweeping.refused("train", "sweep.yaml", "--run-id", "s")
    assert "run s-1 (prompts.words w0, seed 1): budget.rollouts: 20 is too small" in told
    assert not sweeping.executions()


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({"matrix": []}, [], "job.matrix: [] must map fields of the job to lists"),
        ({"matrix": {"seed": 1}}, [], "job.matrix.seed: 1 must be a list of values"),
        ({"matrix": {"seed": [1, 1]}}, [], "must not have a value twice"),
        ({"matrix": {"seeds": [1, 2]}}, [], "job.matrix.seeds: 'seeds' is no field of a training"),
        ({"matrix": {"run_id": ["a"]}}, [], "is no field that runs may differ in"),
        ({"matrix": {"seed": list(range(1001))}}, [], "must make at most 1,000 runs"),
        ({"sweep": {"parallel": 0}}, [], "job.sweep.parallel"),
        ({}, ["--seed", "3"], "--seed: 3 is in the matrix"),
        ({"matrix": {"both": [{"seed": 1}]}}, ["--seed", "3"], "--seed: 3 is in the matrix"),
        (
            {"optimizer": "textgrad", "matrix": {"optimizer.minibatch": [2, 4]}},
            [],
            "job.matrix.optimizer.minibatch: 'textgrad' is what job.optimizer is, and has no",
        ),
        ({"matrix": {"optimizer": ["nobody"]}}, [], "optimizer nobody"),
        ({"sweep": {"server": "http://127.0.0.1:1"}}, [], "AGENTENSOR_ALLOWED_HOSTS"),
    ],
)
def test_a_matrix_that_cannot_be_run_is_said(
    sweeping: Project, fields: dict[str, Any], options: list[str], expected: str
) -> None:
    sweeping.write("sweep.yaml", sweep_job(**fields))
    assert expected in " ".join(sweeping.refused("train", "sweep.yaml", *options).split())
    assert not sweeping.executions()
