"""Run records, and what became of each case."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from orcheo_agentensor.errors import ConfigError, NotFound
from orcheo_agentensor.runs.access import may_use_run
from orcheo_agentensor.server.routes.api import (
    Answer,
    Call,
    Operation,
    Page,
    PageQuery,
    document,
    page,
)
from orcheo_agentensor.storage import CaseRow, RunRecord, ScoreRow


class Run(BaseModel):
    """A run of ours: what was asked for, where it stands, what came out."""

    run_id: str
    workflow_id: str
    mode: Literal["run", "evaluate", "train"]
    status: Literal["running", "finished", "failed", "interrupted", "paused"]
    config: dict[str, Any]
    dataset_id: str | None
    dataset_version: str | None
    evaluator_set: str | None
    thread_id: str | None
    refs: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    started_at: str
    ended_at: str | None


class RunDetail(Run):
    """A run with its job and what it has spent."""

    job: dict[str, Any]
    usage: dict[str, Any]


class Score(BaseModel):
    """What an evaluator said about a case, or why it could not."""

    name: str
    score: float | None
    passed: bool | None
    reason: str | None
    label: str | None
    failure: dict[str, Any] | None


class CaseResult(BaseModel):
    """One execution of the workflow on one case, with its scores."""

    key: str
    case_id: str
    candidate_hash: str
    replicate: int
    phase: str
    output: Any
    failure: dict[str, Any] | None
    latency_ms: float
    attempts: int
    usage: dict[str, Any]
    scores: list[Score]


class RunsQuery(PageQuery):
    """Which runs are wanted."""

    workflow_id: str | None = Field(None, max_length=128, description="Only of this workflow.")
    mode: Literal["run", "evaluate", "train"] | None = Field(None, description="Only of this kind.")
    status: Literal["running", "finished", "failed", "interrupted", "paused"] | None = Field(
        None, description="Only those that stand there."
    )


class CasesQuery(PageQuery):
    """Which results of cases are wanted."""

    failed: bool | None = Field(None, description="Only failures, or only the others.")
    evaluator: str | None = Field(None, max_length=200, description="Only scores of this name.")
    phase: str | None = Field(None, max_length=64, description="Only of this phase of the run.")
    split: str | None = Field(None, max_length=64, description="Only cases of this split.")
    min_score: float | None = Field(
        None, allow_inf_nan=False, description="With a score of at least this."
    )
    max_score: float | None = Field(
        None, allow_inf_nan=False, description="With a score of at most this."
    )


async def list_runs(call: Call) -> Answer:
    """Runs, newest first."""
    place = call.query.place(str, str)
    found = await call.store.runs.list(
        workflow_id=call.query.workflow_id,
        mode=call.query.mode,
        status=call.query.status,
        hidden_from=call.identity.name,
        before=None if place is None else (moment(place[0]), place[1]),
        limit=call.query.limit + 1,
    )
    shown, cursor = page(
        found, call.query.limit, lambda run: [run.started_at.isoformat(), run.run_id]
    )
    return Answer(content={"items": [_run(run) for run in shown], "next_cursor": cursor})


async def get_run(call: Call) -> Answer:
    """A run, with its job and its result."""
    run = await visible_run(call)
    usage = (await call.store.runs.usage(run.run_id)).to_json()
    return Answer(content={**_run(run), "job": run.job.get("job") or {}, "usage": usage})


async def list_cases(call: Call) -> Answer:
    """What became of each case of a run, by case id."""
    run = await visible_run(call)
    query = call.query
    place = query.place(str, int, str)
    if place is not None and not 0 <= place[1] < 2**31:
        raise ConfigError(field="query.cursor", value=query.cursor, rule="is not a cursor")
    rows = await call.store.runs.case_rows(
        run.run_id,
        failed=query.failed,
        evaluator=query.evaluator,
        phase=query.phase,
        split=query.split,
        min_score=query.min_score,
        max_score=query.max_score,
        after=None if place is None else (place[0], place[1], place[2]),
        limit=query.limit + 1,
    )
    shown, cursor = page(
        rows,
        query.limit,
        lambda row: [row.rollout.case_id, row.rollout.replicate, row.rollout.key],
    )
    return Answer(content={"items": [_case(row) for row in shown], "next_cursor": cursor})


async def visible_run(call: Call) -> RunRecord:
    """The run in the path; one answer for what is not there and what is somebody else's."""
    run_id = call.path("run_id")
    absent = NotFound(f"there is no run {run_id!r}")
    try:
        run = await call.store.runs.get(run_id)
    except NotFound:
        raise absent from None
    if not await may_use_run(call.store, run, call.identity):
        raise absent
    return run


def _run(run: RunRecord) -> dict[str, Any]:
    shown = document(run)
    kept: Mapping[str, Any] = Run.model_fields
    return {key: value for key, value in shown.items() if key in kept}


def _case(row: CaseRow) -> dict[str, Any]:
    rollout = row.rollout
    return {
        "key": rollout.key,
        "case_id": rollout.case_id,
        "candidate_hash": rollout.candidate_hash,
        "replicate": rollout.replicate,
        "phase": rollout.phase,
        "output": rollout.output,
        "failure": rollout.failure,
        "latency_ms": rollout.latency_ms,
        "attempts": rollout.attempts,
        "usage": rollout.usage.to_json(),
        "scores": [_score(score) for score in row.scores],
    }


def _score(score: ScoreRow) -> dict[str, Any]:
    return {name: getattr(score, name) for name in Score.model_fields}


def moment(text: str) -> datetime:
    """A moment out of a cursor; raises `ConfigError` for what is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError(field="query.cursor", value=text, rule="is not a cursor")
    return found


OPERATIONS = (
    Operation(
        method="GET",
        path="/runs",
        run=list_runs,
        query=RunsQuery,
        answer=Page[Run],
        tag="runs",
        statuses=(),
    ),
    Operation(method="GET", path="/runs/{run_id}", run=get_run, answer=RunDetail, tag="runs"),
    Operation(
        method="GET",
        path="/runs/{run_id}/cases",
        run=list_cases,
        query=CasesQuery,
        answer=Page[CaseResult],
        tag="runs",
    ),
)
