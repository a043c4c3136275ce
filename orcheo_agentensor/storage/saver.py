"""LangGraph's checkpointers beside a store, which delete threads without making a server wait."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite import SqliteSaver as BlockingSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orcheo_agentensor.errors import StoreError
from orcheo_agentensor.prompts import TENSORS
from orcheo_agentensor.upstream import on_connection

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

T = TypeVar("T")

log = logging.getLogger(__name__)


class DeletesLater(BaseCheckpointSaver[Any]):
    """A saver whose `adelete_thread` returns at once; the next read waits for the deletion.

    LangGraph's development server looks up the index of its own record of a thread, calls
    `adelete_thread`, and then deletes the record at that index. If the call took time, another
    thread that ends meanwhile would move the records, and the server would delete the wrong one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deleting: set[asyncio.Task[None]] = set()

    async def adelete_thread(self, thread_id: str) -> None:
        """Start to delete the checkpoints of a thread; the next read waits for it."""
        task = asyncio.create_task(super().adelete_thread(thread_id))
        self._deleting.add(task)
        task.add_done_callback(self._deleted)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As LangGraph's own; every run begins with it."""
        await self.settled()
        return await super().aget_tuple(config)

    async def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        """As LangGraph's own."""
        await self.settled()
        async for found in super().alist(config, **options):
            yield found

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the checkpoints of threads, all or all but those that a thread goes on from.

        Raises `NotImplementedError` where the latest of a thread needs those before it, as those of
        a `DeltaChannel` do.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"strategy: {strategy!r} must be keep_latest or delete")
        await self.settled()
        for thread_id in thread_ids:
            if strategy == "delete":
                await super().adelete_thread(str(thread_id))
            else:
                await self._keep_latest(str(thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy the checkpoints of a thread to another one, history and all."""
        await self.settled()
        await self._copy(str(source_thread_id), str(target_thread_id))

    async def _keep_latest(self, thread_id: str) -> None:
        raise NotImplementedError

    async def _copy(self, source: str, target: str) -> None:
        raise NotImplementedError

    def _deleted(self, task: asyncio.Task[None]) -> None:
        self._deleting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the checkpoints of a deleted thread are left behind", exc_info=error)

    async def settled(self) -> None:
        """Wait until nothing is being deleted any more."""
        if self._deleting:
            await asyncio.wait(self._deleting)


_OF_RUNS = """
SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints
WHERE json_extract(CAST(metadata AS TEXT), '$.run_id') = ?
"""
_DELETIONS = [
    f"DELETE FROM {table} WHERE (thread_id, checkpoint_ns, checkpoint_id) IN ({_OF_RUNS})"
    for table in ("writes", "checkpoints")
]


_METADATA = "json_extract(CAST(metadata AS TEXT), '$.{}')"
_DELTAS = f"""
SELECT COUNT(*) FROM checkpoints
WHERE thread_id = ? AND {_METADATA.format("counters_since_delta_snapshot")} IS NOT NULL
"""
_LATEST = """
SELECT checkpoint_ns, MAX(checkpoint_id) FROM checkpoints WHERE thread_id = :thread
GROUP BY checkpoint_ns
"""
# The namespace of a subgraph's call has its task in it, and the call goes with the checkpoint of
# the root graph that it started from.
_OLD = f"""
SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = :thread AND (
    (checkpoint_ns, checkpoint_id) NOT IN ({_LATEST})
    OR (INSTR(checkpoint_ns, ':') AND {_METADATA.format('parents.""')} <> (
        SELECT MAX(checkpoint_id) FROM checkpoints WHERE thread_id = :thread AND checkpoint_ns = ''
    ))
)
"""
_PRUNING = [
    "DROP TABLE IF EXISTS temp.old_checkpoints",
    f"CREATE TEMP TABLE old_checkpoints AS {_OLD}",
    *[
        f"DELETE FROM {table} WHERE thread_id = :thread "
        "AND (checkpoint_ns, checkpoint_id) IN (SELECT * FROM old_checkpoints)"
        for table in ("writes", "checkpoints")
    ],
    "UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE thread_id = :thread "
    "AND (checkpoint_ns, parent_checkpoint_id) IN (SELECT * FROM old_checkpoints)",
    "DROP TABLE old_checkpoints",
]


class SqliteSaver(DeletesLater, AsyncSqliteSaver):
    """The checkpointer of a store in a SQLite file.

    Each write of a superstep, the checkpoint and what its tasks gave, takes one turn of the
    connection's thread.
    """

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As LangGraph's own."""
        given: Any = {"id": checkpoint["id"], "dumped": self.serde.dumps_typed(checkpoint)}
        return await self._writing(lambda saver: saver.put(config, given, metadata, new_versions))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As LangGraph's own."""
        given = [(channel, self.serde.dumps_typed(value)) for channel, value in writes]
        await self._writing(lambda saver: saver.put_writes(config, given, task_id, task_path))

    async def _writing(self, write: Callable[[BlockingSaver], T]) -> T:
        """Write by LangGraph's blocking saver, which commits, on the very same connection."""
        await self.setup()

        def work(connection: sqlite3.Connection) -> T:
            saver = BlockingSaver(connection, serde=_DUMPED)
            saver.is_setup = True
            return write(saver)

        async with self.lock:
            return await on_connection(self.conn, work)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs that a server rolls back or deletes."""
        await self.setup()
        async with self.lock, self.conn.cursor() as cursor:
            for statement in _DELETIONS:
                await cursor.executemany(statement, [(str(run_id),) for run_id in run_ids])
            await self.conn.commit()

    async def _keep_latest(self, thread_id: str) -> None:
        await self.setup()
        async with self.lock, self.conn.cursor() as cursor:
            await cursor.execute(_DELTAS, (thread_id,))
            if (found := await cursor.fetchone()) and found[0]:
                raise NotImplementedError(f"thread {thread_id} has a DeltaChannel, which needs all")
            await self._execute(cursor, _PRUNING, {"thread": thread_id})

    async def _copy(self, source: str, target: str) -> None:
        await self.setup()
        async with self.lock, self.conn.cursor() as cursor:
            copies = []
            for table in ("checkpoints", "writes"):
                await cursor.execute(f"SELECT name FROM pragma_table_info('{table}')")
                names = [name for (name,) in await cursor.fetchall() if name != "thread_id"]
                columns = ", ".join(names)  # which differ with the version that made the file
                copies.append(
                    f"INSERT OR REPLACE INTO {table} (thread_id, {columns}) "
                    f"SELECT :target, {columns} FROM {table} WHERE thread_id = :source"
                )
            await self._execute(cursor, copies, {"source": source, "target": target})

    async def _execute(
        self, cursor: Any, statements: Sequence[str], values: Mapping[str, str]
    ) -> None:
        """All of the statements, or none."""
        try:
            for statement in statements:
                await cursor.execute(statement, values)
        except BaseException:
            await self.conn.rollback()
            raise
        await self.conn.commit()


class _Dumped(SerializerProtocol):
    """Takes what is serialized already: on the loop, where no node changes it meanwhile."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        found: tuple[str, bytes] = obj if isinstance(obj, tuple) else obj["dumped"]
        return found

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        raise NotImplementedError


_DUMPED = _Dumped()


def serializer() -> JsonPlusSerializer:
    """The serializer of graph state: no pickles, and tensors as the only types of our own."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    ours = [("orcheo_agentensor.prompts", name) for name in TENSORS]
    return JsonPlusSerializer(allowed_msgpack_modules=ours)


def saver_path(path: Path) -> Path:
    """The file of the checkpoints of the store at `path`: `NAME.langgraph.db` beside it."""
    return path.with_name(f"{path.stem}.langgraph.db")


@asynccontextmanager
async def sqlite_saver(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A saver in the SQLite file at `path`."""
    import aiosqlite

    from orcheo_agentensor.storage.engine import WAL_PRAGMAS, prepare_file

    await asyncio.to_thread(prepare_file, path)
    opening: Any = aiosqlite.connect(path, timeout=60)
    # A saver that was not closed must not keep the interpreter from ending.
    getattr(opening, "_thread", opening).daemon = True
    try:
        connection = await opening
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot open the checkpoints at {path}: {error}") from error
    saver = SqliteSaver(connection, serde=serializer())
    try:
        for pragma in WAL_PRAGMAS:
            await connection.execute(pragma)
        await saver.setup()
        yield saver
    finally:
        await saver.settled()
        # A run that was cancelled may be in the middle of a write: closing under it would leave
        # its transaction open, and the file locked, for as long as its cursor lives.
        async with saver.lock:
            await connection.close()
