"""Aliases: names that point to a version, moved by compare-and-swap with an audit trail."""

from __future__ import annotations

import builtins

from sqlalchemy import Connection, select

from orcheo_agentensor.errors import AliasConflict, BadInput, NotFound
from orcheo_agentensor.storage import alias_rules
from orcheo_agentensor.storage.checkpoints import not_found
from orcheo_agentensor.storage.codec import clean_text
from orcheo_agentensor.storage.context import Context, listed
from orcheo_agentensor.storage.records import ANY, AliasMove, Expected
from orcheo_agentensor.storage.tables import alias_log, aliases, checkpoints


class Aliases:
    """The repository of aliases. `latest` and `best` are kept by `checkpoints.save`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def resolve(self, workflow_id: str, alias: str) -> int | None:
        """The version that `alias` points to; None where it does not exist."""
        return await self._context.db.read(
            lambda connection: alias_rules.target_of(connection, workflow_id, alias)
        )

    async def list(self, workflow_id: str) -> dict[str, int]:
        """Every alias of a workflow with its version."""
        query = (
            select(aliases.c.alias, aliases.c.version)
            .where(aliases.c.workflow_id == workflow_id)
            .order_by(aliases.c.alias)
        )
        return await self._context.db.read(
            lambda connection: {row.alias: row.version for row in connection.execute(query)}
        )

    async def move(
        self,
        workflow_id: str,
        alias: str,
        *,
        to: int,
        actor: str,
        reason: str,
        expect: Expected = ANY,
    ) -> AliasMove:
        """Point `alias` to version `to`, if it points to `expect` now (None: nowhere yet).

        Raises `AliasConflict` where it points elsewhere, `NotFound` where there is no such version.
        """
        alias_rules.check_movable(alias)

        def work(connection: Connection) -> AliasMove:
            current = alias_rules.target_of(connection, workflow_id, alias)
            exists = connection.scalar(
                select(checkpoints.c.config_version).where(
                    checkpoints.c.workflow_id == workflow_id, checkpoints.c.config_version == to
                )
            )
            if exists is None:
                raise not_found(connection, workflow_id, to)
            if expect is not ANY and current != expect:
                raise _conflict(workflow_id, alias, current, expect)
            return self._point(connection, workflow_id, alias, current, to, actor, reason, "move")

        return await self._context.db.write(work, lock=alias_rules.lock_name(workflow_id))

    async def previous(self, workflow_id: str, alias: str) -> int | None:
        """Where `rollback` would point `alias`; None where there is nothing before."""
        return await self._context.db.read(
            lambda connection: alias_rules.before_last_move(connection, workflow_id, alias)
        )

    async def rollback(
        self,
        workflow_id: str,
        alias: str,
        *,
        actor: str,
        reason: str,
        expect: int | None = None,
    ) -> AliasMove:
        """Undo the last move of `alias`; again undoes the one before it.

        Raises `AliasConflict` where it does not point to version `expect`, if that is given.
        """
        alias_rules.check_movable(alias)

        def work(connection: Connection) -> AliasMove:
            current = alias_rules.target_of(connection, workflow_id, alias)
            if current is None:
                names = connection.scalars(
                    select(aliases.c.alias)
                    .where(aliases.c.workflow_id == workflow_id)
                    .order_by(aliases.c.alias)
                )
                raise NotFound(
                    f"workflow {workflow_id!r} has no alias {alias!r}; aliases: {listed([*names])}"
                )
            if expect is not None and current != expect:
                raise _conflict(workflow_id, alias, current, expect)
            before = alias_rules.before_last_move(connection, workflow_id, alias)
            if before is None:
                raise BadInput(
                    f"alias {alias!r} of workflow {workflow_id!r} was first set to version "
                    f"{current}: there is nothing before it to roll back to"
                )
            return self._point(
                connection, workflow_id, alias, current, before, actor, reason, "rollback"
            )

        return await self._context.db.write(work, lock=alias_rules.lock_name(workflow_id))

    async def log(
        self, workflow_id: str, alias: str | None = None, *, limit: int | None = None
    ) -> builtins.list[AliasMove]:
        """The moves of one alias, or of all, newest first."""
        query = (
            select(*[column for column in alias_log.c if column.name != "id"])
            .where(alias_log.c.workflow_id == workflow_id)
            .order_by(alias_log.c.id.desc())
            .limit(limit)
        )
        if alias is not None:
            query = query.where(alias_log.c.alias == alias)
        return await self._context.db.read(
            lambda connection: [
                AliasMove.model_validate(dict(row)) for row in connection.execute(query).mappings()
            ]
        )

    async def log_page(
        self, workflow_id: str, alias: str, *, before: int | None = None, limit: int = 100
    ) -> builtins.list[tuple[int, AliasMove]]:
        """A part of the log of an alias, newest first; each move with its place in the log."""
        query = (
            select(alias_log)
            .where(alias_log.c.workflow_id == workflow_id, alias_log.c.alias == alias)
            .order_by(alias_log.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(alias_log.c.id < before)

        def work(connection: Connection) -> builtins.list[tuple[int, AliasMove]]:
            rows = [dict(row) for row in connection.execute(query).mappings()]
            return [(row.pop("id"), AliasMove.model_validate(row)) for row in rows]

        return await self._context.db.read(work)

    def _point(
        self,
        connection: Connection,
        workflow_id: str,
        alias: str,
        current: int | None,
        to: int,
        actor: str,
        reason: str,
        kind: str,
    ) -> AliasMove:
        row = alias_rules.point(
            connection,
            workflow_id,
            alias,
            current=current,
            to=to,
            actor=clean_text(actor) or "",
            reason=clean_text(reason) or "",
            kind="rollback" if kind == "rollback" else "move",
            at=self._context.clock(),
        )
        return AliasMove.model_validate(row)


def _shown(version: object) -> str:
    return "no version" if version is None else f"version {version}"


def _conflict(workflow_id: str, alias: str, current: int | None, expect: object) -> AliasConflict:
    return AliasConflict(
        f"alias {alias!r} of workflow {workflow_id!r} points to "
        f"{_shown(current)}, not to {_shown(expect)}: look again and retry"
    )
