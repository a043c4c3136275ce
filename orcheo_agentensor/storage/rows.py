"""Rollouts, scores and calls as rows of the database: how they are written, and read back."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Row,
    Table,
    bindparam,
    delete,
    insert,
    select,
    text,
)

from orcheo_agentensor.storage.records import (
    CANCELLED,
    PASSING,
    RETRIED,
    RolloutRow,
    ScoreRow,
    StoredOutput,
)
from orcheo_agentensor.storage.tables import Json, calls, encode, rollouts, scores
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, Usage

ROLLOUT_COLUMNS = [column for column in rollouts.c if column.name != "run_id"]
_SCORE_COLUMNS = [column for column in scores.c if column.name not in ("run_id", "position")]
_SAME_ROLLOUT = (rollouts.c.run_id == scores.c.run_id) & (rollouts.c.position == scores.c.position)
_CHUNK = 500
OUTPUT = [*rollouts.c.keys()].index("output")
_LARGEST_BATCH = 64
"""Most rows in one statement on SQLite: a longer one takes as long to compile as to run."""
_MANY = 8
"""Rows from which on it is worth while to look for what they have in common."""


@lru_cache(maxsize=128)
def insert_sql(
    table: Table, size: int, *, postgres: bool, alike: tuple[tuple[int, str], ...] = ()
) -> str:
    """The driver's own statement that inserts `size` rows, and leaves existing rows alone.

    `alike` are the places of columns with what stands in all of these rows.
    """
    marks = ["?"] * len(table.c)
    if postgres:
        marks = ["%s::jsonb" if isinstance(c.type, Json) else "%s" for c in table.c]
    for place, literal in alike:
        marks[place] = literal
    rows = ", ".join([f"({', '.join(marks)})"] * size)
    names = ", ".join(table.c.keys())
    return f"INSERT INTO {table.name} ({names}) VALUES {rows} ON CONFLICT DO NOTHING"


def insert_rows(
    cursor: Any, table: Table, rows: Sequence[tuple[Any, ...]], *, postgres: bool
) -> None:
    """Insert `rows`, in the order of the table's columns, with a cursor of the driver."""
    if postgres:
        if rows:
            cursor.executemany(insert_sql(table, 1, postgres=True), rows)
        return
    # sqlite3 lets go of the interpreter's lock for every statement, and a busy event loop is
    # slow to give it back: the fewer statements, the sooner the commit.
    alike: tuple[tuple[int, str], ...] = ()
    if len(rows) >= _MANY:
        rows, alike = _without_alike(table, rows)
    values = cursor.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    most = min(_LARGEST_BATCH, values // len(table.c))
    done = 0
    while left := len(rows) - done:
        size = min(most, 1 << left.bit_length() - 1)  # few sizes, so few are compiled
        sql = insert_sql(table, size, postgres=False, alike=alike)
        cursor.execute(sql, [*chain(*rows[done : done + size])])
        done += size


def _without_alike(
    table: Table, rows: Sequence[tuple[Any, ...]]
) -> tuple[list[tuple[Any, ...]], tuple[tuple[int, str], ...]]:
    """Rows without the columns that are empty, or 0 or 1, in all of them, and these: half of what
    would be handed over, and sqlite3 is slow to hand over a None or a bool."""
    columns = [*zip(*rows, strict=True)]
    alike = []
    for place in _seldom_telling(table):
        value = columns[place][0]
        if (value is None or value in (0, 1)) and columns[place].count(value) == len(rows):
            alike.append((place, "NULL" if value is None else str(int(value))))
    for place, _ in reversed(alike):
        del columns[place]
    return [*zip(*columns, strict=True)], tuple(alike)


@lru_cache
def _seldom_telling(table: Table) -> tuple[int, ...]:
    """The places of the columns that often say the same in all rows: what may be missing, and
    counts."""
    return tuple(
        place
        for place, column in enumerate(table.c)
        if column.nullable or isinstance(column.type, Integer)
    )


IN_FLIGHT = "in_flight"
"""The key and the kind of call under which the ledger keeps what a process has in flight."""


def note_sql(*, postgres: bool) -> str:
    """Replace what is noted of a run."""
    sql = insert_sql(calls, 1, postgres=postgres).removesuffix("DO NOTHING")
    return sql + "(run_id, key) DO UPDATE SET response = excluded.response"


def fence_sql(*, postgres: bool) -> str:
    """Renew the lease and note the event number, if the lease still holds."""
    sql = (
        "UPDATE agentensor_runs SET lease_expires = ?, "
        "event_seq = CASE WHEN event_seq < ? THEN ? ELSE event_seq END "
        "WHERE run_id = ? AND lease_token = ? AND lease_owner = ?"
    )
    return sql.replace("?", "%s") if postgres else sql


def rollout_values(run_id: str, row: RolloutRow, *, checked: bool) -> tuple[Any, ...]:
    """A rollout in the order of the table's columns; its output may be `checked` to be JSON."""
    no_calls = row.reused or row.usage is ONE_ROLLOUT
    return (
        run_id,
        row.position,
        row.key,
        row.case_id,
        row.candidate_hash,
        row.replicate,
        row.phase,
        None if row.output is None else encode(row.output, checked=checked),
        _noted(row),
        row.latency_ms,
        row.attempts,
        None if row.failure is None else encode(row.failure),
        0 if row.reused else row.attempts,
        *(_FREE_CALLS if no_calls else counts_of(row.usage)[1:]),
    )


def score_values(
    run_id: str, position: int | None, fingerprint: str, row: ScoreRow
) -> tuple[Any, ...]:
    """A score, of the rollout at `position`, in the order of the table's columns."""
    return (
        run_id,
        position,
        fingerprint,
        row.name,
        row.score,
        row.passed,
        row.reason,
        row.label,
        None if row.failure is None else encode(row.failure),
        *(FREE if row.reused or row.usage is NOTHING else counts_of(row.usage)),
    )


def rollout_row(row: Row[Any]) -> RolloutRow:
    """A rollout as read by `ROLLOUT_COLUMNS`."""
    (
        position,
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
    empty, cut = tape.pop(_REPLIES, (0, 0)) if tape else (0, 0)
    return RolloutRow(
        key=key,
        case_id=case_id,
        candidate_hash=candidate_hash,
        replicate=replicate,
        phase=phase,
        output=output,
        tape=tape or None,
        usage=_usage(counts),
        latency_ms=latency_ms,
        attempts=attempts,
        failure=failure,
        empty_replies=empty,
        cut_replies=cut,
        position=position,
    )


_REPLIES = "replies"
"""The key beside a tape under which a rollout's empty and cut replies are stored."""


def _noted(row: RolloutRow) -> str | None:
    if row.empty_replies or row.cut_replies:
        return encode({**(row.tape or {}), _REPLIES: [row.empty_replies, row.cut_replies]})
    return None if row.tape is None else encode(row.tape)


def outputs_of(
    connection: Connection, run_id: str, stored: Sequence[StoredOutput]
) -> dict[StoredOutput, Any]:
    """What stands in the store for each of `stored`."""
    table, found = rollouts.c, dict[StoredOutput, Any]()
    for start in range(0, len(stored), _CHUNK):
        some = stored[start : start + _CHUNK]
        query = select(table.candidate_hash, table.position, table.output).where(
            table.run_id == run_id,
            table.candidate_hash.in_({one.candidate_hash for one in some}),
            table.position.in_([one.position for one in some]),
        )
        found |= {StoredOutput(*place): output for *place, output in connection.execute(query)}
    return found


def rollouts_of(connection: Connection, run_id: str, candidate: str) -> list[RolloutRow]:
    """Every rollout of a candidate in a run."""
    query = (
        select(*ROLLOUT_COLUMNS)
        .where(rollouts.c.run_id == run_id, rollouts.c.candidate_hash == candidate)
        .order_by(rollouts.c.position)
    )
    return [rollout_row(row) for row in connection.execute(query)]


def rollouts_at(
    connection: Connection, run_id: str, places: Sequence[tuple[str, int]]
) -> list[RolloutRow]:
    """The rollouts of a run at these places (candidate, position), in their order."""
    found: dict[int, RolloutRow] = {}
    for start in range(0, len(places), _CHUNK):
        some = places[start : start + _CHUNK]
        query = select(*ROLLOUT_COLUMNS).where(
            rollouts.c.run_id == run_id,
            rollouts.c.candidate_hash.in_({candidate for candidate, _ in some}),
            rollouts.c.position.in_([position for _, position in some]),
        )
        for row in connection.execute(query):
            found[row.position] = rollout_row(row)
    return [found[position] for _, position in places]


def candidate_scores(connection: Connection, run_id: str, candidate: str) -> list[ScoreRow]:
    """Every score of a candidate's rollouts in a run."""
    query = (
        select(rollouts.c.key, *_SCORE_COLUMNS)
        .join_from(rollouts, scores, _SAME_ROLLOUT)
        .where(rollouts.c.run_id == run_id, rollouts.c.candidate_hash == candidate)
    )
    return [_score_row(*row) for row in connection.execute(query)]


def scores_of(
    connection: Connection, rows: Sequence[RolloutRow], run_id: str, *, name: str | None = None
) -> dict[str, list[ScoreRow]]:
    """The scores of some rollouts, by rollout key and then in order of names."""
    keys = {row.position: row.key for row in rows}
    positions = list(keys)
    found: dict[str, list[ScoreRow]] = defaultdict(list)
    for start in range(0, len(positions), _CHUNK):
        query = (
            select(scores.c.position, *_SCORE_COLUMNS)
            .where(
                scores.c.run_id == run_id, scores.c.position.in_(positions[start : start + _CHUNK])
            )
            .order_by(scores.c.name)
        )
        if name is not None:
            query = query.where(scores.c.name == name)
        for position, *row in connection.execute(query):
            found[keys[position]].append(_score_row(keys[position], *row))
    return found


def call_of(connection: Connection, run_id: str, key: str) -> tuple[str, dict[str, Any]] | None:
    """Kind and response of a recorded call."""
    row = connection.execute(
        select(calls.c.kind, calls.c.response).where(calls.c.run_id == run_id, calls.c.key == key)
    ).first()
    return None if row is None else (row.kind, row.response)


def take_back_passing(connection: Connection, run_id: str, *, mark: str) -> int:
    """Delete the rollouts and scores of a run that failed in passing; returns how many there were.

    What they have cost stays, as calls of the kind `RETRIED` whose keys end with `mark`.
    """
    found: list[tuple[Table, str, Any, Usage]] = []
    query = select(*ROLLOUT_COLUMNS).where(
        rollouts.c.run_id == run_id, rollouts.c.failure.is_not(None)
    )
    for row in map(rollout_row, connection.execute(query)):
        if PASSING in (row.failure or ()):
            same = (rollouts.c.candidate_hash == row.candidate_hash) & (
                rollouts.c.position == row.position
            )
            found.append((rollouts, row.key, same, row.usage))
    failed = (
        select(scores.c.position, rollouts.c.key, *_SCORE_COLUMNS)
        .join_from(scores, rollouts, _SAME_ROLLOUT)
        .where(scores.c.run_id == run_id, scores.c.failure.is_not(None))
    )
    for position, *columns in connection.execute(failed):
        one = _score_row(*columns)
        if PASSING in (one.failure or ()):  # of one call, which gave nothing else
            same = (scores.c.position == position) & (
                scores.c.evaluator_fingerprint == one.evaluator_fingerprint
            )
            key = f"{one.rollout_key}:{one.evaluator_fingerprint}"
            found.append((scores, key, same, one.usage))
    for table, key, same, usage in found:
        connection.execute(delete(table).where(table.c.run_id == run_id, same))
        if usage != NOTHING:
            values = (run_id, f"{key}:{mark}", RETRIED, {"failed": True}, *counts_of(usage))
            names = calls.c.keys()
            connection.execute(insert(calls).values(dict(zip(names, values, strict=True))))
    return len(found)


def total_usage(
    connection: Connection, run_id: str, kinds: Sequence[str] = (), *, without: str = CANCELLED
) -> Usage:
    """What all rows of a run have cost together, or its calls of these kinds.

    What was cancelled is left out, or calls of another kind: a run that was stopped and resumed
    ends with the totals of one that was not. The cost is None if that of any row is.
    """
    if kinds:
        query = _TOTAL_OF_KINDS.bindparams(run_id=run_id, kinds=kinds)
    else:
        query = _TOTAL.bindparams(run_id=run_id, without=without)
    sums = []
    for unpriced, cost, *counts in connection.execute(query):
        executed, made, into, out, unreported, cached = [int(n or 0) for n in counts]
        price = None if unpriced else cost or 0.0
        sums.append(_usage((executed, made, into, out, price, unreported, cached)))
    return Usage.total(sums)


def made_again(connection: Connection, run_id: str) -> int:
    """How many executions a run has made in addition to one for each of its rollouts."""
    return int(connection.execute(_MADE_AGAIN.bindparams(run_id=run_id)).scalar_one() or 0)


_MADE_AGAIN = text(
    f"SELECT SUM(rollouts - 1) FROM {rollouts.name} WHERE run_id = :run_id AND rollouts > 1"
)
_SUMS = (
    "SELECT COUNT(*) - COUNT(cost), SUM(cost), SUM(rollouts), SUM(calls), SUM(input_tokens), "
    "SUM(output_tokens), SUM(unreported_calls), SUM(cached_calls) FROM"
)
_TOTAL = text(
    f"{_SUMS} {rollouts.name} WHERE run_id = :run_id UNION ALL "
    f"{_SUMS} {scores.name} WHERE run_id = :run_id UNION ALL "
    f"{_SUMS} {calls.name} WHERE run_id = :run_id AND kind <> :without"
)
_TOTAL_OF_KINDS = text(
    f"{_SUMS} {calls.name} WHERE run_id = :run_id AND kind IN :kinds"
).bindparams(bindparam("kinds", expanding=True))


def _score_row(
    key: str,
    fingerprint: str,
    name: str,
    score: float | None,
    passed: bool | None,
    reason: str | None,
    label: str | None,
    failure: dict[str, Any] | None,
    *counts: Any,
) -> ScoreRow:
    return ScoreRow(
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


def counts_of(usage: Usage) -> tuple[Any, ...]:
    return (
        usage.rollouts,
        usage.calls,
        usage.input_tokens,
        usage.output_tokens,
        usage.cost,
        usage.unreported_calls,
        usage.cached_calls,
    )


FREE = counts_of(NOTHING)
_FREE_CALLS = FREE[1:]


def _usage(counts: Sequence[Any]) -> Usage:
    rollout_count, call_count, into, out, cost, unreported, cached = counts
    if not (rollout_count or call_count or cached) and cost == 0.0:
        return NOTHING
    return Usage(
        rollouts=rollout_count,
        calls=call_count,
        input_tokens=into,
        output_tokens=out,
        cost=cost,
        unreported_calls=unreported,
        cached_calls=cached,
    )
