"""Which endpoints of the server start or store a run, and where their bodies say how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["run", "cron", "cron_update", "assistant", "assistant_update", "command"]

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


@dataclass(frozen=True)
class Endpoint:
    """A matched endpoint; `id` is that of the assistant or cron in its path."""

    kind: Kind
    id: str | None = None

    @property
    def starts_run(self) -> bool:
        """Whether a run comes of it, at once or by a schedule."""
        return self.is_cron or self.kind in ("run", "command")

    @property
    def is_cron(self) -> bool:
        """Whether runs come of it by a schedule."""
        return self.kind in ("cron", "cron_update")


def find_endpoint(scope: Mapping[str, Any]) -> Endpoint | None:
    """The endpoint of a request, if it is one that starts or stores a run."""
    path = route_path(scope)
    for method, pattern, kind in _ENDPOINTS:
        if scope["method"] == method and (found := re.fullmatch(pattern, path)):
            return Endpoint(kind, found.groupdict().get("id"))
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
