"""Figures over runs tell which trained versions turned out worse."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor import TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.storage import Store


class Better:
    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: "good" for component in request.components}


@pytest.mark.requirement("kpi.stats")
async def test_a_promoted_version_that_measures_worse_later_or_is_rolled_back_is_named(
    store: Store,
) -> None:
    turned = False

    def target(inputs: str) -> float:
        good = get_prompt("p") == "good"
        return float(good is not turned)

    def judge(ctx: Any) -> float:
        return float(ctx.output)

    cases = [
        {"id": f"{split}{n}", "split": split, "inputs": f"{split}{n}"}
        for split in ("train", "validation", "holdout")
        for n in range(12)
    ]
    job: dict[str, Any] = {"evaluators": [judge], "store": store, "workflow_id": "w"}
    trained = await atrain(
        target,
        prompts={"p": "bad"},
        dataset=cases,
        optimizer=TextGrad(proposer=Better()),
        promote="auto",
        guardrail={"latency": "off"},
        **job,
    )
    assert trained.decision.status == "promoted"
    before, after = trained.baseline.config_version, trained.best.config_version
    found = await store.runs.stats("w")
    assert found["regressions"]["regressed"] == []
    turned = True
    for version in (before, after):
        config = {"configurable": {"agentensor": {"use": version}}}
        await aevaluate(target, dataset=cases, config=config, **job)
    regressed = (await store.runs.stats("w"))["regressions"]["regressed"]
    assert [one["version"] for one in regressed] == [after]
    assert "evaluated at 0.0000" in regressed[0]["why"]
    assert (await store.runs.stats("w"))["regressions"]["promoted"] == 1
    await store.aliases.rollback("w", "production", actor="ana", reason="too many complaints")
    regressed = (await store.runs.stats("w"))["regressions"]["regressed"]
    assert [one["why"] for one in regressed] == ["rolled back: too many complaints"]
    assert (await store.runs.stats("other"))["regressions"] == {"promoted": 0, "regressed": []}
