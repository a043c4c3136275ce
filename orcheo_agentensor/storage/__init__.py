"""The side store: versions, aliases, runs, datasets and the ledger, on SQLite or PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orcheo_agentensor.storage.records import (
    ANY,
    AliasMove,
    CandidateRecord,
    CaseRow,
    ConfigCheckpoint,
    DatasetRecord,
    Expected,
    Lease,
    RolloutRow,
    RunMode,
    RunRecord,
    RunStatus,
    ScoreRow,
    WorkflowRecord,
    utc_now,
)
from orcheo_agentensor.storage.store import Store

if TYPE_CHECKING:
    from orcheo_agentensor.storage.lease import process_owner
    from orcheo_agentensor.storage.ledger import Ledger

__all__ = [
    "ANY",
    "AliasMove",
    "CandidateRecord",
    "CaseRow",
    "ConfigCheckpoint",
    "DatasetRecord",
    "Expected",
    "Lease",
    "Ledger",
    "RolloutRow",
    "RunMode",
    "RunRecord",
    "RunStatus",
    "ScoreRow",
    "Store",
    "WorkflowRecord",
    "process_owner",
    "utc_now",
]


def __getattr__(name: str) -> Any:
    """`Ledger` and `process_owner` on demand: what is behind them is slow to import."""
    if name == "Ledger":
        from orcheo_agentensor.storage.ledger import Ledger

        return Ledger
    if name == "process_owner":
        from orcheo_agentensor.storage.lease import process_owner

        return process_owner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
