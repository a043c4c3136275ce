"""Nothing is paid before all that can be known is checked, and `--dry-run` shows it all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import Project, evaluation_job, make_project, training_job


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = make_project(tmp_path)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "shopflow")
    monkeypatch.setenv("SHOPFLOW_LOG", str(made.log))
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return made


def judge(**fields: Any) -> dict[str, Any]:
    return {"evaluators": [{"type": "llm_judge", "rubric": "Is it kind?", **fields}]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an evaluator misspelt": ({"evaluators": ["exact_mach"]}, "did you mean 'exact_match'?"),
    "an option of a built-in": (
        {"evaluators": [{"type": "contains", "valeu": "x"}]},
        "contains.valeu: is not a parameter; there are: name, field, expected_field, value",
    ),
    "a parameter of a function": (
        {"evaluators": [{"entrypoint": "shopflow:right", "params": {"treshold": 2}}]},
        "params.treshold is not a parameter of right; there are: outputs, reference_outputs",
    ),
    "a judge without its key": (judge(model="openai:gpt-4o"), "OPENAI_API_KEY"),
    "a judge of no provider": (judge(model="opnai:gpt-4o"), "'opnai:gpt-4o' cannot be used"),
    "a dataset that is not there": ({"dataset": "nope.jsonl"}, "there is no file 'nope.jsonl'"),
    "a key of a dataset": (
        {"dataset": {"path": "words.jsonl", "spilt": "train"}},
        "dataset.spilt: 'train' is not known; there are: path",
    ),
    "a field of a prompt": (
        {"prompts": {"words": {"text": "w0", "require_grad": False}}},
        "prompts.words.require_grad: False is not a field of a prompt; there are: ",
    ),
    "a prompt that is a number": (
        {"prompts": {"words": 7}},
        "job.prompts.words: 7 must be a text, an object or a TextTensor",
    ),
    "a tensor of another type": (
        {"prompts": {"words": {"type": "Tensor", "text": "w0"}}},
        "prompts.words.type: 'Tensor' is not valid: Input should be 'TextTensor'",
    ),
    "a tensor without its text": (
        {"prompts": {"words": {"type": "TextTensor", "txt": "w0"}}},
        "prompts.words.text: None must be given\n  prompts.words.txt: 'w0' is not a field",
    ),
    "an override that no node reads": (
        {
            "target": "shopflow:greeter",
            "config": {"configurable": {"node_overrides": {"greet": {"temperature": 0.1}}}},
        },
        "node_overrides.greet.temperature: 0.1 cannot be overridden: the node does not look for it",
    ),
    "a bind without a place": (
        {"prompts": {"words": {"text": "w0", "bind": "context.words"}}},
        "bind to 'configurable.<path>' instead",
    ),
    "a key of the limits": ({"limits": {"retry": 1}}, "job.limits.retry: 1 is not a known field"),
}
BAD_TRAININGS: dict[str, tuple[dict[str, Any], str]] = {
    "a guardrail beyond its range": ({"guardrail": {"alpha": 2}}, "job.guardrail.alpha: 2"),
    "a guardrail of another name": ({"guardrail": {"p95": 2}}, "known: alpha, cost, latency"),
    "a proposing model without its key": (
        {"optimizer": {"name": "reflective", "model": "openai:gpt-4o"}},
        "optimizer.model: 'openai:gpt-4o' is not a usable chat model: Missing credentials",
    ),
    "a proposer that is not there": (
        {"optimizer": {"name": "textgrad", "proposer": "shopflow:Nobody"}},
        "module 'shopflow' has no 'Nobody'",
    ),
}


@pytest.mark.requirement("config.validated")
@pytest.mark.parametrize("case", [*BAD, *BAD_TRAININGS])
def test_a_job_that_cannot_work_is_refused_before_any_call(project: Project, case: str) -> None:
    mode = "evaluate" if case in BAD else "train"
    changes, told = {**BAD, **BAD_TRAININGS}[case]
    job = evaluation_job(**changes) if mode == "evaluate" else training_job(**changes)
    project.write("bad.yaml", job)
    for more in ([], ["--dry-run"]):
        assert told in project.refused(mode, "bad.yaml", *more)
    assert project.executions() == []
    assert not project.database.exists()


def test_a_dry_run_shows_what_would_run_and_where_prompts_are_read(project: Project) -> None:
    prompts: dict[str, Any] = {
        "words": "w0 w1",
        "tone": "kind",
        "persona": {"text": "clerk", "bind": "configurable.persona"},
    }
    project.write("plan.yaml", evaluation_job(prompts=prompts, replicates=2))
    shown = project.call("evaluate", "plan.yaml", "--dry-run").output
    for line in (
        "words is read by its name",
        "tone binds nowhere, and nothing in the target names it: read it by get_prompt('tone')",
        "persona binds to configurable.persona",
        "72 rollouts, each scored by 1 evaluators",
        "langsmith: right(outputs, reference_outputs)",
    ):
        assert line in shown
    assert project.executions() == []
