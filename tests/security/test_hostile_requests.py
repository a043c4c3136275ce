"""Requests to a real server that are too much, or come by the door of MCP: refused in time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dev_server import Served

ANA, BEN = "canary-token-of-ana", "canary-token-of-ben"
JOB: dict[str, Any] = {
    "target": "served_workflows:clerk",
    "evaluators": ["exact_match"],
    "prompts": {"skills": "card"},
    "dataset": [{"id": "c", "inputs": {"kind": "card"}, "expected_output": {"answer": "card"}}],
}


@pytest.fixture
async def http(guarded: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks as Ana."""
    headers = {"authorization": f"Bearer {ANA}", "accept": "application/json"}
    async with httpx.AsyncClient(base_url=guarded.url, headers=headers, timeout=None) as opened:
        yield opened


async def tool(http: httpx.AsyncClient, name: str, *, token: str = ANA, **given: Any) -> Any:
    """What MCP answers to a call of a tool."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    call["params"] = {"name": name, **given}  # type: ignore[assignment]
    answer = await http.post("/mcp", json=call, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


async def test_a_refusal_is_an_error_of_the_tool_for_mcp(http: httpx.AsyncClient) -> None:
    job = {**JOB, "run_id": "anas-by-mcp"}
    assert "isError" not in await tool(http, "evaluation", arguments=job)
    others: tuple[tuple[dict[str, Any], str], ...] = (
        ({"evaluators": ["no_such"]}, "ConfigError: evaluators: 'no_such'"),
        ({"reuse": "anas-by-mcp"}, "ConfigError: job.reuse: 'anas-by-mcp' names something"),
        ({"reuse": "no-such-run"}, "ConfigError: job.reuse: 'no-such-run' names something"),
        ({"run_id": "anas-by-mcp"}, "Forbidden: run_id 'anas-by-mcp' cannot be used by you"),
        ({"evaluators": [{"type": "length", **{f"k{n}": n for n in range(10_001)}}]}, "10,000"),
    )
    for change, said in others:
        result = await tool(http, "evaluation", token=BEN, arguments={**JOB, **change})
        assert result["isError"] is True
        assert said in result["content"][0]["text"]
    result = await tool(http, "context", arguments={}, context={"tome": "x"})
    assert result["isError"] is True
    assert "context.tome: 'tome' is not a field of the context" in result["content"][0]["text"]
    large = await http.post("/mcp", content=b'{"params": "' + b"x" * 5 * 2**20 + b'"}')
    assert large.status_code == 413


async def test_a_context_key_that_its_graph_does_not_declare_is_refused(
    http: httpx.AsyncClient,
) -> None:
    for context, status in (
        ({"tone": "warm"}, 200),
        ({"tone": "warm", "length": 2}, 200),
        ({"tone": "warm", "tome": 1}, 422),
        ({"Tone": "warm"}, 422),
        ({"user_id": "ana"}, 422),
    ):
        given = {"assistant_id": "context", "input": {}, "context": context}
        for path in ("/runs/wait", "/runs/stream"):
            answer = await http.post(path, json=given)
            assert answer.status_code == status, (path, context, answer.text)
            if status == 422:
                [problem] = answer.json()["error"]["problems"]
                assert problem["field"] == f"context.{[*context][-1]}"
                assert "known: length, tone" in problem["rule"]


MANY = {f"k{n}": n for n in range(10**6)}
HOSTILE: dict[str, dict[str, Any]] = {
    "a job's keys": {"input": {**JOB, **MANY}},
    "a job's config": {"input": {**JOB, "config": {"configurable": MANY}}},
    "a job's prompts": {"input": {**JOB, "prompts": MANY}},
    "a case": {"input": {**JOB, "dataset": [{"inputs": MANY}], "evaluators": ["no_such"]}},
    "a request's keys": {"input": JOB, **MANY},
    "metadata": {"input": JOB, "metadata": MANY},
    "a config": {"assistant_id": "echo", "input": {}, "config": {"configurable": MANY}},
    "a context": {"assistant_id": "context", "input": {}, "context": MANY},
}


def spent_by_loop(server: Served) -> float:
    """Seconds of CPU of the thread that runs the server's event loop."""
    fields = Path(f"/proc/{server.pid}/task/{server.pid}/stat").read_text().rpartition(")")[2]
    return sum(map(int, fields.split()[11:13])) / 100


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_million_keys_keep_nobody_from_the_event_loop(
    name: str, http: httpx.AsyncClient, guarded: Served
) -> None:
    """They are parsed in a thread, and refused by the first walk over them."""
    body = json.dumps({"assistant_id": "evaluation", **HOSTILE[name]}).encode()
    before = spent_by_loop(guarded)
    answer = await http.post(
        "/runs/wait", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text[:200]
    assert spent_by_loop(guarded) - before < 1.0
    if name != "a case":
        assert "more than 10,000 values" in answer.json()["error"]["message"]


async def test_a_body_over_the_bound_is_refused_before_it_is_parsed(
    http: httpx.AsyncClient, guarded: Served
) -> None:
    before = spent_by_loop(guarded)
    answer = await http.post("/runs/wait", content=b'{"a": "' + b"x" * 65 * 2**20 + b'"}')
    assert answer.status_code == 413
    assert spent_by_loop(guarded) - before < 1.0


async def test_a_token_without_scopes_has_no_tools(http: httpx.AsyncClient) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    nobody = {"authorization": "Bearer canary-token-of-nobody"}
    answer = await http.post("/mcp", json=call, headers=nobody)
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "Forbidden"


STEERING = "\u202e\u200b\x9b\x85\u2028\x7f\U000e0041"


async def test_an_error_quotes_no_steering_characters(http: httpx.AsyncClient) -> None:
    body = {"assistant_id": "evaluation", "input": {**JOB, f"k{STEERING}": 1}}
    answer = await http.post("/runs/wait", json=body)
    assert answer.status_code == 422
    assert not set(STEERING) & set(answer.content.decode())
    assert STEERING in answer.json()["error"]["message"]
