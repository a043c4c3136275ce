"""Run requests: checked before a run exists, merged, recorded, and left alone where asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_workflows import cases

from orcheo_agentensor import Store

DEEP: Any = "x"
for _ in range(40):
    DEEP = {"deeper": DEEP}

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "limit": ({"config": {"max_concurrency": "a"}}, ["config.max_concurrency"]),
    "callbacks": ({"config": {"callbacks": ["nobody"]}}, ["config.callbacks.0"]),
    "unknown": ({"config": {"tgas": ["x"]}}, ["config.tgas"]),
    "not-an-object": ({"config": "fast"}, ["config"]),
    "tags": ({"config": {"tags": [1]}}, ["config.tags.0"]),
    "reserved": (
        {"config": {"configurable": {"__pregel_x": 1}}},
        ["config.configurable.__pregel_x"],
    ),
    "checkpoint": (
        {"config": {"configurable": {"checkpoint_ns": "x"}}},
        ["config.configurable.checkpoint_ns"],
    ),
    "prompts": (
        {"config": {"configurable": {"prompts": {"a": 1}}}},
        ["config.configurable.prompts.a"],
    ),
    "use": (
        {"config": {"configurable": {"agentensor": {"use": "PRODUCTION!"}}}},
        ["config.configurable.agentensor.use"],
    ),
    "no-version": (
        {"config": {"configurable": {"agentensor": {"use": 4711}}}},
        ["config.configurable.agentensor.use"],
    ),
    "no-alias": (
        {"config": {"configurable": {"agentensor": {"use": "nowhere"}}}},
        ["config.configurable.agentensor.use"],
    ),
    "deep": ({"config": {"configurable": DEEP}}, ["config.configurable"]),
    "huge-number": ({"config": {"configurable": {"n": 2**64}}}, ["config.configurable.n"]),
    "size": ({"config": {"configurable": {"x": "x" * 1_100_000}}}, ["config"]),
    "context": ({"context": ["x"]}, ["context"]),
    "context-number": ({"context": {"n": 2**64}}, ["context.n"]),
    "both": ({"config": {"configurable": {"a": 1}}, "context": {"b": 2}}, ["context"]),
    "metadata": ({"metadata": {"n": 2**64}}, ["metadata.n"]),
    "own-metadata": ({"metadata": {"agentensor_version": 7}}, ["metadata.agentensor_version"]),
    "no-node": (
        {"config": {"configurable": {"node_overrides": {"three": {"timeout": 1}}}}},
        ["config.configurable.node_overrides.three"],
    ),
    "unfollowed": (
        {"config": {"configurable": {"node_overrides": {"one": {"model": "x:y"}}}}},
        ["config.configurable.node_overrides.one.model"],
    ),
    "many": (
        {"config": {"max_concurrency": 0, "tags": "x", "recursion_limit": 1.5, "z": 1}},
        ["config.max_concurrency", "config.recursion_limit", "config.tags", "config.z"],
    ),
}
ENDPOINTS = (
    "/threads/{thread}/runs",
    "/threads/{thread}/runs/stream",
    "/threads/{thread}/runs/wait",
    "/runs",
    "/runs/stream",
    "/runs/wait",
    "/runs/batch",
    "/runs/crons",
    "/threads/{thread}/runs/crons",
)


@pytest.fixture
async def http(served: Any) -> Any:
    async with httpx.AsyncClient(base_url=served.url, timeout=None) as opened:
        yield opened


@pytest.fixture
async def thread(client: Any) -> str:
    found: str = (await client.threads.create())["thread_id"]
    return found


def body_for(endpoint: str, change: dict[str, Any], graph: str = "echo") -> Any:
    """A request to an endpoint with `change` in it."""
    item = {"assistant_id": graph, "input": {}, **change}
    if endpoint.endswith("crons"):
        return {**item, "schedule": "0 0 1 1 *"}
    return [item] if endpoint.endswith("batch") else item


@pytest.mark.parametrize("name", BAD)
@pytest.mark.requirement("config.validated", "door.server")
async def test_a_bad_config_is_refused_everywhere_before_a_run_exists(
    http: Any, client: Any, thread: str, name: str
) -> None:
    change, fields = BAD[name]
    for endpoint in ENDPOINTS:
        content = json.dumps(body_for(endpoint, change)).encode()
        answer = await http.post(
            endpoint.format(thread=thread),
            content=content,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 422, (endpoint, answer.text)
        error = answer.json()["error"]
        prefix = "0." if endpoint.endswith("batch") else ""
        found = sorted(problem["field"] for problem in error["problems"])
        if name == "deep":  # a path of 32 keys is cut
            found = [field[: len(f"{prefix}config.configurable")] for field in found]
        assert found == [prefix + field for field in fields], endpoint
        assert all(problem["rule"] for problem in error["problems"])
        assert error["type"] == "ConfigError"
        assert len(error["message"]) < 2_000
    assert await client.runs.list(thread) == []
    assert await client.crons.search() == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"assistant_id": "echo", "input": {}', "application/json", 422),
        (b'{"assistant_id": "echo", "input": {}, "config": {"a": NaN}}', "application/json", 422),
        (
            b'{"assistant_id": "echo", "config": {"configurable": {"a": 1e999}}}',
            "application/json",
            422,
        ),
        (
            b'{"assistant_id": "echo", "config": {"configurable": {"a": "\\ud800"}}}',
            "application/json",
            422,
        ),
        (
            b'{"assistant_id": "echo", "config": {"tags": ["a"], "tags": ["b"]}}',
            "application/json",
            422,
        ),
        (b"\xff\xfe", "application/json", 422),
        (b"", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b'{"assistant_id": "echo", "input": {}}', "text/plain", 415),
        (b'{"assistant_id": "echo", "input": {}}', "application/json; charset=latin-1", 415),
    ],
)
async def test_a_body_that_is_no_plain_json_gets_one_answer(
    http: Any, content: bytes, kind: str, status: int
) -> None:
    answer = await http.post("/runs/wait", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert set(answer.json()) == {"error"}


async def test_a_batch_with_bad_requests_lists_all_of_them_and_makes_none(
    http: Any, client: Any
) -> None:
    batch = [
        {"assistant_id": "echo", "input": {}, "metadata": {"batch": "mixed"}},
        {"assistant_id": "echo", "input": {}, "config": {"tags": 1}},
        {"assistant_id": "echo", "input": {}, "context": ["x"]},
    ]
    answer = await http.post("/runs/batch", json=batch)
    assert answer.status_code == 422
    fields = [problem["field"] for problem in answer.json()["error"]["problems"]]
    assert fields == ["1.config.tags", "2.context"]
    assert await client.threads.search(metadata={"batch": "mixed"}) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": "evaluate"}, "input"),
        ({"input": {"prompts": {"words": 7}}}, "job.prompts.words"),
        ({"input": {}, "command": {"goto": "summarize"}}, "command.goto"),
        ({"input": None, "command": {"update": {"run_id": "x"}}}, "command.update"),
    ],
)
async def test_what_is_no_job_is_refused_before_a_run_exists(
    http: Any, client: Any, thread: str, change: dict[str, Any], field: str
) -> None:
    for endpoint in ENDPOINTS:
        if "crons" in endpoint and "command" in change:
            continue
        body = body_for(endpoint, change, graph="evaluation")
        answer = await http.post(endpoint.format(thread=thread), json=body)
        assert answer.status_code == 422, (endpoint, answer.text)
        if "error" in answer.json():  # the server itself refuses some, in its own words
            fields = [problem["field"] for problem in answer.json()["error"]["problems"]]
            assert field in [found.removeprefix("0.") for found in fields], endpoint
    assert await client.runs.list(thread) == []


async def test_everything_that_is_wrong_with_a_job_is_told_at_once(http: Any, client: Any) -> None:
    from test_runs import TRAINING

    job = {
        **TRAINING,
        "target": "os:system",
        "evaluators": ["nobody"],
        "dataset": {"path": "nowhere.jsonl"},
        "budget": {"rollouts": -1},
        "config": {"tags": "x"},
        "run_id": "all-wrong",
    }
    body = {"assistant_id": "training", "input": job, "config": {"max_concurrency": 0}}
    answer = await http.post("/runs/wait", json=body)
    assert answer.status_code == 422
    told = json.dumps(answer.json()["error"]["problems"])
    for part in (
        "os:system",
        "'nobody'",
        "nowhere.jsonl",
        "job.budget.rollouts",
        "config.tags",
        "config.max_concurrency",
    ):
        assert part in told, (part, told)


async def test_a_run_id_of_another_job_is_refused_before_a_run_exists(
    http: Any, client: Any, thread: str
) -> None:
    from test_runs import EVALUATION

    job = {**EVALUATION, "run_id": "taken-id"}
    await client.runs.wait(None, "evaluation", input=job)
    other = {**job, "prompts": {"skills": "other"}}
    answer = await http.post(
        f"/threads/{thread}/runs", json={"assistant_id": "evaluation", "input": other}
    )
    assert answer.status_code == 422
    assert "another job" in answer.json()["error"]["message"]
    assert await client.runs.list(thread) == []


async def test_every_run_of_a_cron_is_a_run_of_its_own(client: Any) -> None:
    from test_runs import EVALUATION

    cron = await client.crons.create("evaluation", schedule="0 0 1 1 *", input=EVALUATION)
    try:
        [stored] = [c for c in await client.crons.search() if c["cron_id"] == cron["cron_id"]]
        assert "run_id" not in stored["payload"]["input"]
    finally:
        await client.crons.delete(cron["cron_id"])


async def test_a_jobs_overrides_reach_their_node_or_are_refused(http: Any, tmp_path: Path) -> None:
    from test_runs import EVALUATION

    job = {**EVALUATION, "dataset": cases("test", 4, after=tmp_path / "never")}

    def request(**overrides: Any) -> dict[str, Any]:
        config = {"configurable": {"node_overrides": overrides}}
        return {"assistant_id": "evaluation", "input": {**job, "config": config}}

    answer = await http.post("/runs/wait", json=request(nobody={"timeout": 1}))
    assert answer.status_code == 422
    [problem] = answer.json()["error"]["problems"]
    assert problem["field"] == "job.config.configurable.node_overrides.nobody"
    answer = await http.post("/runs/wait", json=request(handle={"timeout": 0.05}))
    summary = answer.json()["summary"]
    assert summary["n_target_failed"] == summary["cases"]


async def test_overrides_reach_their_node_and_metadata_says_what_ran(
    client: Any, thread: str, store: Store
) -> None:
    override = {"tags": ["hot"], "metadata": {"team": "red"}, "temperature": 0.5}
    found = await client.runs.wait(
        thread,
        "echo",
        input={},
        config={"tags": ["all"], "configurable": {"node_overrides": {"one": override}}},
        metadata={"ticket": "17"},
    )
    assert found["one"]["tags"] == ["all", "hot"]
    assert (found["one"]["team"], found["one"]["temperature"]) == ("red", 0.5)
    assert found["two"]["tags"] == ["all"]
    assert (found["two"]["team"], found["two"]["temperature"]) == (None, None)
    [run] = await client.runs.list(thread)
    assert run["metadata"]["ticket"] == "17"
    assert run["metadata"]["agentensor_workflow"] == "echo"
    assert run["metadata"]["agentensor_config"]["tags"] == ["all"]
    [record] = await store.runs.list(workflow_id="echo", mode="run", limit=1)
    assert record.status == "finished"
    assert record.thread_id == thread
    assert record.refs["trace_id"] == run["run_id"]
    assert record.config["tags"] == ["all"]


@pytest.mark.requirement("config.merged", "audit.sources")
async def test_defaults_version_assistant_and_request_merge_in_that_order(
    client: Any, http: Any, store: Store
) -> None:
    version = await store.checkpoints.save(
        workflow_id="echo",
        runnable_config={
            "tags": ["version"],
            "configurable": {
                "tone": "version",
                "prompts": {"a": {"type": "TextTensor", "text": "version"}},
            },
        },
        metrics={},
    )
    await store.aliases.move("echo", "production", to=version.config_version, actor="t", reason="t")
    await store.workflows.set_defaults(
        "echo",
        {
            "tags": ["defaults"],
            "metadata": {"team": "blue"},
            "recursion_limit": 77,
            "configurable": {"tone": "defaults", "temperature": 0.9},
        },
        actor="t",
    )
    try:
        assistant = await client.assistants.create(
            "echo",
            config={
                "tags": ["assistant"],
                "configurable": {
                    "agentensor": {"use": "production"},
                    "prompts": {"b": "assistant"},
                    "tone": "assistant",
                },
            },
        )
        thread = (await client.threads.create())["thread_id"]
        found = (
            await client.runs.wait(
                thread,
                assistant["assistant_id"],
                input={},
                config={"tags": ["request"], "configurable": {"prompts": {"c": "request"}}},
            )
        )["one"]
        assert found["tags"] == ["defaults", "version", "assistant", "request"]
        assert found["team"] == "blue"
        assert found["recursion_limit"] == 77
        assert found["tone"] == "assistant"
        assert found["temperature"] == 0.9
        texts = {name: prompt["text"] for name, prompt in found["prompts"].items()}
        assert texts == {"a": "version", "b": "assistant", "c": "request"}
        [run] = await client.runs.list(thread)
        assert run["metadata"]["agentensor_version"] == version.config_version
        assert run["metadata"]["agentensor_use"] == "production"
        assert run["metadata"]["agentensor_defaults_version"] == 1
        [record] = await store.runs.list(workflow_id="echo", mode="run", limit=1)
        manifest = (await http.get(f"/agentensor/v1/runs/{record.run_id}/manifest")).json()
        assert manifest["checkpoints"]["langgraph"]["thread_id"] == thread
        sources = manifest["config"]["sources"]
        assert sources["configurable.prompts.a.text"] == "version"
        assert sources["configurable.prompts.b.text"] == "assistant"
        assert sources["configurable.prompts.c.text"] == "request"
        assert sources["configurable.temperature"] == "default"
        assert (manifest["config"]["use"], manifest["mode"]) == ("production", "run")
        bare = await client.runs.wait(None, "echo", input={})
        assert bare["one"]["tags"] == ["defaults"]
        assert bare["one"]["prompts"] is None
        by_number = await client.runs.wait(
            None,
            "echo",
            input={},
            config={"configurable": {"agentensor": {"use": version.config_version}}},
        )
        assert by_number["one"]["tone"] == "version"
    finally:
        await store.workflows.set_defaults("echo", {}, actor="t")


async def test_a_graph_that_reads_context_gets_the_version_there(
    client: Any, http: Any, store: Store
) -> None:
    version = await store.checkpoints.save(
        workflow_id="context", runnable_config={"configurable": {"tone": "stored"}}, metrics={}
    )
    use = {"agentensor": {"use": version.config_version}}
    found = await client.runs.wait(None, "context", input={}, config={"configurable": use})
    assert found["context"] == {"tone": "stored", "length": 1}
    found = await client.runs.wait(None, "context", input={}, context={**use, "length": 3})
    assert found["context"] == {"tone": "stored", "length": 3}
    for door, field in (("context", "context.length"), ("config", "config.configurable.length")):
        given = {"length": "long"}
        body = {"context": given} if door == "context" else {"config": {"configurable": given}}
        answer = await http.post("/runs/wait", json={"assistant_id": "context", **body})
        assert answer.status_code == 422
        [problem] = answer.json()["error"]["problems"]
        assert problem["field"] == field
    found = await client.runs.wait(
        None, "context", input={}, context={"tone": "plain", "length": 2}
    )
    assert found["context"] == {"tone": "plain", "length": 2}


async def test_a_prompt_that_binds_to_the_context_is_there(client: Any, store: Store) -> None:
    prompt = {"type": "TextTensor", "text": "bound", "bind": "context.tone"}
    version = await store.checkpoints.save(
        workflow_id="context",
        runnable_config={"configurable": {"prompts": {"tone": prompt}}},
        metrics={},
    )
    use = {"agentensor": {"use": version.config_version}}
    found = await client.runs.wait(None, "context", input={}, config={"configurable": use})
    assert found["context"]["tone"] == "bound"


async def test_assistants_are_checked_when_they_are_stored(client: Any, http: Any) -> None:
    bad = {"graph_id": "echo", "config": {"max_concurrency": "a"}}
    answer = await http.post("/assistants", json=bad)
    assert answer.status_code == 422
    assert answer.json()["error"]["problems"][0]["field"] == "config.max_concurrency"
    stored = await client.assistants.create("echo", config={"tags": ["ok"]})
    place = f"/assistants/{stored['assistant_id']}"
    answer = await http.patch(place, json={"config": {"configurable": {"__x": 1}}})
    assert answer.status_code == 422
    assert (await http.patch(place, json={"config": {"tags": ["new"]}})).status_code == 200
    assert (await client.assistants.get(stored["assistant_id"]))["config"]["tags"] == ["new"]


async def test_a_cron_is_checked_and_updated_only_with_good_configs(client: Any, http: Any) -> None:
    cron = await client.crons.create("echo", schedule="0 0 1 1 *", input={})
    try:
        place = f"/runs/crons/{cron['cron_id']}"
        answer = await http.patch(place, json={"config": {"tags": 1}})
        assert answer.status_code == 422
        assert answer.json()["error"]["problems"][0]["field"] == "config.tags"
    finally:
        await client.crons.delete(cron["cron_id"])


async def test_a_workflow_that_has_not_opted_in_is_left_alone(
    client: Any, http: Any, store: Store
) -> None:
    await store.workflows.set_flags("bare", {"runnable_config_enabled": False})
    body = b'{"assistant_id": "bare", "input": {}, "config": {"oddity": {"a": 1, "a": 2}}}'
    answer = await http.post("/runs/wait", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 200
    assert "one" in answer.json()
    thread = (await client.threads.create())["thread_id"]
    use = {"configurable": {"agentensor": {"use": 99}}}
    asked = {"assistant_id": "bare", "input": {}, "config": use}
    answer = await http.post("/runs/wait", json=asked)
    assert answer.status_code == 422
    assert "runnable_config_enabled is off for 'bare'" in answer.json()["error"]["message"]
    await client.runs.wait(thread, "bare", input={}, config={"configurable": {"top": 3}})
    [run] = await client.runs.list(thread)
    assert not [key for key in run["metadata"] if key.startswith("agentensor")]
    await store.workflows.set_flags("bare", {"runnable_config_enabled": None})
    answer = await http.post("/runs/wait", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.requirement("training.flag")
async def test_training_can_be_off_for_one_workflow(client: Any, http: Any, store: Store) -> None:
    await store.workflows.set_flags("frozen", {"agent_trainer_enabled": False})
    job = {"workflow_id": "frozen", "target": "served_workflows:clerk"}
    answer = await http.post("/runs/wait", json={"assistant_id": "training", "input": job})
    assert answer.status_code in (403, 422)
    from test_runs import TRAINING

    job = {**TRAINING, "workflow_id": "frozen"}
    answer = await http.post("/runs/wait", json={"assistant_id": "training", "input": job})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "Forbidden"
    assert "agent_trainer_enabled" in answer.json()["error"]["message"]


async def test_the_bundled_workflow_takes_a_stored_version(client: Any, store: Store) -> None:
    version = await store.checkpoints.save(
        workflow_id="support_triage",
        runnable_config={
            "configurable": {
                "prompts": {"triage": "Queues:\nvault: card stolen block\nother: nothing\n"}
            }
        },
        metrics={},
    )
    ticket = {"ticket": "My card was stolen, block it"}
    plain = await client.runs.wait(None, "support_triage", input=ticket)
    use = {"configurable": {"agentensor": {"use": version.config_version}}}
    found = await client.runs.wait(None, "support_triage", input=ticket, config=use)
    assert found["queue"] == "vault"
    assert plain["queue"] != "vault"
    [newest, *_] = await store.runs.list(workflow_id="support_triage", mode="run")
    assert newest.refs["base_version"] == version.config_version


async def test_the_bundled_workflow_follows_overrides_that_can_be_followed(http: Any) -> None:
    def request(**override: Any) -> dict[str, Any]:
        config = {"configurable": {"node_overrides": {"reply": override}}}
        return {"assistant_id": "support_triage", "input": {"ticket": "hello"}, "config": config}

    answer = await http.post("/runs/wait", json=request(model="nobody:nothing", temperature=0.5))
    assert answer.status_code == 422
    [problem] = answer.json()["error"]["problems"]
    assert problem["field"] == "config.configurable.node_overrides.reply.model"
    assert "cannot be used on this server" in problem["rule"]
    answer = await http.post("/runs/wait", json=request(temperature=0.5))
    assert answer.json()["reply"]


async def test_nobody_else_says_which_version_ran(client: Any, store: Store, thread: str) -> None:
    noted = {"agentensor_version": 77, "agentensor_resolved": "support_triage", "team": "red"}
    await client.runs.wait(
        thread, "support_triage", input={"ticket": "hello"}, config={"metadata": noted}
    )
    [run] = await client.runs.list(thread)
    assert run["metadata"]["team"] == "red"
    assert "agentensor_version" not in run["metadata"]
    [record] = await store.runs.list(workflow_id="support_triage", limit=1)
    assert "base_version" not in record.refs


async def test_a_job_run_is_noted_with_its_data_and_evaluators(client: Any, store: Store) -> None:
    from test_runs import EVALUATION

    thread = (await client.threads.create())["thread_id"]
    found = await client.runs.wait(thread, "evaluation", input=EVALUATION)
    [run] = await client.runs.list(thread)
    record = await store.runs.get(found["run_id"])
    assert run["metadata"]["agentensor_run_id"] == record.run_id
    assert run["metadata"]["agentensor_dataset_version"] == record.dataset_version
    assert run["metadata"]["agentensor_evaluator_set"] == record.evaluator_set
    assert run["metadata"]["agentensor_workflow"] == record.workflow_id


async def test_commands_of_the_streaming_protocol_are_checked_too(http: Any, thread: str) -> None:
    params = {"assistant_id": "echo", "input": {}, "config": {"max_concurrency": "a"}}
    command = {"id": 1, "method": "run.start", "params": params}
    answer = await http.post(f"/threads/{thread}/commands", json=command)
    assert answer.status_code == 422
    command["params"] = {"assistant_id": "echo", "input": {}}
    answer = await http.post(f"/threads/{thread}/commands", json=command)
    assert answer.status_code == 200
    assert answer.json()["type"] == "success"
