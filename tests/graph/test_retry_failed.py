"""A run that met an outage is repaired: what failed in passing is tried again, nothing else is."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from rule_task import Target, trained

from orcheo_agentensor import Limits, Store, aevaluate
from orcheo_agentensor.errors import RunAlreadyActive, RunPaused
from orcheo_agentensor.usage import Usage, add_usage

REQUEST = httpx.Request("POST", "http://127.0.0.1:9/v1")
CASES = [{"id": str(n), "inputs": {"n": n}, "expected_output": n} for n in range(6)]
ONCE = {"limits": Limits(retries=0), "workflow_id": "w"}


def locked_out() -> Exception:
    response = httpx.Response(401, request=REQUEST)
    return openai.AuthenticationError("Incorrect API key", response=response, body=None)


class Shaky:
    """A target and a judge that fail on some cases while there is an outage."""

    def __init__(self) -> None:
        self._outage = True
        self._runs: list[int] = []
        self._judged: list[int] = []  # private: what is public is part of the fingerprint

    async def target(self, inputs: dict[str, Any]) -> Any:
        n = inputs["n"]
        self._runs.append(n)
        add_usage(Usage(calls=1, input_tokens=10))
        if self._outage and n == 1:
            raise openai.APIConnectionError(request=REQUEST)
        if self._outage and n == 2:
            raise locked_out()
        if n == 3:
            raise ValueError("always")
        return n

    async def judge(self, ctx: Any) -> float:
        self._judged.append(ctx.output)
        add_usage(Usage(calls=1, input_tokens=1))
        if self._outage and ctx.output == 4:
            raise ConnectionResetError
        if self._outage and ctx.output == 5:
            raise locked_out()
        return 1.0


async def test_only_failures_that_are_no_doing_of_the_case_are_tried_again(store: Store) -> None:
    shaky = Shaky()
    job: dict[str, Any] = {"dataset": CASES, "evaluators": [shaky.judge], "store": store, **ONCE}
    first = await aevaluate(shaky.target, run_id="r", **job)
    assert (first.status, first.coverage) == ("missed_threshold", 1 / 6)
    assert first.usage.rollouts == 6

    shaky._outage = False
    same = await aevaluate(shaky.target, run_id="r", **job)
    assert same.summary == first.summary  # without being asked, a finished run stays as it is

    shaky._runs.clear()
    shaky._judged.clear()
    second = await aevaluate(shaky.target, run_id="r", retry_failed=True, **job)
    assert sorted(shaky._runs) == [1, 2]
    assert sorted(shaky._judged) == [1, 2, 4, 5]
    assert (second.coverage, second.objective) == (5 / 6, 1.0)
    assert second.summary["n_target_failed"] == 1
    # What had failed was paid for all the same.
    assert second.usage.rollouts == 6 + 2
    assert second.usage.input_tokens == 8 * 10 + (3 + 4) * 1
    record = await store.runs.get("r")
    assert record.result is not None
    assert record.result["summary"]["coverage"] == 5 / 6

    shaky._runs.clear()
    third = await aevaluate(shaky.target, run_id="r", retry_failed=True, **job)
    assert shaky._runs == []
    assert third.summary == second.summary


async def test_a_run_that_is_being_worked_on_is_left_alone(store: Store) -> None:
    shaky = Shaky()
    job: dict[str, Any] = {"dataset": CASES, "evaluators": [shaky.judge], "store": store, **ONCE}
    await aevaluate(shaky.target, run_id="r", **job)
    await store.runs.acquire("r", owner="elsewhere:1:x")
    with pytest.raises(RunAlreadyActive):
        await aevaluate(shaky.target, run_id="r", retry_failed=True, **job)
    rows = await store.runs.case_rows("r", failed=True)
    assert len(rows) == 5


class Outage(Target):
    """Breaks off the connection, or refuses the key, on the cases of a split."""

    def __init__(self, split: str, error: Any) -> None:
        super().__init__()
        self.split, self.error, self.on = split, error, True

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        found = await super().__call__(inputs)
        if self.on and self.split in (inputs["split"], "all"):
            raise self.error()
        return found


ERRORS = pytest.mark.parametrize("error", [ConnectionResetError, locked_out])


@ERRORS
async def test_a_search_that_an_outage_ended_begins_anew(error: Any, store: Store) -> None:
    target = Outage("all", error)
    job: dict[str, Any] = {"store": store, "run_id": "r", **ONCE}
    with pytest.raises(RunPaused):
        await trained(target, **job)
    first = len(target.calls)
    target.on = False
    second = await trained(target, **job)
    whole = await trained(Target(), run_id="undisturbed", store=store, workflow_id="other")
    assert second.best.metrics["objective"] == 1.0
    assert second.decision.status == whole.decision.status
    assert second.holdout is not None
    assert whole.holdout is not None
    assert second.holdout["gain"] == whole.holdout["gain"]
    assert second.usage.rollouts == whole.usage.rollouts + first


@ERRORS
async def test_a_proof_that_an_outage_spoilt_is_made_up_for(error: Any, store: Store) -> None:
    target = Outage("holdout", error)
    job: dict[str, Any] = {"store": store, "run_id": "r", "promote": "auto", **ONCE}
    with pytest.raises(RunPaused):
        await trained(target, **job)
    before = len(target.calls)
    target.on = False
    second = await trained(target, **job)
    assert len(target.calls) - before == 2 * 8  # the holdout on both sides, and nothing else
    assert second.holdout is not None
    assert (second.holdout["n"], second.holdout["gain"]) == (8, 1.0)
    assert second.decision.status == "promoted"
    assert await store.aliases.resolve("w", "production") == second.best.config_version


async def test_versions_are_measured_again_where_validation_had_failed(store: Store) -> None:
    target, lost = Target(), []

    async def hook(inputs: dict[str, Any]) -> None:
        if not lost and target.calls[-1] == (("Plan.", "Write."), "validation-3"):
            lost.append(inputs)
            raise ConnectionResetError

    target.hook = hook
    job: dict[str, Any] = {"store": store, "run_id": "r", **ONCE}
    first = await trained(target, **job)
    failed = [one for one in first.checkpoints if one.metrics["n_ok"] == 7]
    assert len(failed) == 1
    second = await trained(target, retry_failed=True, **job)
    texts = {name: prompt.text for name, prompt in failed[0].prompts.items()}
    again = [
        one
        for one in second.checkpoints
        if {name: prompt.text for name, prompt in one.prompts.items()} == texts
    ]
    assert [one.metrics["n_ok"] for one in again] == [7, 8]
    assert target.repeated() == 1
    kept = await store.checkpoints.get("w", failed[0].config_version)
    assert kept.metrics == failed[0].metrics  # a version is not rewritten
