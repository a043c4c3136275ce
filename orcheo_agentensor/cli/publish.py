"""`agentensor publish`: stored versions into assistants of a LangGraph server, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store
    from orcheo_agentensor.targets.press import Publication


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("publish", epilog=EXIT_CODES)(publish)


@handled
def publish(
    workflow: options.Workflow,
    version: Annotated[
        str, typer.Argument(metavar="[VERSION|ALIAS]", help="What to publish.")
    ] = "production",
    assistant: Annotated[
        str, typer.Option(metavar="NAME", help="Id or name of the assistant, or id of a graph.")
    ] = "",
    url: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="The LangGraph server; repeatable.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="The environment variable with the server's key."),
    ] = None,
    graph: Annotated[
        str | None, typer.Option(metavar="GRAPH", help="The graph of an assistant to create.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the assistant where it does not exist.")
    ] = False,
    prompts_in: Annotated[
        str,
        typer.Option(
            metavar="auto|configurable|context", help="Where the deployed graph reads prompts."
        ),
    ] = "auto",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Publish again what the assistant served before.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Even what the guardrail rejected, or the assistant serves already."
        ),
    ] = False,
    reason: options.Reason = "",
    actor: options.Actor = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Put a stored version into an assistant of a LangGraph server, as a new version of it."""
    from orcheo_agentensor.cli import versions
    from orcheo_agentensor.cli.stores import load_settings, write_to
    from orcheo_agentensor.targets.publishing import apublish, arollback_publication

    if not url or not assistant:
        missing = "--url" if assistant else "--assistant"
        raise BadInput(field=missing, value=None, rule="is needed")
    place: dict[str, Any] = {
        "url": url[0] if len(url) == 1 else url,
        "assistant": assistant,
        "api_key_env": api_key_env,
        "prompts_in": prompts_in,
        "actor": options.actor_name(actor),
        "reason": reason,
        "settings": load_settings(),
    }

    async def work(opened: Store) -> list[Publication]:
        if rollback:
            return await arollback_publication(workflow, store=opened, **place)
        found = await opened.checkpoints.get(workflow, version)
        if not force:
            await versions.require_not_rejected(opened, found)
        return await apublish(
            workflow,
            found.config_version,
            store=opened,
            graph=graph,
            create=create,
            force=force,
            **place,
        )

    _show(write_to(store, work), as_json=as_json)
    return ExitCode.OK


def _show(made: list[Publication], *, as_json: bool) -> None:
    from orcheo_agentensor.cli.output import print_json, show

    if as_json:
        print_json({"published": [one.model_dump(mode="json") for one in made]})
        return
    for one in made:
        what = f"version {one.config_version} of workflow {one.workflow_id!r}"
        if one.config_version is None:
            what = "what was set before"
        where = f"assistant {one.assistant_id} at {one.url}, its version {one.assistant_version}"
        back = "" if one.rollback_of is None else f", back from version {one.rollback_of}"
        if one.changed:
            new = "a new " if one.created else ""
            show(f"{what} is published to {new}{where}{back}")
        else:
            show(f"{what} is served already by {where}; nothing was changed (--force does)")
