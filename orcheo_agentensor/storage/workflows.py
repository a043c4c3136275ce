"""Workflows: their owners, versioned default configs and feature flags."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, exists, insert, select, update

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.storage.engine import Repository, first, listed
from orcheo_agentensor.storage.records import WorkflowRecord
from orcheo_agentensor.storage.tables import (
    checkpoints,
    runs,
    text_in,
    workflow_defaults,
    workflows,
)

_FLAGS: Mapping[str, tuple[bool | str, ...]] = {
    "runnable_config_enabled": (True, False),
    "agent_trainer_enabled": (True, False),
    "phase": ("dev", "pilot", "broad"),
}
"""The flags of a workflow, and what each may be."""


class Workflows(Repository):
    """The repository of `WorkflowRecord`s."""

    async def get(self, workflow_id: str) -> WorkflowRecord | None:
        """The record of a workflow; None where there is none."""
        return await self._db.read(lambda connection: _get(connection, workflow_id))

    async def id_for(self, workflow_id: str, owner: str | None) -> str:
        """The id under which `owner` has the workflow that they call `workflow_id`.

        That is the id itself, unless somebody else has it: then theirs is kept beside it, as
        `OWNER~ID`. None, who is not kept apart from anybody, has every workflow under its id.
        """
        if owner is None:
            return workflow_id

        def work(connection: Connection) -> str:
            named = workflows.c.workflow_id
            same = (named == workflow_id) | named.endswith(f"~{workflow_id}", autoescape=True)
            query = (
                select(named).where(workflows.c.owner == owner, same).order_by(named != workflow_id)
            )
            if (own := connection.scalar(query)) is not None:
                return str(own)
            there = _get(connection, workflow_id)
            return workflow_id if there is None or there.owner is None else f"{owner}~{workflow_id}"

        return await self._db.read(work)

    async def list(self) -> builtins.list[WorkflowRecord]:
        """Every record of a workflow, by id."""
        return await self._all(WorkflowRecord, _query().order_by(workflows.c.workflow_id))

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
        found: dict[str, Any] | None = await self._db.read(
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
                    created_at=self._clock(),
                )
            )
            return self._change(connection, workflow_id, default_version=version)

        return await self._db.write(work, lock=_lock(workflow_id))

    async def set_flags(self, workflow_id: str, flags: dict[str, Any]) -> WorkflowRecord:
        """Set feature flags; a flag set to None is removed, others stay.

        Raises `BadInput` for a name that is no flag, or a value that the flag cannot have: what
        is meant to forbid would not.
        """
        for name, value in flags.items():
            if name not in _FLAGS:
                rule = f"is not a flag of a workflow; there are: {listed([*_FLAGS])}"
                raise BadInput(field=f"flags.{name}", value=value, rule=rule)
            known = [(type(one), one) for one in (*_FLAGS[name], None)]
            if (type(value), value) not in known:
                rule = f"must be {' or '.join(map(repr, _FLAGS[name]))}, or None to remove it"
                raise BadInput(field=f"flags.{name}", value=value, rule=rule)

        def work(connection: Connection) -> WorkflowRecord:
            merged = {**self._ensure(connection, workflow_id).feature_flags, **flags}
            kept = {name: value for name, value in merged.items() if value is not None}
            return self._change(connection, workflow_id, feature_flags=kept)

        return await self._db.write(work, lock=_lock(workflow_id))

    async def set_owner(self, workflow_id: str, owner: str | None) -> WorkflowRecord:
        """Set the owner of a workflow; None shares it."""

        def work(connection: Connection) -> WorkflowRecord:
            self._ensure(connection, workflow_id)
            return self._change(connection, workflow_id, owner=owner)

        return await self._db.write(work, lock=_lock(workflow_id))

    async def claim(self, workflow_id: str, owner: str) -> WorkflowRecord | None:
        """Make `owner` the owner of a workflow without record, versions, and runs of the operator.

        Returns the record of the workflow, new or not; None where it has only runs or versions.
        """

        def work(connection: Connection) -> WorkflowRecord | None:
            there = _get(connection, workflow_id)
            of_nobody = text_in(runs.c.refs, "identity").is_(None)
            used = select(
                exists().where(runs.c.workflow_id == workflow_id, of_nobody)
                | exists().where(checkpoints.c.workflow_id == workflow_id)
            )
            if there is not None or connection.scalar(used):
                return there
            self._ensure(connection, workflow_id)
            return self._change(connection, workflow_id, owner=owner)

        return await self._db.write(work, lock=_lock(workflow_id))

    def _ensure(self, connection: Connection, workflow_id: str) -> WorkflowRecord:
        if there := _get(connection, workflow_id):
            return there
        now = self._clock()
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
            .values(updated_at=self._clock(), **values)
        )
        changed = _get(connection, workflow_id)
        assert changed is not None
        return changed


def _lock(workflow_id: str) -> str:
    """The lock that writers of a workflow's record share."""
    return f"defaults:{workflow_id}"


def _query() -> Select[Any]:
    return select(workflows, workflow_defaults.c.config.label("default_config")).outerjoin(
        workflow_defaults,
        (workflow_defaults.c.workflow_id == workflows.c.workflow_id)
        & (workflow_defaults.c.version == workflows.c.default_version),
    )


def _get(connection: Connection, workflow_id: str) -> WorkflowRecord | None:
    query = _query().where(workflows.c.workflow_id == workflow_id)
    return first(connection, WorkflowRecord, query)
