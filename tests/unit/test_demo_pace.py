"""What the demo asks of a model's server, and how it is sized by the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import respx

from orcheo_agentensor import BadInput
from orcheo_agentensor.demo import set_up
from orcheo_agentensor.demo.pace import Pace, ServerSays, ask_server, measure_pace
from orcheo_agentensor.settings import Settings

BASE = "http://127.0.0.1:9/v1"
LLAMA = {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 3}
PROMPTS = {"triage": "Route it.", "reply": "Answer it."}


class Slow:
    """A graph that counts its cases."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    async def ainvoke(self, inputs: Any) -> None:
        self.given.append(inputs)


def of(seconds: float, *, at_once: int = 2) -> Pace:
    return Pace(server=BASE, says=ServerSays(), at_once=at_once, seconds=seconds)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_BASE_URL", BASE)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with respx.mock(base_url="http://127.0.0.1:9", assert_all_called=False) as mocked:
        mocked.get("/props").respond(404)
        mocked.get("/v1/models").respond(json={"data": [{"id": "m"}]})
        yield mocked


async def test_llama_cpp_tells_its_window_and_its_slots(server: Any) -> None:
    server.get("/props").respond(json=LLAMA)
    assert await ask_server(BASE) == ServerSays(window=2048, slots=3)


async def test_vllm_tells_its_window_in_its_list_of_models(server: Any) -> None:
    server.get("/v1/models").respond(json={"data": [{"id": "m", "max_model_len": 4096}]})
    assert await ask_server(BASE) == ServerSays(window=4096, slots=None)


async def test_a_server_that_says_nothing_of_itself_is_no_trouble(server: Any) -> None:
    server.get("/v1/models").respond(json={"data": []})
    assert await ask_server(BASE) == ServerSays()


async def test_an_address_where_nothing_answers_is_refused_by_its_name(server: Any) -> None:
    server.get("/props").mock(side_effect=httpx.ConnectError("refused"))
    with pytest.raises(BadInput, match=r"OPENAI_BASE_URL.*ConnectError refused"):
        await ask_server(BASE)


async def test_as_many_cases_are_timed_as_the_server_answers_at_once(server: Any) -> None:
    server.get("/props").respond(json=LLAMA)
    graph, cases = Slow(), [SimpleNamespace(inputs=n) for n in range(9)]
    pace = await measure_pace("openai:m", graph, cases, PROMPTS)
    assert graph.given == [0, 1, 2]
    assert pace.at_once == 3
    assert pace.sentence().startswith(
        f"Server: {BASE}: 2048 tokens of one request with its reply, 3 requests at once. 3 cases at"
    )


async def test_a_window_too_small_for_one_case_is_refused_with_numbers(server: Any) -> None:
    server.get("/props").respond(json={"default_generation_settings": {"n_ctx": 300}})
    with pytest.raises(BadInput, match="a window of 300 tokens, about 1200 characters") as refused:
        await measure_pace("openai:m", Slow(), [], PROMPTS)
    assert "1000 for a case" in str(refused.value)


async def test_a_service_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example.com/v1")
    with respx.mock:  # any request would fail
        pace = await measure_pace("openai:m", Slow(), [SimpleNamespace(inputs=1)], PROMPTS)
    assert pace.server is None
    assert pace.sentence().startswith("1 case took")


def test_the_slower_the_model_the_fewer_the_cases() -> None:
    settings = Settings(model="openai:m")
    sizes = [len(set_up(settings, of(seconds)).dataset) for seconds in (0.1, 3.4, 4.0, 999.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    found = set_up(settings, of(40.0, at_once=4))
    assert (found.limits.concurrency, found.limits.case_timeout) == (4, 400.0)
    assert found.dataset.splits().keys() == {"train", "validation", "holdout"}
