"""LangGraph servers as we deal with them: how one is, what it refuses, what we leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import TYPE_CHECKING, TypeVar

from orcheo_agentensor.errors import TargetRefused, TargetUnavailable
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.assistants import Assistant, not_langgraph
from orcheo_agentensor.targets.endpoint import Endpoint

if TYPE_CHECKING:
    from langgraph_sdk.client import LangGraphClient

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPT = "rollout_attempt"
"""The metadata by which a run, and the thread made for it, are found again."""

JOBS_TROUBLE = (400, 401, 403, 404, 422)
"""Answers that every case would get."""

_CLEANUP_SECONDS = 5.0


@dataclass
class Server:
    """One server: who the assistant is there, and how the server is."""

    url: str | None
    assistant: Assistant
    away: bool = False
    in_flight: int = 0
    started: int = 0
    running: int = 0
    heard: float = 0.0
    _clients: dict[asyncio.AbstractEventLoop, LangGraphClient] = field(default_factory=dict)

    def client(self, endpoint: Endpoint, settings: Settings) -> LangGraphClient:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = endpoint.client(self.url, settings=settings, streams=True)
        return self._clients[loop]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Count a run that is there."""
        self.in_flight += 1
        self.started += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def disconnect(self) -> None:
        """Close the running loop's client."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


async def begun(parts: AsyncGenerator[T], server: Server, *, patience: float) -> AsyncGenerator[T]:
    """The events of a run on the server that runs our own job, which takes one of its slots.

    Raises `TargetUnavailable` where the run is queued and the server has begun none of ours for
    `patience` seconds: jobs like ours may hold all its slots, and would wait for ever.
    """
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(anext(parts))
    try:
        while not (await asyncio.wait({first}, timeout=patience))[0]:
            if not server.running and loop.time() - server.heard >= patience:
                raise TargetUnavailable(
                    f"this server has begun none of the job's cases for {patience:g} s: its job "
                    "slots are taken, and one by this very job; start it with a higher "
                    "--n-jobs-per-worker (N_JOBS_PER_WORKER), then resume the run"
                )
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait({first})
    server.running += 1
    try:
        with contextlib.suppress(StopAsyncIteration):
            yield first.result()
        async for part in parts:
            yield part
    finally:
        server.running -= 1
        server.heard = loop.time()


@contextlib.contextmanager
def refusals(url: str | None, assistant: str) -> Iterator[None]:
    """Turns answers that nobody but the job can mend into `TargetRefused`."""
    import httpx

    try:
        yield
    except JSONDecodeError as error:
        raise not_langgraph(error.doc) from None
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status not in JOBS_TROUBLE:
            raise
        why = {
            401: "the key is missing or wrong; name the variable that holds it in api_key_env",
            403: "this key may not do that",
            404: "there is no such assistant or graph",
        }.get(status, "the request is refused")
        raise TargetRefused(
            f"assistant: {assistant!r} at {url or 'this server'}: HTTP {status}: {why} "
            f"({getattr(error, 'message', error)})",
            field="assistant",
            value=assistant,
            rule=why,
        ) from None


async def abandon(client: LangGraphClient, attempt: str) -> None:
    """End a run that nobody waits for any more, and remove the thread that the server made for it.

    The lost connection has asked the server for that already, but the thread of a run that was
    still queued would stay behind; so trouble here is only worth a line in the log, and none where
    the server itself has gone.
    """
    import httpx

    try:
        async with asyncio.timeout(_CLEANUP_SECONDS):
            for thread in await client.threads.search(metadata={ATTEMPT: attempt}):
                with _gone_is_fine():
                    for run in await client.runs.list(thread["thread_id"]):
                        with _gone_is_fine():
                            await client.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
                for patient in (True, False):  # the dev server may trip over deletions at once
                    with _gone_is_fine(or_trouble=patient):
                        await client.threads.delete(thread["thread_id"])
                        break
    except httpx.ConnectError:
        return
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("a run of attempt %s may still be on its server: %r", attempt, error)


@contextlib.contextmanager
def _gone_is_fine(*, or_trouble: bool = False) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status not in (404, 409) and not (or_trouble and status >= 500):
            raise
