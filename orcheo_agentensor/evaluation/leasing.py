"""Who works on a run: its lease is waited for where it will come, and a run ends once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from orcheo_agentensor.errors import AgentensorError, RunAlreadyActive

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Lease, Store

LOOK_AGAIN = 0.1
"""Seconds between two looks at a run that somebody else works on."""

LOOK_LATER = 1.0
"""Seconds between two tries for a lease that has been waited for: each locks the store."""

NodeT = TypeVar("NodeT", bound=Callable[..., Awaitable[dict[str, Any]]])


class RunEnded(Exception):
    """The run that was to be worked on has ended; `result` is what its record holds."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("the run has ended")
        self.result = result


def ends_once(node: NodeT) -> NodeT:
    """A graph's node that gives the stored result where the run has ended already.

    It has where another execution of the same job ended it: one in this process, one that went on
    with it after a kill, or an earlier one on a thread that is replayed. A run is decided once.
    """

    @functools.wraps(node)
    async def once(*args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return await node(*args, **kwargs)
        except RunEnded as ended:
            return ended.result

    return cast("NodeT", once)


async def take_lease(store: Store, run_id: str) -> Lease:
    """The lease of a run, once it is free; one that arrives after a cancellation is given back.

    This process has it where the same job was submitted twice, or where its server goes on by
    itself with a run that was killed: that is waited for. So is the lease of a process elsewhere
    that may be dead, until it expires or is seen to be renewed. Raises `RunAlreadyActive` where
    another process is at work, `RunEnded` for a run that has its result.
    """
    from orcheo_agentensor.storage import process_owner

    seen: float | None = None
    pause = LOOK_AGAIN
    while True:
        taking = asyncio.create_task(_take(store, run_id))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            with contextlib.suppress(AgentensorError, RunEnded):
                await store.runs.release(await taking)
            raise
        except RunAlreadyActive as held:
            if held.owner != process_owner():
                if seen is not None and held.expires > seen:
                    raise
                seen = held.expires
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, LOOK_LATER)


async def _take(store: Store, run_id: str) -> Lease:
    lease = await store.runs.acquire(run_id)
    run = await store.runs.get(run_id)
    if run.status == "finished" and run.result is not None:
        await store.runs.release(lease)
        raise RunEnded(run.result)
    return lease
