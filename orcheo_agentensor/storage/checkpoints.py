"""Config checkpoints: immutable versions of a workflow, and the aliases that name them."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from orcheo_agentensor.errors import AliasConflict, BadInput, NotFound
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage.engine import Repository, first, listed
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

_AUTOMATIC = ("latest", "best")
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_ACTOR = "agentensor"
_VERSION = checkpoints.c
_RECORD = [column for column in _VERSION if column.name not in ("objective", "complete")]


class Checkpoints(Repository):
    """The repository of `ConfigCheckpoint`s."""

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
            id=self._new_id(),
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
            created_at=self._clock(),
        )

        def work(connection: Connection) -> ConfigCheckpoint:
            fence(connection, lease)
            there = first(connection, ConfigCheckpoint, _same_as(row))
            if there and there.metrics.get("n_ok") == metrics.get("n_ok"):
                return there  # and was not measured again where it had failed
            newest = connection.scalar(
                select(func.max(_VERSION.config_version)).where(_VERSION.workflow_id == workflow_id)
            )
            stored = row.model_copy(update={"config_version": (newest or 0) + 1})
            connection.execute(
                insert(checkpoints).values(
                    **dict(stored),
                    objective=_objective(metrics),
                    complete=metrics.get("complete") is not False,
                )
            )
            _follow(connection, stored, "latest", stored.config_version, "newest version")
            best = connection.scalar(_best_like(stored))
            if best is not None:
                _follow(connection, stored, "best", best, "highest complete objective")
            return stored

        return await self._db.write(work, lock=_lock(workflow_id))

    async def get(self, workflow_id: str, version: int | str) -> ConfigCheckpoint:
        """The version with this number or alias; `NotFound` lists what exists."""
        query = select(*_RECORD).where(_VERSION.workflow_id == workflow_id)
        if isinstance(version, int) or version.isdecimal():
            query = query.where(_VERSION.config_version == int(version))
        else:
            query = query.join(
                aliases,
                (aliases.c.workflow_id == _VERSION.workflow_id)
                & (aliases.c.version == _VERSION.config_version),
            ).where(aliases.c.alias == version)

        def work(connection: Connection) -> ConfigCheckpoint:
            found = first(connection, ConfigCheckpoint, query)
            if found is None:
                raise _not_found(connection, workflow_id, version)
            return found

        return await self._db.read(work)

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
            select(*_RECORD)
            .where(_VERSION.workflow_id == workflow_id)
            .order_by(_VERSION.config_version.desc())
            .limit(limit)
            .offset(offset)
        )
        if run_id is not None:
            query = query.where(_VERSION.run_id == run_id)
        if before is not None:
            query = query.where(_VERSION.config_version < before)
        return await self._all(ConfigCheckpoint, query)

    async def list_workflows(self) -> builtins.list[str]:
        """The ids of the workflows that have versions."""
        return await self._db.read(lambda connection: [*connection.scalars(_workflows())])


def _lock(workflow_id: str) -> str:
    """The lock that writers of versions and aliases of a workflow share."""
    return f"workflow:{workflow_id}"


def _workflows() -> Select[Any]:
    return select(_VERSION.workflow_id).distinct().order_by(_VERSION.workflow_id)


def _same_as(row: ConfigCheckpoint) -> Select[Any]:
    return (
        select(*_RECORD)
        .where(
            _VERSION.workflow_id == row.workflow_id,
            _VERSION.content_hash == row.content_hash,
            _VERSION.run_id.is_not_distinct_from(row.run_id),
            _VERSION.dataset_version.is_not_distinct_from(row.dataset_version),
            _VERSION.evaluator_set.is_not_distinct_from(row.evaluator_set),
        )
        .order_by(_VERSION.config_version.desc())
        .limit(1)
    )


def _best_like(newest: ConfigCheckpoint) -> Select[Any]:
    """The best complete version with the dataset and evaluators of `newest`."""
    return (
        select(_VERSION.config_version)
        .where(
            _VERSION.workflow_id == newest.workflow_id,
            _VERSION.dataset_version.is_not_distinct_from(newest.dataset_version),
            _VERSION.evaluator_set.is_not_distinct_from(newest.evaluator_set),
            _VERSION.complete.is_(True),
            _VERSION.objective.is_not(None),
        )
        .order_by(_VERSION.objective.desc(), _VERSION.config_version)
        .limit(1)
    )


def _follow(
    connection: Connection, newest: ConfigCheckpoint, alias: str, to: int, reason: str
) -> None:
    """Let an automatic alias follow a version that was just stored."""
    current = _aliases(connection, newest.workflow_id).get(alias)
    if current != to:
        move = AliasMove(
            workflow_id=newest.workflow_id,
            alias=alias,
            from_version=current,
            to_version=to,
            actor=_ACTOR,
            reason=reason,
            kind="auto",
            created_at=newest.created_at,
        )
        _store_move(connection, move)


def _objective(metrics: dict[str, Any]) -> float | None:
    value = metrics.get("objective")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


class Aliases(Repository):
    """The repository of aliases. `latest` and `best` are kept by `checkpoints.save`."""

    async def resolve(self, workflow_id: str, alias: str) -> int | None:
        """The version that `alias` points to; None where it does not exist."""
        return (await self.list(workflow_id)).get(alias)

    async def list(self, workflow_id: str) -> dict[str, int]:
        """Every alias of a workflow with its version."""
        return await self._db.read(lambda connection: _aliases(connection, workflow_id))

    async def head(self, workflow_id: str, alias: str) -> tuple[int | None, int]:
        """Where `alias` points (None: nowhere), and the place of its last move in the log.

        A later `move` or `rollback` that is given this place as `head` is refused once the alias
        was moved at all, even to where it points now.
        """

        def work(connection: Connection) -> tuple[int | None, int]:
            current = _aliases(connection, workflow_id).get(alias)
            return current, next((place for place, _ in _last(connection, workflow_id, alias)), 0)

        return await self._db.read(work)

    async def move(
        self,
        workflow_id: str,
        alias: str,
        *,
        to: int,
        actor: str,
        reason: str,
        expect: Expected = ANY,
        head: int | None = None,
        lease: Lease | None = None,
    ) -> AliasMove:
        """Point `alias` to version `to`, if it points to `expect` now (None: nowhere yet).

        With `head`, only if nobody has moved it since `head()`; with `lease`, only while that lease
        holds. Raises `AliasConflict` where it points elsewhere or was moved, `LeaseLost`, and
        `NotFound` where there is no such version.
        """

        def target(connection: Connection, current: int | None) -> int:
            exists = connection.scalar(
                select(_VERSION.config_version).where(
                    _VERSION.workflow_id == workflow_id, _VERSION.config_version == to
                )
            )
            if exists is None:
                raise _not_found(connection, workflow_id, to)
            if expect is not ANY and current != expect:
                raise _conflict(workflow_id, alias, current, expect)
            return to

        return await self._point(workflow_id, alias, target, actor, reason, "move", head, lease)

    async def previous(self, workflow_id: str, alias: str) -> int | None:
        """Where `alias` pointed before its last move that no rollback has undone; None: nowhere."""
        return await self._db.read(
            lambda connection: (_undone_moves(connection, workflow_id, alias) or [None])[-1]
        )

    async def rollback(
        self,
        workflow_id: str,
        alias: str,
        *,
        actor: str,
        reason: str,
        expect: int | None = None,
        head: int | None = None,
        to_baseline: bool = True,
    ) -> AliasMove:
        """Undo the last move of `alias`; again undoes the one before it.

        The first move is undone `to_baseline`, the version that the training of the current one
        began with; without one, or with False, the alias is taken away. Raises `AliasConflict`
        where it does not point to version `expect`, or was moved since `head`, as `move` does.
        """

        def target(connection: Connection, current: int | None) -> int | None:
            if current is None:
                names = listed([*_aliases(connection, workflow_id)])
                raise NotFound(f"workflow {workflow_id!r} has no alias {alias!r}; aliases: {names}")
            if expect is not None and current != expect:
                raise _conflict(workflow_id, alias, current, expect)
            moves = _undone_moves(connection, workflow_id, alias)
            if not moves:
                raise BadInput(
                    f"alias {alias!r} of workflow {workflow_id!r} was set back to version "
                    f"{current}: there is nothing before it to roll back to"
                )
            if moves[-1] is None and to_baseline:
                return _baseline_of(connection, workflow_id, current)
            return moves[-1]

        return await self._point(workflow_id, alias, target, actor, reason, "rollback", head)

    async def _point(
        self,
        workflow_id: str,
        alias: str,
        target: Callable[[Connection, int | None], int | None],
        actor: str,
        reason: str,
        kind: AliasMoveKind,
        head: int | None = None,
        lease: Lease | None = None,
    ) -> AliasMove:
        """Point an alias to what `target` gives for where it points now; None takes it away."""
        _check_movable(alias)
        told: dict[str, Any] = {"actor": clean_text(actor), "reason": clean_text(reason)}
        told |= {"kind": kind, "created_at": self._clock()}

        def work(connection: Connection) -> AliasMove:
            fence(connection, lease)
            current = _aliases(connection, workflow_id).get(alias)
            for place, last in _last(connection, workflow_id, alias):
                if all(getattr(last, key) == value for key, value in told.items()):
                    return last  # its connection was lost while it committed
                if head is not None and place != head:
                    raise _moved(last)
            move = AliasMove.model_validate(
                {
                    **told,
                    "workflow_id": workflow_id,
                    "alias": alias,
                    "from_version": current,
                    "to_version": target(connection, current),
                }
            )
            return _store_move(connection, move)

        return await self._db.write(work, lock=_lock(workflow_id))

    async def log(
        self, workflow_id: str, alias: str | None = None, *, limit: int | None = None
    ) -> builtins.list[AliasMove]:
        """The moves of one alias, or of all, newest first."""
        return [move for _, move in await self.log_page(workflow_id, alias, limit=limit)]

    async def log_page(
        self,
        workflow_id: str,
        alias: str | None = None,
        *,
        before: int | None = None,
        limit: int | None = 100,
    ) -> builtins.list[tuple[int, AliasMove]]:
        """A part of the log, newest first; each move with its place in the log."""
        query = (
            select(alias_log)
            .where(alias_log.c.workflow_id == workflow_id)
            .order_by(alias_log.c.id.desc())
            .limit(limit)
        )
        if alias is not None:
            query = query.where(alias_log.c.alias == alias)
        if before is not None:
            query = query.where(alias_log.c.id < before)

        return await self._db.read(lambda connection: _moves(connection, query))


def _moves(connection: Connection, query: Select[Any]) -> builtins.list[tuple[int, AliasMove]]:
    rows = [dict(row) for row in connection.execute(query).mappings()]
    return [(row.pop("id"), AliasMove.model_validate(row)) for row in rows]


def _last(
    connection: Connection, workflow_id: str, alias: str
) -> builtins.list[tuple[int, AliasMove]]:
    """The last move of an alias with its place in the log, if there is one."""
    query = (
        select(alias_log)
        .where(alias_log.c.workflow_id == workflow_id, alias_log.c.alias == alias)
        .order_by(alias_log.c.id.desc())
        .limit(1)
    )
    return _moves(connection, query)


def _moved(last: AliasMove) -> AliasConflict:
    to = "no version" if last.to_version is None else f"version {last.to_version}"
    return AliasConflict(
        f"alias {last.alias!r} of workflow {last.workflow_id!r} was moved to {to} by "
        f"{last.actor} meanwhile: look again and retry"
    )


def _check_movable(alias: str) -> None:
    """Raise `BadInput` unless `alias` is a name that people may move."""
    if alias in _AUTOMATIC:
        raise BadInput(field="alias", value=alias, rule="moves by itself and not by hand")
    if not _NAME.fullmatch(alias) or alias.isdecimal():
        raise BadInput(
            field="alias",
            value=alias,
            rule="must be 1 to 64 of a-z, 0-9, '_' and '-', and not a number",
        )


def _aliases(connection: Connection, workflow_id: str) -> dict[str, int]:
    query = (
        select(aliases.c.alias, aliases.c.version)
        .where(aliases.c.workflow_id == workflow_id)
        .order_by(aliases.c.alias)
    )
    return {row.alias: row.version for row in connection.execute(query)}


def _store_move(connection: Connection, move: AliasMove) -> AliasMove:
    """Write the alias and a row of its log."""
    if move.from_version is None:
        connection.execute(
            insert(aliases).values(
                workflow_id=move.workflow_id,
                alias=move.alias,
                version=move.to_version,
                updated_at=move.created_at,
            )
        )
    else:
        this = (aliases.c.workflow_id == move.workflow_id, aliases.c.alias == move.alias)
        change = update(aliases).values(version=move.to_version, updated_at=move.created_at)
        connection.execute((delete(aliases) if move.to_version is None else change).where(*this))
    row = {**dict(move), "to_version": move.to_version or 0}  # the column takes no NULL
    connection.execute(insert(alias_log).values(**row))
    return move


def _baseline_of(connection: Connection, workflow_id: str, version: int) -> int | None:
    """The version that the training which made `version` began with, if it is another one."""
    run = select(_VERSION.run_id).where(
        _VERSION.workflow_id == workflow_id, _VERSION.config_version == version
    )
    query = select(func.min(_VERSION.config_version)).where(
        _VERSION.workflow_id == workflow_id, _VERSION.run_id == run.scalar_subquery()
    )
    found = connection.scalar(query)
    return None if found == version else found


def _undone_moves(connection: Connection, workflow_id: str, alias: str) -> list[int | None]:
    """Where `alias` pointed before each of the moves that no rollback has undone yet.

    A move to the version that the alias points to already is logged, but cannot be undone.
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
    return came_from


def _not_found(connection: Connection, workflow_id: str, version: int | str) -> NotFound:
    """An error that says which versions and aliases there are."""
    versions = connection.scalars(
        select(_VERSION.config_version)
        .where(_VERSION.workflow_id == workflow_id)
        .order_by(_VERSION.config_version.desc())
    ).all()
    if not versions:
        return NotFound(
            f"workflow {workflow_id!r} has no versions; workflows with versions: "
            f"{listed([*connection.scalars(_workflows())])}"
        )
    what = f"version {version}" if isinstance(version, int) else f"version or alias {version!r}"
    return NotFound(
        f"workflow {workflow_id!r} has no {what}; versions: "
        f"{listed([str(number) for number in versions])}; "
        f"aliases: {listed([*_aliases(connection, workflow_id)])}"
    )


def _conflict(workflow_id: str, alias: str, current: int | None, expect: object) -> AliasConflict:
    points_to, wanted = (
        "no version" if version is None else f"version {version}" for version in (current, expect)
    )
    return AliasConflict(
        f"alias {alias!r} of workflow {workflow_id!r} points to "
        f"{points_to}, not to {wanted}: look again and retry"
    )
