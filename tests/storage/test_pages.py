"""What the HTTP routes ask of a store: pages by keyset, filters, and what is whose."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor.errors import AliasConflict
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.storage import RunRecord, Store


async def test_versions_and_moves_come_in_pages(store: Store) -> None:
    for number in range(5):
        await store.checkpoints.save(
            workflow_id="w", runnable_config={"tags": [str(number)]}, metrics={}
        )
        await store.aliases.move("w", "live", to=number + 1, actor="t", reason="")
    older = await store.checkpoints.list("w", before=4, limit=2)
    assert [version.config_version for version in older] == [3, 2]
    first = await store.aliases.log_page("w", "live", limit=2)
    rest = await store.aliases.log_page("w", "live", before=first[-1][0])
    assert [move.to_version for _id, move in [*first, *rest]] == [5, 4, 3, 2, 1]
    with pytest.raises(AliasConflict):
        await store.aliases.rollback("w", "live", actor="t", reason="", expect=1)


async def test_runs_and_datasets_of_others_are_hidden(store: Store) -> None:
    record = await store.workflows.claim("anas", "ana")
    assert record is not None
    assert record.owner == "ana"
    for run_id, workflow in (("a", "anas"), ("b", "shared"), ("c", "shared")):
        await store.runs.create(
            RunRecord(
                run_id=run_id,
                workflow_id=workflow,
                mode="evaluate",
                job_hash="x",
                dataset_id=f"data-{workflow}",
                dataset_version="1",
                dataset_metadata_version=content_hash({}),
            )
        )
    for name in ("data-anas", "data-shared"):
        await store.datasets.save(name, "1", metadata={}, counts={}, cases=[{"id": "one"}])
    assert (await store.workflows.claim("anas", "ben")).owner == "ana"  # type: ignore[union-attr]
    assert await store.workflows.claim("shared", "ben") is None
    seen = await store.runs.list(hidden_from="ben")
    assert {run.run_id for run in seen} == {"b", "c"}
    last = seen[0]
    more = await store.runs.list(hidden_from="ben", before=(last.started_at, last.run_id))
    assert [run.run_id for run in more] == [seen[1].run_id]
    names = [found.dataset_id for found in await store.datasets.list(seen_by="ben")]
    assert names == ["data-shared"]
    every = await store.datasets.list(seen_by="ana")
    assert {found.dataset_id for found in every} == {"data-anas", "data-shared"}
    first = every[0]
    place: Any = (first.created_at, first.dataset_id, first.version, first.metadata_version)
    assert await store.datasets.list(seen_by="ana", after=place) == every[1:]


async def test_cases_are_filtered_without_any_rows(store: Store) -> None:
    found = await store.runs.case_rows(
        "none", split="train", min_score=0.5, max_score=1.0, evaluator="x", after=("a", 0, "k")
    )
    assert found == []
