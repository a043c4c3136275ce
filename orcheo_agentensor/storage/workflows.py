"""Workflows: who owns them, their versioned default configs, their feature flags."""

from __future__ import annotations

import builtins
from typing import Any

from sqlalchemy import Connection, Select, exists, insert, select, update

from orcheo_agentensor.storage.engine import Context
from orcheo_agentensor.storage.records import WorkflowRecord
from orcheo_agentensor.storage.tables import checkpoints, runs, workflow_defaults, workflows


class Workflows:
    """The repository of `WorkflowRecord`s."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, workflow_id: str) -> WorkflowRecord | None:
        """What is kept about a workflow; None where nothing is."""
        return await self._context.db.read(lambda connection: _get(connection, workflow_id))

    async def list(self) -> builtins.list[WorkflowRecord]:
        """Every workflow something is kept about, by id."""
        query = _query().order_by(workflows.c.workflow_id)
        return await self._context.db.read(
            lambda connection: [_record(row) for row in connection.execute(query).mappings()]
        )

    async def defaults(self, workflow_id: str, version: int | None = None) -> dict[str, Any]:
        """A version of the default config, the newest one by default; `{}` where there is none."""
        query = (
            select(workflow_defaults.c.config)
            .where(workflow_defaults.c.workflow_id == workflow_id)
            .order_by(workflow_defaults.c.version.desc())
            .limit(1)
        )
        if version is not None:
            query = query.where(workflow_defaults.c.version == version)
        found: dict[str, Any] | None = await self._context.db.read(
            lambda connection: connection.scalar(query)
        )
        return found or {}

    async def set_defaults(
        self, workflow_id: str, config: dict[str, Any], *, actor: str
    ) -> WorkflowRecord:
        """Store a new version of the default config; the same config again is no new version."""

        def work(connection: Connection) -> WorkflowRecord:
            there = self._ensure(connection, workflow_id)
            if there.default_version and there.default_config == config:
                return there
            version = there.default_version + 1
            connection.execute(
                insert(workflow_defaults).values(
                    workflow_id=workflow_id,
                    version=version,
                    config=config,
                    actor=actor,
                    created_at=self._context.clock(),
                )
            )
            return self._change(connection, workflow_id, default_version=version)

        return await self._context.db.write(work, lock=f"defaults:{workflow_id}")

    async def set_flags(self, workflow_id: str, flags: dict[str, Any]) -> WorkflowRecord:
        """Set feature flags; a flag set to None is removed, others stay."""

        def work(connection: Connection) -> WorkflowRecord:
            merged = {**self._ensure(connection, workflow_id).feature_flags, **flags}
            kept = {name: value for name, value in merged.items() if value is not None}
            return self._change(connection, workflow_id, feature_flags=kept)

        return await self._context.db.write(work, lock=f"defaults:{workflow_id}")

    async def set_owner(self, workflow_id: str, owner: str | None) -> WorkflowRecord:
        """Say who owns a workflow."""

        def work(connection: Connection) -> WorkflowRecord:
            self._ensure(connection, workflow_id)
            return self._change(connection, workflow_id, owner=owner)

        return await self._context.db.write(work, lock=f"defaults:{workflow_id}")

    async def claim(self, workflow_id: str, owner: str) -> WorkflowRecord | None:
        """Make `owner` the owner of a workflow that nothing is known of; else what is kept."""

        def work(connection: Connection) -> WorkflowRecord | None:
            there = _get(connection, workflow_id)
            used = select(
                exists().where(runs.c.workflow_id == workflow_id)
                | exists().where(checkpoints.c.workflow_id == workflow_id)
            )
            if there is not None or connection.scalar(used):
                return there
            self._ensure(connection, workflow_id)
            return self._change(connection, workflow_id, owner=owner)

        return await self._context.db.write(work, lock=f"defaults:{workflow_id}")

    def _ensure(self, connection: Connection, workflow_id: str) -> WorkflowRecord:
        there = _get(connection, workflow_id)
        if there is not None:
            return there
        now = self._context.clock()
        connection.execute(
            insert(workflows).values(
                workflow_id=workflow_id,
                default_version=0,
                feature_flags={},
                created_at=now,
                updated_at=now,
            )
        )
        return WorkflowRecord(workflow_id=workflow_id, created_at=now, updated_at=now)

    def _change(self, connection: Connection, workflow_id: str, **values: Any) -> WorkflowRecord:
        connection.execute(
            update(workflows)
            .where(workflows.c.workflow_id == workflow_id)
            .values(updated_at=self._context.clock(), **values)
        )
        changed = _get(connection, workflow_id)
        assert changed is not None
        return changed


def _query() -> Select[Any]:
    return select(workflows, workflow_defaults.c.config.label("default_config")).outerjoin(
        workflow_defaults,
        (workflow_defaults.c.workflow_id == workflows.c.workflow_id)
        & (workflow_defaults.c.version == workflows.c.default_version),
    )


def _get(connection: Connection, workflow_id: str) -> WorkflowRecord | None:
    query = _query().where(workflows.c.workflow_id == workflow_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else _record(row)


def _record(row: Any) -> WorkflowRecord:
    values = dict(row)
    return WorkflowRecord.model_validate(
        {**values, "default_config": values["default_config"] or {}}
    )
