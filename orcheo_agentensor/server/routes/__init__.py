"""What every route shares: scopes, strict input, entity tags, pages, and what may be seen."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_type_hints

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from orcheo_agentensor.config.model import config_error
from orcheo_agentensor.errors import ConfigError, NotFound
from orcheo_agentensor.identity import Identity
from orcheo_agentensor.json_values import check_json, json_problems
from orcheo_agentensor.runs.access import may_use_run
from orcheo_agentensor.runs.job import problem_of
from orcheo_agentensor.server.auth import identity_of_request
from orcheo_agentensor.server.http import (
    MalformedBody,
    TextProblems,
    parse_body,
    read_body,
    replay,
    require_json,
)
from orcheo_agentensor.storage import ConfigCheckpoint, RunRecord, Store

ItemT = TypeVar("ItemT")
RowT = TypeVar("RowT")
_LARGEST_BODY = 64 * 1024
MOST = 2**31 - 1
"""The largest number of a version."""

_ETAG = {"ETag": {"schema": {"type": "string"}}}
_NOT_MODIFIED = {
    "description": "Nothing has changed: `If-None-Match` held the entity tag.",
    "headers": _ETAG,
}

Name = Annotated[str, Path(json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]*$"})]


class Problem(BaseModel):
    field: Any = None
    value: Any = None
    rule: Any = None


class ErrorDetail(BaseModel):
    type: str
    message: str
    problems: list[Problem]


class ErrorAnswer(BaseModel):
    """What every refusal says: its type, a message for people, and each problem by field."""

    error: ErrorDetail


_WHY = {
    403: "The token lacks the scope that this needs.",
    404: "There is no such thing, or it is not yours to see.",
    409: "The alias points elsewhere by now, or the version was rejected.",
    412: "If-Match does not hold.",
    413: "The body is too large.",
    415: "The body is not JSON in UTF-8.",
    422: "The body is no JSON, or a parameter or it breaks a rule; every problem is listed.",
    503: "The side store cannot be used.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of these statuses, for `responses=`."""
    return {
        status: {"model": ErrorAnswer, "description": _WHY[status]} for status in sorted(statuses)
    }


class NoQuery(BaseModel):
    """A query without any parameter."""

    model_config = ConfigDict(extra="forbid", frozen=True)


async def _no_query(query: Annotated[NoQuery, Query()]) -> None:
    """Refuses every query parameter."""


_NO_QUERY = Depends(_no_query)


def without_null(schema: dict[str, Any]) -> None:
    """Describe a parameter that may be left out, and that no query or header can give as null."""
    [kept] = [form for form in schema.pop("anyOf") if form != {"type": "null"}]
    schema.update(kept)
    schema.pop("default", None)


def optional(description: str, **rules: Any) -> Any:
    """A query parameter that may be left out."""
    return Field(None, description=description, json_schema_extra=without_null, **rules)


class PageQuery(NoQuery):
    """Which part of a list is wanted."""

    limit: int = Field(50, ge=1, le=200, description="Most items in the answer.")
    cursor: str | None = optional("`next_cursor` of the page before.", max_length=2_000)

    def place(self, kind: Any) -> Any:
        """What the cursor holds, a value of this type; raises `ConfigError` for a made-up one."""
        if self.cursor is None:
            return None
        try:
            content = base64.urlsafe_b64decode(self.cursor.encode("ascii"))
            check_json(json.loads(content), field="cursor")
            return TypeAdapter(kind).validate_json(content, strict=True)
        except (ValueError, RecursionError, ConfigError):
            raise ConfigError(
                field="query.cursor", value=self.cursor, rule="is not a cursor"
            ) from None


class Page(BaseModel, Generic[ItemT]):
    """A part of a list; `next_cursor` leads to the next one."""

    items: list[ItemT]
    next_cursor: str | None = None


def page(
    rows: Sequence[RowT],
    limit: int,
    *,
    place: Callable[[RowT], list[Any]],
    show: Callable[[RowT], ItemT],
) -> Page[ItemT]:
    """The first `limit` of up to one more row, with the cursor that leads on."""
    cursor = None
    if len(rows) > limit:
        text = json.dumps(place(rows[limit - 1]), separators=(",", ":"))
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
    return Page(items=[show(row) for row in rows[:limit]], next_cursor=cursor)


def entity_tag(content: bytes) -> str:
    """The strong entity tag of an answer's body."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def tag_matches(header: str, tag: str) -> bool:
    """Whether an `If-Match` or `If-None-Match` header names the entity tag."""
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in named or tag in named


class CheckedRoute(APIRoute):
    """A route that needs `scope`, reads strict JSON and gives its answer an entity tag.

    FastAPI by itself takes a body with a key twice, with NaN and of any size, ignores unknown query
    parameters where an endpoint has no `query`, and knows no entity tags. The summary of a route is
    the first line of its endpoint's docstring.
    """

    scope: ClassVar[str] = "run"

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        responses: dict[int | str, Any] = {200: {"headers": _ETAG}}
        if "GET" in options["methods"]:
            responses[304] = _NOT_MODIFIED
        options["responses"] = {**responses, **(options.get("responses") or {})}
        dependencies = [one for one in options.get("dependencies") or () if one is not _NO_QUERY]
        if "query" not in get_type_hints(endpoint):
            options["dependencies"] = [*dependencies, _NO_QUERY]
        told = inspect.cleandoc(endpoint.__doc__ or "")
        summary = told.split("\n")[0]
        options |= {
            "summary": summary,
            "description": f"{told} Needs the scope `{self.scope}`.",
            "response_description": summary,
        }
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, between our checks and the entity tag."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            identity_of_request(request.scope).require(self.scope)
            _require_storable(request)
            if self.body_field is not None:
                request = await _with_strict_body(request)
            try:
                response = await handle(request)
            except RequestValidationError as error:
                raise self._refusal(error) from None
            return _tagged(request, response)

        return handler

    def _refusal(self, error: RequestValidationError) -> ConfigError:
        """Every problem that FastAPI has found, in the words that jobs and configs use too."""
        models = get_type_hints(self.endpoint)
        problems = []
        for entry in error.errors():
            part, *place = entry["loc"]
            model = models.get(part, NoQuery)
            problems.append(problem_of({**entry, "loc": tuple(place)}, model, where=part))
        text = "; ".join(f"{p['field']}: {p['value']} {p['rule']}" for p in problems)
        return ConfigError(text, problems=problems)


class PromotionRoute(CheckedRoute):
    """A route that moves an alias."""

    scope = "promote"


def _require_storable(request: Request) -> None:
    """Refuse text in the path or the query that no database takes."""
    given = {"path": dict(request.path_params), "query": dict(request.query_params)}
    _refuse([problem for part in given for problem in json_problems(given[part], field=part)])


async def _with_strict_body(request: Request) -> Request:
    """The request for FastAPI to read again; raises `BadInput` unless its body is strict JSON."""
    require_json(request.headers)
    content = await read_body(request, limit=_LARGEST_BODY)
    if not content:
        raise MalformedBody(field="body", value="", rule="is empty; it must be a JSON object")
    body, text_problems = await parse_body(content)
    _refuse([*text_problems, *json_problems(body, field="body")])
    if not isinstance(body, dict):
        raise ConfigError(field="body", value=body, rule="must be an object")
    # FastAPI takes a body without a media type for bytes.
    headers = [*request.scope["headers"], (b"content-type", b"application/json")]
    return Request({**request.scope, "headers": headers}, replay(content, request.receive))


def _refuse(problems: TextProblems) -> None:
    if problems:
        raise config_error(problems, "the request")


def _tagged(request: Request, response: Response) -> Response:
    """`response` with its entity tag; 304 where the client has it already."""
    response.headers.setdefault("etag", entity_tag(bytes(response.body)))
    response.headers.setdefault("cache-control", "private, no-cache")
    wanted = request.headers.get("if-none-match")
    tag = response.headers["etag"]
    if request.method != "GET" or wanted is None or not tag_matches(wanted, tag):
        return response
    about_the_body = ("content-length", "content-type")
    kept = {key: text for key, text in response.headers.items() if key not in about_the_body}
    return Response(status_code=304, headers=kept)


def router(tag: str) -> APIRouter:
    """A router for routes that read."""
    return APIRouter(route_class=CheckedRoute, tags=[tag])


class VisibleStore:
    """The side store as the sender of a request may see it.

    What belongs to another owner is not found, with the same words as what is not there.
    """

    def __init__(self, store: Store, identity: Identity) -> None:
        self.store = store
        self.identity = identity

    async def require_workflow(self, workflow_id: str) -> None:
        """Raise `NotFound` unless there is such a workflow."""
        record = await self.store.workflows.get(workflow_id)
        hidden = record is not None and not self.identity.may_see(record.owner)
        if hidden or (
            record is None and not await self.store.checkpoints.list(workflow_id, limit=1)
        ):
            raise NotFound(f"there is no workflow {called(workflow_id)!r}")

    async def version(self, workflow_id: str, version: str) -> ConfigCheckpoint:
        """A version of a workflow, by number or alias."""
        absent = NotFound(f"there is no version {version!r} of workflow {called(workflow_id)!r}")
        record = await self.store.workflows.get(workflow_id)
        hidden = record is not None and not self.identity.may_see(record.owner)
        is_number = version.isdecimal()
        if hidden or (is_number and not (version.isascii() and int(version[:12]) <= MOST)):
            raise absent
        try:
            return await self.store.checkpoints.get(workflow_id, version)
        except NotFound:
            raise absent from None

    async def run(self, run_id: str) -> RunRecord:
        """A run."""
        absent = NotFound(f"there is no run {run_id!r}")
        try:
            run = await self.store.runs.get(run_id)
        except NotFound:
            raise absent from None
        if not await may_use_run(self.store, run, self.identity):
            raise absent
        return run


def _visible(request: Request) -> VisibleStore:
    return VisibleStore(request.app.state.store, identity_of_request(request.scope))


Visible = Annotated[VisibleStore, Depends(_visible)]


async def _own_workflow(workflow_id: Name, visible: Visible) -> str:
    return await visible.store.workflows.id_for(workflow_id, visible.identity.name)


WorkflowId = Annotated[str, Depends(_own_workflow)]
"""The workflow in the path: that of the sender, where somebody else has one of the same name."""


def called(workflow_id: str) -> str:
    """What its owner calls a workflow."""
    return workflow_id.rpartition("~")[2]
