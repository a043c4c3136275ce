"""Several workers on one queue: order, takeover, promotion, tenants, and parts that go away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from clusters import PYTHON, Cluster, bearer, cases, environment, lay_out, left_of, running, told
from langgraph_sdk.errors import APIStatusError
from typer.testing import CliRunner

from orcheo_agentensor import Settings, Store, aevaluate
from orcheo_agentensor.cli.app import app
from orcheo_agentensor.errors import NotFound

pytestmark = pytest.mark.cluster

BUSY = ("pending", "running")
PREFIX = "/agentensor/v1"
TRAINING: dict[str, Any] = {
    "target": "served_workflows:clerk",
    "evaluators": ["served_workflows:right"],
    "prompts": {"skills": "card"},
    "optimizer": {"name": "textgrad", "proposer": "served_workflows:Tutor"},
    "stop": [{"type": "target_score", "score": 1.0}],
}


def training(run_id: str, after: Path | None, **more: Any) -> dict[str, Any]:
    """A job whose holdout waits for a file."""
    dataset = [
        *cases("train", 8),
        *cases("validation", 8),
        *cases("holdout", 40, free=4, after=after),
    ]
    return {**TRAINING, "workflow_id": run_id, "run_id": run_id, "dataset": dataset, **more}


async def begun(client: Any, job: dict[str, Any], store: Store, rollouts: int) -> tuple[str, str]:
    """A run of the job in which so many rollouts are recorded: its thread and its id."""
    thread = (await client.threads.create())["thread_id"]
    run = (await client.runs.create(thread, "training", input=job))["run_id"]
    while True:
        try:
            if (await store.runs.usage(job["run_id"])).rollouts >= rollouts:
                return thread, run
        except NotFound:
            pass
        await asyncio.sleep(0.05)


async def finished(client: Any, thread: str, run: str) -> dict[str, Any]:
    """How a run of the server ended."""
    while (await client.runs.get(thread, run))["status"] in BUSY:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    found: dict[str, Any] = await client.runs.join(thread, run)
    return found


def right(outputs: Any, reference_outputs: Any) -> float:
    return float(outputs["answer"] == reference_outputs["answer"])


@pytest.mark.parametrize("addresses", [1, 2])
async def test_no_run_of_a_remote_target_is_repeated(
    cluster: Cluster, folder: Path, addresses: int, monkeypatch: pytest.MonkeyPatch, ana: Any
) -> None:
    """Behind one address, and behind two launchers' that share the queue."""
    monkeypatch.setenv("ANA", bearer("ana")["authorization"])
    settings = Settings(allowed_hosts=("127.0.0.1",), host_keys=("127.0.0.1=ANA",))

    async def evaluated(url: Any) -> None:
        report = await aevaluate(
            {"url": url, "assistant": "clerk", "api_key_env": "ANA"},
            dataset=cases("test", 60),
            evaluators=[right],
            prompts={"skills": "card login refund transfer"},
            limits={"concurrency": 20},
            settings=settings,
        )
        assert (report.summary["n_ok"], report.summary["objective"]) == (60, 1.0)
        assert (report.usage.rollouts, report.usage.calls) == (60, 120)
        assert report.usage.input_tokens == 60 * (1 + 5)
        assert await ana.threads.search(limit=1, metadata={"graph_id": "clerk"}) == []

    if addresses == 1:
        await evaluated(cluster.url)
        return
    state = cluster.state
    shared = {name: state[name] for name in state if name.isupper()}
    second = await asyncio.to_thread(lay_out, folder.parent / "second")
    with running(second, workers=1, env=environment(**shared)) as other:
        await evaluated([cluster.url, other.url])


async def test_events_arrive_in_order_and_a_graph_of_the_same_cluster_is_a_target(
    ana: Any,
) -> None:
    job = {
        "target": {"assistant": "clerk"},
        "dataset": cases("test", 40),
        "evaluators": [{"type": "json_field_match", "fields": ["answer"]}],
        "prompts": {"skills": "card login"},
        "limits": {"concurrency": 8},
    }
    thread = (await ana.threads.create())["thread_id"]
    seen: list[int] = []
    found: dict[str, Any] = {}
    async for part in ana.runs.stream(
        thread, "evaluation", input=job, stream_mode=["custom", "values"]
    ):
        if part.event == "custom":
            seen.append(part.data["seq"])
        elif part.event == "values":
            found = part.data
    state = (await ana.threads.get_state(thread))["values"]  # a stream may be cut, see above
    assert (state["usage"]["rollouts"], state["usage"]["calls"]) == (40, 80)
    assert state["summary"]["objective"] == 0.5
    assert seen == sorted(set(seen))
    assert found


async def test_a_killed_workers_training_ends_elsewhere_as_it_would_have(
    cluster: Cluster, ana: Any, store: Store, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    thread, run = await begun(ana, training("killed", gate), store, rollouts=16)
    victim = cluster.worker_of("killed")
    assert victim in cluster.workers
    before = await store.runs.case_rows("killed", limit=None)
    os.kill(victim, signal.SIGKILL)
    while cluster.worker_of("killed") in (victim, None):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    gate.touch()
    found = await finished(ana, thread, run)
    thread, run = await begun(ana, training("calm", gate), store, rollouts=1)
    calm = await finished(ana, thread, run)
    assert found["status"] == calm["status"] == "finished"
    assert found["best"]["prompts"] == calm["best"]["prompts"]
    after = await store.runs.case_rows("killed", limit=None)
    keys = {row.rollout.key for row in after}
    assert {row.rollout.key for row in before} <= keys
    assert len(keys) == len(after) == len(await store.runs.case_rows("calm", limit=None))
    assert sum(row.rollout.attempts for row in after) == len(after)


async def test_of_promotions_at_once_one_is_made(cluster: Cluster, ana: Any, store: Store) -> None:
    thread, run = await begun(ana, training("promoted", None), store, rollouts=1)
    best = (await finished(ana, thread, run))["best"]
    path = f"{PREFIX}/workflows/promoted/aliases/production"
    body = {"version": best["config_version"], "expected_version": None, "force": True}
    async with (
        httpx.AsyncClient(base_url=cluster.url, headers=bearer("ana"), timeout=60) as one,
        httpx.AsyncClient(base_url=cluster.url, headers=bearer("ana"), timeout=60) as other,
    ):
        answers = await asyncio.gather(
            *((one, other)[number % 2].put(path, json=body) for number in range(40))
        )
        assert sorted(answer.status_code for answer in answers) == [200, *[409] * 39]
        move = {"version": 1, "expected_version": best["config_version"], "force": True}
        assert (await one.put(path, json=move)).status_code == 200
        back = await asyncio.gather(
            *((one, other)[number % 2].post(f"{path}/rollback", json={}) for number in range(20))
        )
        assert {answer.status_code for answer in back} <= {200, 409, 422, 404}
        log = (await one.get(f"{path}/log")).json()["items"]
    # Each move leaves from where the one before it has led; the newest comes first.
    assert all(new["from_version"] == old["to_version"] for new, old in pairwise(log))
    assert len(log) == 2 + sum(answer.status_code == 200 for answer in back)


async def test_tenants_see_nothing_of_each_other_whichever_worker_answers(
    cluster: Cluster, ana: Any, ben: Any
) -> None:
    job = {
        "target": "served_workflows:clerk",
        "dataset": cases("test", 4),
        "evaluators": ["served_workflows:right"],
        "prompts": {"skills": "card"},
        "run_id": "anas",
    }
    thread = (await ana.threads.create())["thread_id"]
    assert (await ana.runs.wait(thread, "evaluation", input=job))["run_id"] == "anas"
    for _ in range(6):
        with pytest.raises((APIStatusError, httpx.HTTPStatusError)) as caught:
            await ben.threads.get(thread)
        assert caught.value.response.status_code == 404
        for path in ("/runs/anas", "/runs"):
            async with httpx.AsyncClient(base_url=cluster.url, headers=bearer("ben")) as http:
                answer = await http.get(PREFIX + path)
            assert "anas" not in json.dumps(answer.json().get("items", [])), path
            assert answer.status_code == (404 if path == "/runs/anas" else 200)


async def test_workers_come_and_go_while_a_training_runs(
    cluster: Cluster, ana: Any, store: Store, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    thread, run = await begun(ana, training("moving", gate), store, rollouts=16)
    for number, wanted in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2)):
        cluster.launcher.send_signal(number)
        while len(cluster.workers) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    # The one that has the run stops in order, and gives it back to the queue.
    os.kill(cluster.worker_of("moving") or 0, signal.SIGTERM)
    gate.touch()
    found = await finished(ana, thread, run)
    assert found["status"] == "finished"
    rows = await store.runs.case_rows("moving", limit=None)
    assert len({row.rollout.key for row in rows}) == len(rows)


@pytest.mark.parametrize("part", ["Redis", "PostgreSQL"])
async def test_a_part_restarts_and_a_training_ends_all_the_same(
    cluster: Cluster, ana: Any, store: Store, tmp_path: Path, part: str
) -> None:
    gate = tmp_path / "gate"
    thread, run = await begun(ana, training(part, gate), store, rollouts=16)
    if part == "Redis":
        os.kill(cluster.redis_process(), signal.SIGKILL)
        while "Redis has ended" not in cluster.log:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    else:
        await asyncio.to_thread(cluster.restart_postgres)
    gate.touch()
    found = await finished(ana, thread, run)
    assert found["status"] == "finished"
    rows = await store.runs.case_rows(part, limit=None)
    assert len({row.rollout.key for row in rows}) == len(rows)


def test_a_sweep_is_spread_over_the_workers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANA", bearer("ana")["authorization"])
    monkeypatch.setenv("AGENTENSOR_ALLOWED_HOSTS", "127.0.0.1")
    monkeypatch.setenv("AGENTENSOR_HOST_KEYS", "127.0.0.1=ANA")
    sweep = {"server": cluster.url, "api_key_env": "ANA", "parallel": 4}
    job = {
        **training("swept", None),
        "matrix": {"seed": [1, 2, 3, 4], "prompts.skills": ["card", "card login"]},
        "sweep": sweep,
    }
    (tmp_path / "sweep.json").write_text(json.dumps(job))
    for _ in range(2):  # the second time, everything is there
        done = CliRunner().invoke(app, ["train", str(tmp_path / "sweep.json"), "--json"])
        found = json.loads(done.stdout)
        assert [one["status"] for one in found["runs"]] == ["finished"] * 8
        assert {one["best"]["objective"] for one in found["runs"]} == {1.0}
    assert found["usage"]["rollouts"] == sum(r["usage"]["rollouts"] for r in found["runs"])


# -- What does not start ---------------------------------------------------------------------------


def test_other_code_on_the_same_queue_is_refused(
    cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    changed = json.loads((folder / "langgraph.json").read_text())
    changed["graphs"]["other"] = changed["graphs"]["clerk"]
    (tmp_path / "langgraph.json").write_text(json.dumps(changed))
    said = told(
        tmp_path, DATABASE_URI=cluster.state["DATABASE_URI"], REDIS_URI=cluster.state["REDIS_URI"]
    )
    assert said.startswith("another server on this queue runs other code")


@pytest.mark.parametrize(
    ("env", "args", "expected"),
    [
        ({"REDIS_URI": "redis://127.0.0.1:1/0"}, [], "REDIS_URI: Redis does not answer"),
        ({"REDIS_URI": "127.0.0.1:6379"}, [], "REDIS_URI: Redis URL must specify"),
        ({"DATABASE_URI": "postgresql://127.0.0.1:1/x"}, [], "DATABASE_URI: PostgreSQL does not"),
        (
            {"AGENTENSOR_DATABASE_URL": "postgresql://127.0.0.1:1/x"},
            [],
            "AGENTENSOR_DATABASE_URL: PostgreSQL does not",
        ),
        ({}, ["--config", "nothing.json"], "--config: nothing.json cannot be read"),
    ],
)
def test_what_lacks_is_said_in_a_sentence_and_nothing_stays(
    installed: None, tmp_path: Path, env: dict[str, str], args: list[str], expected: str
) -> None:
    (tmp_path / "langgraph.json").write_text('{"graphs": {"a": "./a.py:a"}}')
    said = told(tmp_path, *args, **env)
    assert said.startswith(expected)
    assert len(said.strip().splitlines()) == 1
    assert left_of(tmp_path) == []


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("another engine", "langgraph-runtime-pg: 9.9 for "),
        ("no package", "orcheo-agentensor is not installed for "),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_in_a_sentence(
    installed: None, tmp_path: Path, planted: str, expected: str
) -> None:
    (tmp_path / "langgraph.json").write_text('{"graphs": {"a": "./a.py:a"}}')
    if planted == "another engine":
        found = tmp_path / "langgraph_runtime_pg-9.9.dist-info"
        found.mkdir()
        (found / "METADATA").write_text("Name: langgraph-runtime-pg\nVersion: 9.9\n")
    else:
        (tmp_path / "sitecustomize.py").write_text(
            "import importlib.util as util\n"
            "found = util.find_spec\n"
            "util.find_spec = lambda name, *a: None if 'orcheo_' in name else found(name, *a)\n"
        )
    said = told(tmp_path, PYTHONPATH=str(tmp_path))
    assert said.startswith(expected)
    assert len(said.strip().splitlines()) == 1
    assert left_of(tmp_path) == []


def test_another_engine_is_refused(tmp_path: Path) -> None:
    """Python without the engine is one with the wrong one."""
    (tmp_path / "langgraph.json").write_text('{"graphs": {"a": "./a.py:a"}}')
    if Path(sys.executable).parent == PYTHON.parent:
        pytest.skip("these tests run in the engine's own environment")
    assert told(tmp_path, python=sys.executable).startswith("langgraph-runtime-pg: not installed")
