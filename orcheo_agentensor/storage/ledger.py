"""The ledger: what a run has paid for, in memory and as rows of the database."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Table, bindparam, delete, insert, select, text

from orcheo_agentensor.errors import AgentensorError, BadInput, StoreError, StoreVanished
from orcheo_agentensor.storage.lease import Heartbeat, OnBlocked, lost
from orcheo_agentensor.storage.records import (
    CANCELLED,
    PASSING,
    RETRIED,
    Lease,
    RolloutRow,
    ScoreRow,
    StoredOutput,
)
from orcheo_agentensor.storage.tables import Json, calls, clean_text, encode, rollouts, scores
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, Usage

if TYPE_CHECKING:
    from typing import Self

    from orcheo_agentensor.storage.engine import Database


ROLLOUT_COLUMNS = [column for column in rollouts.c if column.name != "run_id"]
_SCORE_COLUMNS = [column for column in scores.c if column.name not in ("run_id", "position")]
_SAME_ROLLOUT = (rollouts.c.run_id == scores.c.run_id) & (rollouts.c.position == scores.c.position)
_CHUNK = 500
_OUTPUT = [*rollouts.c.keys()].index("output")
_LARGEST_BATCH = 512
"""Most rows in one statement on SQLite."""


@lru_cache(maxsize=32)
def insert_sql(table: Table, size: int, *, postgres: bool) -> str:
    """The driver's own statement that inserts `size` rows, and leaves existing rows alone."""
    marks = ["?"] * len(table.c)
    if postgres:
        marks = ["%s::jsonb" if isinstance(c.type, Json) else "%s" for c in table.c]
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
    values = cursor.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    most = min(_LARGEST_BATCH, values // len(table.c))
    done = 0
    while left := len(rows) - done:
        size = min(most, 1 << left.bit_length() - 1)  # few sizes, so that few need compiling
        sql = insert_sql(table, size, postgres=False)
        cursor.execute(sql, [*chain(*rows[done : done + size])])
        done += size


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
        *(_FREE_CALLS if no_calls else _counts(row.usage)[1:]),
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
        *(_FREE if row.reused or row.usage is NOTHING else _counts(row.usage)),
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
            values = (run_id, f"{key}:{mark}", RETRIED, {"failed": True}, *_counts(usage))
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


def _counts(usage: Usage) -> tuple[Any, ...]:
    return (
        usage.rollouts,
        usage.calls,
        usage.input_tokens,
        usage.output_tokens,
        usage.cost,
        usage.unreported_calls,
        usage.cached_calls,
    )


_FREE = _counts(NOTHING)
_FREE_CALLS = _FREE[1:]


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


class Commit:
    """Rows that are committed in one transaction; awaiting it waits until they are.

    It may be awaited many times, and a waiter that is cancelled takes no other along. Raises why
    the rows could not be written.
    """

    __slots__ = ("_done", "_loop", "calls", "note", "rollouts", "scores")

    def __init__(self) -> None:
        self.note: dict[str, Any] | None = None
        self.rollouts: list[tuple[Any, ...]] = []
        self.scores: list[tuple[Any, ...]] = []
        self.calls: list[tuple[Any, ...]] = []
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    def tables(self) -> list[tuple[Table, list[tuple[Any, ...]]]]:
        """The rows by the table that they go to."""
        return [(rollouts, self.rollouts), (scores, self.scores), (calls, self.calls)]

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.shield(self._done).__await__()

    def done(self) -> bool:
        """Whether the rows are committed, or will never be."""
        return self._done.done()

    def settle(self) -> None:
        """Tell the waiters that the rows are committed; called in the writer's thread."""
        self._loop.call_soon_threadsafe(self._settle)

    def fail(self, error: BaseException) -> None:
        """Tell the waiters why the rows were not written."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # where nobody waits, nobody need be told

    def _settle(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


class Ledger:
    """What a run has paid for. Looks up from memory, writes in groups.

    One writer task: while it commits one group of rows, the next one gathers, so a lone row is
    written at once and many rows share a transaction. The same transaction checks the lease, renews
    it, and notes the number of the last event.

    Start it before use (`async with` does) and stop it at the end. After a lost lease or a
    database error everything that waits, and every further put, gets that error.

    `rollouts` and `scores` hold what is recorded, after `load`: rollouts by their key (`.reused` if
    found in the other run), scores by rollout key and evaluator fingerprint, a row per metric.

    What `note` gives, on the loop, is stored with each group and replaces what was there; `noted`
    is what is stored. It tells the next process what was in flight when this one died: `suspects`
    are what an earlier process had in flight, `killers` those of them that were alone.
    """

    def __init__(
        self,
        run_id: str,
        *,
        db: Database,
        clock: Callable[[], datetime],
        lease: Lease,
        reuse: str | None = None,
        event_seq: Callable[[], int] | None = None,
        empty: bool = False,
        on_blocked: OnBlocked | None = None,
    ) -> None:
        self.run_id = run_id
        self.lease = lease
        self.reuse = reuse if reuse != run_id else None
        self.rollouts: dict[str, RolloutRow] = {}
        self.scores: dict[tuple[str, str], list[ScoreRow]] = {}
        self.output_bytes = 0
        self._calls: dict[str, dict[str, Any]] = {}
        self._kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._loaded: dict[str, asyncio.Task[None]] = {}
        self._db = db
        self._clock = clock
        self._event_seq = event_seq
        self._empty = empty and reuse is None
        self._position = lease.token << 32  # beyond those of every earlier holder of the lease
        self._fence = fence_sql(postgres=db.postgres)
        self._connection: Any = None
        self._group = self._writing = Commit()
        self._due = False  # the group at hand is to be written
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._heartbeat: Heartbeat | None = None
        self._on_blocked = on_blocked
        self._stopping = False
        self._error: BaseException | None = None
        self.note: Callable[[], dict[str, Any]] | None = None
        self.noted: dict[str, Any] = {}
        self.suspects: set[str] = set()
        self.killers: set[str] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def remember(self, earlier: Ledger) -> None:
        """Know what an earlier ledger of this process holds, instead of reading it again.

        Right only where its lease was the one before this one: nobody has written in between.
        """
        self.rollouts, self.scores = earlier.rollouts, earlier.scores
        self._calls, self._loaded, self._empty = earlier._calls, earlier._loaded, earlier._empty
        self._kinds = earlier._kinds

    async def start(self) -> None:
        """Start the writer and the heartbeat that keeps the lease, and read what was noted."""
        if self._writer is None:
            self._connection = self._db.hold_connection()
            self._writer = asyncio.create_task(self._write(), name=f"ledger {self.run_id}")
            self._writer.add_done_callback(self._ended)
            self._heartbeat = Heartbeat(
                loop=asyncio.get_running_loop(),
                ttl=self.lease.ttl,
                renew=partial(self._db.work_off_loop, self._renew_alone),
                failed=self._fail,
                on_blocked=self._on_blocked,
            )
            self._heartbeat.start()
            await self._read_note()

    async def stop(self) -> None:
        """Commit what waits and end the writer. Does not give the lease back."""
        if self._writer is None or self._heartbeat is None:
            return
        if self.note is not None and self._error is None and self.note() != self.noted:
            self._due = True
        self._heartbeat.stop()
        if self._on_blocked is not None:  # it may have something to tell
            await self._db.call(self._heartbeat.join, 1.0)
        writer, self._writer = self._writer, None
        self._stopping = True
        self._wake.set()
        try:
            await asyncio.wait([writer])  # an error is with those who waited
            if isinstance(self._error, StoreError) and not writer.cancelled():
                try:
                    told = await self._db.call(self._save)
                except StoreError as lost:  # the first error is the one to tell
                    told = f"; {lost.message}"
                self._error.args = (f"{self._error.message}{told}",)
        finally:
            await self._db.call(self._db.drop_connection, self._connection)

    async def _read_note(self) -> None:
        if not self._empty:
            found = await self._db.read(lambda c: call_of(c, self.run_id, IN_FLIGHT))
            self.noted = {} if found is None else found[1]
            self.suspects = set(self.noted.get("keys", ()))
            self.killers = set(self.noted.get("alone", ()))

    async def load(self, candidate_hash: str) -> None:
        """Bring a candidate's rollouts and scores to memory, once."""
        if self._empty:
            return
        task = self._loaded.get(candidate_hash)
        if task is None:
            task = asyncio.create_task(self._load(candidate_hash))
            self._loaded[candidate_hash] = task
        try:
            await asyncio.shield(task)
        except Exception:
            self._loaded.pop(candidate_hash, None)
            raise

    async def responses(self, kind: str) -> list[dict[str, Any]]:
        """What is recorded of the calls of one kind."""
        while self._heartbeat is not None and self._heartbeat.blocked:  # noqa: ASYNC110 - a thread
            await asyncio.sleep(0.01)  # that has something to tell
        if self._empty:  # but for what this process has put there
            return [*self._kinds[kind]]
        if self._due:
            await self.flush()
        query = select(calls.c.response).where(calls.c.run_id == self.run_id, calls.c.kind == kind)
        return await self._db.read(lambda connection: [*connection.scalars(query)])

    async def call(self, key: str) -> dict[str, Any] | None:
        """The response recorded under `key`; one found in the other run is copied, at no cost."""
        if key in self._calls or self._empty:
            return self._calls.get(key)
        found = await self._db.read(lambda c: call_of(c, self.run_id, key))
        if found is None and self.reuse is not None:
            other = self.reuse
            found = await self._db.read(lambda c: call_of(c, other, key))
            if found is not None:
                await self.put_call(key, found[0], found[1], NOTHING)
        if found is None:
            return self._calls.get(key)
        return self._calls.setdefault(key, found[1])

    def put_rollout(self, row: RolloutRow, *, checked: bool = False) -> Commit:
        """Record a rollout; a known key stays as it is.

        Rollouts are counted by `attempts`, whatever `usage.rollouts` says. The output may be
        `checked` to be JSON.
        """
        there = self.rollouts.get(row.key)
        if there is not None and not there.reused:
            return self._open()
        self._position += 1
        row.position = self._position
        values = rollout_values(self.run_id, row, checked=checked)
        group = self._open()
        group.rollouts.append(values)
        self.output_bytes += len(values[_OUTPUT] or "")
        if row.reused:
            row = replace(row, reused=False, usage=NOTHING)
        elif row.usage.rollouts != row.attempts:
            row = replace(row, usage=replace(row.usage, rollouts=row.attempts))
        self.rollouts[row.key] = row
        return group

    def put_scores(
        self,
        rollout_key: str,
        evaluator_fingerprint: str,
        rows: Sequence[ScoreRow],
        *,
        keep: bool = True,
    ) -> Commit:
        """Record what an evaluator said about a recorded rollout, as `put_rollout` does.

        The texts of `rows` become what any database can hold. What is not to `keep` cannot be
        looked up afterwards.
        """
        if not rows:
            raise BadInput("an evaluator's scores need at least one row")
        there = self.scores.get((rollout_key, evaluator_fingerprint))
        if there is not None and not there[0].reused:
            return self._open()
        position = self.rollouts[rollout_key].position
        values = []
        for row in rows:
            row.name = clean_text(row.name)
            if row.reason is not None:
                row.reason = clean_text(row.reason)
            if row.label is not None:
                row.label = clean_text(row.label)
            values.append(score_values(self.run_id, position, evaluator_fingerprint, row))
        group = self._open()
        group.scores += values
        if keep:
            if rows[0].reused:
                rows = [replace(row, reused=False, usage=NOTHING) for row in rows]
            self.scores[rollout_key, evaluator_fingerprint] = list(rows)
        return group

    def put_score(
        self,
        rollout_key: str,
        evaluator_fingerprint: str,
        *,
        name: str,
        score: float | None,
        passed: bool | None,
    ) -> Commit:
        """Record the score of an evaluator that has said nothing else, at no cost, about a rollout
        that it has not scored yet; as `put_scores` of what is not to keep."""
        group = self._open()
        position = self.rollouts[rollout_key].position
        said = (self.run_id, position, evaluator_fingerprint, name, score, passed)
        group.scores.append((*said, None, None, None, *_FREE))
        return group

    def put_call(self, key: str, kind: str, response: dict[str, Any], usage: Usage) -> Commit:
        """Record the response of a judge or proposer call, as `put_rollout` does."""
        values = (self.run_id, key, kind, encode(response), *_counts(usage))
        group = self._open()
        group.calls.append(values)
        self._calls.setdefault(key, response)
        self._kinds[kind].append(response)
        return group

    def forget(self, rollout_keys: Sequence[str], evaluator_fingerprints: Sequence[str]) -> None:
        """Let go of committed rows that nobody will look up again; they stay in the database."""
        for key in rollout_keys:
            self.rollouts.pop(key, None)
            for fingerprint in evaluator_fingerprints:
                self.scores.pop((key, fingerprint), None)

    async def flush(self) -> None:
        """Renew the lease and commit the event number, with whatever waits."""
        await self._open()

    async def usage(self, *kinds: str, without: str = CANCELLED) -> Usage:
        """What the run has spent, from the committed rows of every process that worked on it.

        What was cancelled is left out, or calls of another kind. With `kinds`, what the calls of
        these kinds have cost.
        """
        return await self._db.read(lambda c: total_usage(c, self.run_id, kinds, without=without))

    def _open(self) -> Commit:
        """The group at hand, which will be written."""
        if self._error is not None:
            raise self._error
        if self._writer is None:
            raise StoreError("the ledger is not started, or it was stopped")
        if not self._due:
            self._due = True
            self._wake.set()
        return self._group

    async def _write(self) -> None:
        while self._due or not self._stopping:
            if not self._due:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._due = False
            self._writing, self._group = self._group, Commit()
            if self.note is not None and (note := self.note()) != self.noted:
                self._writing.note = note
            await self._db.call(self._commit, self._writing)
            if self._writing.note is not None:
                self.noted = self._writing.note

    def _ended(self, writer: asyncio.Task[None]) -> None:
        """Tell the waiters why the writer ended, if not by `stop`."""
        error: BaseException | None
        if writer.cancelled():
            error = StoreError(f"the ledger of run {self.run_id!r} was cancelled")
        else:
            error = writer.exception()
        if error is None:
            return
        if not isinstance(error, AgentensorError):
            error = StoreError(f"the ledger of run {self.run_id!r} cannot be written: {error}")
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._writing.fail(self._error)
        self._group.fail(self._error)

    def _commit(self, group: Commit) -> None:
        """Write a group, again where its connection was lost: rows that are there stay as they
        are."""
        self._db.patiently(partial(self._commit_once, group))
        if self._heartbeat is not None:
            self._heartbeat.renewed()

    def _save(self) -> str:
        """Keep in a file what waits to be written, and all of a database whose file has vanished,
        which is still open here; says where that is, and how it comes back."""
        from orcheo_agentensor.storage.saved import save_rows

        rows = [*self._writing.tables(), *self._group.tables()]
        path, resume = self._db.target.path, f"resume run {self.run_id!r}"
        if isinstance(self._error, StoreVanished):
            with self._connection as connection:
                whole = connection.driver_connection
                saved = save_rows(rows, self.lease, path, whole=whole)
            return (
                "; what it held, and what was not committed yet, was "
                f"saved in {saved}: put that in its place, and {resume}"
            )
        if not (count := sum(len(some) for _, some in rows)):
            return ""
        saved = save_rows(rows, self.lease, path)
        return (
            f"; {count} rows that were paid for and not written were saved in {saved}: when the "
            f"store can be written again, run `agentensor db recover {saved}`, and {resume}"
        )

    def _renew_alone(self) -> None:
        """Renew the lease without rows, in a worker thread."""
        self._db.patiently(partial(self._commit_once, None))

    def _commit_once(self, group: Commit | None) -> None:
        self._db.require_file()
        postgres = self._db.postgres
        with self._connection as connection:
            cursor = connection.cursor()
            try:
                if not postgres:
                    cursor.execute("BEGIN IMMEDIATE")
                self._renew(cursor)
                for table, rows in () if group is None else group.tables():
                    if rows:
                        insert_rows(cursor, table, rows, postgres=postgres)
                if group is not None and group.note is not None:
                    row = (self.run_id, IN_FLIGHT, IN_FLIGHT, encode(group.note), *_FREE)
                    cursor.execute(note_sql(postgres=postgres), row)
                connection.commit()
                if group is not None:
                    # From here, because those who wait hold up others: by way of the writer they
                    # would hear of it one turn of a busy loop later.
                    group.settle()
            except BaseException:
                with contextlib.suppress(Exception):  # of a connection that is lost
                    connection.rollback()
                raise
            finally:
                cursor.close()

    def _renew(self, cursor: Any) -> None:
        lease = self.lease
        sequence = self._event_seq() if self._event_seq is not None else 0
        expires = self._clock().timestamp() + lease.ttl
        cursor.execute(
            self._fence, (expires, sequence, sequence, self.run_id, lease.token, lease.owner)
        )
        if cursor.rowcount != 1:
            raise lost(lease)

    async def _load(self, candidate_hash: str) -> None:
        def read(connection: Any) -> tuple[list[RolloutRow], list[ScoreRow]]:
            rows: list[RolloutRow] = []
            scores: list[ScoreRow] = []
            for run_id in (self.run_id, self.reuse):
                if run_id is None:
                    continue
                reused = run_id != self.run_id
                for row in rollouts_of(connection, run_id, candidate_hash):
                    row.reused = reused
                    rows.append(row)
                for score in candidate_scores(connection, run_id, candidate_hash):
                    score.reused = reused
                    scores.append(score)
            # What failed in passing in the other run is tried again.
            again = {row.key for row in rows if row.reused and PASSING in (row.failure or ())}
            late = {
                (one.rollout_key, one.evaluator_fingerprint)
                for one in scores
                if one.reused and PASSING in (one.failure or ())
            }
            rows = [row for row in rows if not (row.reused and row.key in again)]
            scores = [
                one
                for one in scores
                if not (one.reused and (one.rollout_key, one.evaluator_fingerprint) in late)
            ]
            return rows, scores

        rows, scores = await self._db.read(read)
        for row in rows:
            self.rollouts.setdefault(row.key, row)
        groups: dict[tuple[str, str, bool], list[ScoreRow]] = defaultdict(list)
        for score in scores:
            groups[score.rollout_key, score.evaluator_fingerprint, score.reused].append(score)
        for (key, fingerprint, _), found in groups.items():
            found.sort(key=lambda score: score.name)
            self.scores.setdefault((key, fingerprint), found)
