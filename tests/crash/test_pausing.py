"""A run whose calls fail one after the other stops paying, and goes on when it is mended."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from orcheo_agentensor import Limits, aevaluate
from orcheo_agentensor.errors import RunPaused
from orcheo_agentensor.storage import Store

CASES = [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(500)]


class Service:
    """A paid service that answers with `status` after so many calls, as long as it is down."""

    def __init__(self, status: int, *, after: int = 0, **headers: str) -> None:
        self._calls: list[int] = []  # private: what is public is part of a judge's fingerprint
        self._down = True
        self._status, self._after, self._headers = status, after, headers

    @property
    def calls(self) -> list[int]:
        return self._calls

    def mend(self) -> None:
        self._down = False

    async def __call__(self, inputs: int) -> int:
        self._calls.append(inputs)
        late = len(self._calls) > self._after
        await asyncio.sleep(0)
        if self._down and late:
            request = httpx.Request("POST", "http://model/v1")
            response = httpx.Response(self._status, request=request, headers=self._headers)
            response.raise_for_status()
        return inputs


def job(store: Store, concurrency: int) -> dict[str, Any]:
    return {
        "dataset": CASES,
        "evaluators": ["exact_match"],
        "limits": Limits(concurrency=concurrency, retries=0),
        "store": store,
        "run_id": "r",
    }


@pytest.mark.parametrize("concurrency", [1, 4, 10])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_key_stops_at_once(status: int, concurrency: int) -> None:
    service, store = Service(status), Store.from_url(None)
    with pytest.raises(RunPaused, match=rf"in a row failed with .*{status}.*; 0 rollouts are"):
        await aevaluate(service, **job(store, concurrency))
    assert len(service.calls) <= 2 * concurrency
    assert (await store.runs.get("r")).status == "interrupted"
    service.mend()
    report = await aevaluate(service, **job(store, concurrency))
    assert (report.coverage, report.objective) == (1.0, 1.0)


async def test_an_outage_in_the_middle_keeps_what_was_paid_for(store: Store) -> None:
    service = Service(503, after=100)
    with pytest.raises(RunPaused, match=r"10 calls of the target in a row .*; 100 rollouts are"):
        await aevaluate(service, **job(store, 4))
    assert len(service.calls) <= 100 + 10 + 4
    service.mend()
    report = await aevaluate(service, **job(store, 4))
    assert (report.coverage, report.objective) == (1.0, 1.0)
    done = service.calls[:100]
    assert not [n for n in service.calls[100:] if n in done]


async def test_a_long_retry_after_pauses_the_run() -> None:
    service, store = Service(429, after=3, **{"Retry-After": "3600"}), Store.from_url(None)
    given = {**job(store, 2), "limits": Limits(concurrency=2)}
    with pytest.raises(RunPaused, match=r"for 3600 s \(Retry-After\); 3 rollouts are recorded"):
        await aevaluate(service, **given)
    assert len(service.calls) <= 3 + 2


async def test_failures_that_differ_or_are_the_cases_own_pause_nothing() -> None:
    async def target(inputs: int) -> int:
        if inputs % 3 == 0:
            raise ConnectionResetError
        if inputs % 3 == 1:
            raise TimeoutError
        raise ValueError(inputs)

    given = {**job(Store.from_url(None), 1), "dataset": CASES[:60], "min_coverage": 0}
    report = await aevaluate(target, **given)
    assert report.coverage == 0.0


async def test_a_judge_with_a_refused_key_stops_the_run_and_keeps_the_rollouts() -> None:
    service, target_calls = Service(401), []

    async def target(inputs: int) -> int:
        target_calls.append(inputs)
        return inputs

    async def judge(ctx: Any) -> float:
        return float(await service(ctx.output) == ctx.output)

    given = {**job(Store.from_url(None), 4), "evaluators": [judge]}
    with pytest.raises(RunPaused, match="evaluator 'judge' in a row"):
        await aevaluate(target, **given)
    assert len(service.calls) <= 8
    before = list(target_calls)
    service.mend()
    report = await aevaluate(target, **given)
    assert report.objective == 1.0
    assert sorted(target_calls) == list(range(500))
    assert len(before) <= 8
