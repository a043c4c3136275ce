"""What was paid for and could not be written: kept in a file, and brought back from there."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Connection, Table, create_engine, select

from orcheo_agentensor.errors import BadInput, NotFound, StoreError
from orcheo_agentensor.storage.rows import insert_rows
from orcheo_agentensor.storage.tables import calls, metadata, rollouts, runs, scores

if TYPE_CHECKING:
    from orcheo_agentensor.storage.records import Lease

_PAID = [rollouts, scores, calls]
Rows = Sequence[tuple[Table, list[tuple[Any, ...]]]]


def save_rows(rows: Rows, lease: Lease, beside: Path | None, *, whole: Any = None) -> Path:
    """Write `rows` to a SQLite file beside the store's own, or where there is room, and return it.

    The file is a copy of the `whole` database, or holds the rows alone. Blocks.
    """
    folders = [Path.cwd(), Path(tempfile.gettempdir())]
    stem = "agentensor"
    if beside is not None:
        folders.insert(0, beside.absolute().parent)
        stem = beside.stem
    trouble: Exception | None = None
    for folder in folders:
        path = folder / f"{stem}.saved-{lease.run_id}-{lease.token}.db"
        known = path.exists()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            if whole is None:
                engine = create_engine(f"sqlite:///{path}")
                metadata.create_all(engine, tables=_PAID)
                engine.dispose()
            with contextlib.closing(sqlite3.connect(path)) as copy:
                if whole is not None:
                    whole.backup(copy)
                for table, some in rows:
                    insert_rows(copy.cursor(), table, some, postgres=False)
                copy.commit()
        except Exception as error:  # noqa: BLE001 - another folder may have room
            trouble = error
            if not known:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            continue
        return path
    raise StoreError(f"what was paid for could not be saved: {trouble}")


def recover_rows(connection: Connection, path: Path) -> dict[str, int]:
    """Bring the rows of a saved file back; returns how many there are of each run.

    Rows that are there stay as they are. Raises `BadInput` for another file, and `NotFound` where
    the store lacks the run.
    """
    postgres = connection.dialect.name == "postgresql"
    found: dict[str, int] = {}
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as saved:
            tables = [(table, _rows_of(saved, table)) for table in _PAID]
    except sqlite3.Error as error:
        raise BadInput(f"{path} holds no rows that were saved: {error}") from None
    for _, rows in tables:
        for row in rows:
            found[row[0]] = found.get(row[0], 0) + 1
    there = {*connection.scalars(select(runs.c.run_id).where(runs.c.run_id.in_(found)))}
    if missing := sorted(found.keys() - there):
        raise NotFound(f"the store has no run {missing[0]!r}, of which {path} holds rows")
    cursor = connection.connection.cursor()
    try:
        for table, rows in tables:
            insert_rows(cursor, table, rows, postgres=postgres)
    finally:
        cursor.close()
    return found


def _rows_of(saved: sqlite3.Connection, table: Table) -> list[tuple[Any, ...]]:
    flags = [isinstance(column.type, Boolean) for column in table.c]
    rows = saved.execute(f"SELECT {', '.join(table.c.keys())} FROM {table.name}")
    return [
        tuple(
            bool(value) if flag and value is not None else value
            for flag, value in zip(flags, row, strict=True)
        )
        for row in rows
    ]
