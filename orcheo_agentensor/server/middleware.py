"""Which endpoints of the server start or store a run, and where their bodies say how."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orcheo_agentensor.errors import AgentensorError, ConfigError
from orcheo_agentensor.server.auth import identity_of_request
from orcheo_agentensor.server.http import (
    PREFIX,
    BodyTooLarge,
    MalformedBody,
    error_response,
    parse_body,
    require_json,
)
from orcheo_agentensor.server.review import (
    Kind,
    Problems,
    Request,
    RequestReviewer,
    RunEndpoint,
)
from orcheo_agentensor.upstream import assistant_id_of

_ID = r"[^/]+"
_ENDPOINTS: tuple[tuple[str, str, Kind], ...] = (
    ("POST", rf"/threads/{_ID}/runs(?:/stream|/wait)?/?", "run"),
    ("POST", r"/runs(?:/stream|/wait|/batch)?/?", "run"),
    ("POST", rf"/threads/{_ID}/runs/crons/?", "cron"),
    ("POST", r"/runs/crons/?", "cron"),
    ("PATCH", rf"/runs/crons/(?P<id>{_ID})/?", "cron_update"),
    ("POST", r"/assistants/?", "assistant"),
    ("PATCH", rf"/assistants/(?P<id>{_ID})/?", "assistant_update"),
    ("POST", rf"/threads/{_ID}/commands/?", "command"),
)
_COMMANDS = re.compile(rf"/threads/{_ID}/stream/events/?")


def find_endpoint(scope: Mapping[str, Any]) -> RunEndpoint | None:
    """The endpoint of a request, if it is one that starts or stores a run."""
    path = route_path(scope)
    for method, pattern, kind in _ENDPOINTS:
        if scope["method"] == method and (found := re.fullmatch(pattern, path)):
            return RunEndpoint(kind, found.groupdict().get("id"))
    return None


def takes_commands(scope: Mapping[str, Any]) -> bool:
    """Whether a WebSocket is one that takes commands which start runs."""
    return _COMMANDS.fullmatch(route_path(scope)) is not None


def route_path(scope: Mapping[str, Any]) -> str:
    """The path without what the server is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def items_of(body: Any) -> list[Any]:
    """The run requests in a body: one, or all of a batch."""
    return body if isinstance(body, list) else [body]


def command_params(command: Any) -> dict[str, Any] | None:
    """The run request in a protocol command, if it is one that starts or resumes a run."""
    if not isinstance(command, dict) or command.get("method") not in ("run.start", "input.respond"):
        return None
    params = command.get("params")
    return params if isinstance(params, dict) else None


@dataclass
class Body:
    """A request's body as it came; `whole` says whether all of it was read."""

    content: bytes
    whole: bool
    receive: Receive

    def replay(self, content: bytes | None = None) -> Receive:
        """A `receive` that gives `content`, by default what came, and then whatever follows."""
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return await self.receive()
            sent = True
            body = self.content if content is None else content
            return {"type": "http.request", "body": body, "more_body": not self.whole}

        return receive


async def read_body(receive: Receive, *, limit: int) -> Body | None:
    """The body, or its first part where it is larger than `limit`; None if the client has left."""
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts += message.get("body", b"")
        whole = not message.get("more_body", False)
        if whole or len(parts) > limit:
            return Body(content=bytes(parts), whole=whole, receive=receive)


def dump_body(value: Any) -> bytes:
    """The text of a JSON value; other than ASCII is escaped, so that any text goes through."""
    return json.dumps(value, separators=(",", ":")).encode()


def text_of(value: Mapping[str, Any], key: str) -> str | None:
    """The text under `key`, if it is one."""
    found = value.get(key)
    return found if isinstance(found, str) and found else None


# Pure ASGI: bodies of requests are read, responses are never touched. A request of a workflow that
# has not opted in reaches the server byte for byte.


_SERVER_LIMIT = 300 * 1024 * 1024
"""What the server itself takes; it answers a larger body by itself."""

_logger = logging.getLogger(__name__)


class RunRequests:
    """ASGI middleware: run requests go by way of a `RequestReviewer`."""

    def __init__(self, app: ASGIApp, *, reviewer: RequestReviewer) -> None:
        self.app = app
        self.reviewer = reviewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, if it is one for a run, and hand it on."""
        if scope["type"] == "websocket" and takes_commands(scope):
            await self.app(scope, self._checked_commands(scope, receive, send), send)
            return
        of_server = not str(scope.get("root_path") or "").endswith(PREFIX)
        endpoint = find_endpoint(scope) if scope["type"] == "http" and of_server else None
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        body = await read_body(receive, limit=_SERVER_LIMIT)
        if body is None:
            return
        try:
            content = await self._checked(scope, endpoint, body.content) if body.whole else None
        except AgentensorError as error:
            await error_response(error)(scope, receive, send)
            return
        if content is not None:
            scope = {**scope, "headers": _with_length(scope["headers"], len(content))}
        await self.app(scope, body.replay(content), send)

    async def _checked(self, scope: Scope, endpoint: RunEndpoint, content: bytes) -> bytes | None:
        """The body to hand on; None for the one that came."""
        settings = self.reviewer.settings
        try:
            parsed = await parse_body(content)
        except MalformedBody:
            if not settings.flag("runnable_config_enabled"):
                return None  # the server says so in its own way
            require_json(Headers(scope=scope))
            raise
        is_batch = isinstance(parsed.value, list)
        items = items_of(parsed.value)
        answers: list[Any] = []
        workflows: list[str] = []
        problems = Problems()
        for index, item in enumerate(items):
            params = command_params(item) if endpoint.kind == "command" else item
            if not isinstance(params, dict):
                answers.append(item)
                continue
            request = await self._request(scope, endpoint, params)
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
            prefix = f"{index}." if is_batch else ""
            try:
                found = await self.reviewer.review(
                    request, record=record, odd=parsed.problems, prefix=prefix
                )
            except ConfigError as error:
                if not is_batch:
                    raise
                problems.of(error)
                continue
            changed = found.item
            answers.append({**item, "params": changed} if endpoint.kind == "command" else changed)
            if found.workflow_id is not None:
                workflows.append(found.workflow_id)
        problems.settle("the batch")
        for workflow_id in workflows:
            await self.reviewer.claim(identity_of_request(scope), workflow_id)
        if all(answer == item for answer, item in zip(answers, items, strict=True)):
            return None
        return dump_body(answers if is_batch else answers[0])

    async def _request(
        self, scope: Scope, endpoint: RunEndpoint, item: dict[str, Any]
    ) -> Request | None:
        """A run request with the graph it is for; None where the server will not find one."""
        assistant: Mapping[str, Any] | None = None
        name = text_of(item, "assistant_id")
        if endpoint.kind == "assistant_update":
            name = endpoint.id
        elif endpoint.kind == "cron_update" and name is None:
            cron = await self._get(scope, f"/runs/crons/{endpoint.id}") or {}
            stored = cron.get("payload") or {}
            name = text_of(cron, "assistant_id") or text_of(stored, "assistant_id")
        elif endpoint.kind == "command" and name is None:
            name = text_of((await self._thread(scope)).get("metadata") or {}, "assistant_id")
        if endpoint.kind != "assistant":
            if name is None:
                return None
            assistant = await self._get(scope, f"/assistants/{assistant_id_of(name)}")
            if assistant is None:
                return None
        graph_id = text_of(item, "graph_id") if endpoint.kind.startswith("assistant") else None
        graph_id = graph_id or text_of(assistant or {}, "graph_id")
        if graph_id is None:
            return None
        command = endpoint.kind == "command"
        now = command or endpoint.kind == "run"  # what is stored goes on from nothing
        resumes = now and _resumes(item)
        pending = now and (command or resumes or item.get("input") is None)
        thread = await self._thread(scope) if pending else {}
        resumes = resumes or (command and bool(thread.get("interrupts")))
        return Request(
            endpoint=endpoint,
            item=item,
            resumes=resumes,
            asked=resumes and _awaits_approval(thread),
            begun=bool(thread.get("values")),
            graph_id=graph_id,
            assistant=assistant,
            identity=identity_of_request(scope),
            trusted=str(scope.get("root_path") or "").startswith("/noauth"),
        )

    async def _thread(self, scope: Scope) -> dict[str, Any]:
        """The thread in the path; empty where there is none."""
        parts = route_path(scope).split("/")
        found = await self._get(scope, f"/threads/{parts[2]}") if parts[1] == "threads" else None
        return found or {}

    async def _get(self, scope: Scope, path: str) -> dict[str, Any] | None:
        """Ask the server itself, as the sender of `scope`; None unless it answers 200."""
        root = str(scope.get("root_path") or "")
        full = root.rstrip("/") + path if scope["path"].startswith(f"{root.rstrip('/')}/") else path
        asked = {
            key: value
            for key, value in scope.items()
            if key not in ("path_params", "endpoint", "route")
        }
        asked |= {
            "type": "http",
            "method": "GET",
            "path": full,
            "raw_path": full.encode(),
            "query_string": b"",
            "headers": [
                pair
                for pair in scope["headers"]
                if pair[0].lower() not in (b"content-length", b"content-type", b"transfer-encoding")
            ],
        }
        status, parts = 500, bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, parts
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                parts += message.get("body", b"")

        await self.app(asked, receive, send)
        if status != 200:
            return None
        found: dict[str, Any] = json.loads(bytes(parts))
        return found

    def _checked_commands(self, scope: Scope, receive: Receive, send: Send) -> Receive:
        """The messages of a WebSocket; a command that is refused is answered and left out."""

        async def checked() -> Message:
            while True:
                message = await receive()
                text = message.get("text")
                content = text.encode() if isinstance(text, str) else message.get("bytes")
                if message["type"] != "websocket.receive" or not content:
                    return message
                try:
                    found = await self._checked_command(scope, content)
                except AgentensorError as error:
                    await send({"type": "websocket.send", "text": _refusal(content, error)})
                    continue
                if found is None:
                    return message
                return {"type": "websocket.receive", "text": found.decode()}

        return checked

    async def _checked_command(self, scope: Scope, content: bytes) -> bytes | None:
        path = scope["path"].rstrip("/").removesuffix("/stream/events") + "/commands"
        headers = [*scope["headers"], (b"content-type", b"application/json")]
        asked = {**scope, "path": path, "method": "POST", "headers": headers}
        return await self._checked(asked, RunEndpoint("command"), content)


def _resumes(item: Mapping[str, Any]) -> bool:
    """Whether a run request answers an interrupt, by a command in it or by being one."""
    command = item.get("command")
    return (
        "interrupt_id" in item
        or "responses" in item
        or (isinstance(command, dict) and command.get("resume") is not None)
    )


def _awaits_approval(thread: Mapping[str, Any]) -> bool:
    """Whether a thread waits for somebody to approve a promotion."""
    pauses = (thread.get("interrupts") or {}).values()
    return any(
        isinstance(pause.get("value"), dict) and pause["value"].get("type") == "approval"
        for found in pauses
        for pause in found
    )


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [
        pair for pair in headers if pair[0].lower() not in (b"content-length", b"transfer-encoding")
    ]
    return [*kept, (b"content-length", str(length).encode())]


def _refusal(content: bytes, error: AgentensorError) -> str:
    """How the protocol says no to a command."""
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
