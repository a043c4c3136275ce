"""What a training run stores besides its ledger: candidates, and what each step changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from orcheo_agentensor.storage.engine import Repository, first
from orcheo_agentensor.storage.lease import fence
from orcheo_agentensor.storage.records import CandidateRecord, Lease
from orcheo_agentensor.storage.tables import candidates, optimizer_state


class OptimizerStates(Repository):
    """The repository of candidates, and of what each step changed."""

    async def save_candidate(
        self,
        run_id: str,
        candidate_hash: str,
        *,
        prompts: dict[str, Any],
        parents: list[str],
        status: str,
        info: dict[str, Any] | None = None,
        lease: Lease | None = None,
    ) -> CandidateRecord:
        """Store a candidate, or the new status and info of a stored one."""
        table = candidates.c
        same = (table.run_id == run_id) & (table.candidate_hash == candidate_hash)

        def work(connection: Connection) -> CandidateRecord:
            fence(connection, lease)
            if there := first(connection, CandidateRecord, select(candidates).where(same)):
                changes = {"status": status, "info": there.info if info is None else info}
                connection.execute(update(candidates).where(same).values(**changes))
                return there.model_copy(update=changes)
            last = connection.scalar(select(func.max(table.position)).where(table.run_id == run_id))
            record = CandidateRecord(
                run_id=run_id,
                candidate_hash=candidate_hash,
                position=0 if last is None else last + 1,
                prompts=prompts,
                parents=parents,
                status=status,
                info=info or {},
                created_at=self._clock(),
            )
            connection.execute(insert(candidates).values(**dict(record)))
            return record

        return await self._db.write(work, lock=f"run:{run_id}")

    async def candidates(self, run_id: str, *, status: str | None = None) -> list[CandidateRecord]:
        """The candidates of a run in the order they were first saved."""
        query = (
            select(candidates).where(candidates.c.run_id == run_id).order_by(candidates.c.position)
        )
        if status is not None:
            query = query.where(candidates.c.status == status)
        return await self._all(CandidateRecord, query)

    async def save_change(
        self, run_id: str, step: int, change: dict[str, Any], *, lease: Lease | None = None
    ) -> None:
        """Store what `step` has changed in the optimizer's state; replaces its earlier change."""
        table = optimizer_state.c

        def work(connection: Connection) -> None:
            fence(connection, lease)
            connection.execute(
                delete(optimizer_state).where(table.run_id == run_id, table.step == step)
            )
            connection.execute(
                insert(optimizer_state).values(
                    run_id=run_id, step=step, state=change, created_at=self._clock()
                )
            )

        await self._db.write(work, lock=f"run:{run_id}")

    async def changes(self, run_id: str) -> dict[int, dict[str, Any]]:
        """What each step of a run has changed in the optimizer's state, by step, in order."""
        table = optimizer_state.c
        query = select(table.step, table.state).where(table.run_id == run_id).order_by(table.step)
        return await self._db.read(
            lambda connection: {row.step: row.state for row in connection.execute(query)}
        )
