"""Each caller's share of a server: runs at once, runs that wait, and requests per minute.

LangGraph's queue is first come, first served: one caller's forty runs would hold up everybody
else's. So a caller has a few runs in that queue, and the others wait here, in a line of their own.
A server without authentication knows no callers, and shares nothing out.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from orcheo_agentensor.errors import AgentensorError
from orcheo_agentensor.settings import Settings

LOOK_AGAIN = 0.25
"""Seconds between two looks at a run whose request has been answered."""


class TooManyRequests(AgentensorError):
    """The caller has asked for too much at once: HTTP 429."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FairShares:
    """Who has how many runs and requests in this process."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._running = settings.max_runs_per_caller
        self._waiting = settings.max_waiting_runs_per_caller
        self._per_minute = settings.max_requests_per_minute
        self._clock = clock
        self._asked: dict[str, deque[float]] = {}
        self._active: Counter[str] = Counter()
        self._lines: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def count_request(self, caller: str) -> None:
        """Raise `TooManyRequests` where the caller has sent its share of this minute."""
        asked, now = self._asked.setdefault(caller, deque()), self._clock()
        while asked and asked[0] <= now - 60:
            asked.popleft()
        if len(asked) >= self._per_minute:
            raise TooManyRequests(
                f"more than {self._per_minute} requests in a minute; wait and ask again",
                retry_after=max(1, int(asked[0] + 61 - now)),
            )
        asked.append(now)

    async def take(self, caller: str, runs: int) -> None:
        """Wait for the caller's turn to have so many more runs at work.

        Raises `TooManyRequests` where its line is full, or where it can never have so many.
        """
        line = self._lines.setdefault(caller, deque())
        if runs > self._running:
            raise TooManyRequests(
                f"{runs} runs at once; a caller has {self._running} at most", retry_after=1
            )
        if not line and self._active[caller] + runs <= self._running:
            self._active[caller] += runs
            return
        if sum(wanted for wanted, _ in line) + runs > self._waiting:
            raise TooManyRequests(
                f"{self._active[caller]} runs of yours are at work and {len(line)} requests wait; "
                "wait for one of them",
                retry_after=5,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append((runs, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(caller, runs)
            elif (runs, turn) in line:
                line.remove((runs, turn))
            raise

    def give_back(self, caller: str, runs: int) -> None:
        """So many runs have ended, or were never made: the next of the caller's line go on."""
        self._active[caller] -= runs
        line = self._lines.get(caller, deque())
        while line and self._active[caller] + line[0][0] <= self._running:
            wanted, turn = line.popleft()
            if not turn.done():
                self._active[caller] += wanted
                turn.set_result(None)

    def give_back_later(self, caller: str, is_at_work: Callable[[], Awaitable[bool]]) -> None:
        """Give one back once its run, whose request has been answered, has ended."""

        async def watch() -> None:
            try:
                while await is_at_work():  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(LOOK_AGAIN)
            finally:
                self.give_back(caller, 1)

        task = asyncio.create_task(watch(), name=f"run of {caller}")
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
