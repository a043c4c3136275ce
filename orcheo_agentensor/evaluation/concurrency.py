"""One cap on rollouts in flight over all runs of this process, shared fairly between them.

A cap per process has to be process-wide state; it is kept per event loop, because a future
belongs to one. A slot that falls free goes to the run that holds the fewest of those that wait,
so a run with a few cases at once is not starved by one with many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, Slots] = WeakKeyDictionary()


class Slots:
    """At most `limit` holders at once."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: dict[Share, None] = {}  # in order of their last turn

    def share(self) -> Share:
        """A new run's part."""
        return Share(self)

    async def acquire(self, share: Share) -> None:
        """Take a slot for `share`, when its turn comes."""
        if self._free:  # then nobody waits
            self._free -= 1
            share.held += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.turns.append(turn)
        self._waiting.setdefault(share)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just come
                self.release(share)
            raise

    def release(self, share: Share) -> None:
        """Give a slot back, to whoever has the fewest."""
        share.held -= 1
        self._free += 1
        while self._free and self._waiting:
            poorest = min(self._waiting, key=lambda waiting: waiting.held)
            turn = poorest.turns.popleft()
            del self._waiting[poorest]
            if poorest.turns:
                self._waiting[poorest] = None
            if not turn.done():
                self._free -= 1
                poorest.held += 1
                turn.set_result(None)


class Share:
    """One run's part of the slots: `async with share` holds one of them."""

    def __init__(self, slots: Slots) -> None:
        self.held = 0
        self.turns: deque[asyncio.Future[None]] = deque()
        self._slots = slots

    async def __aenter__(self) -> None:
        await self._slots.acquire(self)

    async def __aexit__(self, *_: object) -> None:
        self._slots.release(self)


def process_slots(limit: int) -> Slots:
    """The running loop's slots; the first caller's `limit` decides how many there are."""
    loop = asyncio.get_running_loop()
    found = _slots.get(loop)
    if found is None:
        found = _slots[loop] = Slots(limit)
    return found
