"""A server with tokens: who may do what, and what one tenant learns of another: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from dev_server import Served
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIStatusError
from served_workflows import cases
from test_runs import EVALUATION, TRAINING

from orcheo_agentensor import Settings, Store, aevaluate
from orcheo_agentensor.errors import NotFound, TargetRefused

PREFIX = "/agentensor/v1"
REFUSED = (APIStatusError, httpx.HTTPStatusError)
"""What the SDK raises; which of them depends on the method."""


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
async def as_(guarded: Served) -> AsyncIterator[Any]:
    """An SDK client with a token."""
    async with AsyncExitStack() as stack:

        async def opened(token: str) -> Any:
            client = get_client(url=guarded.url, api_key=None, headers=bearer(token))
            return await stack.enter_async_context(client)

        yield opened


@pytest.fixture
async def http(guarded: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=None) as opened:
        yield opened


@pytest.fixture
async def guarded_store(guarded: Served) -> AsyncIterator[Store]:
    async with Store.from_url(guarded.store_url) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{PREFIX}/runs"),
        ("GET", f"{PREFIX}/workflows/x/checkpoints/1"),
        ("POST", "/threads"),
        ("POST", "/runs/wait"),
        ("POST", "/assistants/search"),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"authorization": "Basic ana-token"},
        {"authorization": b"Bearer \x9c"},  # not UTF-8
        {"x-auth-scheme": "langsmith"},
    ],
)
async def test_nobody_gets_in_without_a_known_token(
    http: httpx.AsyncClient, method: str, path: str, headers: Any
) -> None:
    answer = await http.request(
        method, path, headers=headers, json={} if method == "POST" else None
    )
    assert answer.status_code == 401


async def test_scopes_are_needed(as_: Any, http: httpx.AsyncClient, guarded_store: Store) -> None:
    nobody, reader, trainer = await as_("nobody"), await as_("ana-reader"), await as_("ana-trainer")
    with pytest.raises(REFUSED) as caught:
        await nobody.runs.wait(None, "echo", input={})
    assert caught.value.response.status_code == 403
    assert "one" in await reader.runs.wait(None, "echo", input={})
    job = {**TRAINING, "workflow_id": "scopes"}
    with pytest.raises(REFUSED) as caught:
        await reader.runs.wait(None, "training", input=job)
    assert caught.value.response.status_code == 403
    with pytest.raises(REFUSED) as caught:
        await reader.runs.wait(None, "host_workflow", input={})  # it trains
    assert caught.value.response.status_code == 403
    with pytest.raises(REFUSED) as caught:
        await trainer.runs.wait(None, "training", input={**job, "promote": "auto"})
    assert caught.value.response.status_code == 403
    await guarded_store.checkpoints.save(
        workflow_id="scopes-alias", runnable_config={"tags": ["x"]}, metrics={}
    )
    place = f"{PREFIX}/workflows/scopes-alias/aliases/production"
    body = {"version": 1, "expected_version": None}
    answer = await http.put(place, json=body, headers=bearer("ana-trainer"))
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "Forbidden"
    answer = await http.put(place, json=body, headers=bearer("ana-token"))
    assert answer.status_code == 200
    assert answer.json()["actor"] == "ana"


async def test_a_refused_batch_leaves_no_owner_behind(as_: Any, guarded_store: Store) -> None:
    ben = await as_("ben-token")
    good = {**EVALUATION, "workflow_id": "batched"}
    batch = [
        {"assistant_id": "evaluation", "input": job}
        for job in (good, {**good, "evaluators": ["no_such"]})
    ]
    with pytest.raises(REFUSED) as caught:
        await ben.runs.create_batch(batch)
    assert caught.value.response.status_code == 422
    assert await guarded_store.workflows.get("batched") is None


async def test_a_target_on_this_server_is_reached_with_its_key(
    as_: Any, guarded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana, ben = await as_("ana-token"), await as_("ben-token")
    made = (await ana.assistants.create("bare", name="of-ana"))["assistant_id"]
    job = {
        **EVALUATION,
        "target": {"assistant": made},
        "evaluators": [{"type": "latency", "max_ms": 60000}],
    }
    found = await ana.runs.wait(None, "evaluation", input=job)
    assert found["summary"]["n_ok"] == len(job["dataset"])
    with pytest.raises(REFUSED) as caught:  # to anybody else, it is not there
        await ben.runs.wait(None, "evaluation", input=job)
    assert "no assistant and no graph" in caught.value.response.text
    elsewhere = {"url": guarded.url, "assistant": made, "api_key_env": "TENANT_KEY"}
    settings = Settings(allowed_hosts=("127.0.0.1",), host_keys=("127.0.0.1=TENANT_KEY",))
    for key, may in (("ana-token", True), ("Bearer ana-token", True), ("ben-token", False)):
        monkeypatch.setenv("TENANT_KEY", key)
        remote = {**job, "target": elsewhere, "settings": settings}
        if may:
            assert (await aevaluate(**remote)).summary["coverage"] == 1.0
        else:
            with pytest.raises(TargetRefused, match="no assistant and no graph"):
                await aevaluate(**remote)


async def test_approving_needs_its_scope_and_is_signed(as_: Any, guarded_store: Store) -> None:
    trainer, owner = await as_("ana-trainer"), await as_("ana-token")
    thread = (await trainer.threads.create())["thread_id"]
    job = {**TRAINING, "workflow_id": "approvals", "promote": "ask", "run_id": "approvals"}
    await trainer.runs.wait(thread, "training", input=job)
    yes = {"approve": True, "actor": "the boss"}
    for answer in (yes, True, "approve"):
        with pytest.raises(REFUSED) as caught:
            await trainer.runs.wait(thread, "training", command={"resume": answer})
        assert caught.value.response.status_code == 403
    paused = (await trainer.threads.get_state(thread))["checkpoint"]["checkpoint_id"]
    copied = (await trainer.threads.copy(thread))["thread_id"]
    for attempt in ({"thread_id": copied}, {"thread_id": thread, "checkpoint_id": paused}):
        with pytest.raises(REFUSED) as caught:
            await trainer.runs.wait(**attempt, assistant_id="training", command={"resume": yes})
        assert caught.value.response.status_code == 403
    found = await owner.runs.wait(thread, "training", command={"resume": yes})
    assert found["decision"]["status"] == "promoted"
    [newest, *_] = await guarded_store.aliases.log("approvals", "production")
    assert newest.actor == "ana"


@pytest.mark.requirement("security.tenants")
async def test_what_is_somebody_elses_looks_like_nothing(
    as_: Any, http: httpx.AsyncClient, guarded_store: Store
) -> None:
    ana = await as_("ana-token")
    job = {**TRAINING, "workflow_id": "anas", "run_id": "anas-run"}
    found = await ana.runs.wait(None, "training", input=job)
    version = found["best"]["config_version"]
    assert (await guarded_store.workflows.get("anas")).owner == "ana"  # type: ignore[union-attr]
    paths = [
        "/workflows/{}/checkpoints",
        f"/workflows/{{}}/checkpoints/{version}",
        "/workflows/{}/checkpoints/latest",
        f"/workflows/{{}}/checkpoints/{version}/download",
        f"/workflows/{{}}/diff?before=1&after={version}",
        "/workflows/{}/aliases/latest",
        "/workflows/{}/aliases/latest/log",
        "/runs/{}-run",
        "/runs/{}-run/cases",
        f"/runs/{{}}-run/cases/{job['dataset'][0]['id']}",
        "/runs/{}-run/lineage",
        "/runs/{}-run/report?format=json",
        "/compare?side={0}@1&side={0}-run",
    ]
    for path in paths:
        own = await http.get(PREFIX + path.format("anas"), headers=bearer("ana-token"))
        assert own.status_code == 200, path
        hidden = await http.get(PREFIX + path.format("anas"), headers=bearer("ben-token"))
        absent = await http.get(PREFIX + path.format("sana"), headers=bearer("ben-token"))
        assert hidden.status_code == absent.status_code == 404, path
        assert hidden.text.replace("anas", "sana") == absent.text
        drop = {"date"}
        assert {k: v for k, v in hidden.headers.items() if k not in drop} == {
            k: v for k, v in absent.headers.items() if k not in drop
        }
    for name in ("anas", "sana"):
        answer = await http.put(
            f"{PREFIX}/workflows/{name}/aliases/production",
            json={"version": version, "expected_version": None},
            headers=bearer("ben-token"),
        )
        assert answer.status_code == 404
    for path in ("/workflows?limit=200", "/runs?limit=200", "/datasets?limit=200"):
        seen = await http.get(PREFIX + path, headers=bearer("ben-token"))
        assert "anas" not in seen.text, path
        assert found["run_id"] not in seen.text
    mine = await http.get(f"{PREFIX}/runs?limit=200", headers=bearer("ana-token"))
    assert "anas-run" in mine.text


async def test_nobody_works_on_somebody_elses_workflow_or_run(
    as_: Any, http: httpx.AsyncClient, guarded_store: Store
) -> None:
    ana, ben = await as_("ana-token"), await as_("ben-token")
    hers = {**EVALUATION, "dataset": cases("hers", 3)}
    job = {**hers, "workflow_id": "owned", "run_id": "owned-run"}
    await ana.runs.wait(None, "evaluation", input=job)
    assert await guarded_store.workflows.get("owned") is None  # an evaluation takes no name
    training = {**TRAINING, "workflow_id": "owned", "run_id": "owned-training"}
    await ana.runs.wait(None, "training", input=training)
    ours = await ben.runs.wait(None, "training", input={**TRAINING, "workflow_id": "owned"})
    assert (await guarded_store.workflows.get("owned")).owner == "ana"  # type: ignore[union-attr]
    assert (await guarded_store.workflows.get("ben~owned")).owner == "ben"  # type: ignore[union-attr]
    assert (await guarded_store.runs.get(ours["run_id"])).workflow_id == "ben~owned"
    place = f"{PREFIX}/workflows/owned/checkpoints"
    seen = {
        token: (await http.get(place, headers=bearer(token))).json()["items"]
        for token in ("ana-token", "ben-token")
    }
    assert {one["run_id"] for one in seen["ana-token"]} == {"owned-training"}
    assert {one["run_id"] for one in seen["ben-token"]} == {ours["run_id"]}
    with pytest.raises(REFUSED) as caught:
        await ben.runs.wait(
            None, "evaluation", input={**EVALUATION, "workflow_id": "bens", "run_id": "owned-run"}
        )
    assert caught.value.response.status_code == 403
    run = await guarded_store.runs.get("owned-run")
    absent = {"id": run.dataset_id, "version": "0" * 64}
    said: dict[str, set[str]] = {}
    for part in (
        {"config": _use(1)},
        {"reuse": "owned-run"},
        {"reuse": "no-such-run"},
        {"dataset": {"id": run.dataset_id, "version": run.dataset_version}},
        {"dataset": absent},
    ):
        with pytest.raises(REFUSED) as caught:
            await ben.runs.wait(
                None, "evaluation", input={**EVALUATION, "workflow_id": "bens-own", **part}
            )
        assert caught.value.response.status_code == 422
        [problem] = caught.value.response.json()["error"]["problems"]
        [(asked, value)] = part.items()
        assert problem["field"] == f"job.{asked}"
        assert str(value)[:40] in problem["value"]  # what they themselves have sent
        said.setdefault(asked, set()).add(problem["rule"])
    alike = "what is not there and what is somebody else's are told alike"
    assert {len(rules) for rules in said.values()} == {1}, alike
    found = await ana.runs.wait(
        None,
        "evaluation",
        input={
            **hers,
            "workflow_id": "owned",
            "dataset": {"id": run.dataset_id, "version": run.dataset_version},
            "reuse": "owned-run",
        },
    )
    assert found["status"] == "finished"


async def test_runs_of_a_workflow_that_is_everybodys_are_their_senders(
    as_: Any, http: httpx.AsyncClient
) -> None:
    ana, ben = await as_("ana-token"), await as_("ben-token")
    job = {**EVALUATION, "workflow_id": "echo", "run_id": "anas-on-echo"}
    job["dataset"] = {"id": "anas-cases", "cases": EVALUATION["dataset"]}
    assert (await ana.runs.wait(None, "evaluation", input=job))["status"] == "finished"
    for path in ("/runs/anas-on-echo", "/runs/anas-on-echo/cases", "/datasets/anas-cases/versions"):
        answers = [
            (await http.get(PREFIX + path, headers=bearer(f"{name}-token"))).status_code
            for name in ("ana", "ben")
        ]
        assert answers == [200, 404], path
    for path in ("/runs?limit=200", "/datasets?limit=200"):
        assert "anas-" not in (await http.get(PREFIX + path, headers=bearer("ben-token"))).text
    with pytest.raises(REFUSED) as caught:
        await ben.runs.wait(None, "evaluation", input=job)
    assert caught.value.response.status_code == 403


async def test_the_state_of_a_thread_gives_nobody_more_than_their_token(
    as_: Any, guarded_store: Store
) -> None:
    ana, ben, trainer = await as_("ana-token"), await as_("ben-token"), await as_("ana-trainer")
    job = {**EVALUATION, "workflow_id": "stated", "run_id": "stated-run"}
    await ana.runs.wait(None, "evaluation", input=job)
    thread = (await ben.threads.create(graph_id="evaluation"))["thread_id"]
    for run_id in ("stated-run", "no-such-run"):
        await ben.threads.update_state(thread, {"run_id": run_id}, as_node="run_cases")
        with pytest.raises(Exception, match=f"there is no run '{run_id}'$"):
            await ben.runs.wait(thread, "evaluation", input=None)
    thread = (await trainer.threads.create(graph_id="training"))["thread_id"]
    forged = {**TRAINING, "workflow_id": "stated", "promote": "auto"}
    await trainer.threads.update_state(thread, forged, as_node="__start__")
    with pytest.raises(Exception, match="needs the scope 'promote'"):
        await trainer.runs.wait(thread, "training", input=None)
    assert await guarded_store.checkpoints.list("stated") == []


def _use(version: int | str) -> dict[str, Any]:
    return {"configurable": {"agentensor": {"use": version}}}


async def test_threads_assistants_and_crons_belong_to_who_made_them(as_: Any) -> None:
    ana, ben = await as_("ana-token"), await as_("ben-token")
    thread = (await ana.threads.create())["thread_id"]
    assistant = await ana.assistants.create(
        "echo", metadata={"owner": "ben", "created_by": "system"}
    )
    cron = await ana.crons.create("echo", schedule="0 0 1 1 *", input={})
    await ana.runs.wait(thread, assistant["assistant_id"], input={})
    for attempt in (
        lambda: ben.threads.get(thread),
        lambda: ben.runs.wait(thread, "echo", input={}),
        lambda: ben.assistants.get(assistant["assistant_id"]),
        lambda: ben.runs.wait(None, assistant["assistant_id"], input={}),
        lambda: ben.assistants.update(assistant["assistant_id"], name="mine"),
        lambda: ben.crons.delete(cron["cron_id"]),
    ):
        with pytest.raises(REFUSED) as caught:
            await attempt()
        assert caught.value.response.status_code == 404
    assert thread not in [found["thread_id"] for found in await ben.threads.search(limit=100)]
    seen = [found["assistant_id"] for found in await ben.assistants.search(limit=100)]
    assert assistant["assistant_id"] not in seen
    assert seen, "the assistants that the server itself makes are everybody's"
    await ana.store.put_item(["notes"], "a", {"text": "secret"})
    assert (await ana.store.get_item(["notes"], "a"))["value"] == {"text": "secret"}
    assert not await ben.store.get_item(["notes"], "a")
    await ana.crons.delete(cron["cron_id"])


async def test_a_stored_dataset_is_its_senders_where_requests_are_not_checked(
    as_: Any, guarded_store: Store
) -> None:
    ana, ben = await as_("ana-token"), await as_("ben-token")
    hers = {**EVALUATION, "dataset": cases("unchecked", 3)}
    first = {**hers, "workflow_id": "unchecked", "run_id": "unchecked-run"}
    await ana.runs.wait(None, "evaluation", input=first)
    run = await guarded_store.runs.get("unchecked-run")
    stored = {"dataset": {"id": run.dataset_id, "version": run.dataset_version}}
    await guarded_store.workflows.set_flags("evaluation", {"runnable_config_enabled": False})
    try:
        again = {**EVALUATION, "workflow_id": "unchecked", **stored}
        assert (await ana.runs.wait(None, "evaluation", input=again))["status"] == "finished"
        theirs = {**EVALUATION, "workflow_id": "unchecked-bens", "run_id": "bens-try", **stored}
        with pytest.raises(Exception, match="there is no version"):
            await ben.runs.wait(None, "evaluation", input=theirs)
    finally:
        await guarded_store.workflows.set_flags("evaluation", {"runnable_config_enabled": None})
    with pytest.raises(NotFound):
        await guarded_store.runs.get("bens-try")
