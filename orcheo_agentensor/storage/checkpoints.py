"""Config checkpoints: immutable versions, numbered from 1 within a workflow."""

from __future__ import annotations

import builtins
from math import isfinite
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from orcheo_agentensor.errors import NotFound
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage import alias_rules
from orcheo_agentensor.storage.context import Context, listed
from orcheo_agentensor.storage.lease import fence
from orcheo_agentensor.storage.records import ConfigCheckpoint, Lease
from orcheo_agentensor.storage.tables import aliases, checkpoints

_SHOWN = [column for column in checkpoints.c if column.name not in ("objective", "complete")]


class Checkpoints:
    """The repository of `ConfigCheckpoint`s."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def save(
        self,
        *,
        workflow_id: str,
        runnable_config: dict[str, Any],
        metrics: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        parent_version: int | None = None,
        run_id: str | None = None,
        dataset_version: str | None = None,
        evaluator_set: str | None = None,
        artifact_url: str | None = None,
        lease: Lease | None = None,
    ) -> ConfigCheckpoint:
        """Store a new version; `latest` and `best` follow in the same transaction.

        The same config measured by the same run on the same dataset and evaluators is stored
        once: saving it again gives the version that is there, so a resumed run may save again.
        """
        row = ConfigCheckpoint(
            id=self._context.new_id(),
            workflow_id=workflow_id,
            config_version=0,
            runnable_config=runnable_config,
            metrics=metrics,
            metadata=metadata or {},
            content_hash=content_hash(runnable_config),
            parent_version=parent_version,
            run_id=run_id,
            dataset_version=dataset_version,
            evaluator_set=evaluator_set,
            artifact_url=artifact_url,
            created_at=self._context.clock(),
        )

        def work(connection: Connection) -> ConfigCheckpoint:
            if lease is not None:
                fence(connection, lease)
            there = connection.execute(_same_as(row)).first()
            if there is not None:
                return _record(there)
            newest = connection.scalar(
                select(func.max(checkpoints.c.config_version)).where(
                    checkpoints.c.workflow_id == workflow_id
                )
            )
            stored = row.model_copy(update={"config_version": (newest or 0) + 1})
            connection.execute(
                insert(checkpoints).values(
                    **dict(stored), objective=_objective(metrics), complete=_complete(metrics)
                )
            )
            alias_rules.follow(connection, stored)
            return stored

        return await self._context.db.write(work, lock=alias_rules.lock_name(workflow_id))

    async def get(self, workflow_id: str, version: int | str) -> ConfigCheckpoint:
        """The version with this number or alias; `NotFound` lists what exists."""
        number: int | str = version
        if isinstance(version, str) and version.isdecimal():
            number = int(version)

        def work(connection: Connection) -> ConfigCheckpoint:
            query = select(*_SHOWN).where(checkpoints.c.workflow_id == workflow_id)
            if isinstance(number, int):
                query = query.where(checkpoints.c.config_version == number)
            else:
                query = query.join(
                    aliases,
                    (aliases.c.workflow_id == checkpoints.c.workflow_id)
                    & (aliases.c.version == checkpoints.c.config_version),
                ).where(aliases.c.alias == number)
            found = connection.execute(query).first()
            if found is None:
                raise not_found(connection, workflow_id, version)
            return _record(found)

        return await self._context.db.read(work)

    async def list(
        self,
        workflow_id: str,
        *,
        run_id: str | None = None,
        before: int | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> builtins.list[ConfigCheckpoint]:
        """The versions of a workflow, newest first; only those older than `before`, if given."""
        query = (
            select(*_SHOWN)
            .where(checkpoints.c.workflow_id == workflow_id)
            .order_by(checkpoints.c.config_version.desc())
            .limit(limit)
            .offset(offset)
        )
        if run_id is not None:
            query = query.where(checkpoints.c.run_id == run_id)
        if before is not None:
            query = query.where(checkpoints.c.config_version < before)
        return await self._context.db.read(
            lambda connection: [_record(row) for row in connection.execute(query)]
        )

    async def list_workflows(self) -> builtins.list[str]:
        """The ids of the workflows that have versions."""
        query = select(checkpoints.c.workflow_id).distinct().order_by(checkpoints.c.workflow_id)
        return await self._context.db.read(lambda connection: [*connection.scalars(query)])


def not_found(connection: Connection, workflow_id: str, version: int | str) -> NotFound:
    """An error that says which versions and aliases there are."""
    versions = connection.scalars(
        select(checkpoints.c.config_version)
        .where(checkpoints.c.workflow_id == workflow_id)
        .order_by(checkpoints.c.config_version.desc())
    ).all()
    if not versions:
        workflows = connection.scalars(
            select(checkpoints.c.workflow_id).distinct().order_by(checkpoints.c.workflow_id)
        )
        return NotFound(
            f"workflow {workflow_id!r} has no versions; workflows with versions: "
            f"{listed([*workflows])}"
        )
    names = connection.scalars(
        select(aliases.c.alias)
        .where(aliases.c.workflow_id == workflow_id)
        .order_by(aliases.c.alias)
    )
    what = f"version {version}" if isinstance(version, int) else f"version or alias {version!r}"
    return NotFound(
        f"workflow {workflow_id!r} has no {what}; versions: "
        f"{listed([str(number) for number in versions])}; aliases: {listed([*names])}"
    )


def _same_as(row: ConfigCheckpoint) -> Any:
    table = checkpoints.c
    return (
        select(*_SHOWN)
        .where(
            table.workflow_id == row.workflow_id,
            table.content_hash == row.content_hash,
            table.run_id.is_not_distinct_from(row.run_id),
            table.dataset_version.is_not_distinct_from(row.dataset_version),
            table.evaluator_set.is_not_distinct_from(row.evaluator_set),
        )
        .order_by(table.config_version)
        .limit(1)
    )


def _record(row: Row[Any]) -> ConfigCheckpoint:
    return ConfigCheckpoint.model_validate(dict(row._mapping))


def _objective(metrics: dict[str, Any]) -> float | None:
    value = metrics.get("objective")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def _complete(metrics: dict[str, Any]) -> bool:
    return metrics.get("complete") is not False
