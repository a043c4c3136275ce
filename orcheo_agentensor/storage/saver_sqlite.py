"""LangGraph's SQLite saver, which can take back what a run has checkpointed."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orcheo_agentensor.storage.saver_deletion import DeletesLater

_OF_RUNS = """
SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints
WHERE json_extract(CAST(metadata AS TEXT), '$.run_id') = ?
"""
_DELETIONS = [
    f"DELETE FROM {table} WHERE (thread_id, checkpoint_ns, checkpoint_id) IN ({_OF_RUNS})"
    for table in ("writes", "checkpoints")
]


class SqliteSaver(DeletesLater, AsyncSqliteSaver):
    """What `checkpointer` opens in a SQLite file."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs of a server: it rolls a run back, or deletes it."""
        await self.setup()
        async with self.lock, self.conn.cursor() as cursor:
            for statement in _DELETIONS:
                await cursor.executemany(statement, [(str(run_id),) for run_id in run_ids])
            await self.conn.commit()
