"""Run records with the results of their cases, dataset versions, and the JSON Schemas."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from orcheo_agentensor.config.model import config_schema
from orcheo_agentensor.errors import NotFound
from orcheo_agentensor.evaluation import EvaluationJob
from orcheo_agentensor.reporting.cases import RecordedCase, recorded_cases
from orcheo_agentensor.runs.manifest import EvaluatorInfo, Manifest, compare, manifest_schema
from orcheo_agentensor.runs.schema import dataset_schema
from orcheo_agentensor.server.routes import (
    Name,
    NoQuery,
    Page,
    PageQuery,
    Visible,
    errors,
    optional,
    page,
    router,
)
from orcheo_agentensor.storage import DatasetRecord, RunMode, RunStatus
from orcheo_agentensor.storage.case_filters import TEST, CaseFilters, ScoreTest
from orcheo_agentensor.training import TrainingJob

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "config": config_schema,
    "dataset": dataset_schema,
    "manifest": manifest_schema,
    "evaluation": EvaluationJob.model_json_schema,
    "training": TrainingJob.model_json_schema,
}


class Run(BaseModel):
    """A run: its config, its status, its result."""

    model_config = ConfigDict(from_attributes=True)

    run_id: str
    workflow_id: str
    mode: RunMode
    status: RunStatus
    config: dict[str, Any]
    dataset_id: str | None
    dataset_version: str | None
    dataset_metadata_version: str | None
    evaluator_set: str | None
    thread_id: str | None
    refs: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    started_at: datetime
    ended_at: datetime | None


class RunDetail(Run):
    """A run with its job and what it has spent."""

    job: dict[str, Any]
    usage: dict[str, Any]


class Difference(BaseModel):
    """A value that two runs differ in, by its dotted path."""

    path: str
    before: Any
    after: Any


class RunDiff(BaseModel):
    """What two runs differ in; `results` is null where one of them has none."""

    before: str
    after: str
    manifest: list[Difference]
    results: list[Difference] | None
    cases: dict[str, Any] | None = None
    note: str | None = None


class EvaluatorSet(BaseModel):
    """An evaluator set and the evaluators that it names."""

    evaluator_set: str
    evaluators: list[EvaluatorInfo]


class RunsQuery(PageQuery):
    """Which runs are wanted."""

    workflow_id: str | None = optional("Only of this workflow.", max_length=128)
    mode: RunMode | None = optional("Only of this kind.")
    status: RunStatus | None = optional("Only those with this status.")


class CasesQuery(PageQuery):
    """Which results of cases are wanted."""

    failed: bool | None = optional("Only where something broke, or only the others.")
    passed: bool | None = optional("Only those that passed every evaluator, or only the others.")
    where: list[Annotated[str, Field(pattern=TEST, max_length=200)]] = Field(
        [], max_length=8, description="Only with such a score, as in `tone<0.5`; repeatable."
    )
    evaluator: str | None = optional("Only scores of this name.", max_length=200)
    phase: str | None = optional("Only of this phase of the run.", max_length=64)
    split: str | None = optional("Only cases of this split.", max_length=64)
    min_score: float | None = optional("With a score of at least this.", allow_inf_nan=False)
    max_score: float | None = optional("With a score of at most this.", allow_inf_nan=False)
    order: Literal["case", "worst"] = Field(
        "case", description="By case id, or the worst first: what broke, then by score."
    )

    def filters(self) -> CaseFilters:
        """What the store is asked for."""
        return CaseFilters(
            failed=self.failed,
            passed=self.passed,
            where=[ScoreTest.parse(text, field="query.where") for text in self.where],
            evaluator=self.evaluator,
            phase=self.phase,
            split=self.split,
            min_score=self.min_score,
            max_score=self.max_score,
        )


class CasePage(Page[RecordedCase]):
    """A part of the results of a run's cases; `total` counts all that are wanted."""

    total: int


runs = router("runs")
datasets = router("datasets")
schemas = router("schemas")


@runs.get("/runs")
async def list_runs(query: Annotated[RunsQuery, Query()], visible: Visible) -> Page[Run]:
    """Runs, newest first."""
    named = query.workflow_id and await visible.store.workflows.id_for(
        query.workflow_id, visible.identity.name
    )
    found = await visible.store.runs.list(
        workflow_id=named,
        mode=query.mode,
        status=query.status,
        hidden_from=visible.identity.name,
        before=query.place(tuple[AwareDatetime, str]),
        limit=query.limit + 1,
    )
    return page(
        found,
        query.limit,
        place=lambda run: [run.started_at.isoformat(), run.run_id],
        show=Run.model_validate,
    )


class StatsQuery(NoQuery):
    """Which runs are counted."""

    workflow_id: str | None = optional("Only of this workflow.", max_length=128)
    since: AwareDatetime | None = optional("Only those started at this time or later.")


class Stats(BaseModel):
    """Figures over the runs that may be seen."""

    runs: dict[str, Any]
    config_applied: dict[str, Any]
    sla: dict[str, Any]
    throughput: dict[str, Any]
    failures: dict[str, Any]
    regressions: dict[str, Any]


@runs.get("/stats")
async def get_stats(query: Annotated[StatsQuery, Query()], visible: Visible) -> Stats:
    """Configs applied, cases within the SLA, throughput, failures, regressions after trainings."""
    found = await visible.store.runs.stats(
        query.workflow_id, since=query.since, hidden_from=visible.identity.name
    )
    return Stats.model_validate(found)


@runs.get("/runs/{run_id}", responses=errors(404))
async def get_run(run_id: Name, visible: Visible) -> RunDetail:
    """A run, with its job and its result."""
    run = await visible.run(run_id)
    usage = (await visible.store.runs.usage(run.run_id)).to_json()
    known = Run.model_validate(run).model_dump()
    return RunDetail(**known, job=run.job.get("job") or {}, usage=usage)


@runs.get("/runs/{run_id}/manifest", responses=errors(404, 422))
async def get_manifest(run_id: Name, visible: Visible) -> Manifest:
    """What a run was made of: target, evaluators, dataset, config, models and environment."""
    run = await visible.run(run_id)
    return Manifest.parse(await visible.store.runs.manifest(run.run_id))


@runs.get("/runs/{run_id}/diff/{other}", responses=errors(404, 422))
async def get_diff(run_id: Name, other: Name, visible: Visible) -> RunDiff:
    """What differs between two runs: their manifests, their results and their cases."""
    before, after = await visible.run(run_id), await visible.run(other)
    return RunDiff(**await compare(visible.store, before.run_id, after.run_id))


@runs.get("/evaluator-sets/{evaluator_set}", responses=errors(404))
async def get_evaluator_set(evaluator_set: Name, visible: Visible) -> EvaluatorSet:
    """The evaluators that an evaluator set names."""
    found = await visible.store.runs.named_by(evaluator_set, hidden_from=visible.identity.name)
    return EvaluatorSet(evaluator_set=evaluator_set, evaluators=found)


@runs.get("/runs/{run_id}/cases", responses=errors(404))
async def list_cases(
    run_id: Name, query: Annotated[CasesQuery, Query()], visible: Visible
) -> CasePage:
    """The results of a run's cases, by case id or with the worst first."""
    run = await visible.run(run_id)
    worst, after, offset = query.order == "worst", None, 0
    if worst:
        offset = (query.place(tuple[Annotated[int, Field(ge=0, lt=2**31)]]) or (0,))[0]
    else:
        after = query.place(tuple[str, Annotated[int, Field(ge=0, lt=2**31)], str])
    rows = await recorded_cases(
        visible.store,
        run,
        worst=worst,
        after=after,
        offset=offset,
        limit=query.limit + 1,
        **query.filters(),
    )
    found = page(
        rows,
        query.limit,
        place=lambda row: (
            [offset + query.limit] if worst else [row.case_id, row.replicate, row.key]
        ),
        show=lambda row: row,
    )
    total = await visible.store.runs.count_rows(run.run_id, **query.filters())
    return CasePage(items=found.items, next_cursor=found.next_cursor, total=total)


@datasets.get("/datasets")
async def list_datasets(
    query: Annotated[PageQuery, Query()], visible: Visible
) -> Page[DatasetRecord]:
    """Dataset versions that runs have used, with each of their metadata, newest first."""
    return await _dataset_page(query, visible, None)


@datasets.get("/datasets/{dataset_id}/versions", responses=errors(404))
async def list_dataset_versions(
    dataset_id: Name, query: Annotated[PageQuery, Query()], visible: Visible
) -> Page[DatasetRecord]:
    """The versions of a dataset, with each of their metadata, newest first."""
    return await _dataset_page(query, visible, dataset_id)


@schemas.get("/schemas")
async def list_schemas() -> dict[str, list[str]]:
    """The names of the schemas there are."""
    return {"schemas": [*SCHEMAS]}


@schemas.get("/schemas/{name}", responses=errors(404))
async def get_schema(name: Name) -> dict[str, Any]:
    """The JSON Schema of a config, a dataset, a manifest, or a job of either kind."""
    make = SCHEMAS.get(name)
    if make is None:
        raise NotFound(f"there is no schema {name!r}; schemas: {', '.join(SCHEMAS)}")
    return {"$schema": _DIALECT, **make()}


async def _dataset_page(
    query: PageQuery, visible: Visible, dataset_id: str | None
) -> Page[DatasetRecord]:
    place = query.place(tuple[AwareDatetime, str, str, str])
    found = await visible.store.datasets.list(
        dataset_id,
        seen_by=visible.identity.name,
        after=place,
        limit=query.limit + 1,
    )
    if not found and dataset_id is not None and place is None:
        raise NotFound(f"there is no dataset {dataset_id!r}")
    return page(
        found,
        query.limit,
        place=lambda one: [
            one.created_at.isoformat(),
            one.dataset_id,
            one.version,
            one.metadata_version,
        ],
        show=lambda one: one,
    )
