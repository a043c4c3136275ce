"""The ledger: what a run has paid for, in memory and as rows of the database."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, select

from orcheo_agentensor.errors import AgentensorError, BadInput, StoreError, StoreVanished
from orcheo_agentensor.storage.lease import Heartbeat, OnBlocked, lost
from orcheo_agentensor.storage.records import CANCELLED, PASSING, Lease, RolloutRow, ScoreRow
from orcheo_agentensor.storage.rows import (
    FREE,
    IN_FLIGHT,
    OUTPUT,
    call_of,
    candidate_scores,
    counts_of,
    fence_sql,
    insert_rows,
    made_again,
    note_sql,
    rollout_values,
    rollouts_of,
    score_values,
    total_usage,
)
from orcheo_agentensor.storage.tables import calls, clean_text, encode, rollouts, scores
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, Usage

if TYPE_CHECKING:
    from typing import Self

    from orcheo_agentensor.storage.engine import Database


LINGER = 0.02
"""Seconds that rows wait for others at most, while nobody waits for them."""


class Commit:
    """Rows that are committed in one transaction; awaiting it waits until they are.

    It may be awaited many times, and a waiter that is cancelled takes no other along. Raises why
    the rows could not be written. The rows are written at once when somebody awaits them, and
    `urgent` says so.
    """

    __slots__ = ("_done", "calls", "loop", "note", "rollouts", "scores", "urgent")

    def __init__(self) -> None:
        self.urgent = asyncio.Event()
        self.note: dict[str, Any] | None = None
        self.rollouts: list[tuple[Any, ...]] = []
        self.scores: list[tuple[Any, ...]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self.loop.create_future()

    def tables(self) -> list[tuple[Table, list[tuple[Any, ...]]]]:
        """The rows by the table that they go to."""
        return [(rollouts, self.rollouts), (scores, self.scores), (calls, self.calls)]

    def __await__(self) -> Generator[Any, None, None]:
        self.urgent.set()
        return asyncio.shield(self._done).__await__()

    async def in_passing(self) -> None:
        """Wait without urging: a few more rows may join these."""
        await asyncio.shield(self._done)

    def done(self) -> bool:
        """Whether the rows are committed, or will never be."""
        return self._done.done()

    def settle(self) -> None:
        """Tell the waiters that the rows are committed."""
        if not self._done.done():
            self._done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Tell the waiters why the rows were not written."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # where nobody waits, nobody need be told


class Ledger:
    """What a run has paid for. Looks up from memory, writes in groups.

    One writer task: while it commits one group of rows, the next one gathers, so a row that
    somebody awaits is written at once and many rows share a transaction. The same transaction
    checks the lease, renews it, and notes the number of the last event.

    Start it before use (`async with` does) and stop it at the end. After a lost lease or a
    database error everything that waits, and every further put, gets that error.

    `rollouts` and `scores` hold what is recorded, after `load`: rollouts by their key (`.reused` if
    found in the other run), scores by rollout key and evaluator fingerprint, a row per metric.

    What `note` gives, on the loop, is stored with each group and replaces what was there; `noted`
    is what is stored. It tells the next process what was in flight when this one died: `suspects`
    are what an earlier process had in flight, by name or as `spans` of a batch, `killers` those of
    them that were alone.
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
        # Executions that nothing else was paid for; None where only the database knows.
        self._executions: int | None = 0 if self._empty else None
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
        self.spans: dict[str, list[int]] = {}
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
        self._kinds, self._executions = earlier._kinds, earlier._executions

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
        self.urge()
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
            self.spans = dict(self.noted.get("spans", {}))
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
        if self._executions is not None:
            self._executions = self._executions + 1 if row.usage is ONE_ROLLOUT else None
        self.output_bytes += len(values[OUTPUT] or "")
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
        if any(row.usage is not NOTHING for row in rows):
            self._executions = None
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
        group.scores.append((*said, None, None, None, *FREE))
        return group

    def put_call(self, key: str, kind: str, response: dict[str, Any], usage: Usage) -> Commit:
        """Record the response of a judge or proposer call, as `put_rollout` does."""
        values = (self.run_id, key, kind, encode(response), *counts_of(usage))
        group = self._open()
        group.calls.append(values)
        if usage is not NOTHING:
            self._executions = None
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

    async def note_down(self) -> None:
        """Wait until a newer note is stored: the one that is being written, or one of now."""
        if self._writing.note is None or self._writing.done():
            await self.flush()
        else:
            await self._writing.in_passing()

    def urge(self) -> None:
        """Have what waits committed now."""
        self._group.urgent.set()

    async def usage(self, *kinds: str, without: str = CANCELLED) -> Usage:
        """What the run has spent, from the committed rows of every process that worked on it.

        What was cancelled is left out, or calls of another kind. With `kinds`, what the calls of
        these kinds have cost.
        """
        if self._executions is not None and not kinds:  # all rows are this process's own
            if self._due or not (self._writing is self._group or self._writing.done()):
                await self.flush()
            return Usage(rollouts=self._executions)
        return await self._db.read(lambda c: total_usage(c, self.run_id, kinds, without=without))

    async def made_again(self) -> int:
        """How many executions of the target were made in addition to one for each rollout."""
        return await self._db.read(lambda connection: made_again(connection, self.run_id))

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
            if not (urgent := self._group.urgent).is_set():
                timer = asyncio.get_running_loop().call_later(LINGER, urgent.set)
                await urgent.wait()
                timer.cancel()
            self._due = False
            self._writing, self._group = self._group, Commit()
            if self.note is not None and (note := self.note()) != self.noted:
                self._writing.note = note
            await self._db.call(self._commit, self._writing)

    def _committed(self, group: Commit) -> None:
        """Note what is stored now, before those who wait for it look there."""
        if group.note is not None:
            self.noted = group.note
        group.settle()

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
                    row = (self.run_id, IN_FLIGHT, IN_FLIGHT, encode(group.note), *FREE)
                    cursor.execute(note_sql(postgres=postgres), row)
                connection.commit()
                if group is not None:
                    # From here, because those who wait hold up others: by way of the writer they
                    # would hear of it one turn of a busy loop later.
                    group.loop.call_soon_threadsafe(self._committed, group)
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
