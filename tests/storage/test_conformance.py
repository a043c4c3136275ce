"""The built-in stores do what every store must do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from store_conformance import StoreConformance

from orcheo_agentensor.storage import Store


class TestDatabases(StoreConformance):
    """A SQLite file and PostgreSQL, by the `store` fixture."""


class TestMemory(StoreConformance):
    """In memory."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with Store.from_url(None) as opened:
            yield opened
