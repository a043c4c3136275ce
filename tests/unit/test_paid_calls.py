"""Calls that a run has recorded are paid once."""

from __future__ import annotations

import asyncio
from typing import Any

from orcheo_agentensor import Budget, Limits, Store
from orcheo_agentensor.evaluation.paid_calls import PaidCalls
from orcheo_agentensor.storage import RunRecord
from orcheo_agentensor.training import BudgetMeter


async def test_the_same_call_made_twice_at_once_is_paid_once() -> None:
    asked: list[int] = []

    async def ask() -> dict[str, Any]:
        asked.append(1)
        await asyncio.sleep(0.01)
        return {"text": str(len(asked))}

    async with Store.from_url(None) as store:
        run = RunRecord(run_id="r", workflow_id="w", mode="train", job_hash="x")
        await store.runs.create(run)
        async with store.ledger("r", lease=await store.runs.acquire("r")) as ledger:
            meter = BudgetMeter(Budget())
            calls = PaidCalls(ledger, Limits(case_timeout=60))
            answers = await asyncio.gather(
                *(
                    calls.answer("key", "criticism", ask, meter=meter, who="critic")
                    for _ in range(3)
                )
            )
    assert answers == [{"text": "1"}] * 3
