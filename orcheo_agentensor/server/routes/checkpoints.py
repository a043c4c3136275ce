"""Versions of a workflow and the aliases that point to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.errors import ConfigError, NotFound
from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.server.http import PreconditionFailed, RejectedVersion
from orcheo_agentensor.server.routes import (
    MOST,
    Name,
    NoQuery,
    Page,
    PageQuery,
    PromotionRoute,
    Visible,
    VisibleStore,
    WorkflowId,
    called,
    entity_tag,
    errors,
    optional,
    page,
    router,
    tag_matches,
    without_null,
)
from orcheo_agentensor.storage import AliasMove, ConfigCheckpoint, Expected
from orcheo_agentensor.training.decision import prompt_diff, rejection

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The entity tag of the alias as read.",
        json_schema_extra=without_null,
    ),
]
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_WORKFLOW = "/workflows/{workflow_id}"
_ALIAS = _WORKFLOW + "/aliases/{alias}"
_MOVED = errors(404, 409, 412, 413, 415)


class WorkflowSummary(BaseModel):
    """A workflow, and where its aliases point."""

    workflow_id: str
    owner: str | None
    aliases: dict[str, int]


class CheckpointSummary(BaseModel):
    """A version without its config."""

    workflow_id: str
    config_version: int
    parent_version: int | None
    run_id: str | None
    dataset_version: str | None
    evaluator_set: str | None
    objective: float | None
    coverage: float | None
    aliases: list[str]
    created_at: str


class Checkpoint(ConfigCheckpoint):
    """A version, and the aliases that point to it."""

    aliases: list[str]


class Diff(BaseModel):
    """Two versions compared: prompts as a unified diff, other config and metrics side by side."""

    workflow_id: str
    before: int
    after: int
    prompts: str
    config: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    measured_alike: bool


class Alias(BaseModel):
    """Where an alias points, and the number of its last move: another one after each move."""

    workflow_id: str
    alias: str
    version: int
    last_move: int

    @property
    def tag(self) -> str:
        """The entity tag of this answer."""
        return entity_tag(self.model_dump_json().encode())


class CheckpointsQuery(PageQuery):
    """Which versions are wanted."""

    run_id: str | None = optional("Only those a run has stored.", max_length=128)


_VERSION = Field(
    min_length=1,
    max_length=64,
    pattern=r"^[^\x00]+$",
    description="A version's number or an alias.",
)


class DiffQuery(NoQuery):
    """Which two versions are compared."""

    before: Annotated[str, _VERSION]
    after: Annotated[str, _VERSION]


class Promotion(StrictNumbers):
    """Point an alias to a version, if it points where the sender believes it does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=MOST, description="The version that the alias shall point to.")
    expected_version: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Where it points now; null: nowhere yet. Needed unless If-Match is sent.",
    )
    reason: str = Field("", max_length=2_000, description="Why; kept in the log.")
    force: bool = Field(False, description="Even where its training run has rejected the version.")


class Rollback(StrictNumbers):
    """Undo the last move of an alias."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expected_version: int | None = Field(
        None, ge=1, le=MOST, description="Only if the alias points there now."
    )
    reason: str = Field("", max_length=2_000, description="Why; kept in the log.")


reading = router("checkpoints")
promoting = APIRouter(route_class=PromotionRoute, tags=["checkpoints"])


@reading.get("/workflows")
async def list_workflows(
    query: Annotated[PageQuery, Query()], visible: Visible
) -> Page[WorkflowSummary]:
    """The workflows that have versions, with their aliases."""
    (after,) = query.place(tuple[str]) or ("",)
    names = [name for name in await visible.store.checkpoints.list_workflows() if name > after]
    records = await visible.store.workflows.list()
    owners = {record.workflow_id: record.owner for record in records}
    seen = [name for name in names if visible.identity.may_see(owners.get(name))]
    aliases = {name: await visible.store.aliases.list(name) for name in seen[: query.limit]}
    return page(
        seen,
        query.limit,
        place=lambda name: [name],
        show=lambda name: WorkflowSummary(
            workflow_id=name, owner=owners.get(name), aliases=aliases[name]
        ),
    )


@reading.get(_WORKFLOW + "/checkpoints", responses=errors(404))
async def list_checkpoints(
    workflow_id: WorkflowId, query: Annotated[CheckpointsQuery, Query()], visible: Visible
) -> Page[CheckpointSummary]:
    """The versions of a workflow, newest first."""
    await visible.require_workflow(workflow_id)
    place = query.place(tuple[int])
    versions = await visible.store.checkpoints.list(
        workflow_id,
        run_id=query.run_id,
        before=min(place[0], MOST) if place else None,
        limit=query.limit + 1,
    )
    aliases = await visible.store.aliases.list(workflow_id)
    return page(
        versions,
        query.limit,
        place=lambda version: [version.config_version],
        show=lambda version: _summary(version, aliases),
    )


@reading.get(_WORKFLOW + "/checkpoints/{version}", responses=errors(404))
async def get_checkpoint(workflow_id: WorkflowId, version: Name, visible: Visible) -> Checkpoint:
    """A version, by number or alias."""
    found = await visible.version(workflow_id, version)
    aliases = await visible.store.aliases.list(found.workflow_id)
    return Checkpoint(**found.model_dump(), aliases=_aliases_of(found, aliases))


@reading.get(_WORKFLOW + "/checkpoints/{version}/download", responses=errors(404))
async def download_checkpoint(
    workflow_id: WorkflowId, version: Name, visible: Visible, response: Response
) -> dict[str, Any]:
    """The RunnableConfig of a version as a file, ready to be passed to the workflow."""
    found = await visible.version(workflow_id, version)
    stem = _UNSAFE.sub("-", found.workflow_id).strip("-.") or "workflow"
    name = f"{stem[:100]}-v{found.config_version}.json"
    response.headers["content-disposition"] = f'attachment; filename="{name}"'
    return found.to_runnable()


@reading.get(_WORKFLOW + "/diff", responses=errors(404))
async def diff_checkpoints(
    workflow_id: WorkflowId, query: Annotated[DiffQuery, Query()], visible: Visible
) -> Diff:
    """Two versions compared."""
    before = await visible.version(workflow_id, query.before)
    after = await visible.version(workflow_id, query.after)
    texts = [
        {name: prompt.text for name, prompt in version.prompts.items()}
        for version in (before, after)
    ]
    return Diff(
        workflow_id=before.workflow_id,
        before=before.config_version,
        after=after.config_version,
        prompts=prompt_diff(*texts),
        config=[_without_prompts(before), _without_prompts(after)],
        metrics=[before.metrics, after.metrics],
        measured_alike=(before.dataset_version, before.evaluator_set)
        == (after.dataset_version, after.evaluator_set),
    )


@reading.get(_ALIAS, responses=errors(404))
async def get_alias(workflow_id: WorkflowId, alias: Name, visible: Visible) -> Alias:
    """Where an alias points."""
    await visible.require_workflow(workflow_id)
    return await _existing_alias(visible, workflow_id, alias)


@promoting.put(_ALIAS, responses=_MOVED)
async def promote(
    workflow_id: WorkflowId,
    alias: Name,
    body: Promotion,
    visible: Visible,
    response: Response,
    if_match: IfMatch = None,
) -> AliasMove:
    """Point an alias to a version, if it still points where the sender believes it does.

    Answers 409 where the alias points elsewhere by now, 412 where `If-Match` does not hold.
    """
    version = await visible.version(workflow_id, str(body.version))
    current, head = await visible.store.aliases.head(workflow_id, alias)
    now = None if current is None else _alias(workflow_id, alias, current, head)
    _require_match(if_match, alias, now)
    expected: Expected = current
    if "expected_version" in body.model_fields_set:
        expected = body.expected_version
    elif if_match is None:
        raise ConfigError(
            field="body.expected_version",
            value=None,
            rule="must say where the alias points now (null: nowhere), unless If-Match is sent",
        )
    why = None if body.force else await rejection(visible.store, version)
    if why is not None:
        raise RejectedVersion(f"{why}. To promote it all the same, send force: true")
    move = await visible.store.aliases.move(
        workflow_id,
        alias,
        to=version.config_version,
        expect=expected,
        head=head if if_match is not None else None,
        actor=visible.identity.name or "http",
        reason=body.reason,
    )
    return await _tagged(visible, move, response)


@promoting.post(_ALIAS + "/rollback", responses=_MOVED)
async def roll_back(
    workflow_id: WorkflowId,
    alias: Name,
    body: Rollback,
    visible: Visible,
    response: Response,
    if_match: IfMatch = None,
) -> AliasMove:
    """Undo the last move of an alias; once more undoes the one before it."""
    await visible.require_workflow(workflow_id)
    now = await _existing_alias(visible, workflow_id, alias)
    _require_match(if_match, alias, now)
    move = await visible.store.aliases.rollback(
        workflow_id,
        alias,
        actor=visible.identity.name or "http",
        reason=body.reason,
        expect=body.expected_version,
        head=now.last_move if if_match is not None else None,
    )
    return await _tagged(visible, move, response)


@reading.get(_ALIAS + "/log", responses=errors(404))
async def list_alias_moves(
    workflow_id: WorkflowId, alias: Name, query: Annotated[PageQuery, Query()], visible: Visible
) -> Page[AliasMove]:
    """The log of an alias, newest first: who moved it, when, from where to where, and why."""
    await visible.require_workflow(workflow_id)
    place = query.place(tuple[int])
    moves = await visible.store.aliases.log_page(
        workflow_id,
        alias,
        before=min(place[0], 2**62) if place else None,
        limit=query.limit + 1,
    )
    if not moves and place is None:
        raise _no_alias(workflow_id, alias)
    return page(moves, query.limit, place=lambda one: [one[0]], show=lambda one: one[1])


async def _existing_alias(visible: VisibleStore, workflow_id: str, alias: str) -> Alias:
    version, head = await visible.store.aliases.head(workflow_id, alias)
    if version is None:
        raise _no_alias(workflow_id, alias)
    return _alias(workflow_id, alias, version, head)


def _alias(workflow_id: str, alias: str, version: int, head: int) -> Alias:
    return Alias(workflow_id=workflow_id, alias=alias, version=version, last_move=head)


def _no_alias(workflow_id: str, alias: str) -> NotFound:
    return NotFound(f"workflow {called(workflow_id)!r} has no alias {alias!r}")


def _require_match(if_match: str | None, alias: str, now: Alias | None) -> None:
    """Raise `PreconditionFailed` unless `If-Match`, where it is sent, names what is there now."""
    if if_match is None or (now is not None and tag_matches(if_match, now.tag)):
        return
    raise PreconditionFailed(f"alias {alias!r} is not as it was read; look again and retry")


async def _tagged(visible: VisibleStore, move: AliasMove, response: Response) -> AliasMove:
    """The move, answered with the entity tag that the alias has now, if it is still there."""
    version, head = await visible.store.aliases.head(move.workflow_id, move.alias)
    if version is not None and version == move.to_version:
        now = _alias(move.workflow_id, move.alias, version, head)
        response.headers["etag"] = now.tag
    return move


def _without_prompts(version: ConfigCheckpoint) -> dict[str, Any]:
    configurable = dict(version.runnable_config.get("configurable") or {})
    configurable.pop("prompts", None)
    return {**version.runnable_config, "configurable": configurable}


def _aliases_of(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> list[str]:
    return [name for name, target in aliases.items() if target == version.config_version]


def _summary(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> CheckpointSummary:
    known = version.model_dump(include=set(CheckpointSummary.model_fields))
    measured = {name: version.metrics.get(name) for name in ("objective", "coverage")}
    made = version.created_at.isoformat()
    return CheckpointSummary(
        **{**known, **measured, "created_at": made}, aliases=_aliases_of(version, aliases)
    )
