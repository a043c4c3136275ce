"""The ledger of a run: every rollout, score and call is committed as it returns.

One writer task per ledger. While it commits one group, the next one gathers, so a lone row is
written at once and many rows share a transaction. The same transaction checks the lease, renews
it, and notes the number of the last event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.errors import AgentensorError, BadInput, StoreError
from orcheo_agentensor.storage.records import Lease, RolloutRow, ScoreRow
from orcheo_agentensor.usage import NOTHING, Usage

if TYPE_CHECKING:
    from typing import Self

    from orcheo_agentensor.storage.engine import Database

Committed = asyncio.Future[None]


class _Group:
    """Rows that will be committed together, and who waits for them."""

    __slots__ = ("calls", "loop", "rollouts", "scores", "waiting")

    def __init__(self) -> None:
        self.rollouts: list[tuple[Any, ...]] = []
        self.scores: list[tuple[Any, ...]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.waiting: list[Committed] = []
        self.loop = asyncio.get_running_loop()

    def settle(self) -> None:
        """Tell who waits that the rows are committed."""
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(None)


class Ledger:
    """What a run has paid for. Looks up from memory, writes in groups.

    Start it before use (`async with` does) and stop it at the end. After a lost lease or a
    database error everything that waits, and every further put, gets that error.
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
    ) -> None:
        from orcheo_agentensor.storage import ledger_rows, tables

        self.run_id = run_id
        self.lease = lease
        self.reuse = reuse if reuse != run_id else None
        self.event_seq = event_seq
        self._sql = ledger_rows
        self._db = db
        self._clock = clock
        self._rollouts: dict[str, RolloutRow] = {}
        self._scores: dict[tuple[str, str], list[ScoreRow]] = {}
        self._calls: dict[str, dict[str, Any]] = {}
        self._loaded: dict[str, asyncio.Task[None]] = {}
        self._group = self._writing = _Group()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._error: BaseException | None = None
        self._connection: Any = None
        self._fence = ledger_rows.fence_sql(postgres=db.postgres)
        self._inserts = [
            ledger_rows.Insert(table, postgres=db.postgres)
            for table in (tables.rollouts, tables.scores, tables.calls)
        ]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the writer and the heartbeat that keeps the lease."""
        if not self._tasks:
            self._connection = await self._db.call(self._db.hold_connection)
            writer = asyncio.create_task(self._write(), name=f"ledger {self.run_id}")
            writer.add_done_callback(self._ended)
            heartbeat = asyncio.create_task(self._beat(), name=f"heartbeat {self.run_id}")
            self._tasks = [writer, heartbeat]

    async def stop(self) -> None:
        """Commit what waits and end the writer. Does not give the lease back."""
        if not self._tasks:
            return
        (writer, heartbeat), self._tasks = self._tasks, []
        self._stopping = True
        heartbeat.cancel()
        self._wake.set()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeat
            await asyncio.wait([writer])  # its error is with those who waited
        finally:
            await self._db.call(self._db.drop_connection, self._connection)

    async def load(self, candidate_hash: str) -> None:
        """Bring a candidate's rollouts and scores to memory, once."""
        task = self._loaded.get(candidate_hash)
        if task is None:
            task = asyncio.create_task(self._load(candidate_hash))
            self._loaded[candidate_hash] = task
        try:
            await asyncio.shield(task)
        except Exception:
            self._loaded.pop(candidate_hash, None)
            raise

    def rollout(self, key: str) -> RolloutRow | None:
        """The rollout recorded under `key` (`.reused` if in the other run), after `load`."""
        return self._rollouts.get(key)

    def score(self, rollout_key: str, evaluator_fingerprint: str) -> list[ScoreRow] | None:
        """What an evaluator said about a rollout, one row per metric, after `load`."""
        return self._scores.get((rollout_key, evaluator_fingerprint))

    async def call(self, key: str) -> dict[str, Any] | None:
        """The response recorded under `key`; one found in the other run is copied, at no cost."""
        if key in self._calls:
            return self._calls[key]
        found = await self._db.read(lambda c: self._sql.call_of(c, self.run_id, key))
        if found is None and self.reuse is not None:
            other = self.reuse
            found = await self._db.read(lambda c: self._sql.call_of(c, other, key))
            if found is not None:
                await self.put_call(key, found[0], found[1], NOTHING)
        if found is None:
            return self._calls.get(key)
        return self._calls.setdefault(key, found[1])

    def put_rollout(self, row: RolloutRow) -> Committed:
        """Record a rollout; the future is done when it is committed. A known key stays as it is.

        Rollouts are counted by `attempts`, whatever `usage.rollouts` says.
        """
        values = self._sql.rollout_values(self.run_id, row)
        waiting = self._enqueue()
        self._group.rollouts.append(values)
        there = self._rollouts.get(row.key)
        if there is None or there.reused:
            if row.reused:
                row = replace(row, reused=False, usage=NOTHING)
            elif row.usage.rollouts != row.attempts:
                row = replace(row, usage=replace(row.usage, rollouts=row.attempts))
            self._rollouts[row.key] = row
        return waiting

    def put_scores(
        self, rollout_key: str, evaluator_fingerprint: str, rows: Sequence[ScoreRow]
    ) -> Committed:
        """Record what an evaluator said about a rollout, as `put_rollout` does."""
        if not rows:
            raise BadInput("an evaluator's scores need at least one row")
        values = [
            self._sql.score_values(self.run_id, rollout_key, evaluator_fingerprint, row)
            for row in rows
        ]
        waiting = self._enqueue()
        self._group.scores.extend(values)
        there = self._scores.get((rollout_key, evaluator_fingerprint))
        if there is None or there[0].reused:
            self._scores[rollout_key, evaluator_fingerprint] = [
                replace(row, reused=False, usage=NOTHING) if row.reused else row for row in rows
            ]
        return waiting

    def put_call(self, key: str, kind: str, response: dict[str, Any], usage: Usage) -> Committed:
        """Record the response of a judge or proposer call, as `put_rollout` does."""
        values = self._sql.call_values(self.run_id, key, kind, response, usage)
        waiting = self._enqueue()
        self._group.calls.append(values)
        self._calls.setdefault(key, response)
        return waiting

    async def flush(self) -> None:
        """Renew the lease and commit the event number, with whatever waits."""
        await self._enqueue()

    async def usage(self, *kinds: str) -> Usage:
        """What the run has spent, from the committed rows of every process that worked on it.

        What was cancelled is left out. With `kinds`, what the calls of these kinds have cost.
        """
        return await self._db.read(lambda c: self._sql.total_usage(c, self.run_id, kinds))

    def _enqueue(self) -> Committed:
        if self._error is not None:
            raise self._error
        if not self._tasks:
            raise StoreError("the ledger is not started, or it was stopped")
        waiting: Committed = asyncio.get_running_loop().create_future()
        self._group.waiting.append(waiting)
        self._wake.set()
        return waiting

    async def _write(self) -> None:
        while not self._stopping or self._group.waiting:
            if not self._group.waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._writing, self._group = self._group, _Group()
            await self._db.call(self._commit, self._writing)

    def _ended(self, writer: asyncio.Task[None]) -> None:
        """Tell everybody who waits why the writer ended, if not by `stop`."""
        error: BaseException | None
        if writer.cancelled():
            error = StoreError(f"the ledger of run {self.run_id!r} was cancelled")
        else:
            error = writer.exception()
        if error is None:
            return
        if not isinstance(error, AgentensorError):
            error = StoreError(f"the ledger of run {self.run_id!r} cannot be written: {error}")
        self._error = error
        for waiting in (*self._writing.waiting, *self._group.waiting):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever no longer waits need not be told

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.lease.ttl / 3)
            if self._error is not None:
                return
            with contextlib.suppress(Exception):  # the next put gets it
                await self.flush()

    def _commit(self, group: _Group) -> None:
        with self._connection.use() as connection:
            cursor = connection.cursor()
            try:
                if not self._db.postgres:
                    cursor.execute("BEGIN IMMEDIATE")
                self._renew(cursor)
                for insert, rows in zip(
                    self._inserts, (group.rollouts, group.scores, group.calls), strict=True
                ):
                    insert.rows(cursor, rows)
                connection.commit()
                # From here, because those who wait hold up others: by way of the writer they
                # would hear of it one turn of a busy loop later.
                group.loop.call_soon_threadsafe(group.settle)
            except BaseException:
                connection.rollback()
                raise
            finally:
                cursor.close()

    def _renew(self, cursor: Any) -> None:
        from orcheo_agentensor.storage.lease import lost

        lease = self.lease
        sequence = self.event_seq() if self.event_seq is not None else 0
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
                for row in self._sql.rollouts_of(connection, run_id, candidate_hash):
                    row.reused = reused
                    rows.append(row)
                for score in self._sql.candidate_scores(connection, run_id, candidate_hash):
                    score.reused = reused
                    scores.append(score)
            return rows, scores

        rows, scores = await self._db.read(read)
        for row in rows:
            self._rollouts.setdefault(row.key, row)
        groups: dict[tuple[str, str, bool], list[ScoreRow]] = defaultdict(list)
        for score in scores:
            groups[score.rollout_key, score.evaluator_fingerprint, score.reused].append(score)
        for (key, fingerprint, _), found in groups.items():
            found.sort(key=lambda score: score.name)
            self._scores.setdefault((key, fingerprint), found)
