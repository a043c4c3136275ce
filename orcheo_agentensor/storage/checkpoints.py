"""Config checkpoints: immutable versions of a workflow, and the aliases that name them."""

from __future__ import annotations

import builtins
import re
from datetime import datetime
from math import isfinite
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from orcheo_agentensor.errors import AliasConflict, BadInput, NotFound
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage.engine import Context, listed
from orcheo_agentensor.storage.lease import fence
from orcheo_agentensor.storage.records import (
    ANY,
    AliasMove,
    AliasMoveKind,
    ConfigCheckpoint,
    Expected,
    Lease,
)
from orcheo_agentensor.storage.tables import alias_log, aliases, checkpoints, clean_text

AUTOMATIC = ("latest", "best")
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_ACTOR = "agentensor"


def lock_name(workflow_id: str) -> str:
    """The lock that writers of versions and aliases of a workflow share."""
    return f"workflow:{workflow_id}"


def check_movable(alias: str) -> None:
    """Raise `BadInput` unless `alias` is a name that people may move."""
    if alias in AUTOMATIC:
        raise BadInput(field="alias", value=alias, rule="moves by itself and not by hand")
    if not _NAME.fullmatch(alias) or alias.isdecimal():
        raise BadInput(
            field="alias",
            value=alias,
            rule="must be 1 to 64 of a-z, 0-9, '_' and '-', and not a number",
        )


def target_of(connection: Connection, workflow_id: str, alias: str) -> int | None:
    """The version an alias points to."""
    return connection.scalar(
        select(aliases.c.version).where(
            aliases.c.workflow_id == workflow_id, aliases.c.alias == alias
        )
    )


def point(
    connection: Connection,
    workflow_id: str,
    alias: str,
    *,
    current: int | None,
    to: int,
    actor: str,
    reason: str,
    kind: AliasMoveKind,
    at: datetime,
) -> dict[str, Any]:
    """Write the alias and its audit row; gives the audit row."""
    if current is None:
        connection.execute(
            insert(aliases).values(workflow_id=workflow_id, alias=alias, version=to, updated_at=at)
        )
    else:
        connection.execute(
            update(aliases)
            .where(aliases.c.workflow_id == workflow_id, aliases.c.alias == alias)
            .values(version=to, updated_at=at)
        )
    row = {
        "workflow_id": workflow_id,
        "alias": alias,
        "from_version": current,
        "to_version": to,
        "actor": actor,
        "reason": reason,
        "kind": kind,
        "created_at": at,
    }
    connection.execute(insert(alias_log).values(**row))
    return row


def before_last_move(connection: Connection, workflow_id: str, alias: str) -> int | None:
    """Where `alias` pointed before the last move that no rollback has undone yet.

    To point it to where it points already is logged, but there is nothing in it to undo.
    """
    came_from: list[int | None] = []
    rows = connection.execute(
        select(alias_log.c.kind, alias_log.c.from_version)
        .where(alias_log.c.workflow_id == workflow_id, alias_log.c.alias == alias)
        .where(alias_log.c.from_version.is_distinct_from(alias_log.c.to_version))
        .order_by(alias_log.c.id)
    )
    for kind, from_version in rows:
        if kind == "rollback":
            came_from.pop()
        else:
            came_from.append(from_version)
    return came_from[-1] if came_from else None


def follow(connection: Connection, newest: ConfigCheckpoint) -> None:
    """Let `latest` and `best` follow a version that was just stored."""
    _follow(connection, newest, "latest", newest.config_version, "newest version")
    best = _best(connection, newest)
    if best is not None:
        _follow(connection, newest, "best", best, "highest complete objective")


def _follow(
    connection: Connection, newest: ConfigCheckpoint, alias: str, to: int, reason: str
) -> None:
    current = target_of(connection, newest.workflow_id, alias)
    if current == to:
        return
    point(
        connection,
        newest.workflow_id,
        alias,
        current=current,
        to=to,
        actor=_ACTOR,
        reason=reason,
        kind="auto",
        at=newest.created_at,
    )


def _best(connection: Connection, newest: ConfigCheckpoint) -> int | None:
    """The best complete version measured as the newest one was; None leaves `best` as it is."""
    table = checkpoints.c
    return connection.scalar(
        select(table.config_version)
        .where(
            table.workflow_id == newest.workflow_id,
            table.dataset_version.is_not_distinct_from(newest.dataset_version),
            table.evaluator_set.is_not_distinct_from(newest.evaluator_set),
            table.complete.is_(True),
            table.objective.is_not(None),
        )
        .order_by(table.objective.desc(), table.config_version)
        .limit(1)
    )


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
            follow(connection, stored)
            return stored

        return await self._context.db.write(work, lock=lock_name(workflow_id))

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


class Aliases:
    """The repository of aliases. `latest` and `best` are kept by `checkpoints.save`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def resolve(self, workflow_id: str, alias: str) -> int | None:
        """The version that `alias` points to; None where it does not exist."""
        return await self._context.db.read(
            lambda connection: target_of(connection, workflow_id, alias)
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
        check_movable(alias)

        def work(connection: Connection) -> AliasMove:
            current = target_of(connection, workflow_id, alias)
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

        return await self._context.db.write(work, lock=lock_name(workflow_id))

    async def previous(self, workflow_id: str, alias: str) -> int | None:
        """Where `rollback` would point `alias`; None where there is nothing before."""
        return await self._context.db.read(
            lambda connection: before_last_move(connection, workflow_id, alias)
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
        check_movable(alias)

        def work(connection: Connection) -> AliasMove:
            current = target_of(connection, workflow_id, alias)
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
            before = before_last_move(connection, workflow_id, alias)
            if before is None:
                raise BadInput(
                    f"alias {alias!r} of workflow {workflow_id!r} was first set to version "
                    f"{current}: there is nothing before it to roll back to"
                )
            return self._point(
                connection, workflow_id, alias, current, before, actor, reason, "rollback"
            )

        return await self._context.db.write(work, lock=lock_name(workflow_id))

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
        row = point(
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
