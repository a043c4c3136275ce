"""Versions of a workflow and the aliases that point to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.errors import ConfigError, NotFound
from orcheo_agentensor.server.http import PreconditionFailed, RejectedVersion
from orcheo_agentensor.server.routes.api import (
    Answer,
    Call,
    NoQuery,
    Operation,
    Page,
    PageQuery,
    document,
    entity_tag,
    if_match,
    page,
    visible_workflow,
)
from orcheo_agentensor.storage import AliasMove, ConfigCheckpoint, Expected
from orcheo_agentensor.training.decision import prompt_diff, rejection

_MOST = 2**31 - 1
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_WORKFLOW = "/workflows/{workflow_id}"


class Workflow(BaseModel):
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
    """Where an alias points."""

    workflow_id: str
    alias: str
    version: int


class CheckpointsQuery(PageQuery):
    """Which versions are wanted."""

    run_id: str | None = Field(None, max_length=128, description="Only those a run has stored.")


def _version_field() -> Any:
    return Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00]+$",
        description="A version's number or an alias.",
    )


class DiffQuery(NoQuery):
    """Which two versions are compared."""

    before: str = _version_field()
    after: str = _version_field()


class Promotion(BaseModel):
    """Point an alias to a version, if it points where the caller believes it does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=_MOST, description="The version that the alias shall point to.")
    expected_version: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="Where it points now; null: nowhere yet. Needed unless If-Match is sent.",
    )
    reason: str = Field("", max_length=2_000, description="Why; kept in the log.")
    force: bool = Field(False, description="Even where its training run has rejected the version.")


class Rollback(BaseModel):
    """Undo the last move of an alias."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expected_version: int | None = Field(
        None, ge=1, le=_MOST, description="Only if the alias points there now."
    )
    reason: str = Field("", max_length=2_000, description="Why; kept in the log.")


async def list_workflows(call: Call) -> Answer:
    """The workflows that have versions, with their aliases."""
    found = []
    after = (call.query.place(str) or [""])[0]
    names = [name for name in await call.store.checkpoints.list_workflows() if name > after]
    owners = {record.workflow_id: record.owner for record in await call.store.workflows.list()}
    seen = [name for name in names if call.identity.may_see(owners.get(name))]
    shown, cursor = page(seen, call.query.limit, lambda name: [name])
    for name in shown:
        aliases = await call.store.aliases.list(name)
        found.append({"workflow_id": name, "owner": owners.get(name), "aliases": aliases})
    return Answer(content={"items": found, "next_cursor": cursor})


async def list_checkpoints(call: Call) -> Answer:
    """The versions of a workflow, newest first."""
    workflow_id = call.path("workflow_id")
    await visible_workflow(call, workflow_id)
    place = call.query.place(int)
    versions = await call.store.checkpoints.list(
        workflow_id,
        run_id=call.query.run_id,
        before=min(place[0], _MOST) if place else None,
        limit=call.query.limit + 1,
    )
    aliases = await call.store.aliases.list(workflow_id)
    shown, cursor = page(versions, call.query.limit, lambda one: [one.config_version])
    items = [_brief(version, aliases) for version in shown]
    return Answer(content={"items": items, "next_cursor": cursor})


async def get_checkpoint(call: Call) -> Answer:
    """A version, by number or alias."""
    version = await _version(call, call.path("version"))
    aliases = await call.store.aliases.list(version.workflow_id)
    return Answer(content=document(version, aliases=_names(version, aliases)))


async def download_checkpoint(call: Call) -> Answer:
    """The RunnableConfig of a version as a file, ready to be passed to the workflow."""
    version = await _version(call, call.path("version"))
    stem = _UNSAFE.sub("-", version.workflow_id).strip("-.") or "workflow"
    name = f"{stem[:100]}-v{version.config_version}.json"
    return Answer(
        content=version.runnable_config,
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


async def diff_checkpoints(call: Call) -> Answer:
    """Two versions compared."""
    before = await _version(call, call.query.before)
    after = await _version(call, call.query.after)
    texts = [
        {name: prompt.text for name, prompt in version.prompts.items()}
        for version in (before, after)
    ]
    return Answer(
        content={
            "workflow_id": before.workflow_id,
            "before": before.config_version,
            "after": after.config_version,
            "prompts": prompt_diff(*texts),
            "config": [_without_prompts(before), _without_prompts(after)],
            "metrics": [before.metrics, after.metrics],
            "measured_alike": (before.dataset_version, before.evaluator_set)
            == (after.dataset_version, after.evaluator_set),
        }
    )


async def get_alias(call: Call) -> Answer:
    """Where an alias points."""
    workflow_id, alias = call.path("workflow_id"), call.path("alias")
    await visible_workflow(call, workflow_id)
    version = await call.store.aliases.resolve(workflow_id, alias)
    if version is None:
        raise NotFound(f"workflow {workflow_id!r} has no alias {alias!r}")
    return Answer(content=_alias(workflow_id, alias, version))


async def promote(call: Call) -> Answer:
    """Point an alias to a version, if it still points where the caller believes it does.

    Answers 409 where somebody else has moved it meanwhile, 412 where `If-Match` does not hold.
    """
    workflow_id, alias = call.path("workflow_id"), call.path("alias")
    version = await _version(call, str(call.body.version))
    expected = await _expected(call, workflow_id, alias)
    why = None if call.body.force else await rejection(call.store, version)
    if why is not None:
        raise RejectedVersion(f"{why}. To promote it all the same, send force: true")
    move = await call.store.aliases.move(
        workflow_id,
        alias,
        to=version.config_version,
        expect=expected,
        actor=_actor(call),
        reason=call.body.reason,
    )
    return _moved(workflow_id, alias, move)


async def roll_back(call: Call) -> Answer:
    """Undo the last move of an alias; once more undoes the one before it."""
    workflow_id, alias = call.path("workflow_id"), call.path("alias")
    await visible_workflow(call, workflow_id)
    current = await call.store.aliases.resolve(workflow_id, alias)
    if current is None:
        raise NotFound(f"workflow {workflow_id!r} has no alias {alias!r}")
    if if_match(call.request, entity_tag(_alias(workflow_id, alias, current))) is False:
        raise PreconditionFailed(f"alias {alias!r} points to version {current} now")
    expected = call.body.expected_version
    if expected is None and "if-match" in call.request.headers:
        expected = current
    move = await call.store.aliases.rollback(
        workflow_id, alias, actor=_actor(call), reason=call.body.reason, expect=expected
    )
    return _moved(workflow_id, alias, move)


async def list_alias_moves(call: Call) -> Answer:
    """The log of an alias, newest first: who moved it, when, from where to where, and why."""
    workflow_id, alias = call.path("workflow_id"), call.path("alias")
    await visible_workflow(call, workflow_id)
    place = call.query.place(int)
    moves = await call.store.aliases.log_page(
        workflow_id,
        alias,
        before=min(place[0], 2**62) if place else None,
        limit=call.query.limit + 1,
    )
    if not moves and place is None:
        raise NotFound(f"workflow {workflow_id!r} has no alias {alias!r}")
    shown, cursor = page(moves, call.query.limit, lambda one: [one[0]])
    items = [document(move) for _id, move in shown]
    return Answer(content={"items": items, "next_cursor": cursor})


async def _version(call: Call, version: str) -> ConfigCheckpoint:
    """A version that the caller may see; one answer for what is not there and what is hidden."""
    workflow_id = call.path("workflow_id")
    absent = NotFound(f"there is no version {version!r} of workflow {workflow_id!r}")
    record = await call.store.workflows.get(workflow_id)
    hidden = record is not None and not call.identity.may_see(record.owner)
    if hidden or (version.isdecimal() and (not version.isascii() or int(version[:12]) > _MOST)):
        raise absent
    try:
        return await call.store.checkpoints.get(workflow_id, version)
    except NotFound:
        raise absent from None


async def _expected(call: Call, workflow_id: str, alias: str) -> Expected:
    """Where the alias must point for a promotion to go ahead."""
    current = await call.store.aliases.resolve(workflow_id, alias)
    tag = None if current is None else entity_tag(_alias(workflow_id, alias, current))
    holds = if_match(call.request, tag)
    if holds is False:
        raise PreconditionFailed(f"alias {alias!r} is not as it was read; look again and retry")
    if "expected_version" in call.body.model_fields_set:
        expected: int | None = call.body.expected_version
        return expected
    if holds is None:
        raise ConfigError(
            field="body.expected_version",
            value=None,
            rule="must say where the alias points now (null: nowhere), unless If-Match is sent",
        )
    return current


def _actor(call: Call) -> str:
    return call.identity.name or "http"


def _alias(workflow_id: str, alias: str, version: int) -> dict[str, Any]:
    return {"workflow_id": workflow_id, "alias": alias, "version": version}


def _moved(workflow_id: str, alias: str, move: AliasMove) -> Answer:
    tag = entity_tag(_alias(workflow_id, alias, move.to_version))
    return Answer(content=document(move), headers={"etag": tag})


def _without_prompts(version: ConfigCheckpoint) -> dict[str, Any]:
    configurable = dict(version.runnable_config.get("configurable") or {})
    configurable.pop("prompts", None)
    return {**version.runnable_config, "configurable": configurable}


def _names(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> list[str]:
    return [name for name, target in aliases.items() if target == version.config_version]


def _brief(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> dict[str, Any]:
    return {
        "workflow_id": version.workflow_id,
        "config_version": version.config_version,
        "parent_version": version.parent_version,
        "run_id": version.run_id,
        "dataset_version": version.dataset_version,
        "evaluator_set": version.evaluator_set,
        "objective": version.metrics.get("objective"),
        "coverage": version.metrics.get("coverage"),
        "aliases": _names(version, aliases),
        "created_at": version.created_at.isoformat(),
    }


_ALIAS = _WORKFLOW + "/aliases/{alias}"
OPERATIONS = (
    Operation(
        method="GET",
        path="/workflows",
        run=list_workflows,
        query=PageQuery,
        answer=Page[Workflow],
        statuses=(),
    ),
    Operation(
        method="GET",
        path=_WORKFLOW + "/checkpoints",
        run=list_checkpoints,
        query=CheckpointsQuery,
        answer=Page[CheckpointSummary],
    ),
    Operation(
        method="GET",
        path=_WORKFLOW + "/checkpoints/{version}",
        run=get_checkpoint,
        answer=Checkpoint,
    ),
    Operation(
        method="GET",
        path=_WORKFLOW + "/checkpoints/{version}/download",
        run=download_checkpoint,
        answer=dict[str, Any],
    ),
    Operation(
        method="GET", path=_WORKFLOW + "/diff", run=diff_checkpoints, query=DiffQuery, answer=Diff
    ),
    Operation(method="GET", path=_ALIAS, run=get_alias, answer=Alias),
    Operation(
        method="PUT",
        path=_ALIAS,
        run=promote,
        body=Promotion,
        answer=AliasMove,
        scope="promote",
        statuses=(404, 409, 412, 413, 415),
    ),
    Operation(
        method="POST",
        path=_ALIAS + "/rollback",
        run=roll_back,
        body=Rollback,
        answer=AliasMove,
        scope="promote",
        statuses=(404, 409, 412, 413, 415),
    ),
    Operation(
        method="GET",
        path=_ALIAS + "/log",
        run=list_alias_moves,
        query=PageQuery,
        answer=Page[AliasMove],
    ),
)
