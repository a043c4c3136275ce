"""What a training run knows besides its ledger: candidates, and the optimizer's state per step."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from orcheo_agentensor.storage.context import Context
from orcheo_agentensor.storage.lease import fence
from orcheo_agentensor.storage.records import CandidateRecord, Lease
from orcheo_agentensor.storage.tables import candidates, optimizer_state


class TrainingState:
    """The repository of candidates and optimizer states."""

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

    async def save_state(
        self,
        run_id: str,
        step: int,
        state: dict[str, Any],
        *,
        keep: int | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Store the optimizer's state after `step`, instead of one that is there.

        `keep` drops all but so many newest steps.
        """

        def work(connection: Connection) -> None:
            if lease is not None:
                fence(connection, lease)
            table = optimizer_state.c
            drop = table.step == step
            if keep is not None:
                drop = drop | (table.step <= step - keep)
            connection.execute(delete(optimizer_state).where(table.run_id == run_id, drop))
            connection.execute(
                insert(optimizer_state).values(
                    run_id=run_id, step=step, state=state, created_at=self._context.clock()
                )
            )

        await self._context.db.write(work, lock=f"run:{run_id}")

    async def load_state(self, run_id: str, step: int | None = None) -> dict[str, Any] | None:
        """The optimizer's state after `step` (by default the newest); None if there is none."""
        query = (
            select(optimizer_state.c.state)
            .where(optimizer_state.c.run_id == run_id)
            .order_by(optimizer_state.c.step.desc())
            .limit(1)
        )
        if step is not None:
            query = query.where(optimizer_state.c.step == step)
        found: dict[str, Any] | None = await self._context.db.read(
            lambda connection: connection.scalar(query)
        )
        return found

    async def latest_step(self, run_id: str) -> int | None:
        """The newest step with a stored state."""
        query = select(func.max(optimizer_state.c.step)).where(optimizer_state.c.run_id == run_id)
        found: int | None = await self._context.db.read(lambda connection: connection.scalar(query))
        return found
