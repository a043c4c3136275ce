"""What every store must do, as a test class to inherit from.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self):
            async with Store.from_url(...) as store:
                yield store

Each test uses a fresh, empty store. The tests are coroutines: run them with pytest-asyncio.
"""

from __future__ import annotations

from orcheo_agentensor.testing.store_conformance.builders import (
    ODD_JSON,
    leased_run,
    new_version,
    refused,
    rollout,
    run_record,
    score,
)
from orcheo_agentensor.testing.store_conformance.ledger import LedgerConformance
from orcheo_agentensor.testing.store_conformance.runs import RunConformance
from orcheo_agentensor.testing.store_conformance.side_data import SideDataConformance
from orcheo_agentensor.testing.store_conformance.versions import (
    AliasConformance,
    CheckpointConformance,
)

__all__ = [
    "ODD_JSON",
    "AliasConformance",
    "CheckpointConformance",
    "LedgerConformance",
    "RunConformance",
    "SideDataConformance",
    "StoreConformance",
    "leased_run",
    "new_version",
    "refused",
    "rollout",
    "run_record",
    "score",
]


class StoreConformance(
    CheckpointConformance, AliasConformance, RunConformance, LedgerConformance, SideDataConformance
):
    """Everything a store must do."""
