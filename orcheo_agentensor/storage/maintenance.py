"""What operators do to a store: its figures, its health, and the removal of old runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Table,
    and_,
    exists,
    func,
    select,
    text,
)

from orcheo_agentensor.storage import tables
from orcheo_agentensor.storage.engine import Repository
from orcheo_agentensor.storage.runs import status_at
from orcheo_agentensor.storage.tables import (
    Json,
    aliases,
    checkpoints,
    rollouts,
    runs,
)

_OF_A_RUN = [
    tables.scores,
    rollouts,
    tables.calls,
    tables.candidates,
    tables.optimizer_state,
    runs,
]
"""What is deleted with a run, its versions aside; the record comes last."""

_DATASET = ("dataset_id", "dataset_version"), ("dataset_id", "version")
_WITH_METADATA = (
    (*_DATASET[0], "dataset_metadata_version"),
    (*_DATASET[1], "metadata_version"),
)
_REFERENCES: list[tuple[Table, Sequence[str], Table, Sequence[str]]] = [
    *((table, ["run_id"], runs, ["run_id"]) for table in _OF_A_RUN[:-1]),
    (tables.scores, ["run_id", "position"], rollouts, ["run_id", "position"]),
    (
        aliases,
        ["workflow_id", "version"],
        checkpoints,
        ["workflow_id", "config_version"],
    ),
    (runs, _DATASET[0], tables.datasets, _DATASET[1]),
    (runs, _WITH_METADATA[0], tables.dataset_metadata, _WITH_METADATA[1]),
    (tables.cases, _DATASET[1], tables.datasets, _DATASET[1]),
    (tables.dataset_metadata, _DATASET[1], tables.datasets, _DATASET[1]),
    (tables.workflow_defaults, ["workflow_id"], tables.workflows, ["workflow_id"]),
]
"""Columns that name a row of another table; not all of them are foreign keys."""

_ENDED = ("finished", "failed")
_SHOWN = 5


class Maintenance(Repository):
    """The figures and the health of a whole store, and the removal of old runs."""

    async def stats(self) -> dict[str, Any]:
        """Rows and bytes of each table, and the runs by status and by workflow, as JSON.

        Bytes include those of indexes; they are None where SQLite was built without `dbstat`.
        """
        return await self._db.read(lambda connection: _stats(connection, self._clock()))

    async def check(self) -> list[dict[str, Any]]:
        """What is wrong with the database, as JSON; nothing where all is well.

        Each problem has the `table`, how many rows it concerns (None where that is not known), a
        sentence, and the keys of the first of them.
        """
        return await self._db.read(lambda connection: [*_problems(connection)])


def _stats(connection: Connection, now: datetime) -> dict[str, Any]:
    sizes = _sizes(connection)
    shown = status_at(now).label("status")
    by_status: list[Any] = [*connection.execute(select(shown, func.count()).group_by(shown))]
    span = (func.min(runs.c.started_at), func.max(runs.c.started_at))
    oldest, newest = connection.execute(select(*span)).one()
    versions: dict[str, int] = dict(
        connection.execute(
            select(checkpoints.c.workflow_id, func.count()).group_by(checkpoints.c.workflow_id)
        ).all()
    )
    cases: dict[str, int] = dict(
        connection.execute(
            select(runs.c.workflow_id, func.count())
            .join(rollouts, rollouts.c.run_id == runs.c.run_id)
            .group_by(runs.c.workflow_id)
        ).all()
    )
    by_workflow = {
        row[0]: row[1:]
        for row in connection.execute(
            select(runs.c.workflow_id, func.count(), *span).group_by(runs.c.workflow_id)
        )
    }
    return {
        "tables": [
            {
                "table": table.name,
                "rows": connection.scalar(select(func.count()).select_from(table)),
                "bytes": sizes.get(table.name),
            }
            for table in tables.metadata.sorted_tables
        ],
        "runs": {
            "by_status": dict(sorted(by_status)),
            "oldest": oldest and oldest.isoformat(),
            "newest": newest and newest.isoformat(),
        },
        "workflows": [
            {
                "workflow_id": name,
                "runs": count,
                "rollouts": cases.get(name, 0),
                "versions": versions.get(name, 0),
                "oldest": first and first.isoformat(),
                "newest": last and last.isoformat(),
            }
            for name in sorted({*by_workflow, *versions})
            for count, first, last in [by_workflow.get(name, (0, None, None))]
        ],
    }


def _sizes(connection: Connection) -> dict[str, int]:
    if connection.dialect.name == "postgresql":
        query = text(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
            "WHERE relkind = 'r' AND pg_table_is_visible(oid)"
        )
        return {name: int(size) for name, size in connection.execute(query)}
    known = "SELECT count(*) FROM pragma_module_list WHERE name = 'dbstat'"
    if not connection.exec_driver_sql(known).scalar():
        return {}
    query = text(
        "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) GROUP BY tbl_name"
    )
    return {name: int(size) for name, size in connection.execute(query)}


def _problems(connection: Connection) -> Iterator[dict[str, Any]]:
    if connection.dialect.name == "postgresql":
        yield from _damage_in_postgres(connection)
    else:
        for (found,) in connection.exec_driver_sql("PRAGMA integrity_check(20)"):
            if found != "ok":
                yield _problem(None, None, f"the file is damaged: {found}")
        for table in tables.metadata.sorted_tables:
            for column in table.columns:
                if isinstance(column.type, Json):
                    broken = column.is_not(None) & (func.json_valid(column) == 0)
                    told = f"{column.name} does not hold JSON"
                    yield from _rows(connection, table, broken, told)
    for table, names, other, others in _REFERENCES:
        pairs = [(table.c[name], other.c[key]) for name, key in zip(names, others, strict=True)]
        there = exists().where(*(name == key for name, key in pairs))
        named = and_(*(name.is_not(None) for name, _ in pairs))
        told = f"no row of {other.name} has their {', '.join(names)}"
        yield from _rows(connection, table, named & ~there, told)


def _damage_in_postgres(connection: Connection) -> Iterator[dict[str, Any]]:
    """Every value is read: a damaged page or a missing part of a large value is an error then."""
    invalid = text(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE NOT indisvalid AND relname LIKE '%agentensor%'"
    )
    for (name,) in connection.execute(invalid):
        yield _problem(None, None, f"the index {name} is not valid: REINDEX INDEX {name}")
    unreadable = text(
        "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()"
    )
    if failures := connection.scalar(unreadable):
        yield _problem(None, int(failures), "pages do not match their checksums")
    for table in tables.metadata.sorted_tables:
        connection.execute(text(f"SELECT sum(length(t::text)) FROM {table.name} AS t"))


def _rows(connection: Connection, table: Table, wrong: Any, told: str) -> Iterator[dict[str, Any]]:
    count = connection.scalar(select(func.count()).select_from(table).where(wrong))
    if count:
        key = [*table.primary_key.columns]
        found = connection.execute(select(*key).where(wrong).order_by(*key).limit(_SHOWN))
        yield _problem(table.name, count, told, [dict(row) for row in found.mappings()])


def _problem(
    table: str | None, rows: int | None, told: str, keys: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    return {"table": table, "rows": rows, "problem": told, "first": [*keys]}
