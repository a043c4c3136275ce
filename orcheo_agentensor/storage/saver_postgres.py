"""LangGraph's PostgreSQL saver, which can take back what a run has checkpointed."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from orcheo_agentensor.storage.saver import DeletesLater

_DELETION = """
WITH gone AS (
    DELETE FROM checkpoints WHERE metadata ->> 'run_id' = ANY(%s)
    RETURNING thread_id, checkpoint_ns, checkpoint_id
)
DELETE FROM checkpoint_writes USING gone
WHERE checkpoint_writes.thread_id = gone.thread_id
  AND checkpoint_writes.checkpoint_ns = gone.checkpoint_ns
  AND checkpoint_writes.checkpoint_id = gone.checkpoint_id
"""


class PostgresSaver(DeletesLater, AsyncPostgresSaver):
    """What `checkpointer` opens in a PostgreSQL database."""

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs of a server: it rolls a run back, or deletes it.

        Their values stay until the thread is pruned or deleted: those before them may be the same.
        """
        async with self._cursor() as cursor:
            await cursor.execute(_DELETION, ([str(run_id) for run_id in run_ids],))
