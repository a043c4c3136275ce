"""The SLA of cases and the goal of a training: reported, and gates where the job says so."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor import Budget, TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.training import Goal

SLA = {"case_sla_ms": 100, "retries": 0}


def ok(ctx: Any) -> float:
    return 1.0


@pytest.fixture
def mixed(measured_time: Any) -> Any:
    """Two cases of ten are slow, three are timed out, and one breaks."""

    async def target(inputs: str) -> str:
        measured_time.pass_by(0.2 if inputs == "slow" else 0.01)
        if inputs == "late":
            raise TimeoutError("no answer")
        if inputs == "broken":
            raise ValueError("no such thing")
        return inputs

    return target


CASES = [
    {"id": f"{kind}-{n}", "inputs": kind}
    for kind, count in (("slow", 2), ("late", 3), ("broken", 1), ("well", 4))
    for n in range(count)
]


@pytest.mark.requirement("evaluation.sla")
async def test_failed_and_timed_out_cases_are_outside_the_sla(mixed: Any) -> None:
    report = await aevaluate(
        mixed, dataset=CASES, evaluators=[ok], limits={**SLA, "concurrency": 1}, min_coverage=0.1
    )
    assert report.summary["sla"] == {"limit_ms": 100, "within": 4, "share": 0.4}
    assert report.status == "finished"


@pytest.mark.requirement("evaluation.sla")
@pytest.mark.parametrize(("least", "status"), [(0.4, "finished"), (0.41, "missed_threshold")])
async def test_min_within_sla_is_a_gate(mixed: Any, least: float, status: str) -> None:
    report = await aevaluate(
        mixed,
        dataset=CASES,
        evaluators=[ok],
        limits={**SLA, "concurrency": 1, "min_within_sla": least},
        min_coverage=0.1,
    )
    assert report.status == status
    missed = report.summary.get("missed", [])
    assert missed == (
        ["SLA: 40.0% of the cases within 100 ms is below 41.0%"]
        if status == "missed_threshold"
        else []
    )


async def test_a_share_without_an_sla_is_refused() -> None:
    with pytest.raises(ConfigError, match="case_sla_ms"):
        await aevaluate(
            lambda inputs: inputs,
            dataset=CASES,
            evaluators=[ok],
            limits={"min_within_sla": 0.9},
        )


def splits(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}{n}", "split": split, "inputs": f"{split}{n}"}
        for split in ("train", "validation", "holdout")
        for n in range(count)
    ]


class Better:
    """Proposes one text that is better, and slower."""

    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "do well" for component in request.components}


async def trained(measured_time: Any, seconds: float = 0.0, **job: Any) -> Any:
    async def target(inputs: str) -> float:
        well = "well" in get_prompt("p")
        measured_time.pass_by(seconds if well else 0.01)
        return 0.9 if well else 0.5

    return await atrain(
        target,
        prompts={"p": "do"},
        dataset=splits(30),
        evaluators=[lambda ctx: ctx.output],
        optimizer=TextGrad(proposer=Better()),
        budget=Budget(rollouts=250),
        promote="auto",
        **job,
    )


@pytest.mark.requirement("guardrail.sla")
async def test_a_version_that_misses_the_sla_is_not_promoted(measured_time: Any) -> None:
    limits = {**SLA, "concurrency": 1, "min_within_sla": 0.95}
    guardrail = {"latency": "off"}
    slow = await trained(measured_time, 0.2, limits=limits, guardrail=guardrail)
    assert slow.decision.status == "rejected"
    assert any(
        "holdout: SLA: 0.0% of the cases within 100 ms" in reason
        for reason in slow.decision.reasons
    )
    assert slow.status == "missed_threshold"
    quick = await trained(measured_time, 0.02, limits=limits, guardrail=guardrail)
    assert (quick.decision.status, quick.status) == ("promoted", "finished")


@pytest.mark.requirement("guardrail.goal-gate")
async def test_the_goal_is_reported_on_each_split(measured_time: Any) -> None:
    result = await trained(measured_time)
    by_split = result.decision.target_gain["by_split"]
    assert {split: one["met"] for split, one in by_split.items()} == dict.fromkeys(
        ("train", "validation", "holdout"), True
    )
    for one in by_split.values():
        assert (round(one["baseline"], 9), round(one["best"], 9)) == (0.5, 0.9)
    assert 0 < by_split["train"]["n"] <= by_split["train"]["cases"] == 30


@pytest.mark.requirement("guardrail.goal-gate")
async def test_the_goal_is_a_gate_where_the_job_says_so(measured_time: Any) -> None:
    met = await trained(measured_time, goal=Goal(gain=0.5, gate=["train", "holdout"]))
    assert (met.decision.status, met.status) == ("promoted", "finished")
    missed = await trained(measured_time, goal={"gain": 0.9, "gate": ["holdout"]})
    assert (missed.decision.status, missed.status) == ("kept", "missed_threshold")
    told = "goal: 0.5000 to 0.9000 on holdout is less than +90%"
    assert told in missed.decision.reasons
    assert missed.summary["missed"] == [told]
