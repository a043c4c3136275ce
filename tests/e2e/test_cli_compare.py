"""`agentensor compare`, and `evaluate --baseline`: gates on what was measured before."""

from __future__ import annotations

from cli_support import Project, evaluation_job


def test_two_runs_are_compared_and_a_drop_ends_with_1(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "before")
    project.write("evaluate.yaml", evaluation_job(prompts={"words": "w0"}))
    project.ok("evaluate", "evaluate.yaml", "--run-id", "after")
    shown = project.call("compare", "before", "after").stdout
    assert "9 cases broke" in shown
    assert "c1" in shown
    found = project.ok("compare", "before", "after")
    assert found["contrasts"][0]["objective"]["gain"] == -0.25
    gated = project.call("compare", "before", "after", "--max-drop", "0.1")
    assert gated.exit_code == 1
    assert "missed: right fell from 0.500 to 0.250" in gated.stdout
    assert project.call("compare", "after", "before", "--max-drop", "0.1").exit_code == 0


def test_an_evaluation_is_gated_on_a_stored_version(project: Project) -> None:
    project.ok("train", "train.yaml", "--run-id", "t")
    project.ok("checkpoints", "promote", "shop", "best", "--reason", "seen")
    holdout = evaluation_job(dataset={"path": "words.jsonl", "split": "holdout"})
    project.write("evaluate.yaml", holdout)
    calls = len(project.executions())
    worse = project.call("evaluate", "evaluate.yaml", "--baseline", "production", "--json")
    assert worse.exit_code == 1, worse.output
    assert len(project.executions()) == calls + 12 if calls else True
    good = project.ok(
        "evaluate", "evaluate.yaml", "--checkpoint", "best", "--baseline", "shop@best"
    )
    assert good["comparison"]["drops"] == []
    assert good["comparison"]["contrasts"][0]["objective"]["n"] == 12


def test_a_baseline_that_cannot_be_is_refused_before_anything_runs(project: Project) -> None:
    told = project.refused("evaluate", "evaluate.yaml", "--baseline", "production")
    assert "production" in told
    assert project.executions() == []
    assert "needs a --baseline" in project.refused("evaluate", "evaluate.yaml", "--max-drop", "0.1")
    assert "no run 'x'" in project.refused("compare", "x", "y")
    assert "at least two" in project.refused("compare", "x")
