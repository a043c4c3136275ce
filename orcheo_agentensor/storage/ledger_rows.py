"""The ledger's rows as SQL: precompiled inserts, bulk reads, totals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select, union_all

from orcheo_agentensor.storage.codec import clean_text, encode, encode_or_none
from orcheo_agentensor.storage.records import CANCELLED, RolloutRow, ScoreRow
from orcheo_agentensor.storage.tables import Json, calls, rollouts, scores
from orcheo_agentensor.usage import NOTHING, Usage

ROLLOUT_COLUMNS = [column for column in rollouts.c if column.name != "run_id"]
_SCORE_COLUMNS = [column for column in scores.c if column.name != "run_id"]
_CHUNK = 500
_KEY = itemgetter(0, 1)
_BATCHES = (32, 8, 1)
"""Rows per statement on SQLite, which takes 999 values in the oldest builds."""


class Insert:
    """An insert on the driver itself that leaves an existing row alone."""

    def __init__(self, table: Table, *, postgres: bool) -> None:
        names = ", ".join(column.name for column in table.c)
        if postgres:
            marks = ", ".join(
                "%s::jsonb" if isinstance(column.type, Json) else "%s" for column in table.c
            )
        else:
            marks = ", ".join("?" for _ in table.c)
        self._postgres = postgres
        self._sql = {
            size: f"INSERT INTO {table.name} ({names}) "
            f"VALUES {', '.join([f'({marks})'] * size)} ON CONFLICT DO NOTHING"
            for size in _BATCHES
        }

    def rows(self, cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert `rows`, in the order of the table's columns."""
        if self._postgres:
            if rows:
                cursor.executemany(self._sql[1], rows)
            return
        # sqlite3 lets go of the interpreter's lock for every statement, and a busy event loop is
        # slow to give it back: the fewer statements, the sooner the commit.
        # Neighbours in the index are written together.
        rows = sorted(rows, key=_KEY)
        done = 0
        for size in _BATCHES:
            while len(rows) - done >= size:
                cursor.execute(self._sql[size], [*chain(*rows[done : done + size])])
                done += size


def fence_sql(*, postgres: bool) -> str:
    """Renew the lease and note the event number, if the lease still holds."""
    sql = (
        "UPDATE agentensor_runs SET lease_expires = ?, "
        "event_seq = CASE WHEN event_seq < ? THEN ? ELSE event_seq END "
        "WHERE run_id = ? AND lease_token = ? AND lease_owner = ?"
    )
    return sql.replace("?", "%s") if postgres else sql


def rollout_values(run_id: str, row: RolloutRow) -> tuple[Any, ...]:
    """A rollout in the order of the table's columns."""
    usage = row.usage
    return (
        run_id,
        row.key,
        row.case_id,
        row.candidate_hash,
        row.replicate,
        row.phase,
        encode_or_none(row.output),
        encode_or_none(row.tape),
        row.latency_ms,
        row.attempts,
        encode_or_none(row.failure),
        *((0, 0, 0, 0, 0.0) if row.reused else _counts(usage, rollouts=row.attempts)),
    )


def score_values(run_id: str, rollout_key: str, fingerprint: str, row: ScoreRow) -> tuple[Any, ...]:
    """A score in the order of the table's columns."""
    return (
        run_id,
        rollout_key,
        fingerprint,
        clean_text(row.name),
        row.score,
        row.passed,
        clean_text(row.reason),
        clean_text(row.label),
        encode_or_none(row.failure),
        *_counts(NOTHING if row.reused else row.usage),
    )


def call_values(
    run_id: str, key: str, kind: str, response: dict[str, Any], usage: Usage
) -> tuple[Any, ...]:
    """A judge or proposer call in the order of the table's columns."""
    return (run_id, key, kind, encode(response), *_counts(usage))


def rollout_row(row: Row[Any]) -> RolloutRow:
    """A rollout as read by `ROLLOUT_COLUMNS`."""
    (
        key,
        case_id,
        candidate_hash,
        replicate,
        phase,
        output,
        tape,
        latency_ms,
        attempts,
        failure,
        *counts,
    ) = tuple(row)
    return RolloutRow(
        key=key,
        case_id=case_id,
        candidate_hash=candidate_hash,
        replicate=replicate,
        phase=phase,
        output=output,
        tape=tape,
        usage=_usage(counts),
        latency_ms=latency_ms,
        attempts=attempts,
        failure=failure,
    )


def rollouts_of(connection: Connection, run_id: str, candidate: str) -> list[RolloutRow]:
    """Every rollout of a candidate in a run."""
    query = select(*ROLLOUT_COLUMNS).where(
        rollouts.c.run_id == run_id, rollouts.c.candidate_hash == candidate
    )
    return [rollout_row(row) for row in connection.execute(query)]


def candidate_scores(connection: Connection, run_id: str, candidate: str) -> list[ScoreRow]:
    """Every score of a candidate's rollouts in a run."""
    query = (
        select(*_SCORE_COLUMNS)
        .join(
            rollouts,
            (rollouts.c.run_id == scores.c.run_id) & (rollouts.c.key == scores.c.rollout_key),
        )
        .where(rollouts.c.run_id == run_id, rollouts.c.candidate_hash == candidate)
    )
    return _score_rows(connection, query)


def scores_of(
    connection: Connection, run_id: str, keys: Sequence[str], *, name: str | None = None
) -> dict[str, list[ScoreRow]]:
    """The scores of some rollouts, by rollout key and then in order of names."""
    found: dict[str, list[ScoreRow]] = defaultdict(list)
    for start in range(0, len(keys), _CHUNK):
        query = (
            select(*_SCORE_COLUMNS)
            .where(
                scores.c.run_id == run_id, scores.c.rollout_key.in_(keys[start : start + _CHUNK])
            )
            .order_by(scores.c.name)
        )
        if name is not None:
            query = query.where(scores.c.name == name)
        for row in _score_rows(connection, query):
            found[row.rollout_key].append(row)
    return found


def call_of(connection: Connection, run_id: str, key: str) -> tuple[str, dict[str, Any]] | None:
    """Kind and response of a recorded call."""
    row = connection.execute(
        select(calls.c.kind, calls.c.response).where(calls.c.run_id == run_id, calls.c.key == key)
    ).first()
    return None if row is None else (row.kind, row.response)


def total_usage(connection: Connection, run_id: str, kinds: Sequence[str] = ()) -> Usage:
    """What all rows of a run have cost together, or its calls of these kinds.

    What was cancelled is left out, unless asked for: a run that was stopped and resumed ends with
    the totals of one that was not. The cost is None if that of any row is.
    """
    of_run = calls.c.run_id == run_id
    parts: Any = _totals(calls).where(of_run, calls.c.kind.in_(kinds))
    if not kinds:
        parts = union_all(
            *(_totals(table).where(table.c.run_id == run_id) for table in (rollouts, scores)),
            _totals(calls).where(of_run, calls.c.kind != CANCELLED),
        )
    total = NOTHING
    for *counts, cost, unknown in connection.execute(parts):
        total = total + _usage([*(int(n or 0) for n in counts), None if unknown else cost or 0.0])
    return total


def _totals(table: Table) -> Any:
    c = table.c
    return select(
        func.sum(c.rollouts),
        func.sum(c.calls),
        func.sum(c.input_tokens),
        func.sum(c.output_tokens),
        func.sum(c.cost),
        func.count() - func.count(c.cost),
    ).select_from(table)


def _score_rows(connection: Connection, query: Any) -> list[ScoreRow]:
    found = connection.execute(query)
    return [
        ScoreRow(
            rollout_key=key,
            evaluator_fingerprint=fingerprint,
            name=name,
            score=score,
            passed=passed,
            reason=reason,
            label=label,
            failure=failure,
            usage=_usage(counts),
        )
        for key, fingerprint, name, score, passed, reason, label, failure, *counts in found
    ]


def _counts(usage: Usage, *, rollouts: int | None = None) -> tuple[Any, ...]:
    return (
        usage.rollouts if rollouts is None else rollouts,
        usage.calls,
        usage.input_tokens,
        usage.output_tokens,
        usage.cost,
    )


def _usage(counts: Sequence[Any]) -> Usage:
    rollout_count, call_count, into, out, cost = counts
    if not (rollout_count or call_count or into or out) and cost == 0.0:
        return NOTHING
    return Usage(
        rollouts=rollout_count, calls=call_count, input_tokens=into, output_tokens=out, cost=cost
    )
