"""How aliases move inside a transaction: by hand, back, and the two that move by themselves."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.storage.records import AliasMoveKind, ConfigCheckpoint
from orcheo_agentensor.storage.tables import alias_log, aliases, checkpoints

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
