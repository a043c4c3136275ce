"""The retries of a model's own client count as those of the job: 429 with `retries: 2` is asked
three times, not nine. The connections that it keeps open serve the next evaluation, too."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models import _client_utils
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import Limits, LLMJudge, aevaluate, evaluate
from orcheo_agentensor.nodes import AgentNode

CASES = [{"id": str(n), "inputs": {"text": str(n)}} for n in range(2)]


class Busy(ThreadingHTTPServer):
    """An OpenAI-shaped server on loopback that is `busy` for so many requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = 0
        self.busy = 10**9

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Answers 429, or with a reply."""

    server: Busy
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.requests += 1
        message = {"role": "assistant", "content": "yes"}
        body: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
        }
        status = 429 if self.server.requests <= self.server.busy else 200
        text = json.dumps(body if status == 200 else {"error": {"message": "slow down"}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    # LangChain keeps one client for all models; its connections are of the loop of another test.
    _client_utils._cached_async_httpx_client.cache_clear()
    made = Busy()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    ("client", "retries", "requests"),
    [(2, 2, 3), (0, 2, 3), (2, 0, 3), (1, 3, 4), (5, 2, 6)],
)
async def test_the_requests_of_a_busy_server_are_those_that_are_counted(
    server: Busy, client: int, retries: int, requests: int
) -> None:
    model = ChatOpenAI(model="gpt-4o", max_retries=client)

    async def target(inputs: Any) -> str:
        return (await model.ainvoke(inputs["text"])).text

    report = await aevaluate(
        target, dataset=CASES, evaluators=["json_valid"], limits=Limits(retries=retries)
    )
    assert report.summary["n_target_failed"] == 2
    assert server.requests == len(CASES) * requests
    assert report.usage.calls == server.requests


async def test_a_judge_with_a_model_of_its_own_is_counted_alike(server: Busy) -> None:
    judge = LLMJudge(rubric="Is it right?", model=ChatOpenAI(model="gpt-4o", max_retries=2))
    report = await aevaluate(
        lambda inputs: inputs["text"],
        dataset=CASES,
        evaluators=[judge],
        limits=Limits(retries=2),
    )
    assert report.summary["n_evaluator_failed"] == 2
    assert server.requests == 2 * 3
    assert report.usage.calls == server.requests


class State(TypedDict, total=False):
    text: str
    messages: list[Any]
    results: dict[str, Any]


async def test_a_model_that_a_node_names_leaves_the_retries_to_the_job(server: Busy) -> None:
    builder = StateGraph(State)
    builder.add_node("ask", AgentNode(name="ask", model="openai:gpt-4o", user_prompt="hi"))
    builder.add_edge(START, "ask")
    server.busy = 2
    report = await aevaluate(
        builder, dataset=CASES[:1], evaluators=["json_valid"], limits=Limits(retries=2)
    )
    assert [case.failure for case in report.cases] == [None]
    assert server.requests == 3
    assert report.usage.calls == 3
    server.requests = 0
    found = await builder.compile().ainvoke({"text": "hi"})  # its client's own, outside of a job
    assert found["messages"][-1].text == "yes"
    assert server.requests == 3


def evaluated_twice(server: Busy) -> list[tuple[float | None, list[Any]]]:
    """Scores and failures of two evaluations, one after the other, with one model."""
    server.busy = 0
    model = ChatOpenAI(model="gpt-4o", base_url=server.url, api_key="none", max_retries=0)  # type: ignore[arg-type]

    async def target(inputs: dict[str, str]) -> str:
        return (await model.ainvoke(inputs["text"])).text

    cases = [{**case, "expected_output": "yes"} for case in CASES]
    reports = [
        evaluate(target, dataset=cases, evaluators=["exact_match"], min_coverage=0)
        for _ in range(2)
    ]
    return [(report.objective, [case.failure for case in report.cases]) for report in reports]


def test_the_connections_of_a_model_serve_the_next_evaluation_of_a_script(server: Busy) -> None:
    assert evaluated_twice(server) == [(1.0, [None, None])] * 2


async def test_the_connections_of_a_model_serve_the_next_evaluation_of_a_notebook(
    server: Busy,
) -> None:
    assert evaluated_twice(server) == [(1.0, [None, None])] * 2
