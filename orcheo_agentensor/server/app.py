"""The app for `http.app` in `langgraph.json`: our routes, and the check of run requests."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from orcheo_agentensor.errors import AgentensorError
from orcheo_agentensor.logs import configure_logging
from orcheo_agentensor.server.http import NO_STORE, PREFIX, error_response
from orcheo_agentensor.server.middleware import RunRequests
from orcheo_agentensor.server.review import RequestReviewer
from orcheo_agentensor.server.routes import checkpoints, errors, results, runs
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

_BY_THE_SERVER: dict[int | str, dict[str, Any]] = {
    400: {"description": "A header is no text; the server's own answer."},
    401: {"description": "No token, or one that is not known; the server's own answer."},
}


def create_app(*, store: Store | str | None = None, settings: Settings | None = None) -> FastAPI:
    """The app that a LangGraph server serves beside its own routes.

    Set `"middleware_order": "auth_first"` beside it, so that requests are checked after their
    sender is known, and `"enable_custom_route_auth": true`. `store` is a `Store` or a URL, by
    default that of `settings`.
    """
    from orcheo_agentensor.storage import Store

    settings = settings or Settings()
    configure_logging(settings.log_format, level=settings.log_level)
    opened = store if isinstance(store, Store) else Store.from_url(store or settings.database_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await opened.close()

    return _ServerApp(
        create_routes(opened),
        lifespan=lifespan,
        middleware=[Middleware(RunRequests, reviewer=RequestReviewer(opened, settings))],
    )


class _ServerApp(FastAPI):
    """What the LangGraph server takes over: it adds its own routes, middleware and lifespan.

    Our routes are mounted as an app of their own, so that our error answers are not those of the
    server's routes.
    """

    def __init__(self, routes: FastAPI, **options: Any) -> None:
        super().__init__(openapi_url=None, **options)
        self._routes = routes
        mount = Mount(PREFIX, app=routes)
        # A path with a line break in it gets our answer too.
        mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
        self.router.routes.append(mount)
        # The server's own, which it sets where there is none.
        self.exception_handlers.pop(HTTPException)

    def openapi(self) -> dict[str, Any]:
        """What the server merges into its `/openapi.json`: the paths, and what they refer to."""
        described = self._routes.openapi()
        schemas = {"schemas": described["components"]["schemas"]}
        return {"openapi": "3.1.0", "info": {}, "paths": described["paths"], "components": schemas}


class _Routes(FastAPI):
    """The routes under `PREFIX`, with their description at `openapi.json`."""

    def openapi(self) -> dict[str, Any]:
        """FastAPI's description, with whole paths and with names of our own for the schemas.

        The server merges schemas by name, and has a `Run` and a `Checkpoint` too.
        """
        if self.openapi_schema is None:
            found = get_openapi(title=self.title, version=self.version, routes=self.routes)
            found = _with_prefixed_schemas(found)
            found["paths"] = {PREFIX + path: item for path, item in found["paths"].items()}
            for item in found["paths"].values():
                for operation in item.values():
                    operation.setdefault("parameters", [])
            bearer = {"bearer": {"type": "http", "scheme": "bearer"}}
            found["components"]["securitySchemes"] = bearer
            found["security"] = [{}, {"bearer": []}]
            self.openapi_schema = found
        return self.openapi_schema


class _HeadAsGet:
    """ASGI middleware: HEAD is answered as GET is; the web server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


def create_routes(store: Store) -> FastAPI:
    """The routes under `PREFIX` alone."""
    from orcheo_agentensor import __version__

    app = _Routes(
        title="orcheo-agentensor",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        root_path_in_servers=False,
        generate_unique_id_function=lambda route: route.name,
        responses={**_BY_THE_SERVER, **errors(403, 422, 503)},
        middleware=[Middleware(_HeadAsGet)],
        exception_handlers={
            AgentensorError: _refused,
            HTTPException: _not_routed,
            ClientDisconnect: _nobody_left,
        },
    )
    app.state.store = store
    for router in (
        checkpoints.reading,
        checkpoints.promoting,
        runs.runs,
        results.results,
        runs.datasets,
        runs.schemas,
    ):
        app.include_router(router)
    return app


def _with_prefixed_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """The description with `agentensor.` before the name of every schema."""
    at = '"#/components/schemas/'
    found: dict[str, Any] = json.loads(json.dumps(document).replace(at, f"{at}agentensor."))
    schemas = found["components"]["schemas"]
    found["components"]["schemas"] = {f"agentensor.{name}": schemas[name] for name in schemas}
    return found


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AgentensorError)
    return error_response(error)


async def _not_routed(_request: Request, error: Exception) -> Response:
    """What the router itself refuses, in our form."""
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPError")
    return JSONResponse(
        {"error": {"type": kind, "message": error.detail, "problems": []}},
        status_code=error.status_code,
        headers={**NO_STORE, **(error.headers or {})},
    )


async def _nobody_left(_request: Request, _error: Exception) -> Response:
    """The client has left, so that this answer is never sent."""
    return Response(status_code=400)
