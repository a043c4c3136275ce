"""Publishing: a stored version is written into an assistant on LangGraph servers, or taken back.

The side store stays the truth. What an assistant serves is an alias there, so its history, and the
way back, are those of an alias; the assistant's metadata say the same to its users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orcheo_agentensor.config.model import RunConfig
from orcheo_agentensor.errors import (
    AliasConflict,
    BadInput,
    LeaseLost,
    RunFailed,
    TargetRefused,
)
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import TextTensor, prompts_to_json
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.servers import (
    Assistant,
    AssistantAddress,
    PromptsIn,
    find_assistant,
    is_id,
    look_up,
    refusals,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langgraph_sdk.client import LangGraphClient

    from orcheo_agentensor.storage import ConfigCheckpoint, Lease, Store


_MARKS = ("workflow_id", "config_version", "content_hash")
_AS_SET = "published_settings"
"""The mark with the hash of what was set; others have edited it where it differs."""


class PublishTo(AssistantAddress):
    """The assistant to publish to; with `create`, one that does not exist is made of `graph`."""

    graph: str | None = Field(
        default=None, description="The graph of an assistant that is to be created."
    )
    create: bool = Field(default=False, description="Create the assistant where it does not exist.")

    @model_validator(mode="after")
    def _create_needs_a_graph(self) -> Self:
        if self.create and self.graph is None:
            raise ValueError("create needs the graph that the assistant is made of")
        return self


class Publication(BaseModel):
    """What was published to one assistant on one server; `changed` is False if it was so already.

    Without a `config_version` it is set as it was before anything was published to it.
    """

    model_config = ConfigDict(frozen=True)

    url: str | None
    assistant_id: str
    assistant_version: int
    workflow_id: str
    config_version: int | None = None
    content_hash: str | None = None
    alias: str
    rollback_of: int | None = None
    created: bool = False
    changed: bool = True


def alias_of(url: str | None, assistant: str) -> str:
    """The alias that stands for what an assistant on a server serves."""
    name = re.sub(r"[^a-z0-9]+", "-", assistant.lower()).strip("-")[:40]
    return f"published-{name}-{content_hash([url, assistant])[:8]}"


class AssistantPublisher:
    """Writes versions into one assistant on one server."""

    def __init__(self, to: PublishTo, url: str | None, client: LangGraphClient) -> None:
        self._to = to
        self._url = url
        self._client = client
        self._own = url is None

    async def publish(
        self, checkpoint: ConfigCheckpoint, *, rollback_of: int | None = None, force: bool = False
    ) -> Publication:
        """Make the assistant serve this version, if it does not."""
        look = look_up if self._to.create else find_assistant
        name = self._to.assistant
        assistant = await look(self._client, name, own=self._own)
        if assistant is not None and not force:
            _require_unedited(assistant, name)
        model = assistant or await find_assistant(self._client, str(self._to.graph), own=self._own)
        metadata = {
            "workflow_id": checkpoint.workflow_id,
            "config_version": checkpoint.config_version,
            "content_hash": checkpoint.content_hash,
            "rollback_of": rollback_of,
        }
        wanted = None
        if assistant is not None and rollback_of is not None:
            wanted = await self._as_before(assistant, checkpoint)
        wanted = wanted or self._wanted(model, checkpoint, fresh=assistant is None)
        changed, marks = True, {**metadata, _AS_SET: content_hash(_parts(wanted))}
        if assistant is None:
            written: Any = await self._create(model.graph_id, name, metadata=marks, **wanted)
        elif force or not _serves(assistant, wanted, metadata):
            written = await self._client.assistants.update(
                assistant.id, graph_id=assistant.graph_id, metadata=marks, **wanted
            )
        else:
            written, changed = {"assistant_id": assistant.id, "version": assistant.version}, False
        return Publication(
            url=self._url,
            assistant_id=written["assistant_id"],
            assistant_version=int(written["version"]),
            alias=alias_of(self._url, name),
            created=assistant is None,
            changed=changed,
            **metadata,
        )

    async def _create(self, graph: str, name: str, **settings: Any) -> Any:
        """A new assistant; raises `TargetRefused` where the server has one that is in its way."""
        from langgraph_sdk.errors import ConflictError

        called: Any = {"assistant_id": name} if is_id(name) else {"name": name}
        try:
            return await self._client.assistants.create(graph, **called, **settings)
        except ConflictError as error:
            raise TargetRefused(
                f"assistant: {name!r} cannot be made: the server takes no second assistant of "
                f"graph {graph!r} that is set the same, or of this id ({error}); publish to the "
                "one that it has",
                field="assistant",
                value=name,
                rule="must not be in the way of one that the server has",
            ) from None

    async def withdraw(self, workflow_id: str, version: int) -> Publication:
        """Set the assistant as it was before versions of the workflow were published to it."""
        name = self._to.assistant
        assistant = await find_assistant(self._client, name, own=self._own)
        _require_unedited(assistant, name)
        versions: list[Any] = await self._client.assistants.get_versions(assistant.id, limit=100)
        before = [v for v in versions if _marks(v).get("workflow_id") != workflow_id]
        if not before or assistant.metadata.get("workflow_id") != workflow_id:
            raise BadInput(
                f"assistant: {name!r} was set to nothing else before version "
                f"{version} of workflow {workflow_id!r}: there is nothing to roll back to",
                field="assistant",
                value=name,
                rule="must have been set to something else before",
            )
        then = max(before, key=lambda one: one["version"])
        values, settings = _parts(then)
        placed = assistant.placement(self._to.prompts_in).put({}, values)
        written = await self._client.assistants.update(
            assistant.id,
            graph_id=assistant.graph_id,
            metadata=dict.fromkeys((*_MARKS, _AS_SET)) | _marks(then) | {"rollback_of": version},
            **_request(placed, settings),
        )
        return Publication(
            url=self._url,
            assistant_id=assistant.id,
            assistant_version=int(written["version"]),
            workflow_id=workflow_id,
            alias=alias_of(self._url, name),
            rollback_of=version,
        )

    async def check(self, prompts: Mapping[str, TextTensor]) -> None:
        """Raise `TargetRefused` or `BadInput` where versions with these prompts have no place."""
        look = look_up if self._to.create else find_assistant
        assistant = await look(self._client, self._to.assistant, own=self._own)
        if assistant is None:
            assistant = await find_assistant(self._client, str(self._to.graph), own=self._own)
        assistant.placement(self._to.prompts_in).put(prompts_to_json(prompts), {})

    @asynccontextmanager
    async def following(self, store: Store, workflow_id: str, alias: str) -> AsyncIterator[None]:
        """Publish what the alias points to where another process moves it inside the block, or has
        taken the run over that publishes."""
        try:
            yield
        except (AliasConflict, LeaseLost):
            theirs = await store.aliases.resolve(workflow_id, alias)
            if theirs is not None:
                await self.publish(await store.checkpoints.get(workflow_id, theirs))
            raise

    def _wanted(
        self, model: Assistant, checkpoint: ConfigCheckpoint, *, fresh: bool
    ) -> dict[str, Any]:
        """The assistant's config and context with this version in it."""
        set_by_us: Any = RunConfig.parse(checkpoint.runnable_config).to_runnable()
        values = dict(set_by_us.pop("configurable", None) or {})
        prompts = values.pop("prompts", None) or {}
        settings = {k: v for k, v in set_by_us.items() if k in ("tags", "recursion_limit") and v}
        if not fresh:
            values = {**model.values, **values}
            settings = {**model.settings, **settings}
        placed = model.placement(self._to.prompts_in).put(prompts, values)
        return _request(placed, settings)

    async def _as_before(
        self, assistant: Assistant, checkpoint: ConfigCheckpoint
    ) -> dict[str, Any] | None:
        """The assistant as it was when it served this version; None where that is not known."""
        prompts = (checkpoint.runnable_config.get("configurable") or {}).get("prompts") or {}
        placement = assistant.placement(self._to.prompts_in)
        versions: list[Any] = await self._client.assistants.get_versions(assistant.id, limit=100)
        served = (checkpoint.content_hash, checkpoint.config_version)
        for version in versions:
            marks = _marks(version)
            if (marks.get("content_hash"), marks.get("config_version")) == served:
                values, settings = _parts(version)
                placed = placement.put(prompts, values)
                if values in placed.values():  # and was not changed by hand since
                    return _request(placed, settings)
        return None


def _require_unedited(assistant: Assistant, name: str) -> None:
    """Raise `AliasConflict` where an assistant is not as the last publication has set it."""
    marks = assistant.metadata
    known = marks.get(_AS_SET)
    if known and known != content_hash((assistant.values, assistant.settings)):
        raise AliasConflict(
            f"assistant {name!r} was edited since version {marks.get('config_version')} of "
            f"workflow {marks.get('workflow_id')!r} was published to it: nothing was overwritten; "
            "publish with force to replace what was edited"
        )


def _parts(version: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a version of an assistant: its values, and the rest of its config."""
    config = dict(version.get("config") or {})
    values = {**(version.get("context") or {}), **config.pop("configurable", {})}
    return values, config


def _marks(version: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a version say of its publication."""
    metadata = version.get("metadata") or {}
    return {key: metadata[key] for key in _MARKS if key in metadata}


def _request(placed: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that an assistant is created or updated with."""
    if "context" in placed:
        return {"config": dict(settings), "context": placed["context"]}
    if not placed:  # only what is given is changed
        return {"config": {**settings, "configurable": {}}, "context": {}}
    return {"config": {**settings, **placed}}


def _serves(assistant: Assistant, wanted: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether an assistant is already as it should be; a rollback is written all the same."""
    told = _MARKS if metadata["rollback_of"] is None else (*_MARKS, "rollback_of")
    return _parts(wanted) == (assistant.values, assistant.settings) and all(
        assistant.metadata.get(key) == metadata[key] for key in told
    )


async def apublish(
    workflow_id: str,
    version: int | str = "production",
    *,
    assistant: str,
    store: Store,
    url: str | list[str] | None = None,
    api_key_env: str | None = None,
    prompts_in: PromptsIn = "auto",
    graph: str | None = None,
    create: bool = False,
    actor: str = "unknown",
    reason: str = "",
    force: bool = False,
    settings: Settings | None = None,
) -> list[Publication]:
    """Put a stored version into an assistant as a new version of it, on each server named.

    Prompts and settings go where the assistant's graph reads them, beside what else the assistant
    is set to. One that serves the version already is left as it is.

    Args:
        workflow_id: The workflow whose version it is.
        version: A number or an alias.
        assistant: The id or the name of an assistant, or the id of a graph.
        store: The store that holds the version, and where the publication is noted.
        url: One server or several; None: the server that runs this.
        api_key_env: The environment variable that holds the server's key.
        prompts_in: Where the graph reads prompts: "configurable", "context", or "auto" to find out.
        graph: The graph of an assistant that is created.
        create: Make an assistant that does not exist.
        actor: Who publishes, for the log.
        reason: Why, for the log.
        force: Publish what the guardrail rejected, or what is served already.
        settings: The operator's settings; those of the environment when left out.

    Returns:
        A `Publication` for each server.

    Raises:
        NotFound: There is no such version.
        TargetRefused: The server refuses the assistant.
        RunFailed: The server does not answer.
        AliasConflict: Another process has published there meanwhile.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import Store, apublish
        >>> store = Store.from_url(None)
        >>> where = {"url": "https://triage.example.com", "assistant": "triage-live"}
        >>> asyncio.run(apublish("triage", "production", **where, store=store))
        Traceback (most recent call last):
        ...
        orcheo_agentensor.errors.NotFound: workflow 'triage' has no versions...
    """
    to = PublishTo.parse(
        {
            "url": url,
            "assistant": assistant,
            "api_key_env": api_key_env,
            "prompts_in": prompts_in,
            "graph": graph,
            "create": create,
        },
        field="publish",
    )
    return await publish_to(
        to,
        workflow_id,
        version,
        store=store,
        actor=actor,
        reason=reason,
        force=force,
        settings=settings or Settings(),
    )


async def publish_to(
    to: PublishTo,
    workflow_id: str,
    version: int | str,
    *,
    store: Store,
    actor: str,
    reason: str,
    settings: Settings,
    force: bool = False,
    lease: Lease | None = None,
) -> list[Publication]:
    """As `apublish`; for a run, while its `lease` holds."""
    checkpoint = await store.checkpoints.get(workflow_id, version)
    made = []
    for url in to.urls:
        alias = alias_of(url, to.assistant)
        current, head = await store.aliases.head(workflow_id, alias)
        async with _publisher(to, url, settings) as publisher:
            if lease is not None:
                await store.runs.update(lease.run_id, lease=lease)
            publication = await publisher.publish(checkpoint, force=force)
            async with publisher.following(store, workflow_id, alias):
                if current != checkpoint.config_version:
                    await store.aliases.move(
                        workflow_id,
                        alias,
                        to=checkpoint.config_version,
                        expect=current,
                        head=head,
                        lease=lease,
                        actor=actor,
                        reason=_why(publication, reason),
                    )
                elif await store.aliases.head(workflow_id, alias) != (current, head):
                    raise AliasConflict(f"another version was published to {to.assistant!r}")
        made.append(publication)
    return made


async def require_publishable(
    to: PublishTo, prompts: Mapping[str, TextTensor], *, settings: Settings
) -> None:
    """Raise, as `apublish` does, where versions with these prompts could not be published."""
    for url in to.urls:
        async with _publisher(to, url, settings) as publisher:
            await publisher.check(prompts)


async def arollback_publication(
    workflow_id: str,
    *,
    assistant: str,
    store: Store,
    url: str | list[str] | None = None,
    api_key_env: str | None = None,
    prompts_in: PromptsIn = "auto",
    actor: str = "unknown",
    reason: str = "",
    settings: Settings | None = None,
) -> list[Publication]:
    """Publish again what the assistant served before; a second rollback goes back one further.

    The assistant gets a new version with `rollback_of` in its metadata, set as the earlier one was;
    before the first publication, that is what it was set to by others.

    Args:
        workflow_id: The workflow whose version is served.
        assistant: The id or the name of an assistant, or the id of a graph.
        store: The store in which publications are noted.
        url: One server or several; None: the server that runs this.
        api_key_env: The environment variable that holds the server's key.
        prompts_in: As for `apublish`.
        actor: Who rolls back, for the log.
        reason: Why, for the log.
        settings: The operator's settings; those of the environment when left out.

    Returns:
        A `Publication` for each server.

    Raises:
        BadInput: There is nothing to go back to.
        AgentensorError: As `apublish` raises.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import Store, arollback_publication
        >>> store = Store.from_url(None)
        >>> where = {"url": "https://triage.example.com", "assistant": "triage-live"}
        >>> asyncio.run(arollback_publication("triage", **where, store=store))
        Traceback (most recent call last):
        ...
        orcheo_agentensor.errors.BadInput: assistant: nothing of workflow 'triage' was published...
    """
    data = {"url": url, "assistant": assistant, "api_key_env": api_key_env}
    to = PublishTo.parse({**data, "prompts_in": prompts_in}, field="publish")
    settings, made = settings or Settings(), []
    for place in to.urls:
        alias = alias_of(place, assistant)
        current, head = await store.aliases.head(workflow_id, alias)
        if current is None:
            raise BadInput(
                f"assistant: nothing of workflow {workflow_id!r} was published to {assistant!r} at "
                f"{place or 'this server'}: there is nothing to roll back to",
                field="assistant",
                value=assistant,
                rule="must have served another version before",
            )
        before = await store.aliases.previous(workflow_id, alias)
        async with _publisher(to, place, settings) as publisher:
            if before is None:
                publication = await publisher.withdraw(workflow_id, current)
            else:
                checkpoint = await store.checkpoints.get(workflow_id, before)
                publication = await publisher.publish(checkpoint, rollback_of=current)
            async with publisher.following(store, workflow_id, alias):
                await store.aliases.rollback(
                    workflow_id,
                    alias,
                    actor=actor,
                    reason=_why(publication, reason),
                    expect=current,
                    head=head,
                    to_baseline=False,
                )
        made.append(publication)
    return made


@asynccontextmanager
async def _publisher(
    to: PublishTo, url: str | None, settings: Settings
) -> AsyncIterator[AssistantPublisher]:
    """Connect to one server; its errors become `TargetRefused` or `RunFailed`."""
    import httpx

    try:
        with refusals(url, to.assistant):
            async with to.client(url, settings=settings, streams=False) as client:
                yield AssistantPublisher(to, url, client)
    except httpx.HTTPError as error:
        raise RunFailed(
            f"{url or 'this server'} could not be published to: {type(error).__name__}: {error}"
        ) from error


def _why(publication: Publication, reason: str) -> str:
    where = f"{publication.url or 'this server'}, assistant {publication.assistant_id}"
    what = f"published to {where}, its version {publication.assistant_version}"
    return f"{what}: {reason}" if reason else what
