"""Export to Langfuse: a trace with its scores for each rollout, in a session for the run."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from orcheo_agentensor.errors import BadInput, ExportFailed
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

_URLS = ("LANGFUSE_BASE_URL", "LANGFUSE_HOST")
_DEFAULT = "https://cloud.langfuse.com"
_PUBLIC, _SECRET = "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"
_PATH = "/api/public/ingestion"

_MOST_BYTES = 3_000_000  # of a request, which may have 3.5 MB
_MOST_EVENTS = 200
_MOST_TEXT = 200_000  # of inputs or an output, beyond which they are cut

Event = dict[str, Any]


class Langfuse:
    """The project that `LANGFUSE_PUBLIC_KEY` and `LANGFUSE_SECRET_KEY` open."""

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings
        self._url = address(*_URLS, default=_DEFAULT, settings=settings)
        self._keys = (secret(_PUBLIC), secret(_SECRET))
        for name, value in zip((_PUBLIC, _SECRET), self._keys, strict=True):
            if not value:
                raise BadInput(
                    f"{name} is not set: the keys are in the settings of the Langfuse project",
                    field=name,
                    rule="must be set in the environment",
                )

    async def send(self, run: FinishedRun) -> Exported:
        """Send every rollout. Its trace has an id that follows from ours: sent again, it is the
        same trace."""
        run_id = run.record.run_id
        exported = Exported(to="langfuse", run_id=run_id, url=self._url)
        async with requests(
            self._url,
            service="Langfuse",
            keys=f"{_PUBLIC} and {_SECRET}",
            settings=self._settings,
            auth=self._keys,
        ) as server:
            batch = _Ingestion(server)
            async for page in run.cases():
                exported.cases += len(page)
                for row, case in page:
                    await batch.put(_of_a_rollout(run, row, case))
            await batch.put(_of_the_run(run))
            await batch.flush()
        return exported


class _Ingestion:
    """Events on their way: sent when there are as many as one request takes."""

    def __init__(self, server: Requests) -> None:
        self._server = server
        self._events: list[bytes] = []
        self._bytes = 0

    async def put(self, events: Iterable[Event]) -> None:
        """Send these events with others."""
        for event in events:
            content = json.dumps(redact(event), ensure_ascii=False).encode("utf-8", "replace")
            if len(self._events) == _MOST_EVENTS or self._bytes + len(content) > _MOST_BYTES:
                await self.flush()
            self._events.append(content)
            self._bytes += len(content) + 1

    async def flush(self) -> None:
        """Send what is there. Raises `ExportFailed` where some of it is refused."""
        events, self._events, self._bytes = self._events, [], 0
        content = b'{"batch":[' + b",".join(events) + b"]}"
        headers = {"content-type": "application/json"}
        found = await self._server.call("POST", _PATH, content=content, headers=headers)
        if errors := found.get("errors"):
            first = errors[0]
            said = redact(str(first.get("message") or first.get("error") or first))[:300]
            raise ExportFailed(
                f"Langfuse refused {len(errors)} of {len(events)} events, the first: {said}"
            )


def _of_a_rollout(run: FinishedRun, row: CaseRow, case: Mapping[str, Any]) -> Iterator[Event]:
    """A trace, what it took, and its scores."""
    rollout, record = row.rollout, run.record
    trace_id = _id(record.run_id, rollout.key, rollout.candidate_hash)
    began = record.started_at
    failures = {one.name: one.failure for one in row.scores if one.failure}
    yield _event(
        "trace-create",
        id=trace_id,
        timestamp=_iso(began),
        name=record.workflow_id,
        sessionId=record.run_id,
        version=rollout.candidate_hash[:12],
        input=_cut(case.get("inputs")),
        output=_cut(rollout.output),
        tags=["agentensor", record.mode, rollout.phase],
        metadata={
            "case_id": rollout.case_id,
            "replicate": rollout.replicate,
            "expected_output": _cut(case.get("expected_output")),
            "dataset": record.dataset_id,
            "dataset_version": record.dataset_version,
            "failure": rollout.failure,
            "evaluator_failures": failures or None,
        },
    )
    usage = rollout.usage.to_json()
    spent = {
        name: usage[f"{name}_tokens"]
        for name in ("input", "output")
        if usage.get(f"{name}_tokens") is not None
    }
    took: dict[str, Any] = {}
    if usage["calls"]:
        took["usageDetails"] = spent
        if usage["cost"] is not None:
            took["costDetails"] = {"total": usage["cost"]}
    failed = rollout.failure or {}
    yield _event(
        "generation-create" if took else "span-create",
        id=_id(trace_id, "target"),
        traceId=trace_id,
        name="target",
        startTime=_iso(began),
        endTime=_iso(began + timedelta(milliseconds=rollout.latency_ms)),
        level="ERROR" if failed else "DEFAULT",
        statusMessage=failed.get("reason"),
        **took,
    )
    for one in row.scores:
        value = one.label if one.score is None else one.score
        if value is None:  # it failed, or does not apply: no score
            continue
        yield _event(
            "score-create",
            id=_id(trace_id, one.name),
            traceId=trace_id,
            name=one.name,
            value=value,
            dataType="CATEGORICAL" if one.score is None else "NUMERIC",
            comment=one.reason,
        )


def _of_the_run(run: FinishedRun) -> Iterator[Event]:
    """The means, as scores of the session."""
    means = {name: entry["mean"] for name, entry in run.summary["evaluators"].items()}
    means |= {"objective": run.summary["objective"], "coverage": run.summary["coverage"]}
    if holdout := (run.record.result or {}).get("holdout"):
        means["holdout.gain"] = holdout["gain"]
    for name, value in means.items():
        if value is not None:
            session = run.record.run_id
            yield _event(
                "score-create",
                id=_id(session, "mean", name),
                sessionId=session,
                name=name,
                value=value,
                dataType="NUMERIC",
            )


def _event(kind: str, **body: Any) -> Event:
    """An event in its envelope, whose own id is new each time: a known one would be left out."""
    return {
        "id": str(uuid.uuid4()),
        "type": kind,
        "timestamp": _iso(datetime.now(UTC)),
        "body": {key: value for key, value in body.items() if value is not None},
    }


def _id(*parts: str) -> str:
    """An id that follows from ours, in the form of trace ids."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(value: Any) -> Any:
    """A value that fits into a request with others."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _MOST_TEXT:
        return value
    return f"{text[:_MOST_TEXT]}… (cut: {len(text):,} characters)"
