"""`agentensor export`: requests checked by small servers that know the documented shapes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
from cli_support import Project, cases, evaluation_job, training_job

TEXT = {"type": "string", "minLength": 1}
NAME = {"type": "string", "pattern": r"^[/\w.\- ]{1,250}$"}
TAGS = {"type": "array", "maxItems": 100, "items": {"$ref": "#/$defs/pair"}}


def shape(required: str = "", **fields: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    pair = {"type": "object", "properties": {"key": NAME, "value": {"maxLength": 6000, **TEXT}}}
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
        "$defs": {"pair": {**pair, "required": ["key", "value"], "additionalProperties": False}},
    }


METRIC = shape(
    "key value timestamp",
    key=NAME,
    value={"type": "number"},
    timestamp={"type": "integer"},
    step={"type": "integer"},
)
MLFLOW = {
    "experiments/create": shape("name", name=TEXT),
    "runs/search": shape(
        "experiment_ids",
        experiment_ids={"type": "array", "items": TEXT},
        filter=TEXT,
        max_results={"type": "integer"},
    ),
    "runs/create": shape(
        "experiment_id",
        experiment_id=TEXT,
        run_name=TEXT,
        start_time={"type": "integer"},
        tags=TAGS,
    ),
    "runs/log-batch": shape(
        "run_id",
        run_id=TEXT,
        metrics={"type": "array", "maxItems": 1000, "items": METRIC},
        params=TAGS,
    ),
    "runs/update": shape(
        "run_id", run_id=TEXT, status={"const": "FINISHED"}, end_time={"type": "integer"}
    ),
}
MOMENT = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
TRACE_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
OBSERVATION = shape(
    "id traceId",
    id=TEXT,
    traceId=TRACE_ID,
    name=TEXT,
    startTime=MOMENT,
    endTime=MOMENT,
    level={"enum": ["DEFAULT", "ERROR"]},
    statusMessage=TEXT,
    usageDetails={"type": "object", "additionalProperties": {"type": "integer"}},
    costDetails={"type": "object", "additionalProperties": {"type": "number"}},
)
LANGFUSE = {
    "trace-create": shape(
        "id timestamp",
        id=TRACE_ID,
        timestamp=MOMENT,
        name=TEXT,
        sessionId=TEXT,
        version=TEXT,
        input={},
        output={},
        tags={"type": "array", "items": TEXT},
        metadata={},
    ),
    "span-create": OBSERVATION,
    "generation-create": OBSERVATION,
    "score-create": shape(
        "id name value",
        id=TEXT,
        traceId=TRACE_ID,
        sessionId=TEXT,
        name=TEXT,
        value={"type": ["number", "string"]},
        dataType={"enum": ["NUMERIC", "CATEGORICAL"]},
        comment=TEXT,
    ),
}
ENVELOPE = shape("id type timestamp body", id=TEXT, type=TEXT, timestamp=MOMENT, body={})


class Service(ThreadingHTTPServer):
    """Both services in one; `refuse` is the next answer, where it is one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.envelopes: set[str] = set()
        self.keys: set[str | None] = set()
        self.artifacts = "mlflow-artifacts:/7"
        self.refuse: list[tuple[int, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        """What the services answer; a request of another shape raises."""
        if method == "PUT":
            self.files[path.removeprefix("/api/2.0/mlflow-artifacts/artifacts/")] = body.decode()
            return {}
        if path == "/api/public/ingestion":
            return self.ingest(json.loads(body))
        what = path.removeprefix("/api/2.0/mlflow/")
        if what == "experiments/get-by-name":
            (name,) = query["experiment_name"]
            found = self.experiments.get(name)
            return found and {"experiment": {"experiment_id": found}}
        given = json.loads(body)
        jsonschema.validate(given, MLFLOW[what])
        if what == "experiments/create":
            self.experiments[given["name"]] = "7"
            return {"experiment_id": "7"}
        if what == "runs/search":
            wanted = given["filter"].split("'")[1]
            return {"runs": [{"info": run["info"]} for run in self.runs.values()
                             if run["tags"]["agentensor.run_id"] == wanted]}  # fmt: skip
        if what == "runs/create":
            made = f"m{len(self.runs)}"
            uri = f"{self.artifacts}/{made}/artifacts"
            info = {"run_id": made, "artifact_uri": uri}
            tags = {tag["key"]: tag["value"] for tag in given["tags"]}
            self.runs[made] = {"info": info, "tags": tags, "metrics": {}, "params": {}}
            return {"run": {"info": info}}
        run = self.runs[given["run_id"]]
        for one in given.get("metrics", ()):
            run["metrics"][one["key"], one["step"]] = one["value"]
        run["params"] |= {one["key"]: one["value"] for one in given.get("params", ())}
        run["status"] = given.get("status")
        return {}

    def ingest(self, given: dict[str, Any]) -> dict[str, Any]:
        """Langfuse's answer, which tells of each event."""
        for event in given["batch"]:
            jsonschema.validate(event, ENVELOPE)
            jsonschema.validate(event["body"], LANGFUSE[event["type"]])
            assert event["id"] not in self.envelopes
            self.envelopes.add(event["id"])
            self.events[event["body"]["id"]] = event
        found = [{"id": event["id"], "status": 201} for event in given["batch"]]
        return {"successes": found, "errors": []}


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        service, parts = self.server, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        service.keys.add(self.headers.get("authorization"))
        headers: dict[str, str] = {}
        if service.refuse:
            status, headers, content = service.refuse.pop(0)
        else:
            try:
                found = service.answer(self.command, parts.path, parse_qs(parts.query), body)
                status, content = (200, json.dumps(found).encode()) if found else (404, b"{}")
                status = 200 if found == {} else status
            except Exception as error:  # noqa: BLE001 - told to the client
                status, content = 400, str(error).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AGENTENSOR_ALLOWED_HOSTS", f"127.0.0.1:{made.server_port}")
    for name in ("MLFLOW_TRACKING_URI", "LANGFUSE_BASE_URL"):
        monkeypatch.setenv(name, made.url)
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "lf-quiet-word")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "ml-quiet-word")
    yield made
    made.shutdown()
    made.server_close()


def test_a_run_is_exported_to_mlflow_and_once(project: Project, service: Service) -> None:
    assert project.call("evaluate", "evaluate.yaml", "-q", "--run-id", "e1").exit_code == 0
    found = project.ok("export", "e1", "--to", "mlflow")
    assert (found["cases"], found["notes"]) == (36, [])
    assert found["url"] == f"{service.url}/#/experiments/7/runs/m0"
    assert service.keys == {"Bearer ml-quiet-word"}
    assert service.experiments == {"shop": "7"}
    (run,) = service.runs.values()
    assert (run["status"], run["metrics"]["objective", 0]) == ("FINISHED", 0.5)
    assert run["metrics"]["right.pass_rate", 0] == 0.5
    assert run["params"]["prompt.words"] == "w0 w1"
    lines = [json.loads(line) for line in service.files["7/m0/artifacts/cases.jsonl"].splitlines()]
    assert len(lines) == 36
    assert lines[0]["scores"]["right"]["score"] == 1.0
    assert "<html" in service.files["7/m0/artifacts/report.html"]

    project.ok("export", "e1", "--to", "mlflow")  # again: the same run
    assert len(service.runs) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "Prüfung")
        project.ok("export", "e1", "--to", "mlflow")
    assert [*service.experiments] == ["shop", "Prüfung"]

    project.write("train.yaml", training_job(dataset=cases(12)))
    assert project.call("train", "train.yaml", "-q", "--run-id", "t1").exit_code == 0
    service.artifacts = "s3://bucket"
    assert "s3" in project.ok("export", "t1", "--to", "mlflow")["notes"][0]
    trained = service.runs["m1"]
    assert trained["metrics"]["holdout.gain", 0] == 0.75
    assert trained["metrics"]["version.objective", 2] > trained["metrics"]["version.objective", 1]
    assert trained["params"]["optimizer"] == "textgrad"


def test_a_run_is_exported_to_langfuse_and_once(project: Project, service: Service) -> None:
    job = evaluation_job(dataset=cases(4), evaluators=["shopflow:right", "json_valid"])
    project.write("evaluate.yaml", job)
    assert project.call("evaluate", "evaluate.yaml", "-q", "--run-id", "e1").exit_code == 0
    service.refuse = [(429, {"retry-after": "0"}, b"slow down")]
    assert project.ok("export", "e1", "--to", "langfuse")["cases"] == 4
    basic = base64.b64encode(b"pk-lf-1:lf-quiet-word").decode()
    assert service.keys == {f"Basic {basic}"}
    by_type: dict[str, list[dict[str, Any]]] = {}
    for event in service.events.values():
        by_type.setdefault(event["type"], []).append(event["body"])
    traces = {trace["metadata"]["case_id"]: trace for trace in by_type["trace-create"]}
    assert traces.keys() == {"c0", "c1", "c2", "c3"}
    assert traces["c2"]["output"] == {"label": "unknown"}
    assert {trace["sessionId"] for trace in traces.values()} == {"e1"}
    assert len(by_type["span-create"]) == 4
    scores = [one for one in by_type["score-create"] if one.get("traceId") == traces["c2"]["id"]]
    assert {(one["name"], one["value"]) for one in scores} == {("right", 0.0), ("json_valid", 1.0)}
    means = {one["name"]: one["value"] for one in by_type["score-create"] if "sessionId" in one}
    assert means == {"right": 0.5, "json_valid": 1.0, "objective": 0.75, "coverage": 1.0}

    known = len(service.events)
    project.ok("export", "e1", "--to", "langfuse")  # again: the same traces and scores
    assert len(service.events) == known

    refused = {"successes": [], "errors": [{"id": "x", "status": 400, "message": "bad score"}]}
    service.refuse = [(207, {}, json.dumps(refused).encode())]
    assert "bad score" in project.refused("export", "e1", "--to", "langfuse", code=3)


def test_an_export_that_cannot_be_says_what_is_missing(
    project: Project, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.call("evaluate", "evaluate.yaml", "-q", "--run-id", "e1").exit_code == 0
    for status, headers, said in (
        (401, {}, "does not take the keys in LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"),
        (302, {"location": "http://10.0.0.1/"}, "redirects are not followed"),
        (500, {}, "refused the request (HTTP 500): 'api_key=[redacted]'"),
        (200, {}, "something else than JSON"),
    ):
        service.refuse = [(status, headers, b"api_key=sk-live-1234567890abcdef")]
        told = project.refused("export", "e1", "--to", "langfuse", code=3)
        assert said in told
        assert "quiet-word" not in told
    assert "unknown" in project.refused("export", "unknown", "--to", "mlflow")
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    assert "LANGFUSE_SECRET_KEY is not set" in project.refused("export", "e1", "--to", "langfuse")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.1:5000")
    told = project.refused("export", "e1", "--to", "mlflow")
    assert "host '10.0.0.1' is not allowed; add it to AGENTENSOR_ALLOWED_HOSTS" in told
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ana:pw-quiet-word@127.0.0.1")
    told = project.refused("export", "e1", "--to", "mlflow")
    assert "must not hold a user or a password" in told
    assert "quiet-word" not in told
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "MLFLOW_TRACKING_URI is not set" in project.refused("export", "e1", "--to", "mlflow")
    assert project.call("export", "e1", "--to", "wandb").exit_code == 2
