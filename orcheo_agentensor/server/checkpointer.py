"""The checkpointer for `checkpointer.path` in `langgraph.json`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from orcheo_agentensor.settings import Settings


@asynccontextmanager
async def checkpointer() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """LangGraph's saver beside the side store of `AGENTENSOR_DATABASE_URL`, ready to use.

    A file on SQLite, the schema `langgraph` on PostgreSQL. Threads outlive the server's process.
    """
    from orcheo_agentensor.storage import Store

    async with (
        Store.from_url(Settings().database_url) as store,
        store.checkpointer() as saver,
    ):
        yield saver
