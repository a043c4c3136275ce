"""Figures over runs: configs applied, SLA, throughput, failures, what trainings made worse."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from orcheo_agentensor.storage.tables import (
    alias_log,
    checkpoints,
    rollouts,
    runs,
    scores,
    text_in,
)

CONFIG_GOAL = 0.99
"""The share of valid runs in which the config is to be applied."""


def stats_of(connection: Connection, chosen: Sequence[ColumnElement[bool]]) -> dict[str, Any]:
    """The figures of the runs for which all of `chosen` hold, as JSON; what is unknown is None.

    Only valid runs have a record. The config of one is applied where at least one execution of the
    workflow got it. A case is within the SLA of its run where the target gave its answer in that
    time. A trained version regresses where its alias was rolled back from it, or where its last
    evaluation is worse than that of the version before, on the same data by the same evaluators.
    """
    columns = (
        runs.c.run_id,
        runs.c.workflow_id,
        runs.c.mode,
        runs.c.status,
        runs.c.config,
        runs.c.job,
        runs.c.started_at,
        runs.c.ended_at,
    )
    found = [*connection.execute(select(*columns).where(*chosen))]
    executed: dict[str, int] = {
        run_id: int(count)
        for run_id, count in connection.execute(
            select(rollouts.c.run_id, func.sum(rollouts.c.rollouts))
            .join(runs, runs.c.run_id == rollouts.c.run_id)
            .where(*chosen)
            .group_by(rollouts.c.run_id)
        )
    }
    asked = [run for run in found if run.config]
    applied = [
        run
        for run in asked
        if run.mode == "run" or executed.get(run.run_id) or run.status in ("finished", "paused")
    ]
    return {
        "runs": {
            "total": len(found),
            "by_mode": dict(sorted(Counter(run.mode for run in found).items())),
            "by_status": dict(sorted(Counter(run.status for run in found).items())),
        },
        "config_applied": {
            "runs": len(asked),
            "applied": len(applied),
            "share": _share(len(applied), len(asked)),
            "goal": CONFIG_GOAL,
        },
        "sla": _within_sla(connection, found),
        "throughput": _throughput(found, executed),
        "failures": {
            "target": _kinds(connection, rollouts, chosen),
            "evaluator": _kinds(connection, scores, chosen),
        },
        "regressions": _regressions(connection, chosen),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _within_sla(connection: Connection, found: Sequence[Row[Any]]) -> dict[str, Any]:
    cases = within = 0
    for run in found:
        limit = ((run.job.get("job") or {}).get("limits") or {}).get("case_sla_ms")
        if limit is None:
            continue
        of_run = rollouts.c.run_id == run.run_id
        ok = rollouts.c.failure.is_(None) & (rollouts.c.latency_ms <= limit)
        count = select(func.count()).select_from(rollouts)
        cases += connection.scalar(count.where(of_run)) or 0
        within += connection.scalar(count.where(of_run, ok)) or 0
    return {"cases": cases, "within": within, "share": _share(within, cases)}


def _throughput(found: Sequence[Row[Any]], executed: Mapping[str, int]) -> dict[str, Any]:
    ended = [run for run in found if run.ended_at is not None and run.run_id in executed]
    seconds = sum((run.ended_at - run.started_at).total_seconds() for run in ended)
    count = sum(executed[run.run_id] for run in ended)
    per_minute = 60 * count / seconds if seconds else None
    return {"rollouts": count, "seconds": seconds, "per_minute": per_minute}


def _kinds(
    connection: Connection, table: Any, chosen: Sequence[ColumnElement[bool]]
) -> dict[str, int]:
    kind = text_in(table.c.failure, "kind").label("kind")
    query = (
        select(kind, func.count())
        .join(runs, runs.c.run_id == table.c.run_id)
        .where(table.c.failure.is_not(None), *chosen)
        .group_by(kind)
        .order_by(kind)
    )
    return {str(name): int(count) for name, count in connection.execute(query)}


def _regressions(connection: Connection, chosen: Sequence[ColumnElement[bool]]) -> dict[str, Any]:
    """The promoted versions of the chosen trainings, and which of them turned out worse."""
    moved = connection.execute(
        select(alias_log, checkpoints.c.parent_version)
        .join(
            checkpoints,
            (checkpoints.c.workflow_id == alias_log.c.workflow_id)
            & (checkpoints.c.config_version == alias_log.c.to_version),
        )
        .join(runs, runs.c.run_id == checkpoints.c.run_id)
        .where(alias_log.c.kind == "move", runs.c.mode == "train", *chosen)
        .order_by(alias_log.c.id)
    ).all()
    worse: dict[tuple[str, str, int], dict[str, Any]] = {}
    for move in moved:
        back = connection.scalar(
            select(alias_log.c.reason).where(
                alias_log.c.workflow_id == move.workflow_id,
                alias_log.c.alias == move.alias,
                alias_log.c.kind == "rollback",
                alias_log.c.from_version == move.to_version,
                alias_log.c.id > move.id,
            )
        )
        why = None if back is None else f"rolled back: {back}" if back else "rolled back"
        why = why or _measured_worse(connection, move)
        if why is not None:
            worse[move.workflow_id, move.alias, move.to_version] = {
                "workflow_id": move.workflow_id,
                "version": move.to_version,
                "alias": move.alias,
                "why": why,
            }
    return {"promoted": len(moved), "regressed": [*worse.values()]}


def _measured_worse(connection: Connection, move: Row[Any]) -> str | None:
    """A sentence where evaluations say that the version before was better."""
    rows = connection.execute(
        select(runs.c.dataset_version, runs.c.evaluator_set, runs.c.refs, runs.c.result)
        .where(
            runs.c.workflow_id == move.workflow_id,
            runs.c.mode == "evaluate",
            runs.c.status == "finished",
        )
        .order_by(runs.c.started_at)
    )
    last: dict[tuple[Any, Any], dict[int, float]] = defaultdict(dict)
    for row in rows:
        version = row.refs.get("base_version")
        objective = ((row.result or {}).get("summary") or {}).get("objective")
        if version is not None and objective is not None:
            last[row.dataset_version, row.evaluator_set][version] = objective
    former = move.from_version or move.parent_version
    for known in last.values():
        before, after = known.get(former), known.get(move.to_version)
        if before is not None and after is not None and after < before:
            return f"evaluated at {after:.4f}, version {former} at {before:.4f}"
    return None


def since_filter(since: datetime | None) -> list[ColumnElement[bool]]:
    """Runs that were started at `since` or later."""
    return [] if since is None else [runs.c.started_at >= since]
