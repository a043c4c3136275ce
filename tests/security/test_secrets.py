"""No secret of a job, of the environment or of what a workflow says is kept, streamed or shown."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import leaky
import pytest
from dev_server import ROOT, Served
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph_sdk import get_client
from langgraph_sdk.errors import UnprocessableEntityError

from orcheo_agentensor import Settings, Store, aevaluate, atrain, create_evaluation_graph
from orcheo_agentensor.errors import BadInput, RunFailed

CANARY = re.compile(rb"canary[\w-]*")
MAIN = "from orcheo_agentensor.cli.app import main; main()"
SETTINGS = Settings(allowed_modules=("leaky",))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in leaky.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def found_in(*places: Any) -> dict[str, set[bytes]]:
    """The canaries in files (all those of folders) and in anything else, by place."""
    found: dict[str, set[bytes]] = {}
    for place in places:
        files = [place] if not isinstance(place, Path) else list(place.rglob("*"))
        for one in files:
            if isinstance(one, Path):
                content = one.read_bytes() if one.is_file() else b""
            else:
                content = one.encode() if isinstance(one, str) else json.dumps(one).encode()
            if canaries := set(CANARY.findall(content)):
                found[str(one)[:100]] = canaries
    return found


def job(**changes: Any) -> dict[str, Any]:
    headers = {"Cookie": f"sid={leaky.COOKIE}; b=2", "Authorization": f"Bearer {leaky.BEARER}"}
    return {
        "target": "leaky:target",
        "dataset": [{"id": f"c{n}", "inputs": {"n": n}} for n in range(6)],
        "evaluators": [
            "leaky:score",
            {"type": "http", "name": "h", "url": "http://127.0.0.1:9/", "headers": headers,
             "weight": 0},
        ],
        "config": {
            "configurable": {
                "api_key": leaky.KEY, "pin": leaky.PIN, "webhook_url": f"https://x/{leaky.HOOK}"
            }
        },
        "limits": {"retries": 0},
        "min_coverage": 0.0,
        **changes,
    }  # fmt: skip


def training(**changes: Any) -> dict[str, Any]:
    splits = ("train", "validation", "holdout")
    cases = [
        {"id": f"{split}{n}", "inputs": {"n": 3 * n}, "split": split}
        for split in splits
        for n in range(8)
    ]
    return job(
        dataset=cases,
        evaluators=["leaky:score"],
        prompts={"reply": "Be kind."},
        optimizer={"name": "reflective", "proposer": "leaky:Proposer"},
        budget={"rollouts": 80},
        **changes,
    )


async def test_nothing_of_an_evaluation_holds_one(tmp_path: Path, capfd: Any, caplog: Any) -> None:
    """Checked at each event too, while SQLite's write-ahead log is there."""
    seen: dict[str, set[bytes]] = {}
    settings = Settings(allowed_modules=("leaky",), allowed_hosts=("127.0.0.1",))

    def hear(event: dict[str, Any]) -> None:
        seen.update(found_in(event, tmp_path))
        raise ValueError(f"a listener that fails with {leaky.WORDS} and {leaky.ENVIRONMENT}")

    url = f"sqlite:///{tmp_path / 'a.db'}"
    report = await aevaluate(**job(), store=url, settings=settings, on_event=hear)
    assert report.summary["n_target_failed"] == 2
    assert report.summary["evaluators"]["told"]["n"] == 2
    shown = [report.to_json(), str(report), repr(report), report._repr_html_()]
    assert found_in(tmp_path, *shown, *capfd.readouterr(), caplog.text) | seen == {}
    async with Store.from_url(url) as store:
        rows = await store.runs.case_rows(report.run_id)
        assert sum("[redacted]" in json.dumps(row.rollout.output) for row in rows) == 4
        assert sum(row.rollout.failure is not None for row in rows) == 2


async def test_nothing_of_a_training_holds_one_and_no_prompt_does(
    tmp_path: Path, capfd: Any, caplog: Any
) -> None:
    events: list[dict[str, Any]] = []
    given = training(store=f"sqlite:///{tmp_path / 'a.db'}", settings=SETTINGS)
    result = await atrain(**given, on_event=events.append)
    refused = [event for event in events if event["type"] == "proposal_rejected"]
    assert any("holds a secret" in json.dumps(event) for event in refused)
    shown = [events, str(result), repr(result), result.to_json()]
    assert found_in(tmp_path, *shown, *capfd.readouterr(), caplog.text) == {}


async def test_neither_does_that_of_a_proposer_that_breaks(tmp_path: Path, caplog: Any) -> None:
    events: list[dict[str, Any]] = []
    given = training(store=f"sqlite:///{tmp_path / 'a.db'}", settings=SETTINGS)
    given["optimizer"] = {"name": "reflective", "proposer": "leaky:Broken"}
    with pytest.raises(RunFailed) as caught:
        await atrain(**given, on_event=events.append)
    told = "".join(traceback.format_exception(caught.value))
    assert "no reply" in told
    assert found_in(tmp_path, events, told, caplog.text) == {}


async def test_checkpoints_and_writes_of_a_graph_hold_none(tmp_path: Path) -> None:
    """With every checkpoint kept and every mode streamed."""
    given = {**job(), "evaluators": ["leaky:score"]}
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "graph.db")) as saver:
        graph = create_evaluation_graph(settings=SETTINGS).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        parts = [
            part
            async for part in graph.astream(
                given,
                config,
                stream_mode=["values", "updates", "debug", "tasks", "checkpoints", "custom"],
                subgraphs=True,
            )
        ]
        state = await graph.aget_state(config)
        assert state.values["summary"]["n_target_failed"] == 2
        history = [one async for one in graph.aget_state_history(config)]
        assert found_in(tmp_path, repr(parts), repr(history)) == {}
    assert len(history) > 3


async def test_a_refusal_shows_none(tmp_path: Path) -> None:
    wrong = [
        {"evaluators": [{"type": "http", "url": 5, "headers": {"Cookie": leaky.COOKIE}}]},
        {"evaluators": [{"type": "regex", "pattern": f"api_key={leaky.KEY}(", "jwt": leaky.PIN}]},
        {"target": f"leaky:target?api_key={leaky.KEY}"},
        {"config": {"configurable": {"api_key": leaky.KEY}, "tags": f"password={leaky.PIN}"}},
        {"prompts": {"reply": f"Use api_key={leaky.KEY} and {leaky.ENVIRONMENT}"}},
        {"dataset": {"path": f"https://u:{leaky.PIN}@h/{leaky.KEY}", "api_key": leaky.KEY}},
        {"workflow_id": f"postgresql://u:{leaky.PIN}@h/db"},
    ]
    for changes in wrong:
        with pytest.raises(BadInput) as caught:
            await aevaluate(**{**job(**changes), "settings": SETTINGS})
        told = getattr(caught.value, "problems", [])
        assert found_in(str(caught.value), repr(caught.value.value), repr(told)) == {}, changes


def test_the_command_line_shows_none(tmp_path: Path) -> None:
    (tmp_path / "evaluate.json").write_text(json.dumps(job(evaluators=["leaky:score"])))
    run = {key: job()[key] for key in ("target", "config")}
    (tmp_path / "run.json").write_text(json.dumps({**run, "inputs": {"n": 3}}))
    (tmp_path / "fails.json").write_text(json.dumps({**run, "inputs": {"n": 2}}))
    environment = {
        **leaky.ENVIRONMENT,
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{Path(leaky.__file__).parent}:{ROOT}",
        "AGENTENSOR_ALLOWED_MODULES": "leaky",
        "AGENTENSOR_DEBUG": "1",
    }
    store = tmp_path / "store"
    store.mkdir()
    codes = []
    for command, name in (("evaluate", "evaluate"), ("run", "run"), ("run", "fails")):
        done = subprocess.run(
            [sys.executable, "-c", MAIN, command, str(tmp_path / f"{name}.json"),
             "--store", f"sqlite:///{store / 'a.db'}"],
            env=environment, cwd=store, capture_output=True, text=True, check=False,
        )  # fmt: skip
        codes.append(done.returncode)
        assert found_in(done.stdout, done.stderr) == {}, (command, name)
    assert codes == [0, 0, 3]
    assert found_in(store) == {}


async def test_a_server_keeps_streams_and_logs_none(guarded: Served) -> None:
    """Its database, checkpoints, pickles, log, streams and answers, while it runs."""
    token = "canary-token-of-ana"
    async with get_client(
        url=guarded.url, api_key=None, headers={"authorization": f"Bearer {token}"}
    ) as client:
        shown: list[Any] = []
        others = await client.http.get("/agentensor/v1/runs")  # of tests that share the server
        for graph, given in (
            ("evaluation", job(evaluators=["leaky:score"])),
            ("training", training()),
            ("evaluation", job(evaluators=["no_such"])),
        ):
            thread = (await client.threads.create())["thread_id"]
            modes = ["values", "updates", "custom", "debug", "tasks", "checkpoints"]
            try:
                async for part in client.runs.stream(
                    thread, graph, input=given, stream_mode=modes, stream_subgraphs=True
                ):
                    shown.append([part.event, part.data])
            except UnprocessableEntityError as error:  # the last one
                shown.append(str(error) + error.response.text)
            shown.append(await client.threads.get_history(thread, limit=100))
            shown.append(await client.runs.list(thread))
        listed = await client.http.get("/agentensor/v1/runs")
        for run in listed["items"]:
            shown.append(await client.http.get(f"/agentensor/v1/runs/{run['run_id']}"))
            shown.append(await client.http.get(f"/agentensor/v1/runs/{run['run_id']}/cases"))
        assert len(listed["items"]) - len(others["items"]) == 2
        assert found_in(shown) == {}
        with pytest.raises(UnprocessableEntityError) as caught:
            await client.crons.create("evaluation", schedule="0 0 1 1 *", input=job())
        assert "name the variable" in caught.value.response.text

    def written() -> int:
        files = (guarded.folder / ".langgraph_api").iterdir()
        return max((one.stat().st_mtime_ns for one in files), default=0)

    before = written()
    while written() == before:  # noqa: ASYNC110 - every ten seconds, by another process
        await asyncio.sleep(0.1)
    assert found_in(guarded.folder) == {}
