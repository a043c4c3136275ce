"""Where cases are few: what a training gains on cases that it has not seen, over folds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rule_task import Target, Teacher, dataset, outcome_of, trained

from orcheo_agentensor import BadInput, Limits, Store


def few(cases: int = 12) -> list[dict[str, Any]]:
    """Cases without splits; rule k is that of four cases."""
    made = dataset(rules=3, train=cases, validation=0, holdout=0)
    return [{key: value for key, value in case.items() if key != "split"} for case in made]


JOB: dict[str, Any] = {
    "dataset": few(),
    "cross_validation": 3,
    "budget": {"rollouts": 240},
    "limits": Limits(concurrency=1),
    "promote": "auto",
    "workflow_id": "w",
    "run_id": "r",
}


@pytest.mark.requirement("training.cross-validated")
async def test_the_gain_is_measured_on_every_case_and_promotes_nothing() -> None:
    target, events = Target(), list[dict[str, Any]]()
    async with Store.from_url(None) as store:
        result = await trained(target, store=store, on_event=events.append, **JOB)
        runs = await store.runs.list(workflow_id="w", mode="train", limit=10)
        versions = await store.checkpoints.list("w", limit=None)
        usages = [(await store.runs.usage(run.run_id)).rollouts for run in runs]
    found = result.decision.cross_validation
    low, high = found["ci95"]
    assert (found["k"], found["n"]) == (3, 12)
    assert 0 < low <= found["gain"] <= high <= 1.0
    each = [fold["n"] * fold["gain"] for fold in found["folds"]]
    assert found["gain"] == pytest.approx(sum(each) / 12)
    assert [fold["n"] for fold in found["folds"]] == [4, 4, 4]
    assert result.decision.status == "kept"  # the gain of this version is unproved all the same
    assert result.decision.reasons[0] == "the dataset has no holdout split: the gain is unproved"
    assert result.decision.reasons[-1].startswith(
        f"over 3 folds such a training gains +{found['gain']:.4f} [+{low:.4f}, +{high:.4f}] on 12 "
    )
    assert {run.run_id for run in runs} == {"r", "r-fold-1", "r-fold-2", "r-fold-3"}
    assert {version.run_id for version in versions} == {"r"}
    assert sum(usages) == len(target.calls) <= 240
    assert max(usages) <= 60
    assert sum(usages) - result.usage.rollouts == found["rollouts"]
    told = [(e["type"], e["fold"]) for e in events if e["type"].startswith("fold_")]
    assert told == [(kind, n) for n in (1, 2, 3) for kind in ("fold_started", "fold_finished")]


async def test_a_run_cut_off_in_a_fold_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    whole = Target()
    expected = await trained(whole, store=f"sqlite:///{tmp_path / 'whole.db'}", **JOB)
    for number in (10, len(whole.calls) // 2):
        cut, store = asyncio.Event(), f"sqlite:///{tmp_path / f'{number}.db'}"
        target = Target()

        async def stop(
            inputs: dict[str, Any],
            target: Target = target,
            number: int = number,
            cut: asyncio.Event = cut,
        ) -> None:
            if len(target.calls) == number and not cut.is_set():
                cut.set()
                await asyncio.Event().wait()

        target.hook = stop
        task = asyncio.ensure_future(trained(target, store=store, **JOB))
        await cut.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await trained(target, store=store, **JOB)
        assert outcome_of(result) == outcome_of(expected)
        assert result.decision.cross_validation == expected.decision.cross_validation
        assert len(target.calls) == len(whole.calls) + 1  # the one that was cut


async def test_folds_know_of_the_dataset_what_the_whole_does_and_have_ids_of_their_own() -> None:
    teacher, long = Teacher(), "r" * 128
    job = {**JOB, "dataset": {"metadata": {"domain": "bank"}, "cases": few()}, "run_id": long}
    result = await trained(proposer=teacher, **job)
    assert {str(request.dataset) for request in teacher.requests} == {"{'domain': 'bank'}"}
    ids = {fold["run_id"] for fold in result.decision.cross_validation["folds"]}
    assert len(ids) == 3
    assert max(map(len, ids)) <= 128


async def test_a_fold_that_breaks_ends_the_run_that_it_belongs_to() -> None:
    class Broken(Teacher):
        async def propose(self, request: Any) -> dict[str, str]:
            raise ValueError("no idea")

    async with Store.from_url(None) as store:
        with pytest.raises(Exception, match="no idea"):
            await trained(proposer=Broken(), store=store, **JOB)
        runs = {run.run_id: run for run in await store.runs.list(workflow_id="w", limit=10)}
    assert {runs["r"].status, runs["r-fold-1"].status} == {"failed"}
    assert "no idea" in str(runs["r"].error)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cross_validation": 1}, r"^atrain\(\): cross_validation: 1"),
        ({"cross_validation": 21}, r"^atrain\(\): cross_validation: 21"),
        ({"cross_validation": 13}, r"13 needs as many cases with different inputs; there are 12"),
        (
            {"budget": {"rollouts": 47}},
            r"budget\.rollouts: 47 is too small: 4 trainings share it evenly .*3\), 11 for each, "
            r"and one takes at least 13; it must be at least 52",
        ),
    ],
)
async def test_folds_that_cannot_be_made_are_refused_at_load(
    changes: dict[str, Any], told: str
) -> None:
    target = Target()
    with pytest.raises(BadInput, match=told):
        await trained(target, **{**JOB, **changes})
    assert target.calls == []


async def test_a_holdout_split_stays_the_proof() -> None:
    job = {**JOB, "dataset": dataset(rules=3, train=9, validation=6, holdout=12)}
    result = await trained(**{**job, "budget": {"rollouts": 400}})
    assert result.decision.cross_validation["n"] == 15
    assert result.holdout is not None
    assert result.holdout["n"] == 12
    assert result.decision.status == "promoted"
