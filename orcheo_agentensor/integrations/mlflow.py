"""Export to MLflow: a run of an experiment, by the REST API 2.0 of a tracking server."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from orcheo_agentensor.integrations.tracking import (
    Exported,
    FinishedRun,
    Requests,
    address,
    requests,
    secret,
)
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import CaseRow

_API = "/api/2.0/mlflow"
_URL, _TOKEN = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
_TAG = "agentensor.run_id"

# What one request, one name and one value may have at most.
_METRICS, _PARAMS, _KEY, _PARAM = 900, 90, 250, 6_000
_NOT_IN_NAMES = re.compile(r"[^\w.\- /]", re.ASCII)

Metric = tuple[str, float, int]
"""A name, a value and the step at which it was measured."""


class MLflow:
    """The tracking server that `MLFLOW_TRACKING_URI` names."""

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings
        self._url = address(_URL, settings=settings)
        self._options: dict[str, Any] = {}
        if token := secret(_TOKEN):
            self._options["headers"] = {"authorization": f"Bearer {token}"}
        elif user := secret(_USER):
            self._options["auth"] = (user, secret(_PASSWORD))

    async def send(self, run: FinishedRun) -> Exported:
        """Make the run, or bring the one that an earlier export has made up to date."""
        keys = f"{_TOKEN}, or {_USER} and {_PASSWORD}"
        async with requests(
            self._url, service="MLflow", keys=keys, settings=self._settings, **self._options
        ) as server:
            experiment = await _experiment(server, run)
            made = await _run(server, run, experiment)
            mlflow_id = str(made["info"]["run_id"])
            await _log(server, run, mlflow_id)
            url = f"{self._url}/#/experiments/{experiment}/runs/{mlflow_id}"
            exported = Exported(to="mlflow", run_id=mlflow_id, url=url)
            await _artifacts(server, run, str(made["info"].get("artifact_uri")), exported)
            ended = {"run_id": mlflow_id, "status": "FINISHED", "end_time": _ms(run, "ended_at")}
            await server.call("POST", f"{_API}/runs/update", json=ended)
        return exported


async def _experiment(server: Requests, run: FinishedRun) -> str:
    """The id of the experiment, which is named after the workflow where nothing names another."""
    name = os.environ.get(_EXPERIMENT, "").strip() or run.record.workflow_id
    path = f"{_API}/experiments/get-by-name"
    found = await server.call("GET", path, params={"experiment_name": name}, missing=[404])
    if found is not None:
        return str(found["experiment"]["experiment_id"])
    made = await server.call("POST", f"{_API}/experiments/create", json={"name": name})
    return str(made["experiment_id"])


async def _run(server: Requests, run: FinishedRun, experiment: str) -> dict[str, Any]:
    """MLflow's own run of ours."""
    known = await server.call(
        "POST",
        f"{_API}/runs/search",
        json={
            "experiment_ids": [experiment],
            "filter": f"tags.`{_TAG}` = '{run.record.run_id}'",
            "max_results": 1,
        },
    )
    if found := known.get("runs"):
        return dict(found[0])
    tags = {
        _TAG: run.record.run_id,
        "agentensor.mode": run.record.mode,
        "agentensor.workflow_id": run.record.workflow_id,
        "mlflow.source.name": "agentensor",
    }
    git = (run.manifest.get("environment") or {}).get("git") or {}
    if commit := git.get("commit"):
        tags["mlflow.source.git.commit"] = commit
    made = await server.call(
        "POST",
        f"{_API}/runs/create",
        json={
            "experiment_id": experiment,
            "run_name": run.record.run_id,
            "start_time": _ms(run, "started_at"),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        },
    )
    return dict(made["run"])


async def _log(server: Requests, run: FinishedRun, mlflow_id: str) -> None:
    at = _ms(run, "ended_at")
    metrics = [
        {"key": _name(name), "value": value, "timestamp": at, "step": step}
        for name, value, step in _metrics(run)
        if math.isfinite(value)
    ]
    params = [{"key": _name(name), "value": value[:_PARAM]} for name, value in _params(run)]
    for start in range(0, max(len(metrics), len(params), 1), _METRICS):
        body = {"run_id": mlflow_id, "metrics": metrics[start : start + _METRICS]}
        await server.call("POST", f"{_API}/runs/log-batch", json=body)
    for start in range(0, len(params), _PARAMS):
        body = {"run_id": mlflow_id, "params": params[start : start + _PARAMS]}
        await server.call("POST", f"{_API}/runs/log-batch", json=body)


def _params(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """What the run was made of."""
    record, manifest = run.record, run.manifest
    yield "target", str((manifest.get("target") or {}).get("name", record.workflow_id))
    yield "dataset", str(record.dataset_id)
    yield "dataset_version", str(record.dataset_version)
    yield "seed", str(record.seed)
    names = [str(one["name"]) for one in manifest.get("evaluators") or ()]
    yield "evaluators", ", ".join(names)
    if training := manifest.get("training"):
        yield "optimizer", str(training["optimizer"]["name"])
    for name, text in run.prompts.items():
        yield f"prompt.{name}", redact(text)


def _metrics(run: FinishedRun) -> Iterator[Metric]:
    """The numbers of its result. What nobody knows, such as a price, is left out."""
    result = run.record.result or {}
    found: dict[str, Any] = {**_numbers(run.summary)}
    found |= {f"usage.{key}": value for key, value in run.record.usage.items()}
    if holdout := result.get("holdout"):
        found |= {f"holdout.{key}": holdout.get(key) for key in ("gain", "p_value", "n")}
        for side in ("baseline", "best"):
            numbers = _numbers(holdout[side])
            found |= {f"holdout.{side}.{key}": value for key, value in numbers.items()}
    for name, value in found.items():
        if isinstance(value, int | float):
            yield name, float(value), 0
    for version, metrics in run.versions:
        for name, value in _numbers(metrics).items():
            if isinstance(value, int | float):
                yield f"version.{name}", float(value), version


def _numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: summary.get(key) for key in ("objective", "coverage", "cases")}
    found |= {f"latency_ms.{key}": value for key, value in summary["latency_ms"].items()}
    for name, entry in summary["evaluators"].items():
        found |= {f"{name}.{key}": entry.get(key) for key in ("mean", "pass_rate", "n", "failures")}
    return found


async def _artifacts(server: Requests, run: FinishedRun, where: str, exported: Exported) -> None:
    """Put the cases and the reports beside the run, where the server itself keeps such files."""
    place = urlsplit(where)
    if place.scheme != "mlflow-artifacts" or place.netloc:
        exported.notes.append(
            "the cases and the report are left out: this server keeps files elsewhere "
            f"({place.scheme or 'a folder of its own'}) and takes none itself; one that is started "
            "with --serve-artifacts does"
        )
        return
    folder = f"/api/2.0/mlflow-artifacts/artifacts/{quote(place.path.strip('/'))}"
    lines = bytearray()
    async for page in run.cases():
        exported.cases += len(page)
        for row, case in page:
            line = json.dumps(redact(_line(row, case)), ensure_ascii=False)
            lines += f"{line}\n".encode("utf-8", "replace")
    for name, content in {"cases.jsonl": bytes(lines), **run.files}.items():
        await server.call("PUT", f"{folder}/{quote(name)}", content=content)


def _line(row: CaseRow, case: Mapping[str, Any]) -> dict[str, Any]:
    rollout = row.rollout
    kept = ("score", "passed", "label", "reason", "failure")
    scores = {
        one.name: {key: value for key in kept if (value := getattr(one, key)) is not None}
        for one in row.scores
    }
    return {
        "case_id": rollout.case_id,
        "phase": rollout.phase,
        "candidate": rollout.candidate_hash,
        "replicate": rollout.replicate,
        "inputs": case.get("inputs"),
        "expected_output": case.get("expected_output"),
        "output": rollout.output,
        "failure": rollout.failure,
        "latency_ms": rollout.latency_ms,
        "usage": rollout.usage.to_json(),
        "scores": scores,
    }


def _name(name: str) -> str:
    """A name that MLflow takes: no other characters, no empty step of a path."""
    plain = _NOT_IN_NAMES.sub("_", name)
    return "/".join(part.strip(".") or "_" for part in plain.split("/"))[:_KEY]


def _ms(run: FinishedRun, field: str) -> int:
    moment = getattr(run.record, field) or run.record.started_at
    return int(moment.timestamp() * 1000)
