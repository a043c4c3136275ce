"""Replicates of a case, through the public doors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import (
    BadInput,
    Budget,
    Limits,
    MaxSteps,
    Store,
    TextGrad,
    aevaluate,
    atrain,
    get_prompt,
)
from orcheo_agentensor.errors import BudgetTooSmall
from orcheo_agentensor.evaluators import EvaluationResult
from orcheo_agentensor.optimizers import ProposalRequest

CASES = [{"id": f"c{i}", "inputs": {"i": i}} for i in range(5)]

FAST = {"type": "latency", "max_ms": 60_000}


def parity(outputs: dict[str, int]) -> int:
    return outputs["run"] % 2


class Noisy:
    """A target that is right on every other run of a case, and a judge that counts its calls."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()
        self.judged: Counter[int] = Counter()

    async def target(self, inputs: dict[str, int]) -> dict[str, int]:
        self.runs[inputs["i"]] += 1
        return {"run": self.runs[inputs["i"]]}

    def judge(self, inputs: dict[str, int], outputs: dict[str, int]) -> dict[str, Any]:
        self.judged[inputs["i"]] += 1
        return {"score": outputs["run"] % 2, "comment": f"run {outputs['run']}"}


async def test_each_replicate_is_run_and_judged_and_the_case_stays_the_unit() -> None:
    noisy, events = Noisy(), list[dict[str, Any]]()
    report = await aevaluate(
        noisy.target,
        dataset=CASES,
        evaluators=[noisy.judge],
        replicates=4,
        limits=Limits(concurrency=1),
        on_event=events.append,
    )
    assert set(noisy.runs.values()) == set(noisy.judged.values()) == {4}
    assert report.objective == 0.5
    assert report.summary["evaluators"]["judge"]["n"] == 5
    assert report.summary["replicates"] == 4
    assert report.usage.rollouts == 20
    finished = [event for event in events if event["type"] == "case_finished"]
    assert [event["case_id"] for event in finished] == [case["id"] for case in CASES]
    (outcome,) = report.cases[0].outcomes
    assert isinstance(outcome, EvaluationResult)
    assert (outcome.score, outcome.reason) == (0.5, "run 2")  # the first that scored worst
    assert report.cases[0].output == {"run": 2}


async def test_replicates_of_a_run_submitted_again_are_replayed(tmp_path: Path) -> None:
    noisy = Noisy()
    job: dict[str, Any] = {
        "dataset": CASES,
        "evaluators": [parity],
        "replicates": 3,
        "store": f"sqlite:///{tmp_path}/a.db",
    }
    first = await aevaluate(noisy.target, run_id="r", **job)
    again = await aevaluate(noisy.target, run_id="r", **job)
    assert again.summary == first.summary
    strip = [(case.case_id, case.output, case.outcomes) for case in first.cases]
    assert [(case.case_id, case.output, case.outcomes) for case in again.cases] == strip
    more = await aevaluate(noisy.target, run_id="more", reuse="r", **{**job, "replicates": 5})
    assert more.usage.rollouts == 2 * len(CASES)  # three of each were there
    with pytest.raises(BadInput):
        await aevaluate(noisy.target, run_id="r", **{**job, "replicates": 2})


@pytest.mark.parametrize("replicates", [0, 101])
async def test_no_number_of_replicates_but_one_to_a_hundred_is_taken(replicates: int) -> None:
    with pytest.raises(BadInput, match="replicates"):
        await aevaluate(Noisy().target, dataset=CASES, evaluators=[FAST], replicates=replicates)


class Writer:
    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        return {c.name: c.text + " better" for c in request.components}


async def test_training_runs_every_case_so_often_and_says_what_that_takes() -> None:
    runs: Counter[tuple[int, str]] = Counter()

    async def target(inputs: dict[str, int]) -> dict[str, float]:
        text = get_prompt("p")
        runs[inputs["i"], text] += 1
        return {"score": float("better" in text)}

    job: dict[str, Any] = {
        "prompts": {"p": "Do."},
        "dataset": [
            {"id": f"{split}{i}", "split": split, "inputs": {"i": n * 10 + i}}
            for n, split in enumerate(("train", "validation", "holdout"))
            for i in range(4)
        ],
        "evaluators": [lambda outputs: outputs["score"]],
        "optimizer": TextGrad(minibatch=2, proposer=Writer()),
        "replicates": 3,
        "stop": [MaxSteps(1)],
    }
    found = await atrain(target, **job)
    assert found.best.metrics["objective"] == 1.0
    assert found.best.metrics["replicates"] == 3
    assert found.holdout is not None
    assert found.holdout["n"] == 4
    assert found.holdout["baseline"]["replicates"] == 3
    assert {count for (case, _), count in runs.items() if case >= 10} == {3}
    with pytest.raises(BudgetTooSmall, match="must be at least 37"):
        await atrain(target, **job, budget=Budget(rollouts=36))
    least = await atrain(target, **job, budget=Budget(rollouts=37))
    assert least.usage.rollouts <= 37
    assert least.decision.status == "kept"


async def test_trouble_of_an_evaluator_that_passes_is_tried_again() -> None:
    tried: Counter[str] = Counter()

    class Busy(Exception):
        status_code = 503

    async def flaky(inputs: dict[str, int]) -> float:
        tried["flaky"] += 1
        if tried["flaky"] == 1:
            raise Busy("later")
        return 1.0

    async def wrong(inputs: dict[str, int]) -> float:
        tried["wrong"] += 1
        raise KeyError("x")

    async def lost(inputs: dict[str, int]) -> float:
        tried["lost"] += 1
        raise ConnectionError("lost")

    async def target(inputs: dict[str, int]) -> int:
        return 1

    async with Store.from_url(None) as store:
        report = await aevaluate(
            target,
            dataset=CASES[:1],
            evaluators=[flaky, wrong, lost],
            limits=Limits(retries=1),
            store=store,
        )
    assert tried == {"flaky": 2, "wrong": 1, "lost": 2}
    assert report.cases[0].scores == {"flaky": 1.0}
    assert [failure.name for failure in report.cases[0].failures] == ["wrong", "lost"]
