"""How a route is made: validated input, typed errors, pages, entity tags."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orcheo_agentensor.errors import AgentensorError, BadInput, ConfigError, NotFound
from orcheo_agentensor.identity import Identity
from orcheo_agentensor.json_values import MAX_DEPTH, json_problems
from orcheo_agentensor.runs.job import parse_model
from orcheo_agentensor.server.auth import identity_of_request
from orcheo_agentensor.server.http import (
    PREFIX,
    BodyTooLarge,
    MalformedBody,
    error_response,
    parse_body,
    require_json,
)

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord

_LARGEST_BODY = 64 * 1024
ItemT = TypeVar("ItemT")


class NoQuery(BaseModel):
    """A route without query parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(NoQuery):
    """Which part of a list is wanted."""

    limit: int = Field(50, ge=1, le=200, description="Most items in the answer.")
    cursor: str | None = Field(
        None, max_length=2_000, description="`next_cursor` of the page before."
    )

    def place(self, *kinds: type) -> list[Any] | None:
        """What the cursor holds, values of these kinds; raises `ConfigError` for a made-up one."""
        if self.cursor is None:
            return None
        try:
            found = json.loads(base64.urlsafe_b64decode(self.cursor.encode("ascii")))
        except (ValueError, binascii.Error, UnicodeError, RecursionError):
            found = None
        fits = (
            isinstance(found, list)
            and len(found) == len(kinds)
            and all(type(value) is kind for value, kind in zip(found, kinds, strict=True))
            and not any(json_problems(found, field="cursor"))
        )
        if not fits or not isinstance(found, list):
            raise ConfigError(field="query.cursor", value=self.cursor, rule="is not a cursor")
        return found


class Page(BaseModel, Generic[ItemT]):
    """A part of a list; `next_cursor` leads to the next one."""

    items: list[ItemT]
    next_cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a route answers with: a JSON value, and further headers."""

    content: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request with its parts checked."""

    request: Request
    identity: Identity
    store: Store
    query: Any
    body: Any

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One route: what it takes, what it answers, and who may call it."""

    method: str
    path: str
    run: Callable[[Call], Awaitable[Answer]]
    answer: Any
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    scope: str = "run"
    tag: str = "checkpoints"
    statuses: tuple[int, ...] = (404,)

    @property
    def name(self) -> str:
        """The id of the operation."""
        return str(getattr(self.run, "__name__", ""))

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (self.run.__doc__ or "").strip().split("\n")[0]


def handler(operation: Operation, store: Store) -> Callable[[Request], Awaitable[Response]]:
    """The Starlette endpoint of an operation."""

    async def endpoint(request: Request) -> Response:
        try:
            identity = identity_of_request(request.scope)
            identity.require(operation.scope)
            _check_path(request)
            query = parse_model(operation.query, _query(request), where="query")
            body = None if operation.body is None else await _body(request, operation.body)
            answer = await operation.run(
                Call(request=request, identity=identity, store=store, query=query, body=body)
            )
        except AgentensorError as error:
            return error_response(error)
        except ClientDisconnect:  # nobody is left to be answered
            return Response(status_code=400)
        return respond(request, answer)

    return endpoint


def respond(request: Request, answer: Answer) -> Response:
    """`answer` with its entity tag; 304 where the caller has it already."""
    content = json.dumps(answer.content, ensure_ascii=False, separators=(",", ":")).encode()
    tag = entity_tag(answer.content)
    headers = {"etag": tag, "cache-control": "private, no-cache", **answer.headers}
    if request.method in ("GET", "HEAD") and _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def entity_tag(content: Any) -> str:
    """The strong entity tag of a JSON document."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def if_match(request: Request, tag: str | None) -> bool | None:
    """Whether `If-Match` holds for what has `tag` now (None: nothing); None without the header."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        return None
    return tag is not None and _matches(wanted, tag)


def page(items: Sequence[Any], limit: int, place: Callable[[Any], list[Any]]) -> tuple[Any, Any]:
    """The first `limit` of up to one more item, and the cursor that leads on."""
    shown = items[:limit]
    if len(items) <= limit:
        return shown, None
    text = json.dumps(place(shown[-1]), separators=(",", ":"))
    return shown, base64.urlsafe_b64encode(text.encode()).decode()


def document(model: BaseModel, **more: Any) -> dict[str, Any]:
    """A record as JSON."""
    return {**model.model_dump(mode="json"), **more}


async def visible_workflow(call: Call, workflow_id: str) -> WorkflowRecord | None:
    """What is kept about a workflow that the caller may see and that there is.

    Raises `NotFound`, with the same words for a workflow of somebody else and for none.
    """
    record = await call.store.workflows.get(workflow_id)
    hidden = record is not None and not call.identity.may_see(record.owner)
    if hidden or (record is None and not await call.store.checkpoints.list(workflow_id, limit=1)):
        raise NotFound(f"there is no workflow {workflow_id!r}")
    return record


def _matches(wanted: str | None, tag: str) -> bool:
    if wanted is None:
        return False
    given = [one.strip().removeprefix("W/") for one in wanted.split(",")]
    return "*" in given or tag in given


def _query(request: Request) -> dict[str, Any]:
    """The query parameters; the last one counts where one is given twice."""
    found = dict(request.query_params)
    problems = list(json_problems(found, field="query"))
    if problems:
        path, value, rule = problems[0]
        raise ConfigError(field=path, value=value, rule=rule)
    return found


def _check_path(request: Request) -> None:
    for name, value in request.path_params.items():
        for _path, found, rule in json_problems(value, field=name):
            raise BadInput(field=f"path.{name}", value=found, rule=rule)


async def _body(request: Request, model: type[BaseModel]) -> Any:
    require_json(request.headers)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LARGEST_BODY:
            raise BodyTooLarge(
                field="body",
                value=f"more than {_LARGEST_BODY:,} bytes",
                rule=f"must not be larger than {_LARGEST_BODY:,} bytes",
            )
    if not content:
        raise MalformedBody(field="body", value="", rule="is empty; it must be a JSON object")
    parsed = await parse_body(bytes(content))
    problems = [*parsed.problems, *json_problems(parsed.value, field="body")]
    if problems:
        path, value, rule = problems[0]
        raise ConfigError(field=path, value=value, rule=rule)
    if not isinstance(parsed.value, dict):
        raise ConfigError(field="body", value=parsed.value, rule="must be an object")
    return parse_model(model, parsed.value, where="body")


__all__ = ["MAX_DEPTH", "PREFIX", "Answer", "Call", "Operation", "Page", "PageQuery", "handler"]
