"""The cases of a run: to look at, with the path of each, and to compare with those of another."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from pydantic import BaseModel, ConfigDict

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BadInput, ConfigError, NotFound
from orcheo_agentensor.evaluation.api import EvaluationReport
from orcheo_agentensor.evaluation.results import CaseResult, case_result, merged, outcome_of
from orcheo_agentensor.evaluators.context import verdict
from orcheo_agentensor.evaluators.tool_calls import tool_calls
from orcheo_agentensor.storage import CaseRow, RunRecord, Store
from orcheo_agentensor.storage.case_filters import CaseFilters
from orcheo_agentensor.usage import Usage

PHASES = ("holdout", "evaluation", "validation", "train")
"""Where a version's cases are looked for, in this order: unseen cases first."""


class CaseScore(BaseModel):
    """An evaluator's score of a case, or its failure."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    score: float | None
    passed: bool | None
    reason: str | None
    label: str | None
    failure: dict[str, Any] | None


class RecordedCase(BaseModel):
    """One execution of the workflow on one case, with its scores."""

    key: str
    case_id: str
    candidate_hash: str
    replicate: int
    phase: str
    inputs: Any
    expected_output: Any
    output: Any
    passed: bool
    failure: dict[str, Any] | None
    latency_ms: float
    attempts: int
    trace_id: str | None
    usage: dict[str, Any]
    scores: list[CaseScore]


class NodeVisit(BaseModel):
    """A run of a node in an execution: what it read, took in and gave out."""

    node: str
    step: int
    path: list[str]
    prompts: list[str]
    inputs: str
    output: str


class Message(BaseModel):
    """A message of the output, with the tools that it calls."""

    role: str
    name: str | None
    content: str
    tool_calls: list[dict[str, Any]]


class CaseTrace(RecordedCase):
    """An execution with its path through the nodes, its messages and its tool calls.

    `taped` tells whether nodes were recorded with what they took in and gave out.
    """

    metadata: dict[str, Any]
    taped: bool
    nodes: list[NodeVisit]
    messages: list[Message]
    tool_calls: list[dict[str, Any]]


async def recorded_cases(
    store: Store,
    run: RunRecord,
    *,
    worst: bool = False,
    after: tuple[str, int, str] | None = None,
    limit: int | None = 100,
    offset: int = 0,
    **filters: Unpack[CaseFilters],
) -> list[RecordedCase]:
    """The executions of a run, as `Runs.case_rows` finds them; with `worst`, the worst first.

    Raises `NotFound` for a test of an evaluator that has scored nothing here.
    """
    await _require_scored(store, run, filters)
    weights = None
    if worst:
        known = (await manifest_of(store, run.run_id)).get("evaluators") or ()
        weights = {one["name"]: one["weight"] for one in known}
    rows = await store.runs.case_rows(
        run.run_id, worst_by=weights, after=after, limit=limit, offset=offset, **filters
    )
    cases = await _cases(store, run, rows)
    return [RecordedCase(**_fields(row, cases.get(row.rollout.case_id, {}))) for row in rows]


async def _require_scored(store: Store, run: RunRecord, filters: CaseFilters) -> None:
    if not filters.get("where"):
        return
    names = await store.runs.score_names(run.run_id)
    for one in filters["where"]:
        if one.evaluator not in names:
            raise NotFound(
                f"run {run.run_id!r} has no score of {one.evaluator!r}; it has: "
                f"{', '.join(names) or 'none'}"
            )


async def case_traces(store: Store, run: RunRecord, case_ids: Sequence[str]) -> list[CaseTrace]:
    """Every execution of these cases in a run, with its path; raises `NotFound` for one of them
    that the run has not."""
    rows = await store.runs.case_rows(run.run_id, case_ids=case_ids, limit=None)
    if unknown := sorted({*case_ids} - {row.rollout.case_id for row in rows}):
        raise NotFound(f"run {run.run_id!r} has no rollout of case {', '.join(unknown)}")
    cases = await _cases(store, run, rows)
    return [_trace(row, cases.get(row.rollout.case_id, {})) for row in rows]


async def _cases(
    store: Store, run: RunRecord, rows: Sequence[CaseRow]
) -> Mapping[str, Mapping[str, Any]]:
    if run.dataset_id is None or not rows:
        return {}
    wanted = {row.rollout.case_id for row in rows}
    return await store.datasets.cases(run.dataset_id, str(run.dataset_version), wanted)


def _fields(row: CaseRow, case: Mapping[str, Any]) -> dict[str, Any]:
    rollout = row.rollout
    verdicts = [verdict(one.passed, one.score) for one in row.scores]
    broken = rollout.failure is not None or any(one.failure for one in row.scores)
    return {
        "key": rollout.key,
        "case_id": rollout.case_id,
        "candidate_hash": rollout.candidate_hash,
        "replicate": rollout.replicate,
        "phase": rollout.phase,
        "inputs": case.get("inputs"),
        "expected_output": case.get("expected_output"),
        "output": rollout.output,
        "passed": not broken and False not in verdicts,
        "failure": rollout.failure,
        "latency_ms": rollout.latency_ms,
        "attempts": rollout.attempts,
        "trace_id": row.trace_id,
        "usage": rollout.usage.to_json(),
        "scores": [CaseScore.model_validate(one) for one in row.scores],
    }


def _trace(row: CaseRow, case: Mapping[str, Any]) -> CaseTrace:
    tape = row.rollout.tape or {}
    runs = sorted(tape.get("runs", ()), key=lambda one: (len(one.get("path", ())), one["step"]))
    wanted = NodeVisit.model_fields
    return CaseTrace(
        **_fields(row, case),
        metadata=dict(case.get("metadata") or {}),
        taped=any(one["inputs"] or one["output"] for one in runs),
        nodes=[NodeVisit(**{name: one[name] for name in wanted}) for one in runs],
        messages=[*_messages(row.rollout.output)],
        tool_calls=[{"name": name, "args": args} for name, args in _called(row.rollout.output)],
    )


def _messages(output: Any) -> Iterator[Message]:
    """The messages of an output: a state with `messages`, or a list of them."""
    found = output.get("messages") if isinstance(output, Mapping) else output
    for one in found if isinstance(found, list) else ():
        if isinstance(one, Mapping) and "role" in one:
            content = one.get("content")
            yield Message(
                role=str(one["role"]),
                name=None if one.get("name") is None else str(one["name"]),
                content=content if isinstance(content, str) else json.dumps(content),
                tool_calls=[
                    {"name": name, "args": args}
                    for name, args in tool_calls({"tool_calls": one.get("tool_calls")})
                ],
            )


def _called(output: Any) -> Iterator[tuple[str, Any]]:
    """The tool calls of an output that is a state or a list of messages."""
    if isinstance(output, list):
        output = {"messages": [one for one in output if isinstance(one, Mapping) and "role" in one]}
    if isinstance(output, Mapping) and ("messages" in output or "tool_calls" in output):
        yield from tool_calls(output)


@dataclass(kw_only=True)
class MeasuredCases:
    """The cases of one side, each with its replicates."""

    name: str
    runs: dict[str, list[CaseResult]]
    fingerprints: dict[str, str] | None = None
    weights: dict[str, float] = field(default_factory=dict)

    def merged(self, case_id: str) -> CaseResult:
        return merged(self.runs[case_id], self.weights)


async def load_side(side: EvaluationReport | str, store: Store) -> MeasuredCases:
    """The measured cases of a run, a version or a report; raises as `acompare` does."""
    if isinstance(side, EvaluationReport):
        counted = {name: float(found.in_objective) for name, found in side.scores.items()}
        reported = {case.case_id: [case] for case in side.cases}
        return MeasuredCases(name=side.run_id, runs=reported, weights=counted)
    if not isinstance(side, str):
        raise ConfigError(
            field="compare",
            value=side,
            rule="must be a report, a run's id, or WORKFLOW@VERSION",
        )
    run, candidate = await _located(side, store)
    rows = await _rows(side, run, candidate, store)
    _, stored = await store.datasets.load(str(run.dataset_id), run.dataset_version)
    cases = {case["id"]: Case.model_validate(case) for case in stored}
    runs: dict[str, list[CaseResult]] = defaultdict(list)
    for row in rows:
        spent = Usage.total([row.rollout.usage, *(score.usage for score in row.scores)])
        outcomes = [outcome_of(score) for score in row.scores]
        case = cases[row.rollout.case_id]
        runs[case.id].append(case_result(case, row.rollout, outcomes, spent, replayed=True))
    evaluators = (await manifest_of(store, run.run_id)).get("evaluators") or []
    return MeasuredCases(
        name=side,
        runs=dict(runs),
        fingerprints={one["name"]: one["fingerprint"] for one in evaluators},
        weights={one["name"]: one["weight"] for one in evaluators},
    )


async def require_measured(side: str, store: Store) -> None:
    """Raise as `acompare` does for a run or a version without measured cases; loads none."""
    await _rows(side, *await _located(side, store), store, limit=1)


async def _located(side: str, store: Store) -> tuple[RunRecord, str | None]:
    """The run that measured a side, and the candidate in it; None where there is only one."""
    workflow_id, at, version = side.rpartition("@")
    candidate: str | None = None
    if at:
        found = await store.checkpoints.get(workflow_id, version)
        candidate = found.metadata.get("candidate")
        if found.run_id is None or candidate is None:
            raise BadInput(
                f"{side}: no run has measured this version; evaluate it with --checkpoint "
                f"{version} and compare that run",
                field="compare",
                value=side,
            )
        run = await store.runs.get(found.run_id)
    else:
        run = await store.runs.get(side)
        if run.status == "running":
            raise BadInput(
                f"{side}: the run is still at work; compare it when it has ended",
                field="compare",
                value=side,
            )
        if run.mode == "run" or run.dataset_id is None:
            raise BadInput(field="compare", value=side, rule="must be an evaluation or a training")
        if run.mode == "train":
            number = ((run.result or {}).get("best") or {}).get("config_version")
            if number is None:
                raise BadInput(
                    f"{side}: the training has no best version", field="compare", value=side
                )
            best = await store.checkpoints.get(run.workflow_id, str(number))
            candidate = best.metadata.get("candidate")
    return run, candidate


async def _rows(
    side: str, run: RunRecord, candidate: str | None, store: Store, *, limit: int | None = None
) -> list[CaseRow]:
    """The rollouts of a side: all of an evaluation, of a candidate those of the first phase."""
    for phase in (None,) if candidate is None else PHASES:
        rows = await store.runs.case_rows(
            run.run_id, candidate_hash=candidate, phase=phase, limit=limit
        )
        if rows:
            return rows
    raise BadInput(f"{side}: has no measured case", field="compare", value=side)


async def manifest_of(store: Store, run_id: str) -> dict[str, Any]:
    """The manifest of a run; empty for one that an earlier release recorded without."""
    try:
        return await store.runs.manifest(run_id)
    except NotFound:
        return {}
