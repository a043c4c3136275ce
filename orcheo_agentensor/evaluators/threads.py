"""Blocking functions for async callers, and coroutines for sync callers."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_IDLE_SECONDS = 10.0


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Await `function(*args)` in a daemon thread, with the caller's context variables.

    Unlike `asyncio.to_thread` there is no pool to fill up, and a call that never returns does not
    keep `asyncio.run` or the interpreter from ending: cancelling the await abandons its thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> Callable[[], None]:
        value, error = None, None
        try:
            value = context.run(function, *args)
        except BaseException as raised:  # noqa: BLE001 - re-raised by the awaiting side
            error = raised
        return lambda: _tell(loop, deliver, value, error)

    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    worker.jobs.put(work)
    value, error = await done
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from sync code; inside a running loop, in a thread of its own."""
    try:
        asyncio.get_running_loop()
        running = True
    except RuntimeError:
        running = False
    if not running:  # here, so that an error of the work is not shown as following from that one
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, work).result()


class _Worker(threading.Thread):
    """Runs one job at a time; waits a while for the next, then ends."""

    def __init__(self) -> None:
        super().__init__(name="agentensor-evaluator", daemon=True)
        self.jobs: SimpleQueue[Callable[[], Callable[[], None]]] = SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                with suppress(ValueError):
                    _idle.remove(self)
                    return
                continue  # taken just now: its job is on the way
            tell = job()
            _idle.append(self)
            tell()
            del job, tell  # nothing of the last call lives on while waiting


_idle: deque[_Worker] = deque()
os.register_at_fork(after_in_child=_idle.clear)


def _tell(loop: asyncio.AbstractEventLoop, deliver: Callable[..., None], *result: Any) -> None:
    with suppress(RuntimeError):  # the loop may be closed by now
        loop.call_soon_threadsafe(deliver, *result)
