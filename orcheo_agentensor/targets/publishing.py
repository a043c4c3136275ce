"""Publishing: a stored version becomes a new version of an assistant on a LangGraph server.

The side store stays the truth. What an assistant serves is an alias there, so its history, and the
way back, are those of an alias; the assistant's metadata say the same to whoever looks at it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orcheo_agentensor.errors import AliasConflict, BadInput, RunFailed
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.placement import PromptsIn
from orcheo_agentensor.targets.press import Press, Publication, PublishTo, alias_of
from orcheo_agentensor.targets.servers import refusals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langgraph_sdk.client import LangGraphClient

    from orcheo_agentensor.storage import Store


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
    is set to. One that serves the version already is left as it is, unless `force`. Raises
    `NotFound` for the version, `TargetRefused` for the assistant, `RunFailed` where the server
    does not answer, `AliasConflict` where somebody else has published there meanwhile.
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
) -> list[Publication]:
    """As `apublish`."""
    checkpoint = await store.checkpoints.get(workflow_id, version)
    made = []
    for url in to.urls:
        alias = alias_of(url, to.assistant)
        current = await store.aliases.resolve(workflow_id, alias)
        async with _at(to, url, settings) as client:
            press = Press(to, url, client)
            publication = await press.publish(checkpoint, force=force)
            async with _overtaken(press, store, workflow_id, alias):
                if current != checkpoint.config_version:
                    await store.aliases.move(
                        workflow_id,
                        alias,
                        to=checkpoint.config_version,
                        expect=current,
                        actor=actor,
                        reason=_why(publication, reason),
                    )
                elif await store.aliases.resolve(workflow_id, alias) != current:
                    raise AliasConflict(f"another version was published to {to.assistant!r}")
        made.append(publication)
    return made


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
    """Publish again what the assistant served before; once more goes back one further.

    The assistant gets a new version with `rollback_of` in its metadata, set as the earlier one was;
    before the first publication, that is what it was set to by others. Raises as `apublish` does,
    and `BadInput` where there is nothing to go back to.
    """
    data = {"url": url, "assistant": assistant, "api_key_env": api_key_env}
    to = PublishTo.parse({**data, "prompts_in": prompts_in}, field="publish")
    settings, made = settings or Settings(), []
    for place in to.urls:
        alias = alias_of(place, assistant)
        current = await store.aliases.resolve(workflow_id, alias)
        if current is None:
            raise BadInput(
                f"assistant: nothing of workflow {workflow_id!r} was published to {assistant!r} at "
                f"{place or 'this server'}: there is nothing to roll back to",
                field="assistant",
                value=assistant,
                rule="must have served another version before",
            )
        before = await store.aliases.previous(workflow_id, alias)
        async with _at(to, place, settings) as client:
            press = Press(to, place, client)
            if before is None:
                publication = await press.withdraw(workflow_id, current)
            else:
                checkpoint = await store.checkpoints.get(workflow_id, before)
                publication = await press.publish(checkpoint, rollback_of=current)
                async with _overtaken(press, store, workflow_id, alias):
                    await store.aliases.rollback(
                        workflow_id,
                        alias,
                        actor=actor,
                        reason=_why(publication, reason),
                        expect=current,
                    )
        made.append(publication)
    return made


@asynccontextmanager
async def _overtaken(
    press: Press, store: Store, workflow_id: str, alias: str
) -> AsyncIterator[None]:
    """Where the alias was moved by somebody else, the assistant serves what it points to."""
    try:
        yield
    except AliasConflict:
        theirs = await store.aliases.resolve(workflow_id, alias)
        if theirs is not None:
            await press.publish(await store.checkpoints.get(workflow_id, theirs))
        raise


@asynccontextmanager
async def _at(to: PublishTo, url: str | None, settings: Settings) -> AsyncIterator[LangGraphClient]:
    """A client of one server, whose trouble becomes ours."""
    import httpx

    try:
        with refusals(url, to.assistant):
            async with to.client(url, settings=settings, streams=False) as client:
                yield client
    except httpx.HTTPError as error:
        raise RunFailed(
            f"{url or 'this server'} could not be published to: {type(error).__name__}: {error}"
        ) from error


def _why(publication: Publication, reason: str) -> str:
    where = f"{publication.url or 'this server'}, assistant {publication.assistant_id}"
    told = f"published to {where}, its version {publication.assistant_version}"
    return f"{told}: {reason}" if reason else told
