"""Records with little in them, to test with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orcheo_agentensor.errors import (
    AgentensorError,
)
from orcheo_agentensor.storage import (
    ConfigCheckpoint,
    Lease,
    RolloutRow,
    RunRecord,
    ScoreRow,
    Store,
)

ODD_JSON: dict[str, Any] = {
    "text": 'zażółć 你好 🙂 "quoted" \\ back\nline \u2028',
    "empty": [{}, [], "", None],
    "integers": [0, -1, 2**63 - 1, -(2**63)],
    "floats": [0.1, 1e-9, 1.5, 5e-324, 1.2345678901234567e18, 1e23, -1.7976931348623157e308],
    "not a float": ["1e+5", '"1e+5', "\\"],
    "flags": [True, False],
    "nested": {"a": {"b": {"c": [1, [2, [3]]]}}},
}


@contextmanager
def refused(error: type[AgentensorError], *parts: str) -> Iterator[None]:
    """Expect `error` with every one of `parts` in its message."""
    message = None
    try:
        yield
    except error as raised:
        message = str(raised)
    assert message is not None, f"{error.__name__} was not raised"
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


def run_record(run_id: str = "run-1", **fields: Any) -> RunRecord:
    """A run record with little in it."""
    values = {"workflow_id": "support", "mode": "evaluate", "job_hash": "job"}
    return RunRecord.model_validate({"run_id": run_id, **values, **fields})


def rollout(number: int = 0, **fields: Any) -> RolloutRow:
    """A rollout row of candidate "c"."""
    values: dict[str, Any] = {"case_id": f"case-{number}", "candidate_hash": "c"}
    return RolloutRow(key=f"rollout-{number}", **{**values, **fields})


def score(key: str = "rollout-0", name: str = "accuracy", **fields: Any) -> ScoreRow:
    """A score row of evaluator "e"."""
    values: dict[str, Any] = {"score": 1.0, "passed": True}
    return ScoreRow(rollout_key=key, evaluator_fingerprint="e", name=name, **{**values, **fields})


async def new_version(store: Store, number: int = 1, **fields: Any) -> ConfigCheckpoint:
    """Save a version whose prompt is told apart by `number`."""
    values: dict[str, Any] = {
        "workflow_id": "support",
        "runnable_config": {"configurable": {"prompts": {"triage": f"prompt {number}"}}},
        "metrics": {"objective": 0.5, "complete": True},
        "dataset_version": "d1",
        "evaluator_set": "e1",
    }
    return await store.checkpoints.save(**{**values, **fields})


async def leased_run(store: Store, run_id: str = "run-1") -> Lease:
    """A new run, leased to this process."""
    await store.runs.create(run_record(run_id))
    return await store.runs.acquire(run_id)
