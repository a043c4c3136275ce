"""What operators do to a store: its figures, its health, and the removal of old runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Connection,
    Row,
    Table,
    and_,
    delete,
    exists,
    func,
    select,
    text,
)

from orcheo_agentensor.errors import StoreError
from orcheo_agentensor.storage import tables
from orcheo_agentensor.storage.engine import (
    BUSY_TIMEOUT_MS,
    Repository,
    prepare_file,
    sqlite_place,
)
from orcheo_agentensor.storage.runs import status_at
from orcheo_agentensor.storage.saved import recover_rows
from orcheo_agentensor.storage.tables import (
    Json,
    alias_log,
    aliases,
    checkpoints,
    rollouts,
    runs,
)

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

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

    async def recover(self, path: Path) -> dict[str, int]:
        """Bring back the rows that a run has saved in the file `path`; how many, by run."""
        return await self._db.write(lambda connection: recover_rows(connection, path))

    async def check(self) -> list[dict[str, Any]]:
        """What is wrong with the database, as JSON; nothing where all is well.

        Each problem has the `table`, how many rows it concerns (None where that is not known), a
        sentence, and the keys of the first of them.
        """
        return await self._db.read(lambda connection: [*_problems(connection)])

    async def prune(
        self,
        older_than: datetime,
        *,
        workflow_id: str | None = None,
        unfinished: bool = False,
        dry_run: bool = False,
        saver: BaseCheckpointSaver[Any] | None = None,
    ) -> dict[str, Any]:
        """Delete the runs that ended before `older_than`, with their versions and threads.

        Kept are versions in use: those an alias points to or was moved between by hand, and those
        they were made from. So are their proofs: the runs that made them, and the last finished
        evaluation of each on each dataset by each evaluator set. `unfinished` are runs that can
        still be resumed; one that is being worked on is never deleted. `saver` keeps the threads
        of runs. With `dry_run` nothing is deleted; gives the counts as JSON.
        """
        now = self._clock().timestamp()
        plan = await self._db.read(
            lambda connection: _plan(connection, older_than, now, workflow_id, unfinished)
        )
        counts = {"runs": 0, "versions": 0, "threads": 0, "rows": 0}
        if saver is not None:
            counts["threads"] = await _forget(saver, plan.threads, older_than, dry_run)
        for run in plan.chosen:
            work = partial(_prune, run=run, named=plan.named, now=now, dry_run=dry_run)
            # The lock of a workflow's aliases: none moves to what is being deleted.
            lock = f"workflow:{run.workflow_id}"
            made = await (self._db.read(work) if dry_run else self._db.write(work, lock=lock))
            counts = {name: count + made.get(name, 0) for name, count in counts.items()}
        told = {"older_than": older_than.isoformat(), "dry_run": dry_run, **counts}
        return {**told, "kept": {**plan.kept, "changed": len(plan.chosen) - counts["runs"]}}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The runs to delete, with the versions that aliases named when they were chosen."""

    chosen: list[Row[Any]]
    named: set[tuple[str, int]]
    threads: set[str]
    kept: dict[str, int]


def _plan(
    connection: Connection,
    older_than: datetime,
    now: float,
    workflow_id: str | None,
    unfinished: bool,
) -> _Plan:
    columns = ("run_id", "workflow_id", "mode", "status", "started_at", "ended_at", "refs")
    more = ("thread_id", "dataset_version", "evaluator_set", "lease_expires", "lease_token")
    # Newest first: of evaluations that prove the same, the first one is kept.
    query = select(*(runs.c[name] for name in (*columns, *more))).order_by(runs.c.started_at.desc())
    found = [*connection.execute(query)]
    old: list[Row[Any]] = []
    alive = 0
    for run in found:
        left = run.lease_expires or 0.0
        last = max((run.ended_at or run.started_at).timestamp(), 0 if run.ended_at else left)
        if last >= older_than.timestamp() or workflow_id not in (None, run.workflow_id):
            continue
        if left >= now or not (unfinished or run.status in _ENDED):
            alive += 1
        else:
            old.append(run)
    ids = {run.run_id for run in old}
    named = _named(connection)
    in_use = named | {_base(run) for run in found if run.run_id not in ids}
    proofs = _proofs(connection, found, in_use) | _reused(connection, ids)
    chosen = [run for run in old if run.run_id not in proofs]
    gone = {run.run_id for run in chosen}
    staying = {thread for run in found if run.run_id not in gone for thread in _threads(run)}
    return _Plan(
        chosen=chosen,
        named=named,
        threads={thread for run in chosen for thread in _threads(run)} - staying,
        kept={"proofs": len(old) - len(chosen), "unfinished": alive},
    )


def _named(connection: Connection) -> set[tuple[str, int]]:
    """The versions that aliases point to, or that people have moved them between."""
    log = alias_log.c
    queries = (
        select(aliases.c.workflow_id, aliases.c.version),
        *(
            select(log.workflow_id, version).where(log.kind != "auto", version > 0)
            for version in (log.from_version, log.to_version)
        ),
    )
    return {(row[0], row[1]) for query in queries for row in connection.execute(query)}


def _proofs(
    connection: Connection, found: Sequence[Row[Any]], in_use: Collection[tuple[str, int | None]]
) -> set[str]:
    """The runs that made versions in use, or those they were made from, and their evaluations."""
    columns = ("workflow_id", "config_version", "run_id", "parent_version")
    versions = {
        (row.workflow_id, row.config_version): row
        for row in connection.execute(select(*(checkpoints.c[name] for name in columns)))
    }
    wanted = {key for key in in_use if key in versions}
    wanted |= {(key[0], versions[key].parent_version) for key in wanted} & versions.keys()
    proofs = {versions[key].run_id for key in wanted}
    seen = set()
    for run in found:
        proved = (*_base(run), run.dataset_version, run.evaluator_set)
        if run.mode == "evaluate" and run.status == "finished" and proved not in seen:
            seen.add(proved)
            if _base(run) in wanted:
                proofs.add(run.run_id)
    return proofs


def _reused(connection: Connection, old: Collection[str]) -> set[str]:
    """The runs whose rows one that may go on reuses."""
    query = select(runs.c.run_id, runs.c.job, runs.c.refs).where(runs.c.status.not_in(_ENDED))
    return {
        reused
        for run_id, job, refs in connection.execute(query)
        if run_id not in old
        for reused in ((job.get("job") or {}).get("reuse"), refs.get("cached_from"))
        if reused
    }


def _base(run: Row[Any]) -> tuple[str, int | None]:
    return run.workflow_id, run.refs.get("base_version")


def _threads(run: Row[Any]) -> set[str]:
    """The threads of LangGraph that a run was on; one that pauses has its own, named like it."""
    graph = (run.refs.get("langgraph") or {}).get("thread_id")
    return {str(thread) for thread in (run.run_id, run.thread_id, graph) if thread}


def _prune(
    connection: Connection,
    *,
    run: Row[Any],
    named: set[tuple[str, int]],
    now: float,
    dry_run: bool,
) -> dict[str, int]:
    """Delete a run, unless it was taken up or its workflow's aliases were moved meanwhile."""
    same = (runs.c.run_id == run.run_id) & (runs.c.lease_token == run.lease_token)
    free = same & (func.coalesce(runs.c.lease_expires, 0.0) < now)
    there = connection.scalar(select(runs.c.run_id).where(free).with_for_update(read=dry_run))
    if there is None or not _named(connection) <= named:
        return {}
    made = dict.fromkeys(("versions", "rows"), 0)
    for table in (checkpoints, *_OF_A_RUN):
        ours = table.c.run_id == run.run_id
        if dry_run:
            count = connection.scalar(select(func.count()).select_from(table).where(ours)) or 0
        else:
            count = connection.execute(delete(table).where(ours)).rowcount
        made["versions" if table is checkpoints else "rows"] += count
    return {**made, "runs": 1}


async def _forget(
    saver: BaseCheckpointSaver[Any], threads: Iterable[str], older_than: datetime, dry_run: bool
) -> int:
    """Delete threads on which nothing has happened since; gives how many there were."""
    count = 0
    for thread in sorted(threads):
        found = await saver.aget_tuple({"configurable": {"thread_id": thread}})
        if found is None or datetime.fromisoformat(found.checkpoint["ts"]) >= older_than:
            continue
        count += 1
        if not dry_run:
            await saver.adelete_thread(thread)
    return count


def back_up(source: Path, to: Path) -> int:
    """Copy a SQLite database as it is at one moment, while others write to it; gives its bytes.

    The copy appears when it is complete, or not at all. Raises `StoreError`.
    """
    try:
        with tempfile.TemporaryDirectory(dir=to.parent) as folder:
            made = Path(folder) / to.name
            prepare_file(made)
            copy_database(source, made)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(to)
        return to.stat().st_size
    except OSError as error:
        raise StoreError(f"{to}: the backup cannot be written ({error.strerror})") from None


def copy_database(source: Path, to: Path) -> None:
    """Make the SQLite database `to` what `source` is, in one transaction of each."""
    prepare_file(to)
    try:
        with (
            contextlib.closing(sqlite3.connect(sqlite_place(source), uri=True)) as there,
            contextlib.closing(sqlite3.connect(to, timeout=BUSY_TIMEOUT_MS / 1000)) as here,
        ):
            bad = there.execute("PRAGMA quick_check(1)").fetchone()[0]
            if bad != "ok":
                raise StoreError(f"{source} is damaged: {bad}")
            there.backup(here)  # all pages in one step: a writer meanwhile does not matter
    except sqlite3.Error as error:
        raise StoreError(f"cannot copy {source} to {to}: {error}") from error
