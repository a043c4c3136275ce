"""The app for `http.app` in `langgraph.json`: our routes, and the middleware for run requests."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from orcheo_agentensor.server.http import NO_STORE
from orcheo_agentensor.server.middleware import RunRequests
from orcheo_agentensor.server.review import Desk
from orcheo_agentensor.server.routes import checkpoints, datasets, runs, schemas
from orcheo_agentensor.server.routes.api import PREFIX, Operation, handler
from orcheo_agentensor.server.routes.openapi import describe, described
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

OPERATIONS: tuple[Operation, ...] = (
    *checkpoints.OPERATIONS,
    *runs.OPERATIONS,
    *datasets.OPERATIONS,
    *schemas.OPERATIONS,
)


def create_app(*, store: Store | str | None = None, settings: Settings | None = None) -> Starlette:
    """The app that a LangGraph server serves beside its own routes.

    Set `"middleware_order": "auth_first"` beside it, so that requests are checked after their
    sender is known, and `"enable_custom_route_auth": true`. `store` is a `Store` or a URL, by
    default that of `settings`.
    """
    from orcheo_agentensor.storage import Store

    settings = settings or Settings()
    opened = store if isinstance(store, Store) else Store.from_url(store or settings.database_url)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await opened.close()

    mount = Mount(PREFIX, app=_routes(opened))
    # A path with a line break in it gets our answer too.
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
    return Starlette(
        routes=[mount],
        middleware=[Middleware(RunRequests, desk=Desk(opened, settings))],
        lifespan=lifespan,
    )


def _routes(store: Store) -> Starlette:
    """Our routes as an app of their own, so that their errors are ours and nobody else's."""
    by_path: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, []).append(operation)
    found = [
        Route(path, _endpoint(operation, store), methods=[operation.method])
        for path, operations in by_path.items()
        for operation in operations
    ]
    return Starlette(
        routes=[*found, Route("/openapi.json", _openapi, methods=["GET"])],
        exception_handlers={HTTPException: _typed},
    )


def _endpoint(operation: Operation, store: Store) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, with its description where the server's own `/openapi.json` looks for it."""
    endpoint = handler(operation, store)
    spoken = described(operation, {})
    spoken["responses"]["200"].pop("content", None)
    for status, response in spoken["responses"].items():
        if status != "200":
            response.pop("content", None)
    spoken.pop("requestBody", None)
    endpoint.__doc__ = json.dumps(spoken)
    return endpoint


async def _openapi(_request: Request) -> Response:
    from orcheo_agentensor import __version__

    return JSONResponse(describe(OPERATIONS, __version__))


def _typed(_request: Request, error: Exception) -> Response:
    """What the router itself says no to, in our form."""
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPError")
    return JSONResponse(
        {"error": {"type": kind, "message": error.detail, "problems": []}},
        status_code=error.status_code,
        headers={**NO_STORE, **(error.headers or {})},
    )
