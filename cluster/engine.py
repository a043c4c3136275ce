"""One worker of a cluster: LangGraph's Agent Server over PostgreSQL and Redis, mended.

`launch.py` starts it, with everything set in its environment: the server reads its settings when it
is first imported, and never again. Each repair says what goes wrong without it; it belongs into
langgraph-runtime-pg, and goes when that has it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import Any

KEPT_SECONDS = 600
"""How long Redis keeps the events of a run that has ended, for those who come back."""

QUIET_SECONDS = 2.0
"""After how long without an event a stream asks whether its run goes on."""

UNUSED_SECONDS = 5.0
"""After how long a connection to PostgreSQL is asked before it is used again."""

_TURN = 0x6167656E74737461
"""The advisory lock of PostgreSQL under which a worker makes the engine's tables."""


def mend() -> None:
    """Put the repairs in place; call it before `langgraph_api.server` is imported."""
    import langgraph_runtime_pg.database as database
    import langgraph_runtime_pg.lifespan as lifespan
    import langgraph_runtime_pg.ops as ops
    import langgraph_runtime_pg.queue as queue
    import langgraph_runtime_pg.redis_stream as redis_stream
    import langgraph_runtime_pg.retry as retry
    import psycopg
    import redis
    import sqlalchemy.exc
    from langgraph_api.middleware.ensure_store import EnsureStoreAccessible
    from langgraph_api.serde import json_dumpb
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff

    away = (redis.ConnectionError, redis.TimeoutError)

    # With any `http.app` the middleware asks for the store when the app starts, before the pool of
    # connections is open: the start fails, and every request is a 500. It needs the store in
    # requests only.
    of_requests: Any = EnsureStoreAccessible.__call__

    async def but_not_at_the_start(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await of_requests(self, scope, receive, send)

    EnsureStoreAccessible.__call__ = but_not_at_the_start

    # With a custom `auth` the user of a request is in the config of its run, which is stored as
    # JSON: "ProxyUser is not JSON serializable", and every run request is a 500. The server's own
    # serializer knows users.
    def dumped(value: Any) -> str:
        return str(json_dumpb(value), "utf-8")

    create = database.create_async_engine

    def created(url: str, **options: Any) -> Any:
        engine = create(url, **{**options, "json_serializer": dumped, "pool_pre_ping": False})
        _check_cheaply(engine.sync_engine)
        return engine

    database.create_async_engine = created

    # Each worker makes the engine's tables when it starts; where two do so at once, one of them
    # fails to start. It polls for its turn: a session that waits in the database for a lock holds
    # up the CREATE INDEX CONCURRENTLY of the one that has it.
    start_pool = lifespan.start_pool

    async def start_in_turn() -> None:
        url = database.to_psycopg_uri()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while True:
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_TURN,))
                if (await cursor.fetchone() or (False,))[0]:
                    break
                await asyncio.sleep(0.05)
            await start_pool()

    lifespan.start_pool = start_in_turn

    # A Redis that restarts fails every run that has an event to send in that second, for good. The
    # client tries again for some ten seconds, and a run that meets a longer outage, of Redis or of
    # PostgreSQL, goes back to the queue.
    options = redis_stream._redis_pool_kwargs

    def patient_options() -> dict[str, Any]:
        again = Retry(ExponentialBackoff(cap=2.0, base=0.1), 9)
        return {**options(), "retry": again, "retry_on_error": list(away)}

    redis_stream._redis_pool_kwargs = patient_options
    retry.RETRIABLE_EXCEPTIONS = (
        *retry.RETRIABLE_EXCEPTIONS,
        *away,
        sqlalchemy.exc.InterfaceError,
        sqlalchemy.exc.OperationalError,
    )

    # The heartbeat of a dead worker ends on time, but the others look for it only every two
    # heartbeats: look every two seconds.
    queue.bg_job_heartbeat_secs = lambda: 1.0

    # The events of a run are kept for an hour after it has ended. At 40 runs a second and 5 KB of
    # events each, that is 700 MB in Redis, and four times as much with tapes.
    clear: Any = redis_stream.StreamManager.clear_run_buffers

    async def clear_sooner(self: Any, *args: Any, **options: Any) -> None:
        await clear(self, *args, **{"stream_ttl_secs": KEPT_SECONDS, **options})

    redis_stream.StreamManager.clear_run_buffers = clear_sooner

    _wait_longer_for_events(ops)


def _wait_longer_for_events(ops: Any) -> None:
    """Have a stream ask the database how its run is after `QUIET_SECONDS` without an event.

    The engine asks after half a second, and ends the stream, without an error, where the run has
    ended: events that are still on their way from another worker are lost with that, up to 27 of
    100 streams on a busy machine. A run that waits in the queue costs two such questions a second.
    """

    async def events(
        queue: Any, run: Any, accept: Any, modes: Any, run_id: Any, thread_id: Any, *rest: Any
    ) -> Any:
        ctx, ignore_404, dumps, decode = rest
        while True:
            try:
                message = await asyncio.wait_for(queue.get(), timeout=QUIET_SECONDS)
            except TimeoutError:
                run = await ops._poll_run_status(run_id, thread_id, ctx)
                action = ops._run_poll_action(run, ignore_404, dumps)
                if action == "break":
                    return
                if action is not None:
                    yield action
                    return
                continue
            frame = ops._decode_run_message(message, accept, decode, modes, run)
            if frame == "done":
                return
            if frame is not None:
                yield frame

    ops._stream_run_queue = events


def _check_cheaply(engine: Any) -> None:
    """Have the engine's pool give out connections that are open, without asking the database.

    The engine asks PostgreSQL whether it is there before each use of a connection, in a transaction
    of its own: three requests, about a dozen times for each run, and a tenth of what a worker does.
    A connection knows by itself that the other side has closed it, as in a restart; one that nobody
    has used for a while may have been lost on the way, and is asked.
    """
    from sqlalchemy import event, exc

    def note(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    def check(connection: Any, record: Any, proxy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise exc.DisconnectionError
        used = record.info.get("used")
        if used is not None and time.monotonic() > used + UNUSED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except Exception as error:
                raise exc.DisconnectionError from error

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", check)


def main(listening: int, ready: int) -> None:
    """Serve on the socket that `launch.py` listens at; write to `ready` once that is so."""
    try:
        import orcheo_agentensor  # noqa: F401 - the graphs and routes of langgraph.json are of it
    except ImportError as error:
        raise SystemExit(
            f"orcheo-agentensor is not installed for {sys.executable}: {error}"
        ) from None
    import uvicorn

    mend()
    from langgraph_api.server import app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                os.write(ready, b"1")
                os.close(ready)

    level = os.environ["LOG_LEVEL"]
    logging: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"simple": {"class": "langgraph_api.logging.Formatter"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple"}},
        "root": {"handlers": ["console"], "level": level},
    }
    server = Server(
        uvicorn.Config(app, log_config=logging, access_log=False, timeout_graceful_shutdown=5)
    )
    server.run(sockets=[socket.socket(fileno=listening)])
    if not server.started:
        raise SystemExit(3)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
