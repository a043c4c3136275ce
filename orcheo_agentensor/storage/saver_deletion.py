"""Deleting threads for a server that must not be made to wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

log = logging.getLogger(__name__)


class DeletesLater(BaseCheckpointSaver[Any]):
    """A saver whose `adelete_thread` is waited for by whoever reads, not by its caller.

    LangGraph's development server looks up where its own record of a thread is, calls
    `adelete_thread`, and takes away what is at that place by then: of two threads that end
    together it would lose another one, with whoever waits for its run.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deleting: set[asyncio.Task[None]] = set()

    async def adelete_thread(self, thread_id: str) -> None:
        """Have the checkpoints of a thread deleted, before anything is read again."""
        task = asyncio.create_task(super().adelete_thread(thread_id))
        self._deleting.add(task)
        task.add_done_callback(self._deleted)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As LangGraph's own; every run begins with it."""
        await self.settled()
        return await super().aget_tuple(config)

    async def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        """As LangGraph's own."""
        await self.settled()
        async for found in super().alist(config, **options):
            yield found

    def _deleted(self, task: asyncio.Task[None]) -> None:
        self._deleting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the checkpoints of a deleted thread are left behind", exc_info=error)

    async def settled(self) -> None:
        """Wait until nothing is being deleted any more."""
        if self._deleting:
            await asyncio.wait(self._deleting)
