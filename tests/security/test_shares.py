"""One caller's load on a server with tokens does not hold up another's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from dev_server import Served
from langgraph_sdk import get_client

ANA, BEN = "canary-token-of-ana", "canary-token-of-ben"


def client(guarded: Served, token: str) -> Any:
    headers = {"authorization": f"Bearer {token}"}
    return get_client(url=guarded.url, api_key=None, headers=headers, timeout=None)


def waiting(gate: Path, n: int) -> dict[str, Any]:
    """A job whose one case is answered once the gate is open."""
    return {
        "target": "served_workflows:clerk",
        "evaluators": [{"type": "latency", "max_ms": 10**9}],
        "prompts": {"skills": "card"},
        "dataset": [{"id": f"c{n}", "inputs": {"kind": "card", "after": str(gate)}}],
    }


async def test_a_callers_runs_wait_for_each_other_and_for_nobody_else(
    guarded: Served, tmp_path: Path
) -> None:
    """Forty runs that cannot end take eight of the server's ten places: Ben's runs have the rest,
    by whatever door Ana's came in."""
    gate = tmp_path / "gate"
    async with client(guarded, ANA) as ana, client(guarded, BEN) as ben:
        thread = (await ana.threads.create())["thread_id"]

        async def load(n: int) -> Any:
            job = waiting(gate, n)
            if n % 2:
                return await ana.runs.wait(None, "evaluation", input=job)
            own = (await ana.threads.create())["thread_id"]
            made = await ana.runs.create(own, "evaluation", input=job)
            return await ana.runs.join(own, made["run_id"])

        loads = [asyncio.create_task(load(n)) for n in range(40)]
        quick = [
            await ben.runs.wait(None, "evaluation", input=waiting(tmp_path, n)) for n in range(3)
        ]
        assert [found["status"] for found in quick] == ["finished"] * 3
        assert not any(task.done() for task in loads)
        busy = await ana.runs.list(thread)
        assert busy == []
        gate.touch()
        found = await asyncio.gather(*loads)
    assert [one["status"] for one in found] == ["finished"] * 40


async def test_more_than_can_wait_is_refused_with_when_to_ask_again(
    guarded: Served, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    headers = {"authorization": f"Bearer {ANA}"}
    async with httpx.AsyncClient(
        base_url=guarded.url,
        headers=headers,
        timeout=None,
        limits=httpx.Limits(max_connections=None),
    ) as http:
        batch = [{"assistant_id": "evaluation", "input": waiting(gate, n)} for n in range(9)]
        answer = await http.post("/runs/batch", json=batch)
        assert answer.status_code == 429
        loads = [
            asyncio.create_task(
                http.post(
                    "/runs/wait", json={"assistant_id": "evaluation", "input": waiting(gate, n)}
                )
            )
            for n in range(115)
        ]
        refused = []
        while len(refused) < 7:
            await asyncio.wait(loads, return_when=asyncio.FIRST_COMPLETED)
            done = [task for task in loads if task.done()]
            loads = [task for task in loads if not task.done()]
            refused += [task.result() for task in done]
        assert {one.status_code for one in refused} == {429}
        assert {one.headers["retry-after"] for one in refused} == {"5"}
        assert len(refused) == 7  # 8 at work, 100 in the line
        gate.touch()
        found = await asyncio.gather(*loads)
    assert {one.status_code for one in found} == {200}
