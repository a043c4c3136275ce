"""Sends run requests through a `RequestReviewer` before the LangGraph server sees them.

This is an ASGI middleware, not a set of `@auth.on…` handlers, which can also refuse and change a
run request, because a handler cannot keep three promises. A refusal lists every problem as field,
value and rule, and the server makes a text of a handler's `detail`. A key that a body gives twice
is a problem, and a handler sees the parsed body. A batch is accepted as a whole or not at all, and
a handler sees one run of it. A deployment that brings its own `Auth` would also lose the handlers.

Only bodies of requests are read; responses are never touched. A request for a workflow that has not
opted in reaches the server byte for byte.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orcheo_agentensor.errors import AgentensorError, ConfigError, Forbidden
from orcheo_agentensor.server.auth import identity_of_request
from orcheo_agentensor.server.fairness import FairShares, TooManyRequests
from orcheo_agentensor.server.http import (
    PREFIX,
    BodyTooLarge,
    ErrorBody,
    MalformedBody,
    dump_body,
    error_response,
    parse_body,
    read_body,
    replay,
    require_json,
)
from orcheo_agentensor.server.review import Kind, Problems, RequestReviewer, RunRequest
from orcheo_agentensor.upstream import allowed_origins, assistant_id_of

_ID = r"[^/]+"
_ENDPOINTS: tuple[tuple[str, str, Kind], ...] = (
    ("POST", rf"/threads/{_ID}/runs(?:/stream|/wait)?/?", "run"),
    ("POST", r"/runs(?:/stream|/wait|/batch)?/?", "run"),
    ("POST", rf"/threads/{_ID}/runs/crons/?", "cron"),
    ("POST", r"/runs/crons/?", "cron"),
    ("PATCH", rf"/runs/crons/{_ID}/?", "cron_update"),
    ("POST", r"/assistants/?", "assistant"),
    ("PATCH", rf"/assistants/{_ID}/?", "assistant_update"),
    ("POST", rf"/threads/{_ID}/commands/?", "command"),
)
_TOOLS = re.compile(rf"/mcp/?|/a2a/{_ID}/?")
_CALLS = ("tools/call", "message/send", "message/stream")
"""The methods of MCP and A2A that start a run."""
_LARGEST_CALL = 4 * 1024 * 1024
"""The server parses these on the event loop."""
_COMMANDS = re.compile(rf"/threads/{_ID}/stream/events/?")
_SCHEMAS = re.compile(rf"/assistants/({_ID})/schemas/?")
_LARGEST_BODY = 300 * 1024 * 1024
"""What the server itself takes."""

_LENGTHS = (b"content-length", b"transfer-encoding")
_ABOUT_THE_BODY = (*_LENGTHS, b"content-type")


class RunRequests:
    """ASGI middleware: run requests go through a `RequestReviewer`."""

    def __init__(self, app: ASGIApp, *, reviewer: RequestReviewer) -> None:
        self.app = app
        self.reviewer = reviewer
        self.shares = FairShares(reviewer.settings, clock=time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Review the request, if it is one for a run, and hand it on."""
        if scope["type"] in ("http", "websocket") and _is_foreign(scope):
            await _turn_away(scope, receive, send)
            return
        if scope["type"] == "websocket" and _COMMANDS.fullmatch(_path(scope)):
            await self.app(scope, self._reviewed_commands(scope, receive, send), send)
            return
        kind, caller = _kind(scope), _caller(scope)
        if caller is not None and scope["type"] == "http":
            try:
                self.shares.count_request(caller)
            except TooManyRequests as error:
                await error_response(error)(scope, receive, send)
                return
        if kind is None:
            if scope["type"] == "http" and (asked := _SCHEMAS.fullmatch(_path(scope))):
                name = assistant_id_of(asked[1])
                found = await self._get(scope, f"/assistants/{name}") or {}
                await self.reviewer.look_at(str(found.get("graph_id")))
            if caller is not None and _TOOLS.fullmatch(_path(scope)) and scope["method"] == "POST":
                await self._tools(scope, caller, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        try:
            limit = min(_LARGEST_BODY, self.reviewer.settings.max_request_bytes)
            content = await read_body(Request(scope, receive), limit=limit)
            changed = await self._reviewed(scope, kind, content)
        except ClientDisconnect:
            return
        except AgentensorError as error:
            answer = error_response(error)
            if _is_own_wait(scope):  # such as the server's tools for MCP, which raise at a 4xx
                told = f"{type(error).__name__}: {error.message}"
                answer = ErrorBody({"__error__": {"error": told, "message": error.message}})
            await answer(scope, receive, send)
            return
        if changed is not None:
            headers = [pair for pair in scope["headers"] if pair[0].lower() not in _LENGTHS]
            length = (b"content-length", str(len(changed)).encode())
            scope = {**scope, "headers": [*headers, length]}
        content = content if changed is None else changed
        if caller is None or kind not in ("run", "command"):
            await self.app(scope, replay(content, receive), send)
            return
        await self._in_turn(scope, caller, content, receive, send)

    async def _tools(self, scope: Scope, caller: str, receive: Receive, send: Send) -> None:
        """Hand a request of MCP or A2A on; a run that it starts, as the server, is its caller's."""
        try:
            identity_of_request(scope).require("run")
            content = await read_body(Request(scope, receive), limit=_LARGEST_CALL)
            value = (await parse_body(content))[0]
        except ClientDisconnect:
            return
        except MalformedBody:
            value = None  # the server says so in its own way
        except AgentensorError as error:
            await error_response(error)(scope, receive, send)
            return
        if isinstance(value, dict) and value.get("method") in _CALLS:
            await self._in_turn(scope, caller, content, receive, send)
        else:
            await self.app(scope, replay(content, receive), send)

    async def _in_turn(
        self, scope: Scope, caller: str, content: bytes, receive: Receive, send: Send
    ) -> None:
        """Hand a run request on when it is the caller's turn, and see when its runs have ended."""
        is_batch = _path(scope).rstrip("/").endswith("/batch")
        wanted = max(1, len((await parse_body(content))[0])) if is_batch else 1
        try:
            await self.shares.take(caller, wanted)
        except TooManyRequests as error:
            await error_response(error)(scope, receive, send)
            return
        made: list[str] = []
        body = bytearray()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                place = Headers(raw=message["headers"]).get("content-location", "")
                made.extend(re.findall(r"/threads/[^/]+/runs/[^/]+", place))
            elif message["type"] == "http.response.body" and is_batch:
                body.extend(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, replay(content, receive), noting)
        finally:
            if is_batch and body.startswith(b"["):
                made += [f"/threads/{r['thread_id']}/runs/{r['run_id']}" for r in json.loads(body)]
            self.shares.give_back(caller, wanted - len(made[:wanted]))
            for run in made[:wanted]:
                self.shares.give_back_later(caller, partial(self._is_at_work, scope, run))

    async def _is_at_work(self, scope: Scope, run: str) -> bool:
        """Whether a run waits in the server's queue or is executed."""
        found = await self._get(scope, run)
        return found is not None and found.get("status") in ("pending", "running")

    async def _reviewed(self, scope: Scope, kind: Kind, content: bytes) -> bytes | None:
        """The body to hand on; None for the one that came."""
        settings = self.reviewer.settings
        try:
            value, text_problems = await parse_body(content)
        except MalformedBody:
            if not settings.flag("runnable_config_enabled"):
                return None  # the server says so in its own way
            require_json(Headers(scope=scope))
            raise
        is_batch = isinstance(value, list)
        items = value if is_batch else [value]
        answers: list[Any] = []
        workflows: list[str] = []
        problems = Problems()
        for index, item in enumerate(items):
            request = await self._request(scope, kind, item)
            if request is None:
                answers.append(item)
                continue
            record = await self.reviewer.workflow(request)
            if self.reviewer.opted_in(record):
                require_json(Headers(scope=scope))
                if len(content) > settings.max_request_bytes:
                    raise BodyTooLarge(
                        field="body",
                        value=f"<{len(content):,} bytes>",
                        rule=f"is larger than {settings.max_request_bytes:,} bytes",
                    )
            try:
                changed, workflow_id = await self.reviewer.review(
                    request, record=record, text_problems=text_problems
                )
            except ConfigError as error:
                if not is_batch:
                    raise
                problems.of(error, prefix=f"{index}.")
                continue
            answers.append({**item, "params": changed} if kind == "command" else changed)
            workflows += [] if workflow_id is None else [workflow_id]
        problems.settle("the batch")
        for workflow_id in workflows:
            await self.reviewer.claim(identity_of_request(scope), workflow_id)
        if answers == items:
            return None
        return await dump_body(answers if is_batch else answers[0], size=len(content))

    async def _request(self, scope: Scope, kind: Kind, item: Any) -> RunRequest | None:
        """A run request with its graph; None where the server will not find one."""
        item = _command_params(item) if kind == "command" else item
        if not isinstance(item, dict):
            return None
        path_id = _path(scope).rstrip("/").rpartition("/")[2]
        thread: dict[str, Any] | None = None
        name = _text(item, "assistant_id")
        if kind == "assistant_update":
            name = path_id
        elif kind == "cron_update" and name is None:
            cron = await self._get(scope, f"/runs/crons/{path_id}") or {}
            name = _text(cron, "assistant_id") or _text(cron.get("payload"), "assistant_id")
        elif kind == "command" and name is None:
            thread = await self._thread(scope)
            name = _text(thread.get("metadata"), "assistant_id")
        assistant: dict[str, Any] | None = None
        if kind != "assistant":
            place = f"/assistants/{assistant_id_of(name)}" if name else None
            assistant = await self._get(scope, place) if place else None
            if assistant is None:
                return None
        own = _text(item, "graph_id") if kind.startswith("assistant") else None
        graph_id = own or _text(assistant, "graph_id")
        if graph_id is None:
            return None
        thread = thread or {}
        resumes = kind in ("run", "command") and _resumes(item)
        if kind == "command" or (kind == "run" and (resumes or item.get("input") is None)):
            thread = thread or await self._thread(scope)
        resumes = resumes or (kind == "command" and bool(thread.get("interrupts")))
        return RunRequest(
            kind=kind,
            item=item,
            graph_id=graph_id,
            assistant=assistant,
            identity=identity_of_request(scope),
            trusted=str(scope.get("root_path") or "").startswith("/noauth"),
            resumes=resumes,
            awaits_approval=resumes and _awaits_approval(thread),
            begun=bool(thread.get("values")),
        )

    async def _thread(self, scope: Scope) -> dict[str, Any]:
        """The thread in the path; empty where there is none."""
        _, collection, thread_id, *_ = [*_path(scope).split("/"), "", ""]
        found = await self._get(scope, f"/threads/{thread_id}") if collection == "threads" else None
        return found or {}

    async def _get(self, scope: Scope, path: str) -> dict[str, Any] | None:
        """Ask the server itself, as the sender of `scope`; None unless it answers 200."""
        root = str(scope.get("root_path") or "").rstrip("/")
        path = f"{root}{path}" if scope["path"].startswith(f"{root}/") else path
        asked = {
            **scope,
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [p for p in scope["headers"] if p[0].lower() not in _ABOUT_THE_BODY],
        }
        for key in ("path_params", "endpoint", "route"):
            asked.pop(key, None)
        status, content = 500, bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            content.extend(message.get("body", b""))

        await self.app(asked, receive, send)
        found: dict[str, Any] | None = json.loads(content) if status == 200 else None
        return found

    def _reviewed_commands(self, scope: Scope, receive: Receive, send: Send) -> Receive:
        """The messages of a WebSocket; a command that is refused is answered and left out."""
        path = scope["path"].rstrip("/").removesuffix("/stream/events") + "/commands"
        headers = [*scope["headers"], (b"content-type", b"application/json")]
        asked = {**scope, "path": path, "method": "POST", "headers": headers}

        async def reviewed() -> Message:
            while True:
                message = await receive()
                text = message.get("text")
                content = text.encode() if isinstance(text, str) else message.get("bytes")
                if message["type"] != "websocket.receive" or not content:
                    return message
                try:
                    changed = await self._reviewed(asked, "command", content)
                except AgentensorError as error:
                    await send({"type": "websocket.send", "text": _refusal(content, error)})
                    continue
                if changed is None:
                    return message
                return {"type": "websocket.receive", "text": changed.decode()}

        return reviewed


def _caller(scope: Scope) -> str | None:
    """The caller whose share a request takes; None for the server's own and where nobody is known.

    What a run asks of its own server is part of that run, which has its share.
    """
    if str(scope.get("root_path") or "").startswith("/noauth") or scope.get("user") is None:
        return None
    return identity_of_request(scope).name


def _is_foreign(scope: Scope) -> bool:
    """Whether a page of another site sends this to a server that knows no callers.

    Nothing else would keep it from that: a form, or a script with `no-cors`, asks for no leave, and
    neither does a WebSocket. What only reads is kept from it by the browser.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None or scope.get("method") in ("GET", "HEAD", "OPTIONS"):
        return False
    if (
        urlsplit(origin).netloc == headers.get("host")
        or identity_of_request(scope).name is not None
    ):
        return False
    origins, pattern = allowed_origins()
    named = "*" in origins or origin in origins
    return not named and not (pattern and re.fullmatch(pattern, origin))


def _is_own_wait(scope: Scope) -> bool:
    """Whether the server itself asks for the outcome of a run, and reads `__error__` in it."""
    root = str(scope.get("root_path") or "")
    return root.startswith("/noauth") and _path(scope).rstrip("/").endswith("/runs/wait")


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    error = Forbidden("pages of other sites may not use this server (http.cors in langgraph.json)")
    await error_response(error)(scope, receive, send)


def _kind(scope: Scope) -> Kind | None:
    """What a request is, if it is one that starts or stores a run."""
    if scope["type"] != "http" or str(scope.get("root_path") or "").endswith(PREFIX):
        return None
    path = _path(scope)
    for method, pattern, kind in _ENDPOINTS:
        if scope["method"] == method and re.fullmatch(pattern, path):
            return kind
    return None


def _path(scope: Scope) -> str:
    """The path without what the server is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _command_params(command: Any) -> Any:
    """The run request in a protocol command, if it is one that starts or resumes a run."""
    if not isinstance(command, dict) or command.get("method") not in ("run.start", "input.respond"):
        return None
    return command.get("params")


def _text(value: Any, key: str) -> str | None:
    """The text under `key`, if it is one."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and found else None


def _resumes(item: Mapping[str, Any]) -> bool:
    """Whether a run request answers an interrupt, by a command in it or by being one."""
    command = item.get("command")
    return (
        "interrupt_id" in item
        or "responses" in item
        or (isinstance(command, dict) and command.get("resume") is not None)
    )


def _awaits_approval(thread: Mapping[str, Any]) -> bool:
    """Whether an interrupt of a thread asks to approve a promotion."""
    values = [
        pause.get("value")
        for pauses in (thread.get("interrupts") or {}).values()
        for pause in pauses
    ]
    return any(isinstance(value, dict) and value.get("type") == "approval" for value in values)


def _refusal(content: bytes, error: AgentensorError) -> str:
    """How the streaming protocol refuses a command."""
    try:
        command = json.loads(content)
    except ValueError:
        command = {}
    number = command.get("id") if isinstance(command, dict) else None
    return json.dumps(
        {
            "type": "error",
            "id": number if isinstance(number, int) else None,
            "error": "invalid_argument",
            "message": error.message,
        }
    )
