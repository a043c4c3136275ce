"""SIGINT and SIGTERM: the first lets cases in flight finish, the second cancels them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.output import say

if TYPE_CHECKING:
    from langgraph.runtime import RunControl

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Counts the signals while a run is at work."""

    def __init__(self) -> None:
        from langgraph.runtime import RunControl

        self.control: RunControl = RunControl()
        self.cancelled = False
        self._task: asyncio.Task[Any] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the current task, until the block ends."""
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        taken = []
        for number in _SIGNALS:
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self._heard)  # only in the main thread
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def _heard(self) -> None:
        if self.cancelled:
            os._exit(ExitCode.INTERRUPTED)
        if not self.control.drain_requested:
            self.control.request_drain("signal")
            say("stopping: cases in flight are finished first; once more to cancel them")
            return
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()


def run_main(main: Coroutine[Any, Any, int], stopper: Stopper) -> int:
    """Run a command to its exit code; after a cancellation without waiting for busy threads."""

    async def guarded() -> int:
        code = await main
        if stopper.cancelled:  # a target's thread may go on for long, and its work is not kept
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    return asyncio.run(guarded())
