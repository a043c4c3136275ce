"""One run of an assistant on a server: begun once, and followed until the server says how it ended.

A stream of events may break off or end early without a word of it while the run goes on: behind one
address several workers share a queue, and the one that streams need not be the one that executes.
So what a run came to is read from its thread, which has an id of ours: it is found whatever became
of the request that began it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from orcheo_agentensor.errors import REFUSED, RunFailed, is_transient, status_of
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.targets.run_events import PAUSED, RunEvents, error_text
from orcheo_agentensor.targets.servers import missing_is_fine, refusals

if TYPE_CHECKING:
    import httpx
    from langgraph_sdk.client import LangGraphClient

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
_LAST_PAUSE = 2.0
_MISSES = 3
"""How often a thread is looked for whose request had no answer: it may be in the making."""
_CLEANUP_SECONDS = 5.0
_BUSY = ("pending", "running")
_FROM_THE_START = {"Last-Event-ID": "0"}


class _NotThere(Exception):
    """No server that answers has the run."""


class _GivenUp(ConnectionError):
    """The server has cancelled the run, which says nothing of it."""


@dataclass
class RemoteRun:
    """A run of an assistant, whose `events` are read as they come.

    `clients` reach the server that is asked for it, and then others that may share its queue.
    `shows` are the fields that the output of the graph has, where its schema tells; `resumable`
    says that the server keeps the events for those who come back. All servers may be away for
    `patience` seconds while the run is looked for. `thread` finds its thread together with those of
    other runs, where the server that was asked for it does that.
    """

    clients: Sequence[LangGraphClient]
    events: RunEvents
    patience: float
    resumable: bool = True
    shows: frozenset[str] = frozenset()
    thread: Callable[..., Awaitable[Mapping[str, Any] | None]] | None = None
    thread_id: str = field(default_factory=lambda: str(uuid4()))
    _run_id: str | None = None
    _answered: bool = False

    def __post_init__(self) -> None:
        self.client = self.clients[0]
        self.begun_at = self.answered_at = asyncio.get_running_loop().time()

    async def follow(
        self,
        payload: Mapping[str, Any],
        *,
        assistant: str,
        url: str | None,
        over: Callable[[AsyncGenerator[Any]], AsyncGenerator[Any]] | None = None,
    ) -> None:
        """Begin the run and read it to its end; `over` is laid over the events as they come.

        Raises `RunFailed` where the run has failed or paused, `TargetRefused` and HTTP errors where
        the server does not take it, and `ConnectionError` or an error of the transport where it
        has not begun, or is lost.
        """
        request = {
            **payload,
            "if_not_exists": "create",
            "on_disconnect": "continue",
            "durability": "exit",  # nobody goes on from the middle of such a run
            "stream_resumable": self.resumable,
        }
        trouble: Exception | None = None
        try:
            with refusals(url, assistant):
                await self._stream("POST", "/runs/stream", json=request, over=over)
        except Exception as error:
            if status_of(error) in REFUSED or not is_transient(error):
                raise
            trouble = error
        is_whole = trouble is None and not self.events.is_cut
        if is_whole and (self.events.ended or not self.resumable):
            return
        try:
            await self._settle(trouble)
        except _NotThere:
            if not is_whole:
                raise trouble or ConnectionError("the server has lost the run") from None
        except Exception as error:
            # A key that may begin runs need not be one that may read threads.
            if not is_whole or status_of(error) not in (401, 403):
                raise

    async def _settle(self, trouble: Exception | None) -> None:
        """Ask how the run ended, attached to it while it is under way.

        Events that are missing are read again; where they are not kept, the output is that of the
        thread, and what the run used is unknown.
        """
        loop = asyncio.get_running_loop()
        pause, misses, replayed = _FIRST_PAUSE, 0, False
        self.answered_at = loop.time()
        thread = None
        if trouble is None and self.thread is not None:
            thread = await self.thread(self.thread_id, after=loop.time() - self.begun_at)
        while True:
            try:
                state = await self._ended(thread)
                thread = None
                enough = replayed or not self.resumable
                if state is not None and (enough or self._agrees(state)):
                    break
                if self.resumable:
                    self.events.begin_again()
                await self._attach()
                replayed = state is not None
                misses, self.answered_at = 0, loop.time()
                if replayed:
                    continue
            except _NotThere:
                misses += 1
                if misses >= (1 if self._answered or _never_sent(trouble) else _MISSES):
                    raise
            except (RunFailed, _GivenUp):
                raise
            except Exception as error:
                if not is_transient(error):
                    raise
                if loop.time() >= self.answered_at + self.patience:
                    raise trouble or error from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        if self._agrees(state) or (replayed and not self.events.is_cut):
            return
        self.events.output, self.events.unknown = state, True

    async def _ended(self, thread: Mapping[str, Any] | None) -> Any:
        """The output of the run, or None while it is under way; raises how else it ended.

        `thread` is what is known of it already.
        """
        if thread is None:
            thread = await self._thread()
        status, values = thread.get("status"), thread.get("values")
        if status == "error" and thread.get("error"):
            raise RunFailed(error_text(thread["error"]))
        if status == "interrupted" and thread.get("interrupts"):
            raise RunFailed(PAUSED)
        if status != "idle" or not isinstance(values, Mapping):
            run = await self._run()
            if run["status"] in _BUSY:
                return None
            values = await self._get(f"/runs/{run['run_id']}/join") or {}
            if "__error__" in values:
                raise RunFailed(error_text(values["__error__"]))
            if "__interrupt__" in values:
                raise RunFailed(PAUSED)
            if run["status"] != "success":
                raise _GivenUp(f"the server has given the run up ({run['status']})")
        return {k: v for k, v in values.items() if k in self.shows} if self.shows else values

    async def _thread(self) -> Mapping[str, Any]:
        """The run's thread, at the first server that has it."""
        away: Exception | None = None
        is_absent = False
        for client in dict.fromkeys((self.client, *self.clients)):
            self.client = client
            try:
                thread = await self._get("")
            except Exception as error:
                if not is_transient(error):
                    raise
                away = error
                continue
            if isinstance(thread, Mapping):
                return thread
            is_absent = True
        if is_absent or away is None:
            raise _NotThere
        raise away

    async def _run(self) -> Mapping[str, Any]:
        found = await self._get(f"/runs/{self._run_id}" if self._run_id else "/runs")
        if isinstance(found, list):
            found = found[0] if found else None
        if not isinstance(found, Mapping) or "run_id" not in found:
            raise _NotThere
        self._run_id = str(found["run_id"])
        return found

    def _agrees(self, state: Any) -> bool:
        """Whether the events lead to this state, so that none is missing."""
        return not self.events.is_cut and self.events.output == state

    async def _attach(self) -> None:
        """Read the run's events, from the first one where the server keeps them."""
        run = self._run_id or (await self._run())["run_id"]
        await self._stream("GET", f"/runs/{run}/stream", headers=_FROM_THE_START)

    async def _stream(
        self,
        method: str,
        path: str,
        *,
        over: Callable[[AsyncGenerator[Any]], AsyncGenerator[Any]] | None = None,
        **request: Any,
    ) -> None:
        def on_response(response: httpx.Response) -> None:
            # By this header the SDK would join again by itself, without what it has missed.
            response.headers.pop("location", None)
            self._answered = True
            place = response.headers.get("content-location", "")
            if "/runs/" in place:
                self._run_id = place.rpartition("/runs/")[2].partition("/")[0]

        parts: Any = self.client.http.stream(
            f"/threads/{self.thread_id}{path}", method, on_response=on_response, **request
        )
        async with aclosing(parts):
            intact = _intact(parts)
            if over is not None:
                intact = over(intact)
            async with aclosing(intact):
                async for part in intact:
                    self.events.take(part.event, part.data)

    async def _get(self, path: str) -> Any:
        """What the server has under the thread; None where it has nothing there."""
        try:
            return await self.client.http.get(f"/threads/{self.thread_id}{path}")
        except JSONDecodeError as error:
            raise ConnectionError(f"the answer of the server is broken: {error}") from None
        except Exception as error:
            if status_of(error) == 404:
                return None
            raise

    async def abandon(self) -> None:
        """Cancel a run that is no longer wanted, and delete its thread.

        An error is only logged, and not even that where the server itself has gone.
        """
        import httpx

        try:
            async with asyncio.timeout(_CLEANUP_SECONDS):
                # A request that has no answer yet may make the thread after all.
                for pause in (0.0,) if self._answered else (0.0, 0.2, 0.8):
                    await asyncio.sleep(pause)
                    runs = await self._get("/runs")
                    if isinstance(runs, list):
                        await self._remove(run["run_id"] for run in runs)
                        return
        except httpx.ConnectError:
            return
        except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
            where = self.thread_id
            log.warning(
                "a run may still be on its server, thread %s: %s", where, redact(repr(error))
            )

    async def _remove(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            with missing_is_fine():
                await self.client.runs.cancel(self.thread_id, run_id, wait=True)
        for is_first in (True, False):  # the dev server may trip over deletions at once
            with missing_is_fine(or_server_error=is_first):
                await self.client.threads.delete(self.thread_id)
                return


def _never_sent(error: Exception | None) -> bool:
    """Whether the request of which this is the error has not reached a server."""
    return any(base.__name__ in ("ConnectError", "ConnectTimeout") for base in type(error).__mro__)


async def _intact(parts: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """`parts`; raises `ConnectionError` where one of them is not JSON."""
    try:
        async for part in parts:
            yield part
    except JSONDecodeError as error:
        raise ConnectionError(f"the stream of the run is broken: {error}") from None
