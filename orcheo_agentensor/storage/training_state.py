"""What a training run knows besides its ledger: candidates, and its state as steps changed it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from orcheo_agentensor.storage.engine import Context
from orcheo_agentensor.storage.lease import fence
from orcheo_agentensor.storage.records import CandidateRecord, Lease
from orcheo_agentensor.storage.tables import candidates, optimizer_state


class TrainingState:
    """The repository of candidates, and of what each step changed."""

    def __init__(self, context: Context) -> None:
        self._context = context

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
        """Store a candidate, or the new status and info of one that is there."""

        def work(connection: Connection) -> CandidateRecord:
            if lease is not None:
                fence(connection, lease)
            where = (
                candidates.c.run_id == run_id,
                candidates.c.candidate_hash == candidate_hash,
            )
            there = connection.execute(select(candidates).where(*where)).mappings().first()
            if there is not None:
                changes = {"status": status, "info": there["info"] if info is None else info}
                connection.execute(update(candidates).where(*where).values(**changes))
                return CandidateRecord.model_validate({**there, **changes})
            last = connection.scalar(
                select(func.max(candidates.c.position)).where(candidates.c.run_id == run_id)
            )
            record = CandidateRecord(
                run_id=run_id,
                candidate_hash=candidate_hash,
                position=0 if last is None else last + 1,
                prompts=prompts,
                parents=parents,
                status=status,
                info=info or {},
                created_at=self._context.clock(),
            )
            connection.execute(insert(candidates).values(**dict(record)))
            return record

        return await self._context.db.write(work, lock=f"run:{run_id}")

    async def candidates(self, run_id: str, *, status: str | None = None) -> list[CandidateRecord]:
        """The candidates of a run in the order they were first saved."""
        query = (
            select(candidates).where(candidates.c.run_id == run_id).order_by(candidates.c.position)
        )
        if status is not None:
            query = query.where(candidates.c.status == status)
        return await self._context.db.read(
            lambda connection: [
                CandidateRecord.model_validate(dict(row))
                for row in connection.execute(query).mappings()
            ]
        )

    async def save_change(
        self, run_id: str, step: int, change: dict[str, Any], *, lease: Lease | None = None
    ) -> None:
        """Store what `step` has changed in the optimizer's state, instead of what is there."""

        def work(connection: Connection) -> None:
            if lease is not None:
                fence(connection, lease)
            table = optimizer_state.c
            connection.execute(
                delete(optimizer_state).where(table.run_id == run_id, table.step == step)
            )
            connection.execute(
                insert(optimizer_state).values(
                    run_id=run_id, step=step, state=change, created_at=self._context.clock()
                )
            )

        await self._context.db.write(work, lock=f"run:{run_id}")

    async def changes(self, run_id: str) -> dict[int, dict[str, Any]]:
        """What each step of a run has changed in the optimizer's state, by step, in order."""
        table = optimizer_state.c
        query = select(table.step, table.state).where(table.run_id == run_id).order_by(table.step)
        return await self._context.db.read(
            lambda connection: {row.step: row.state for row in connection.execute(query)}
        )
