"""The routes: versions, aliases, runs, datasets and schemas over HTTP."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from typing import Any

import httpx
import pytest
import schemathesis
from dev_server import Served
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_runs import EVALUATION, TRAINING

from orcheo_agentensor import Store
from orcheo_agentensor.storage import RunRecord

PREFIX = "/agentensor/v1"


@pytest.fixture
async def http(served: Any) -> Any:
    async with httpx.AsyncClient(base_url=served.url + PREFIX, timeout=None) as opened:
        yield opened


@pytest.fixture
async def workflow(store: Store) -> str:
    """A workflow with three versions, `production` on the first."""
    name = f"routes-{uuid.uuid4().hex[:8]}"
    for text in ("one", "two", "three"):
        await store.checkpoints.save(
            workflow_id=name,
            runnable_config={
                "tags": [text],
                "configurable": {"prompts": {"a": {"type": "TextTensor", "text": text}}},
            },
            metrics={"objective": 0.5, "coverage": 1.0},
        )
    await store.aliases.move(name, "production", to=1, actor="t", reason="first")
    return name


async def test_figures_over_runs_are_told(http: Any, store: Store) -> None:
    name = f"stats-{uuid.uuid4().hex[:8]}"
    run = RunRecord(
        run_id=f"{name}-1",
        workflow_id=name,
        mode="run",
        status="finished",
        job_hash="x",
        config={"tags": ["a"]},
    )
    await store.runs.create(run)
    found = (await http.get("/stats", params={"workflow_id": name})).json()
    assert found["runs"]["total"] == 1
    assert found["config_applied"] == {"runs": 1, "applied": 1, "share": 1.0, "goal": 0.99}
    assert found["sla"]["share"] is None
    later = {"workflow_id": name, "since": "2999-01-01T00:00:00Z"}
    assert (await http.get("/stats", params=later)).json()["runs"]["total"] == 0
    assert (await http.get("/stats", params={"since": "soon"})).status_code == 422


async def test_versions_are_listed_in_pages_and_read(http: Any, workflow: str) -> None:
    place = f"/workflows/{workflow}/checkpoints"
    first = (await http.get(place, params={"limit": 2})).json()
    assert [item["config_version"] for item in first["items"]] == [3, 2]
    assert first["items"][0]["aliases"] == ["latest"]
    after = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await http.get(place, params=after)).json()
    assert [item["config_version"] for item in second["items"]] == [1]
    assert second["next_cursor"] is None
    answer = await http.get(f"{place}/production")
    assert answer.json()["config_version"] == 1
    assert answer.json()["runnable_config"]["tags"] == ["one"]
    tag = answer.headers["etag"]
    again = await http.get(f"{place}/1", headers={"if-none-match": f'"x", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert (await http.head(f"{place}/1")).headers["etag"] == tag
    download = await http.get(f"{place}/2/download")
    assert download.json()["tags"] == ["two"]
    assert download.headers["content-disposition"].startswith('attachment; filename="routes')
    diff = (await http.get(f"/workflows/{workflow}/diff?before=production&after=3")).json()
    assert "-one" in diff["prompts"]
    assert "+three" in diff["prompts"]
    assert [config["tags"] for config in diff["config"]] == [["one"], ["three"]]
    assert workflow in [
        w["workflow_id"] for w in (await http.get("/workflows?limit=200")).json()["items"]
    ]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/workflows/{w}/checkpoints/9", 404),
        ("GET", "/workflows/{w}/checkpoints/99999999999999999999999", 404),
        ("GET", "/workflows/{w}/checkpoints/nowhere", 404),
        ("GET", "/workflows/nobody/checkpoints", 404),
        ("GET", "/workflows/{w}/aliases/nowhere", 404),
        ("GET", "/workflows/{w}/aliases/nowhere/log", 404),
        ("GET", "/workflows/{w}/checkpoints?limit=0", 422),
        ("GET", "/workflows/{w}/checkpoints?limit=x", 422),
        ("GET", "/workflows/{w}/checkpoints?cursor=x", 422),
        ("GET", "/workflows/{w}/checkpoints?cursor=WyJhIl0=", 422),
        ("GET", "/workflows/{w}/diff?before=1", 422),
        ("GET", "/runs/nobody", 404),
        ("GET", "/runs/nobody/cases", 404),
        ("GET", "/runs/nobody/cases?where=tone", 422),
        ("GET", "/runs/nobody/cases/a/b", 404),
        ("GET", "/runs/nobody/lineage", 404),
        ("GET", "/runs/nobody/report", 404),
        ("GET", "/runs/nobody/report?format=pdf", 422),
        ("GET", "/compare?side=nobody&side=none", 404),
        ("GET", "/compare?side=nobody", 422),
        ("GET", "/runs?mode=walk", 422),
        ("GET", "/runs?limt=5", 422),
        ("GET", "/schemas?limit=5", 422),
        ("GET", "/datasets/nobody/versions", 404),
        ("GET", "/schemas/nobody", 404),
        ("GET", "/nothing/here", 404),
        ("GET", "/nothing%0Ahere", 404),
        ("POST", "/runs", 405),
        ("DELETE", "/workflows/{w}/checkpoints/1", 405),
    ],
)
async def test_a_request_that_cannot_be_answered_gets_a_typed_error(
    http: Any, workflow: str, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, path.format(w=workflow))
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"type", "message", "problems"}


@pytest.mark.requirement("promotion.alias", "door.routes")
async def test_an_alias_is_promoted_by_compare_and_swap_and_rolled_back(
    http: Any, workflow: str
) -> None:
    place = f"/workflows/{workflow}/aliases/production"
    body = {"version": 2, "expected_version": 1, "reason": "better"}
    moved = await http.put(place, json=body)
    assert moved.status_code == 200
    assert (moved.json()["from_version"], moved.json()["to_version"]) == (1, 2)
    stale = await http.put(place, json={"version": 3, "expected_version": 1})
    assert stale.status_code == 409
    assert stale.json()["error"]["type"] == "AliasConflict"
    tag = (await http.get(place)).headers["etag"]
    assert tag == moved.headers["etag"]
    ok = await http.put(place, json={"version": 3}, headers={"if-match": tag})
    assert ok.status_code == 200
    late = await http.put(place, json={"version": 1}, headers={"if-match": tag})
    assert late.status_code == 412
    assert (await http.put(place, json={"version": 1})).status_code == 422
    assert (await http.put(place, json={"version": 9, "expected_version": 3})).status_code == 404
    latest = f"/workflows/{workflow}/aliases/latest"
    assert (await http.put(latest, json={"version": 1, "expected_version": 3})).status_code == 422
    back = await http.post(f"{place}/rollback", json={"reason": "worse", "expected_version": 3})
    assert back.json()["to_version"] == 2
    assert (await http.post(f"{place}/rollback", json={"expected_version": 3})).status_code == 409
    log = (await http.get(f"{place}/log?limit=2")).json()
    assert [move["kind"] for move in log["items"]] == ["rollback", "move"]
    rest = (await http.get(f"{place}/log", params={"cursor": log["next_cursor"]})).json()
    assert [move["to_version"] for move in rest["items"]] == [2, 1]
    new = f"/workflows/{workflow}/aliases/staging"
    assert (await http.put(new, json={"version": 1, "expected_version": None})).status_code == 200
    assert (await http.put(new, json={"version": 2, "expected_version": None})).status_code == 409


async def test_of_two_promotions_at_once_one_wins(http: Any, workflow: str) -> None:
    place = f"/workflows/{workflow}/aliases/production"
    for current in (1, 2, 3, 1):
        others = [version for version in (1, 2, 3) if version != current]
        both = await asyncio.gather(
            *(
                http.put(place, json={"version": version, "expected_version": current})
                for version in others
            )
        )
        assert sorted(answer.status_code for answer in both) == [200, 409]
        found = (await http.get(place)).json()["version"]
        following = {1: 2, 2: 3, 3: 1}[current]
        if found != following:
            await http.put(place, json={"version": following, "expected_version": found})


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"version": 1e400}', "application/json", 422),
        (b'{"version": true, "expected_version": 1}', "application/json", 422),
        (b'{"version": 2, "expected_version": 1, "more": 1}', "application/json", 422),
        (b'{"version": 2, "version": 3, "expected_version": 1}', "application/json", 422),
        (b'{"version": 2, "expected_version": 1}', "text/plain", 415),
        (b'{"reason": "' + b"x" * 70_000 + b'"}', "application/json", 413),
    ],
)
async def test_a_bad_promotion_moves_nothing(
    http: Any, workflow: str, content: bytes, kind: str, status: int
) -> None:
    place = f"/workflows/{workflow}/aliases/production"
    answer = await http.put(place, content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert (await http.get(place)).json()["version"] == 1


async def test_runs_and_their_cases_are_read_in_pages(client: Any, http: Any) -> None:
    job = {**EVALUATION, "run_id": "routes-run", "workflow_id": "routes-runs"}
    await client.runs.wait(None, "evaluation", input=job)
    run = (await http.get("/runs/routes-run")).json()
    assert run["status"] == "finished"
    assert run["result"]["summary"]["objective"] == pytest.approx(0.25)
    assert run["usage"]["rollouts"] == 8
    listed = (await http.get("/runs?workflow_id=routes-runs&mode=evaluate")).json()
    assert [item["run_id"] for item in listed["items"]] == ["routes-run"]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await http.get("/runs/routes-run/cases", params={"limit": 3, **cursor})).json()
        seen += [item["case_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"test-{number}" for number in range(8)]

    async def ids(**filters: Any) -> list[str]:
        page = (await http.get("/runs/routes-run/cases", params=filters)).json()
        return [item["case_id"] for item in page["items"]]

    assert await ids(min_score=1) == ["test-1", "test-5"]
    assert len(await ids(max_score=0.5, evaluator="right")) == 6
    assert await ids(failed="true") == []
    assert len(await ids(split="test", phase="evaluation")) == 8
    assert await ids(split="train") == []
    assert await ids(evaluator="nobody", min_score=0) == []
    other = {**EVALUATION, "run_id": "routes-run-2", "workflow_id": "routes-runs"}
    await client.runs.wait(None, "evaluation", input=other)
    first = (await http.get("/runs?limit=1")).json()
    more = (await http.get("/runs", params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert more["items"] != first["items"]
    datasets = (await http.get("/datasets/inline/versions")).json()["items"]
    assert run["dataset_version"] in [item["version"] for item in datasets]


async def test_a_rejected_version_is_promoted_only_by_force(
    http: Any, store: Store, workflow: str
) -> None:
    from orcheo_agentensor.storage import RunRecord

    run_id = f"{workflow}-run"
    version = await store.checkpoints.save(
        workflow_id=workflow, runnable_config={"tags": ["bad"]}, metrics={}, run_id=run_id
    )
    await store.runs.create(
        RunRecord(
            run_id=run_id,
            workflow_id=workflow,
            mode="train",
            job_hash="x",
            status="finished",
            result={
                "decision": {"status": "rejected", "reasons": ["no gain"]},
                "best": {"config_version": version.config_version},
            },
        )
    )
    place = f"/workflows/{workflow}/aliases/production"
    body = {"version": version.config_version, "expected_version": 1}
    answer = await http.put(place, json=body)
    assert answer.status_code == 409
    assert "no gain" in answer.json()["error"]["message"]
    assert (await http.put(place, json={**body, "force": True})).status_code == 200


async def test_schemas_and_descriptions_are_served(http: Any, served: Any) -> None:
    names = (await http.get("/schemas")).json()["schemas"]
    for name in names:
        assert (await http.get(f"/schemas/{name}")).json()["$schema"]
    described = (await http.get("/openapi.json")).json()
    async with httpx.AsyncClient(base_url=served.url, timeout=None) as whole:
        server = (await whole.get("/openapi.json")).json()
    for path in described["paths"]:
        assert path in server["paths"], path
    schemas = server["components"]["schemas"]
    assert described["components"]["schemas"].items() <= schemas.items()
    assert "assistant_id" in schemas["Run"]["properties"], "the server's own Run is replaced"
    assert server["info"]["title"] != described["info"]["title"]
    assert server["security"] == [{"bearer": []}]


async def test_answers_are_as_described(served: Served, http: Any, client: Any) -> None:
    job = {**TRAINING, "workflow_id": "described", "run_id": "described"}
    await client.runs.wait(None, "training", input=job)
    schema = await asyncio.to_thread(
        schemathesis.openapi.from_url, f"{served.url}{PREFIX}/openapi.json"
    )
    told = (await http.get("/openapi.json")).json()
    run = (await http.get("/runs/described")).json()
    known = {
        "workflow_id": "described",
        "other": "described",
        "evaluator_set": run["evaluator_set"],
        "version": "1",
        "alias": "latest",
        "run_id": "described",
        "dataset_id": "inline",
        "name": "training",
        "case_id": (await http.get("/runs/described/cases")).json()["items"][0]["case_id"],
    }
    queries: dict[str, dict[str, Any]] = {
        "/diff": {"before": "1", "after": "latest"},
        "/compare": {"side": ["described@1", "described@1"]},
    }
    for path, methods in told["paths"].items():
        if "get" not in methods:
            continue
        names = [p["name"] for p in methods["get"]["parameters"] if p["in"] == "path"]
        query = next((one for end, one in queries.items() if path.endswith(end)), {})
        case = schema[path]["GET"].Case(
            path_parameters={name: known[name] for name in names}, query=query
        )
        answer = await asyncio.to_thread(case.call_and_validate, timeout=600)
        assert answer.status_code == 200, path


def test_the_routes_hold_against_generated_requests(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}{PREFIX}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:
        call = _caller(operation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about strategies that it falls back from
            call()


def _caller(operation: Any) -> Any:
    """A property: whatever is sent, the answer is one that the description promises."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=8,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any) -> None:
        # A made-up cursor, or an alias that nobody may move, fits the description and is refused.
        case.call_and_validate(timeout=600, excluded_checks=[positive_data_acceptance])

    return call


@pytest.mark.requirement("audit.manifest", "audit.diff", "audit.evaluator-set", "door.routes")
async def test_a_run_is_explained_by_its_manifest_and_compared(
    http: Any, client: Any, store: Store
) -> None:
    found = [
        await client.runs.wait(None, "evaluation", input={**EVALUATION, "replicates": times})
        for times in (1, 2)
    ]
    one, other = (run["run_id"] for run in found)
    manifest = (await http.get(f"/runs/{one}/manifest")).json()
    assert (manifest["schema"], manifest["run_id"], manifest["mode"]) == (1, one, "evaluate")
    assert manifest["target"]["entrypoint"] == EVALUATION["target"]
    assert manifest["environment"]["packages"]["langgraph"]
    diff = (await http.get(f"/runs/{one}/diff/{other}")).json()
    changed = {entry["path"]: [entry["before"], entry["after"]] for entry in diff["manifest"]}
    assert changed == {"job.replicates": [1, 2]}
    assert "usage.rollouts" in {entry["path"] for entry in diff["results"]}
    run = (await http.get(f"/runs/{one}")).json()
    named = (await http.get(f"/evaluator-sets/{run['evaluator_set']}")).json()
    assert named["evaluators"] == manifest["evaluators"]
    assert (await http.get("/runs/none/manifest")).status_code == 404
    newer = RunRecord(run_id="newer", workflow_id="w", mode="evaluate", job_hash="x")
    await store.runs.create(newer, manifest={"schema": 2, "new": {}})
    for path in ("/runs/newer/manifest", f"/runs/{one}/diff/newer"):
        refused = await http.get(path)
        assert refused.status_code == 422
        [problem] = refused.json()["error"]["problems"]
        assert problem["field"] == "manifest.schema"
        assert problem["rule"] == "must be at most 1"
    assert (await http.get("/evaluator-sets/none")).status_code == 404
    schema = (await http.get("/schemas/manifest")).json()
    assert schema["title"] == "Manifest"
    assert "schema" in schema["properties"]
