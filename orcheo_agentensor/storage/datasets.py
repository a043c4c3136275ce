"""Dataset versions with their cases, for runs that resume on the data they started with."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, exists, insert, select, tuple_

from orcheo_agentensor.errors import NotFound
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage.engine import Repository, first, listed
from orcheo_agentensor.storage.records import DatasetRecord
from orcheo_agentensor.storage.rows import insert_rows
from orcheo_agentensor.storage.runs import is_others
from orcheo_agentensor.storage.tables import cases as _cases
from orcheo_agentensor.storage.tables import dataset_metadata, datasets, encode, runs

_AT_ONCE = 1_024
"""Cases that are written together."""
_CHUNK = 10_000
"""Most ids in one statement; SQLite takes 32,766."""


class Datasets(Repository):
    """The repository of dataset versions."""

    async def save(
        self,
        dataset_id: str,
        version: str,
        *,
        metadata: dict[str, Any],
        counts: dict[str, Any],
        cases: Sequence[Any],
        to_json: Callable[[Any], dict[str, Any]] = dict,
    ) -> DatasetRecord:
        """Store a dataset version with its cases, and metadata, once.

        `to_json` gives the JSON of a case, with its `id`, when the case is written: again where the
        transaction is made again, and never where the version is there already.
        """
        record = DatasetRecord(
            dataset_id=dataset_id,
            version=version,
            metadata_version=content_hash(metadata),
            metadata=metadata,
            counts=counts,
            created_at=self._clock(),
        )

        def work(connection: Connection) -> DatasetRecord:
            one = _one(dataset_id, version, record.metadata_version)
            if there := first(connection, DatasetRecord, one):
                return there
            values = dict(record)
            described = {one.name: values[one.name] for one in dataset_metadata.columns}
            if connection.execute(_one(dataset_id, version)).first() is not None:
                connection.execute(insert(dataset_metadata).values(**described))
                return record
            found = {one.name: values[one.name] for one in datasets.columns}
            connection.execute(insert(datasets).values(**found))
            connection.execute(insert(dataset_metadata).values(**described))
            # In the order of the table's columns, by the driver itself: there may be very many.
            rows = (
                (
                    dataset_id,
                    version,
                    place,
                    str(case["id"]),
                    case.get("split"),
                    encode(case, checked=True),
                )
                for place, case in enumerate(map(to_json, cases))
            )
            cursor = connection.connection.cursor()
            while some := [*islice(rows, _AT_ONCE)]:  # so that few texts are in memory
                insert_rows(cursor, _cases, some, postgres=self._db.postgres)
            return record

        return await self._db.write(work, lock=f"dataset:{dataset_id}:{version}")

    async def load(
        self,
        dataset_id: str,
        version: str | None = None,
        metadata_version: str | None = None,
        *,
        seen_by: str | None = None,
    ) -> tuple[dict[str, Any], builtins.list[dict[str, Any]]]:
        """Metadata and cases, in order, of a version; as `get` finds it."""

        def work(connection: Connection) -> tuple[dict[str, Any], builtins.list[dict[str, Any]]]:
            found = _found(connection, dataset_id, version, metadata_version, seen_by)
            rows = connection.scalars(
                select(_cases.c.content)
                .where(_cases.c.dataset_id == dataset_id, _cases.c.version == found.version)
                .order_by(_cases.c.position)
            )
            return found.metadata, [*rows]

        return await self._db.read(work)

    async def cases(
        self, dataset_id: str, version: str, case_ids: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """These cases of a version, by their ids."""
        wanted = [*case_ids]

        def work(connection: Connection) -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for start in range(0, len(wanted), _CHUNK):
                query = select(_cases.c.case_id, _cases.c.content).where(
                    _cases.c.dataset_id == dataset_id,
                    _cases.c.version == version,
                    _cases.c.case_id.in_(wanted[start : start + _CHUNK]),
                )
                found |= {row.case_id: row.content for row in connection.execute(query)}
            return found

        return await self._db.read(work)

    async def get(
        self,
        dataset_id: str,
        version: str | None = None,
        metadata_version: str | None = None,
        *,
        seen_by: str | None = None,
    ) -> DatasetRecord:
        """A version without its cases; where one is left out, the newest.

        `seen_by` looks among the datasets of runs that this identity may see.
        """
        return await self._db.read(
            lambda c: _found(c, dataset_id, version, metadata_version, seen_by)
        )

    async def list(
        self,
        dataset_id: str | None = None,
        *,
        seen_by: str | None = None,
        after: tuple[datetime, str, str, str] | None = None,
        limit: int | None = None,
    ) -> builtins.list[DatasetRecord]:
        """Dataset versions with each of their metadata, without their cases, newest first.

        `seen_by` keeps the datasets of runs that this identity may see. `after` is the time of
        the last record of the page before, its id and its two versions.
        """
        table = dataset_metadata.c
        query = _newest_first(seen_by).limit(limit)
        if dataset_id is not None:
            query = query.where(table.dataset_id == dataset_id)
        if after is not None:
            at, *last = after
            later = tuple_(table.dataset_id, table.version, table.metadata_version) > tuple(last)
            query = query.where((table.created_at < at) | ((table.created_at == at) & later))
        return await self._all(DatasetRecord, query)


def _newest_first(seen_by: str | None = None) -> Select[Any]:
    table = dataset_metadata.c
    query = (
        select(*table, datasets.c.counts)
        .join_from(datasets, dataset_metadata)
        .order_by(table.created_at.desc(), table.dataset_id, table.version, table.metadata_version)
    )
    if seen_by is None:
        return query
    used = exists().where(
        runs.c.dataset_id == table.dataset_id,
        runs.c.dataset_version == table.version,
        runs.c.dataset_metadata_version == table.metadata_version,
        ~is_others(seen_by),
    )
    return query.where(used)


def _one(
    dataset_id: str,
    version: str | None,
    metadata_version: str | None = None,
    seen_by: str | None = None,
) -> Select[Any]:
    table = dataset_metadata.c
    query = _newest_first(seen_by).where(table.dataset_id == dataset_id)
    if version is not None:
        query = query.where(table.version == version)
    if metadata_version is not None:
        query = query.where(table.metadata_version == metadata_version)
    return query.limit(1)


def _found(
    connection: Connection,
    dataset_id: str,
    version: str | None,
    metadata_version: str | None,
    seen_by: str | None,
) -> DatasetRecord:
    if found := first(
        connection, DatasetRecord, _one(dataset_id, version, metadata_version, seen_by)
    ):
        return found
    if seen_by is not None:
        raise NotFound(f"there is no version {version!r} of a dataset {dataset_id!r}")
    if metadata_version is not None and (
        there := first(connection, DatasetRecord, _one(dataset_id, version))
    ):
        known = connection.scalars(
            select(dataset_metadata.c.metadata_version)
            .where(
                dataset_metadata.c.dataset_id == dataset_id,
                dataset_metadata.c.version == there.version,
            )
            .order_by(dataset_metadata.c.created_at.desc())
        ).all()
        raise NotFound(
            f"version {there.version!r} of dataset {dataset_id!r} has no metadata "
            f"{metadata_version!r}; versions of its metadata: {listed([*known])}"
        )
    versions = connection.scalars(
        select(datasets.c.version)
        .where(datasets.c.dataset_id == dataset_id)
        .order_by(datasets.c.created_at.desc())
    ).all()
    if versions:
        raise NotFound(
            f"dataset {dataset_id!r} has no version {version!r}; versions: {listed([*versions])}"
        )
    names = connection.scalars(
        select(datasets.c.dataset_id).distinct().order_by(datasets.c.dataset_id)
    )
    raise NotFound(f"there is no dataset {dataset_id!r}; datasets: {listed([*names])}")
