"""The HTTP evaluator: results, failures, and that it goes nowhere it may not."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import respx

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators import (
    EvaluationResult,
    EvaluatorContext,
    EvaluatorFailure,
    HTTPEvaluator,
    Outcome,
    bind_evaluator,
    bind_evaluators,
)
from orcheo_agentensor.settings import Settings

URL = "https://scores.example/rate"
CTX = EvaluatorContext(
    case_id="c", inputs={"q": 1}, output="x", expected_output="y", metadata={"m": 1}
)


async def scored(timeout: float = 60.0, **params: Any) -> list[Outcome]:
    evaluator = HTTPEvaluator(url=URL, allowed_hosts=("scores.example",), **params)
    outcomes, _ = await bind_evaluator(evaluator, settings=Settings()).score(CTX, timeout=timeout)
    return outcomes


@respx.mock
async def test_a_rollout_is_posted_and_the_answer_is_the_result() -> None:
    route = respx.post(URL).respond(json={"score": 0.5, "reason": "so-so", "passed": False})
    (found,) = await scored(headers={"Authorization": "Bearer x"})
    assert found == EvaluationResult(name="http", score=0.5, reason="so-so", passed=False)
    request = route.calls.last.request
    assert request.headers["authorization"] == "Bearer x"
    assert json.loads(request.content) == {
        "case_id": "c", "inputs": {"q": 1}, "output": "x", "expected_output": "y",
        "metadata": {"m": 1},
    }  # fmt: skip


@respx.mock
async def test_several_results_come_by_name() -> None:
    results = [{"name": "tone", "score": 1}, {"name": "facts", "score": 0}]
    respx.post(URL).respond(json={"results": results})
    assert [one.name for one in await scored()] == ["http.tone", "http.facts"]


@pytest.mark.parametrize(
    ("response", "kind", "reason"),
    [
        (httpx.Response(500, text="secret"), "exception", "HTTP 500 from scores.example"),
        (httpx.Response(302, headers={"location": "http://10.0.0.1/"}), "exception", "HTTP 302"),
        (httpx.Response(200, text="<html>"), "exception", "JSONDecodeError"),
        (httpx.Response(200, text='{"score": NaN}'), "not_finite", "not finite"),
        (httpx.Response(200, json={"rating": 1}), "wrong_shape", "expected `score`"),
        (httpx.Response(200, content=b"x" * 1_100_000), "exception", "larger than 1,048,576"),
        (httpx.ConnectError("refused"), "exception", "ConnectError: refused"),
    ],
)
@respx.mock
async def test_anything_else_is_a_failure(response: Any, kind: str, reason: str) -> None:
    respx.post(URL).mock(
        **({"side_effect": response} if isinstance(response, Exception) else
           {"return_value": response})
    )  # fmt: skip
    (found,) = await scored()
    assert isinstance(found, EvaluatorFailure)
    assert found.kind == kind
    assert reason in found.reason
    assert len(respx.calls) == 1


def test_only_allowed_hosts_are_talked_to() -> None:
    def bind(url: str, *hosts: str) -> None:
        spec = {"type": "http", "url": url}
        bind_evaluators([spec], settings=Settings(allowed_hosts=hosts))

    bind(URL, "scores.example")
    bind(URL, "SCORES.example:443")
    bind("http://localhost:8080/x", "localhost:8080")
    for url, hosts in [
        (URL, ()),
        (URL, ("example",)),
        ("https://scores.example.evil.example/", ("scores.example",)),
        ("http://localhost:8081/x", ("localhost:8080",)),
    ]:
        with pytest.raises(EvaluatorRefused, match="AGENTENSOR_ALLOWED_HOSTS"):
            bind(url, *hosts)


def test_a_job_may_not_allow_itself_a_host() -> None:
    spec = {"type": "http", "url": URL, "allowed_hosts": ["scores.example"]}
    with pytest.raises(EvaluatorRefused, match="not a job's"):
        bind_evaluators([spec], settings=Settings())


def test_the_operators_hosts_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTENSOR_ALLOWED_HOSTS", "scores.example, localhost:8080")
    assert Settings().allowed_hosts == ("scores.example", "localhost:8080")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://scores.example/",
        "https://user:secret@scores.example/",
        "https://scores.example:99999/",
        "https:///x",
        "scores.example",
    ],
)
def test_a_url_that_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(EvaluatorRefused):
        bind_evaluators(
            [{"type": "http", "url": url}], settings=Settings(allowed_hosts=("scores.example",))
        )
