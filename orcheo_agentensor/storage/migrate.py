"""Bringing a database to the schema of this release, and back.

A fresh database gets the current tables at once. An older one is left alone until somebody asks
for `upgrade`, because that may take long and cannot be shared with processes of the old release.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, inspect, text

from orcheo_agentensor.errors import StoreError, StoreOutdated, StoreTooNew
from orcheo_agentensor.storage.tables import VERSION_TABLE, metadata

HEAD = "0001"
"""The newest revision; revisions are numbered in order."""


def ensure(engine: Engine) -> None:
    """Create the tables in a fresh database; refuse one of another revision."""
    with engine.connect() as connection:
        found = revision_of(connection)
    if found is None:
        _exclusively(engine, _create)
        return
    check_revision(found)


def check_revision(found: str) -> None:
    """Raise unless `found` is the revision that this release works with."""
    if found == HEAD:
        return
    if not found.isdigit():
        raise StoreError(f"the database has the unknown schema revision {found!r}")
    if int(found) > int(HEAD):
        raise StoreTooNew(
            f"the database has schema revision {found}, this release knows {HEAD}: "
            "upgrade orcheo-agentensor"
        )
    raise StoreOutdated(
        f"the database has schema revision {found}, this release needs {HEAD}: "
        "run: agentensor db upgrade"
    )


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema; None for a fresh database."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def current(engine: Engine) -> str | None:
    """The revision of the schema; None for a fresh database."""
    with engine.connect() as connection:
        return revision_of(connection)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to `revision`; a newer database is refused."""
    found = current(engine)
    if found is not None and found.isdigit() and int(found) > int(HEAD):
        check_revision(found)
    _exclusively(engine, lambda connection: _alembic(connection, "upgrade", revision))


def downgrade(engine: Engine, revision: str) -> None:
    """Run the migrations down to `revision`; `base` removes every table."""
    _exclusively(engine, lambda connection: _alembic(connection, "downgrade", revision))


def _create(connection: Connection) -> None:
    found = revision_of(connection)
    if found is not None:  # another process was faster
        check_revision(found)
        return
    metadata.create_all(connection, checkfirst=False)
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, "
            f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(
        text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:head)"), {"head": HEAD}
    )


def _exclusively(engine: Engine, work: Callable[[Connection], None]) -> None:
    """Run `work` in one write transaction, one process at a time."""
    from orcheo_agentensor.storage.engine import begin_write, lock_key

    with engine.connect() as connection:
        begin_write(connection)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key("schema")}
                )
            work(connection)


def _alembic(connection: Connection, direction: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "orcheo_agentensor.storage:migrations")
    config.attributes["connection"] = connection
    try:
        run = command.upgrade if direction == "upgrade" else command.downgrade
        run(config, revision)
    except CommandError as error:
        raise StoreError(f"cannot {direction} the schema to {revision!r}: {error}") from error
