"""One cap on rollouts in flight over all runs of this process.

A cap per process has to be process-wide state; it is kept per event loop, because an asyncio
semaphore belongs to one. Waiters are served in the order they came, so no run starves another.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, asyncio.Semaphore]] = (
    WeakKeyDictionary()
)


def process_slots(limit: int) -> asyncio.Semaphore:
    """The running loop's shared semaphore; the first caller's `limit` decides its size."""
    loop = asyncio.get_running_loop()
    found = _slots.get(loop)
    if found is None:
        found = _slots[loop] = (limit, asyncio.Semaphore(limit))
    return found[1]
