"""Remote targets without a server: what jobs may say, where prompts go, what events tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import respx

from orcheo_agentensor import Settings, aevaluate
from orcheo_agentensor.errors import BadInput, ConfigError, TargetRefused, TargetUnavailable
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.settings import is_allowed
from orcheo_agentensor.targets import resolve_target
from orcheo_agentensor.targets.servers import (
    Assistant,
    AssistantAddress,
    Placement,
    Server,
    queued_events,
)

URL = "http://agents.example"
SETTINGS = Settings(
    allowed_hosts=("agents.example",),
    host_keys=("agents.example=CLERK_KEY", "agents.example=NOT_SET_ANYWHERE"),
    http_patience=0.0,
)
KEY = "lsv2_pt_0123456789abcdef0123456789"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"url": "http://127.0.0.1:2024"}, "AGENTENSOR_ALLOWED_HOSTS"),
        ({"url": "http://169.254.169.254"}, "AGENTENSOR_ALLOWED_HOSTS"),
        ({"url": [URL, "http://[::1]:80"]}, "AGENTENSOR_ALLOWED_HOSTS"),
        ({"url": "http://agents.example.evil.com"}, "AGENTENSOR_ALLOWED_HOSTS"),
        ({"url": "file:///etc/passwd"}, "target.url"),
        ({"url": f"http://user:{KEY}@agents.example"}, "must not hold a user or a password"),
        ({"url": URL, "api_key": KEY}, "target.api_key"),
        ({"url": URL, "headers": {"x-api-key": KEY}}, "target.headers"),
        ({"url": URL, "api_key_env": KEY}, "must be the name of an environment variable"),
        ({"url": URL, "api_key_env": "AGENTENSOR_DATABASE_URL"}, "must not name"),
        ({"url": URL, "api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
        ({"url": URL, "assistant": ""}, "target.assistant"),
        ({"url": URL, "graph": "x"}, "target.graph"),
        ({"url": URL, "prompts_in": "state"}, "target.prompts_in"),
        ({"url": []}, "target.url"),
        ({"url": [URL, f"{URL}/"]}, "a list of different ones"),
        ({"url": URL, "outputs": "x"}, "known: api_key_env, assistant, output, prompts_in, url"),
        ({"url": URL, "output": ""}, "target.output"),
        ({}, "give the server's URL"),
    ],
)
async def test_a_bad_remote_target_gets_one_message_that_shows_no_key(
    spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput) as caught:
        await aevaluate(
            {"assistant": "clerk", **spec},
            dataset=[{"id": "a", "inputs": {}}],
            evaluators=["exact_match"],
            settings=SETTINGS,
        )
    assert told in caught.value.message
    assert KEY not in caught.value.message
    assert KEY not in str(getattr(caught.value, "problems", ""))


@pytest.mark.requirement("security.network")
def test_no_host_is_allowed_that_is_not_listed() -> None:
    with pytest.raises(BadInput, match="servers of jobs are off"):
        resolve_target({"url": URL, "assistant": "clerk"}, settings=Settings(allowed_hosts=()))
    assert is_allowed("http://Agents.example:80/x", ["agents.EXAMPLE:80"])
    assert is_allowed("http://[::1]:8000", ["[::1]:8000"])
    assert not is_allowed("https://agents.example", ["agents.example:80"])


def test_the_name_of_a_keys_variable_is_not_a_secret() -> None:
    target = {"url": URL, "assistant": "clerk", "api_key_env": "CLERK_KEY"}
    assert redact(target) == target


# -- HTTP ------------------------------------------------------------------------------------------

ASSISTED: dict[str, Any] = {
    **dict.fromkeys(("id", "name", "graph_id"), "clerk"),
    **{key: {} for key in ("values", "settings", "metadata", "schemas")},
    "version": 1,
    "edges": (),
}
ASSISTANT = {"assistant_id": "a1", "graph_id": "clerk", "name": "clerk", "version": 1}


THREAD = r"/threads/(?P<thread>[0-9a-f-]{36})"


def served(
    router: respx.MockRouter,
    *answers: httpx.Response | Exception,
    runs: int = 0,
    replayed: str = "",
) -> respx.Route:
    """A server with one assistant, whose runs are streamed as `answers`.

    The first `runs` of them have really begun, whatever was streamed of them, and all that are
    streamed whole; `replayed` is what the server has kept of their events.
    """
    threads: dict[str, bool] = {}
    coming = iter(enumerate(answers))

    def begin(request: httpx.Request, thread: str) -> httpx.Response:
        number, answer = next(coming)
        if number < runs or (isinstance(answer, httpx.Response) and answer.text.endswith(FINE)):
            threads[thread] = True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def state(request: httpx.Request, thread: str) -> httpx.Response:
        if thread not in threads:
            return httpx.Response(404, json={"detail": "no thread"})
        return httpx.Response(200, json={"status": "idle", "values": {"answer": "card"}})

    def listed(request: httpx.Request, thread: str) -> httpx.Response:
        found = [{"run_id": "r1", "status": "success"}] if thread in threads else []
        return httpx.Response(200, json=found)

    def delete(request: httpx.Request, thread: str) -> httpx.Response:
        return httpx.Response(204 if threads.pop(thread, False) else 404)

    router.post("/assistants/search", name="search").respond(json=[ASSISTANT])
    router.get("/assistants/a1/schemas").respond(json={})
    router.get("/assistants/a1/graph").respond(json={"edges": []})
    router.get("/ok").respond(json={"ok": True})
    router.get("/info").respond(404)
    router.get(url__regex=f"{THREAD}$").mock(side_effect=state)
    router.get(url__regex=f"{THREAD}/runs$").mock(side_effect=listed)
    router.get(url__regex=f"{THREAD}/runs/r1/stream$").mock(
        side_effect=lambda request, thread: streamed(replayed)
    )
    router.post(url__regex=f"{THREAD}/runs/r1/cancel").respond(json={})
    router.delete(url__regex=f"{THREAD}$", name="delete").mock(side_effect=delete)
    return router.post(url__regex=f"{THREAD}/runs/stream$", name="runs").mock(side_effect=begin)


def streamed(*events: str) -> httpx.Response:
    return httpx.Response(200, text="".join(events), headers={"content-type": "text/event-stream"})


FINE = 'event: values\ndata: {"answer": "card"}\n\n'


async def evaluated(*, url: str | list[str] = URL, **limits: Any) -> Any:
    return await aevaluate(
        {"url": url, "assistant": "clerk", "api_key_env": "CLERK_KEY"},
        dataset=[{"id": "a", "inputs": {"kind": "card"}, "expected_output": {"answer": "card"}}],
        evaluators=["exact_match"],
        limits=limits,
        settings=SETTINGS,
    )


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_KEY", KEY)


@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_busy_server_is_asked_again_when_it_says(
    respx_mock: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, wait = list[float](), asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await wait(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    busy = httpx.Response(429, headers={"retry-after": "0.6"}, json={"detail": "busy"})
    route = served(respx_mock, busy, httpx.Response(503), streamed(FINE))
    report = await evaluated(retries=2)
    assert report.summary["objective"] == 1.0
    assert route.call_count == 3
    assert 0.6 in waited
    assert route.calls[0].request.headers["x-api-key"] == KEY
    assert KEY not in repr(report)


@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_key_may_be_a_bearer_token(
    respx_mock: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERK_KEY", f"Bearer {KEY}")
    route = served(respx_mock, streamed(FINE))
    await evaluated()
    assert route.calls[0].request.headers["authorization"] == f"Bearer {KEY}"
    assert "x-api-key" not in route.calls[0].request.headers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_refusal_ends_the_run_at_once(status: int, respx_mock: respx.MockRouter) -> None:
    route = served(respx_mock, httpx.Response(status, json={"detail": "not for you"}))
    with pytest.raises(TargetRefused, match=rf"HTTP {status}.*not for you"):
        await evaluated(retries=2)
    assert route.call_count == 1


@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_lost_connection_is_tried_again_and_a_broken_case_fails(
    respx_mock: respx.MockRouter,
) -> None:
    lost = httpx.ReadError("reset")
    served(respx_mock, lost, streamed("event: metadata\ndata: {}\n\n"), streamed(FINE))
    again = await evaluated(retries=2)
    assert (again.summary["objective"], again.summary["retries"]) == (1.0, 2)
    assert "2 executions of the target were made again, for 1 cases" in again.warnings[0]
    assert "evaluator failures 0, 2 executions made again" in again._repr_html_()
    served(respx_mock, *[lost] * 4)
    report = await evaluated(retries=0)  # the server is well, but this case breaks its connection
    assert report.cases[0].target_failure is not None
    assert report.usage.rollouts == 4


@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_server_that_has_gone_is_not_the_failure_of_a_case(
    respx_mock: respx.MockRouter,
) -> None:
    served(respx_mock, *[httpx.ConnectError("refused")] * 3)
    respx_mock.get("/ok").mock(side_effect=httpx.ConnectError("refused"))
    with pytest.raises(TargetUnavailable, match="what is recorded is kept"):
        await evaluated(retries=0)


STARTED = 'event: values\ndata: {"kind": "card"}\n\n'  # the input of the run
CALLED = (
    'event: messages\ndata: [{"id": "m1", "type": "ai", "usage_metadata": {"input_tokens": 7, '
    '"output_tokens": 3}}, {"ls_model_type": "chat"}]\n\n'
)
CUT: list[tuple[str, httpx.Response | Exception]] = [
    ("without any event", streamed("")),
    ("between two steps", streamed(STARTED)),
    ("within an event", streamed("event: values\ndata: {not json\n\n")),
    ("by its connection", httpx.ReadError("reset")),
    ("by a proxy", httpx.Response(504)),
]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("cut", [cut for _, cut in CUT], ids=[name for name, _ in CUT])
@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_run_whose_stream_is_cut_is_read_and_not_repeated(
    cut: httpx.Response | Exception, kept: bool, respx_mock: respx.MockRouter
) -> None:
    """On a queue that workers share, a stream may end as if all was well, with no event at all."""
    whole = STARTED + CALLED + FINE
    route = served(respx_mock, cut, runs=1, replayed=whole if kept else "")
    report = await evaluated(retries=0)
    assert report.cases[0].output == {"answer": "card"}
    assert (route.call_count, report.usage.rollouts) == (1, 1)
    # What the model used is told by events alone: where they are gone, it is unknown, and not 0.
    assert report.usage.tokens == (10 if kept else None)
    assert respx_mock["delete"].call_count == 1


@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_run_that_goes_on_after_its_stream_is_waited_for_at_any_server(
    respx_mock: respx.MockRouter,
) -> None:
    """The first server dies with the stream; the second one knows the run, of a shared queue."""
    first, second = "http://agents.example:1", "http://agents.example:2"
    states = iter([{"status": "busy"}, {"status": "idle", "values": {"answer": "card"}}])
    for url in (first, second):
        for path in ("/info", "/ok", "/assistants/a1/schemas", "/assistants/a1/graph"):
            respx_mock.get(f"{url}{path}").respond(json={})
        respx_mock.post(f"{url}/assistants/search").respond(json=[ASSISTANT])
    begun = respx_mock.post(url__regex=f"{first}{THREAD}/runs/stream").mock(
        side_effect=httpx.ReadError("gone")
    )
    respx_mock.get(url__regex=f"{first}{THREAD}").mock(side_effect=httpx.ConnectError("gone"))
    respx_mock.get(url__regex=f"{second}{THREAD}$").mock(
        side_effect=lambda request, thread: httpx.Response(200, json=next(states))
    )
    respx_mock.get(url__regex=f"{second}{THREAD}/runs$").respond(
        json=[{"run_id": "r1", "status": "running"}]
    )
    respx_mock.get(url__regex=f"{second}{THREAD}/runs/r1/stream").mock(
        return_value=streamed(STARTED + FINE)
    )
    respx_mock.delete(url__regex=".*").respond(204)
    report = await evaluated(url=[first, second], retries=0)
    assert report.cases[0].output == {"answer": "card"}
    assert (begun.call_count, report.usage.rollouts, report.usage.tokens) == (1, 1, 0)


@pytest.mark.parametrize("place", ["search", "runs"])
@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_redirect_is_refused(place: str, respx_mock: respx.MockRouter) -> None:
    served(respx_mock)
    elsewhere = {"location": "http://169.254.169.254/latest"}
    route = respx_mock[place].respond(307, headers=elsewhere)
    with pytest.raises(TargetRefused, match=r"agents\.example redirects to 169\.254\.169\.254"):
        await evaluated(retries=2)
    assert route.call_count == 1


@respx.mock(base_url=URL, assert_all_called=False)
async def test_a_redirect_that_leads_nowhere_is_refused(respx_mock: respx.MockRouter) -> None:
    served(respx_mock)
    respx_mock["runs"].respond(304)
    with pytest.raises(TargetRefused, match="redirects to another place"):
        await evaluated()


@pytest.mark.parametrize("answer", ["<html>hello</html>", '{"x": 1}', "[1]", '[{"id": 1}]'])
@respx.mock(base_url=URL, assert_all_called=False)
async def test_another_kind_of_server_is_said_to_be_one(
    answer: str, respx_mock: respx.MockRouter
) -> None:
    respx_mock.post("/assistants/search").respond(text=answer)
    with pytest.raises(TargetRefused, match="does not answer as a LangGraph server"):
        await evaluated()


async def test_a_wait_for_job_slots_that_the_job_itself_holds_has_an_end() -> None:
    server = Server(None, Assistant(**ASSISTED))

    async def queued() -> AsyncGenerator[int]:
        await asyncio.sleep(60)
        yield 1

    async def runs(*events: int) -> AsyncGenerator[int]:
        for event in events:
            yield event

    with pytest.raises(TargetUnavailable, match="job slots are taken"):
        [event async for event in queued_events(queued(), server, patience=0.01)]
    assert [event async for event in queued_events(runs(1, 2), server, patience=60)] == [1, 2]
    assert [event async for event in queued_events(runs(), server, patience=60)] == []
    server.running = 1  # while another run of ours is under way, a queued one may wait
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            [event async for event in queued_events(queued(), server, patience=0.01)]
    assert server.running == 1


def asked_for(request: httpx.Request) -> list[str]:
    ids: list[str] = json.loads(request.content)["ids"]
    return ids


@respx.mock(base_url=URL)
async def test_threads_of_runs_that_end_together_are_asked_for_in_one_request(
    respx_mock: respx.MockRouter,
) -> None:
    server = Server(URL, Assistant(**ASSISTED), prunes=True)
    server.client(AssistantAddress(assistant="clerk", url=URL), SETTINGS)
    search = respx_mock.post("/threads/search").mock(
        side_effect=lambda request: httpx.Response(
            200, json=[{"thread_id": one, "status": "idle"} for one in asked_for(request)[1:]]
        )
    )
    names = [str(number) for number in range(8)]
    server.in_flight = len(names)
    found = await asyncio.gather(*(server.thread(name, after=3600) for name in names))
    assert asked_for(search.calls[0].request) == names
    # The first is not there, which the server says nothing of: it is asked for alone.
    assert found == [None, *({"thread_id": name, "status": "idle"} for name in names[1:])]
    server.in_flight = 1  # nobody to wait for
    assert await server.thread("9", after=3600) is None
    assert search.call_count == 2
    await server.disconnect()


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (httpx.Response(403, json={"detail": "no"}), 1),
        (httpx.Response(200, json=[{"thread_id": "another", "status": "idle"}]), 1),
        (httpx.ReadError("reset"), 3),
    ],
)
@respx.mock(base_url=URL)
async def test_a_server_that_finds_no_threads_of_a_list_is_not_asked_for_one_again(
    answer: httpx.Response | Exception, asked: int, respx_mock: respx.MockRouter
) -> None:
    server = Server(URL, Assistant(**ASSISTED), in_flight=1, prunes=True)
    server.client(AssistantAddress(assistant="clerk", url=URL), SETTINGS)
    search = respx_mock.post("/threads/search").mock(side_effect=[answer] * 3)
    for name in ("1", "2", "3"):
        assert await server.thread(name, after=1) is None
    assert search.call_count == asked
    await server.disconnect()


# -- Prompts in requests ---------------------------------------------------------------------------

TEXT = {"type": "TextTensor", "text": "Be brief.", "requires_grad": True, "metadata": {}}


@pytest.mark.parametrize(
    ("fields", "prompts_in", "prompt", "sent"),
    [
        ({}, "auto", TEXT, {"configurable": {"k": 1, "prompts": {"p": TEXT}}}),
        ({"p": {}, "k": {}}, "auto", TEXT, {"context": {"k": 1, "p": "Be brief."}}),
        ({"p": {}}, "auto", TEXT, {"configurable": {"k": 1, "p": "Be brief."}}),
        ({"p": {}}, "configurable", TEXT, {"configurable": {"k": 1, "prompts": {"p": TEXT}}}),
        ({}, "context", TEXT, {"context": {"k": 1, "p": "Be brief."}}),
        (
            {"prompts": {"additionalProperties": {"type": "string"}}},
            "context",
            TEXT,
            {"context": {"k": 1, "prompts": {"p": "Be brief."}}},
        ),
        (
            {"system": {}, "k": {}},
            "auto",
            {**TEXT, "bind": "context.system"},
            {"context": {"k": 1, "system": "Be brief."}},
        ),
        (  # what a served graph of ours offers to forms: it reads prompts by their names
            {"p": {"type": "string", "x-agentensor": "prompt"}, "prompts": {}, "k": {}},
            "auto",
            TEXT,
            {"context": {"k": 1, "prompts": {"p": TEXT}}},
        ),
        (
            {},
            "auto",
            {**TEXT, "bind": "configurable.agent.system"},
            {"configurable": {"k": 1, "agent": {"system": "Be brief."}}},
        ),
    ],
)
def test_prompts_go_where_the_graph_reads_them(
    fields: dict[str, Any], prompts_in: Any, prompt: dict[str, Any], sent: dict[str, Any]
) -> None:
    placement = Placement(fields=fields, prompts_in=prompts_in)
    values = {"k": 1, "thread_id": "mine", "__pregel_x": 1, "checkpoint_ns": ""}
    assert placement.put({"p": prompt}, values) == sent


def test_a_prompt_with_no_place_is_refused() -> None:
    with pytest.raises(BadInput, match=r"prompts\.p\.bind: 'state\.x' must be"):
        Placement(fields={}).put({"p": {**TEXT, "bind": "state.x"}}, {})
    with pytest.raises(BadInput, match="is not in the deployed graph's context"):
        Placement(fields={"q": {}}, prompts_in="context").put({"p": TEXT}, {})
    with pytest.raises(BadInput, match=r"prompts\.p\.bind: 'context\.p' is not in the deployed"):
        Placement(fields={"q": {}}).put({"p": {**TEXT, "bind": "context.p"}}, {})
    content = {"type": "ContentTensor", "text": "x", "blocks": [{"type": "text", "text": "x"}]}
    with pytest.raises(BadInput, match=r"prompts\.q: 'x' has images or files.* text at q"):
        Placement(fields={"q": {}}).put({"q": content}, {})


def test_problems_of_a_target_are_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_target({"url": "x", "assistant": "", "token": KEY}, settings=SETTINGS)
    assert len(caught.value.problems) == 3
