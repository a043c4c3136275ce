"""Results to look at: a case's path, the lineage of a training, comparisons and reports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Response
from pydantic import BaseModel, Field

from orcheo_agentensor.reporting import acompare
from orcheo_agentensor.reporting.cases import CaseTrace, case_traces
from orcheo_agentensor.reporting.report import (
    WRITERS,
    CandidateView,
    load_lineage,
    load_report,
)
from orcheo_agentensor.server.routes import (
    Name,
    NoQuery,
    Visible,
    VisibleStore,
    errors,
    optional,
    router,
)

MOST_FLIPS = 200
"""Cases that broke, and cases that were fixed, in one answer."""

results = router("results")


class Lineage(BaseModel):
    """The candidates of a training, in order."""

    candidates: Sequence[CandidateView]


class Executions(BaseModel):
    """What a run has executed of a case."""

    items: list[CaseTrace]


class CompareQuery(NoQuery):
    """What is compared."""

    side: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        min_length=2, max_length=8, description="Runs, or WORKFLOW@VERSION; the first is the base."
    )
    by: str | None = optional("Differences by this metadata field.", max_length=128)


class ReportQuery(NoQuery):
    """How a report is written."""

    format: Literal["html", "md", "xml", "json"] = Field("html", description="The file's format.")


@results.get("/runs/{run_id}/cases/{case_id:path}", responses=errors(404))
async def get_case(
    run_id: Name, case_id: Annotated[str, Path(max_length=1_000)], visible: Visible
) -> Executions:
    """A case of a run in full: its path through the nodes, messages, tool calls."""
    run = await visible.run(run_id)
    return Executions(items=await case_traces(visible.store, run, [case_id]))


@results.get("/runs/{run_id}/lineage", responses=errors(404))
async def get_lineage(run_id: Name, visible: Visible) -> Lineage:
    """The candidates of a training with what each changed; none of another run."""
    run = await visible.run(run_id)
    found = await load_lineage(run, store=visible.store)
    return Lineage(candidates=found)


@results.get("/compare", responses=errors(404))
async def compare_sides(query: Annotated[CompareQuery, Query()], visible: Visible) -> Any:
    """Runs and versions compared case by case, as `agentensor compare --json` gives it."""
    sides = [await _own_side(visible, side) for side in query.side]
    found = await acompare(*sides, store=visible.store, by=query.by)
    return found.to_json(most_flips=MOST_FLIPS)


_TYPES = {
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "xml": "application/xml",
    "json": "application/json",
}


@results.get(
    "/runs/{run_id}/report",
    response_class=Response,
    responses={**errors(404), 200: {"content": {kind: {} for kind in _TYPES.values()}}},
)
async def get_report(
    run_id: Name, query: Annotated[ReportQuery, Query()], visible: Visible
) -> Response:
    """The report of a finished run, as a file."""
    run = await visible.run(run_id)
    report = await load_report(run.run_id, store=visible.store)
    text = await asyncio.to_thread(WRITERS[f".{query.format}"], report)
    headers = {
        "content-disposition": f'attachment; filename="{run.run_id}.{query.format}"',
        "x-content-type-options": "nosniff",
        "content-security-policy": (
            "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        ),
    }
    return Response(text, media_type=_TYPES[query.format], headers=headers)


async def _own_side(visible: VisibleStore, side: str) -> str:
    """A side under the name that the store knows; raises `NotFound` for what may not be seen."""
    workflow_id, at, version = side.rpartition("@")
    if not at:
        return (await visible.run(side)).run_id
    named = await visible.store.workflows.id_for(workflow_id, visible.identity.name)
    found = await visible.version(named, version)
    if found.run_id is not None:
        await visible.run(found.run_id)
    return f"{named}@{found.config_version}"
