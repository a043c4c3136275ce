"""The local pages of `agentensor view`: the routes that read, and one page that shows them."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from importlib.resources import files

from starlette.applications import Starlette
from starlette.authentication import UnauthenticatedUser
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orcheo_agentensor.server.app import create_routes
from orcheo_agentensor.server.http import PREFIX
from orcheo_agentensor.storage import Store

KEY_HEADER = "x-agentensor-key"
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def create_view(store: Store, *, port: int, key: str) -> Starlette:
    """The app of the local pages of a store, which is to listen on `port` of this machine.

    It changes nothing, answers only to the names of this machine, and shows what is stored only to
    who knows `key`: other users of the machine can reach the port too.
    """
    pages = [Route(path, _page(*found), methods=["GET"]) for path, found in _PAGES.items()]
    return Starlette(
        routes=[*pages, Mount(PREFIX, app=create_routes(store))],
        middleware=[Middleware(_Guard, port=port, key=key)],
    )


def _page(name: str, kind: str) -> Callable[[Request], Response]:
    content = files("orcheo_agentensor.server").joinpath("pages", name).read_bytes()

    def answer(_request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


class _Guard:
    """ASGI middleware: who may ask what, and the headers of every answer."""

    def __init__(self, app: ASGIApp, *, port: int, key: str) -> None:
        self.app = app
        self._hosts = {f"{name}:{port}" for name in _NAMES} | ({*_NAMES} if port == 80 else set())
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    if name not in headers or name == "cache-control":
                        headers[name] = value
            await send(message)

        refused = self._refusal(scope)
        # Who has the key is the user of this machine who owns the store.
        scope = {**scope, "user": UnauthenticatedUser()}
        await (refused or self.app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            return _error(403, "Forbidden", "this address is not that of the pages")
        if scope["method"] not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "these pages change nothing")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return _error(403, "Forbidden", "another site asks")
        given = headers.get(KEY_HEADER, "").encode("utf-8", "replace")
        if scope["path"] not in _PAGES and not hmac.compare_digest(given, self._key):
            return _error(401, "Unauthorized", "the key is missing: open the address as printed")
        return None


def _error(status: int, kind: str, message: str) -> Response:
    told = {"type": kind, "message": message, "problems": []}
    return JSONResponse({"error": told}, status_code=status)
