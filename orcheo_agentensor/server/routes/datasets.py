"""Stored dataset versions, without their cases."""

from __future__ import annotations

from orcheo_agentensor.errors import NotFound
from orcheo_agentensor.server.routes.api import (
    Answer,
    Call,
    Operation,
    Page,
    PageQuery,
    document,
    page,
)
from orcheo_agentensor.server.routes.runs import moment
from orcheo_agentensor.storage import DatasetRecord


async def list_datasets(call: Call) -> Answer:
    """Dataset versions that runs have used, newest first."""
    return await _listed(call, None)


async def list_dataset_versions(call: Call) -> Answer:
    """The versions of a dataset, newest first."""
    return await _listed(call, call.path("dataset_id"))


async def _listed(call: Call, dataset_id: str | None) -> Answer:
    place = call.query.place(str, str, str)
    found = await call.store.datasets.list(
        dataset_id,
        seen_by=call.identity.name,
        after=None if place is None else (moment(place[0]), place[1], place[2]),
        limit=call.query.limit + 1,
    )
    if not found and dataset_id is not None and place is None:
        raise NotFound(f"there is no dataset {dataset_id!r}")
    shown, cursor = page(
        found,
        call.query.limit,
        lambda one: [one.created_at.isoformat(), one.dataset_id, one.version],
    )
    return Answer(content={"items": [document(one) for one in shown], "next_cursor": cursor})


OPERATIONS = (
    Operation(
        method="GET",
        path="/datasets",
        run=list_datasets,
        query=PageQuery,
        answer=Page[DatasetRecord],
        tag="datasets",
        statuses=(),
    ),
    Operation(
        method="GET",
        path="/datasets/{dataset_id}/versions",
        run=list_dataset_versions,
        query=PageQuery,
        answer=Page[DatasetRecord],
        tag="datasets",
    ),
)
