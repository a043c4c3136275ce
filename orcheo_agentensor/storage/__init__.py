"""The side store: versions, aliases, runs, datasets and the ledger, on SQLite or PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily
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


__getattr__ = lazily(__name__, {"ledger": ("Ledger",), "lease": ("process_owner",)})
