"""What a LangGraph server does once when it starts: slow imports, and opening its checkpointer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from orcheo_agentensor.settings import Settings

SLOW_TO_IMPORT = (
    "orcheo_agentensor.evaluators",
    "orcheo_agentensor.storage.engine",
    "orcheo_agentensor.storage.ledger",
    "scipy.stats",
)


def warm_up() -> None:
    """Import the modules that the first run would otherwise wait for.

    Blocks for a second or two: call it while a server loads its graphs, not in a request.
    """
    for module in SLOW_TO_IMPORT:
        import_module(module)


@asynccontextmanager
async def checkpointer() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """LangGraph's saver beside the side store of `AGENTENSOR_DATABASE_URL`, ready to use.

    A file on SQLite, the schema `langgraph` on PostgreSQL. Threads outlive the server's process.
    `checkpointer.path` in `langgraph.json` names it.
    """
    from orcheo_agentensor.storage import Store

    async with (
        Store.from_url(Settings().database_url) as store,
        store.checkpointer() as saver,
    ):
        yield saver
