"""The support-triage workflow, its evaluators, its data and its job files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import orcheo_agentensor.demo as demo
from orcheo_agentensor import EvaluationJob
from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.demo import RULES, LexicalChatModel, queue_accuracy, reply_policy
from orcheo_agentensor.demo.workflow import (
    POLICY,
    QUEUES,
    create_support_triage,
    demo_model,
    seed_prompts,
    support_triage,
    triage_text,
)
from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.prompts import as_prompts
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.tape import record_tape
from orcheo_agentensor.training import TrainingJob

HOME = Path(demo.__file__).parent
DATA = HOME / "data" / "banking_tickets.jsonl"
TICKET = {"ticket": "How long does delivery take? My transfers work."}


async def test_it_answers_without_any_prompts_in_the_config() -> None:
    output = await support_triage(LexicalChatModel()).compile().ainvoke(TICKET)
    assert set(output) == {"queue", "reply"}
    assert output["queue"] == "delivery"
    assert output["reply"].startswith("Hello")


async def test_the_prompts_of_the_run_decide() -> None:
    triage = triage_text().replace("transfers: transfers", "transfers: transfers work take long")
    reply = 'Rules:\n- Start with "Good day".\n'
    config: Any = {"configurable": {"prompts": {"triage": triage, "reply": reply}}}
    output = await support_triage(LexicalChatModel()).compile().ainvoke(TICKET, config)
    assert output["queue"] == "transfers"
    assert output["reply"].startswith("Good day")


async def test_the_tape_shows_who_reads_which_prompt() -> None:
    graph = support_triage(LexicalChatModel()).compile()
    with record_tape() as tape:
        await graph.ainvoke(TICKET)
    assert {run.node: run.prompts for run in tape.runs.values()} == {
        "triage": ["triage"],
        "reply": ["reply", "policy"],
    }


def test_the_simulated_model_runs_until_a_real_one_is_named() -> None:
    assert isinstance(demo_model(Settings(model=None)), LexicalChatModel)


def test_the_policy_is_frozen_and_every_line_of_it_is_checkable() -> None:
    prompts = seed_prompts()
    assert not prompts["policy"].requires_grad
    assert all(prompts[name].requires_grad for name in ("triage", "reply"))
    assert len(RULES) == len(POLICY.strip().splitlines()) - 1


def test_queue_accuracy_says_what_was_expected() -> None:
    wrong = queue_accuracy({"queue": "account"}, {"queue": "cash"})
    assert wrong == {
        "key": "queue_accuracy",
        "score": 0.0,
        "comment": "expected queue 'cash', got 'account'",
    }
    assert queue_accuracy({"queue": "Cash"}, {"queue": "cash"})["score"] == 1.0


def test_reply_policy_lists_the_rules_broken() -> None:
    reply = "Hello, the team is cash. Never share your PIN! Unfortunately we are closed."
    assert reply_policy({"queue": "cash", "reply": reply}) == {
        "key": "reply_policy",
        "score": pytest.approx(4 / 6),
        "comment": 'breaks: avoid "unfortunately"; end with "Kind regards"',
    }
    good = "Hello. Your team is cash. Never share your PIN. Kind regards"
    assert reply_policy({"queue": "cash", "reply": good})["score"] == 1.0


def test_the_tickets_come_with_their_attribution() -> None:
    dataset = Dataset.load(DATA)
    assert dataset.splits() == {"train": 150, "validation": 90, "holdout": 180}
    assert {case.expected_output["queue"] for case in dataset} == set(QUEUES)
    assert len({case.inputs["ticket"] for case in dataset}) == 420
    assert Counter(case.metadata["language"] for case in dataset) == {"en": 420}
    attribution = (DATA.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "BANKING77" in attribution
    assert "Creative Commons Attribution 4.0" in attribution


@pytest.mark.parametrize(
    ("name", "model"), [("evaluate.yaml", EvaluationJob), ("train.yaml", TrainingJob)]
)
def test_the_job_files_name_what_the_demo_runs(name: str, model: Any) -> None:
    path = HOME / "jobs" / name
    job = model.parse(yaml.safe_load(path.read_text()))
    assert as_prompts(job.prompts) == seed_prompts()
    assert load_entrypoint(job.target, settings=Settings(), what="target") is create_support_triage
    loaded = [
        load_entrypoint(spec, settings=Settings(), what="evaluator") for spec in job.evaluators
    ]
    assert loaded == [queue_accuracy, reply_policy]
    assert (path.parent / job.dataset["path"]).resolve() == DATA.resolve()
