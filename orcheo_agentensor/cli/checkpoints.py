"""`agentensor checkpoints`: stored versions, compared, exported, promoted and rolled back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.storage import AliasMove, ConfigCheckpoint, Store

app = typer.Typer(help="Look at, compare, export and promote versions.", no_args_is_help=True)

Alias = Annotated[str, typer.Option(metavar="ALIAS", help="The alias to move.")]


@app.command("list", epilog=EXIT_CODES)
@handled
def list_versions(
    workflow: Annotated[
        str | None, typer.Argument(metavar="[WORKFLOW]", help="All workflows when left out.")
    ] = None,
    limit: options.Limit = 100,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """List the versions of a workflow, newest first, or the workflows that have versions."""
    from orcheo_agentensor.cli import versions
    from orcheo_agentensor.cli.stores import read_from

    if workflow is None:
        versions.show_workflows(read_from(store, versions.read_workflows), as_json=as_json)
        return ExitCode.OK
    found, aliases = read_from(store, lambda s: versions.read_versions(s, workflow, limit))
    versions.show_versions(found, aliases, as_json=as_json)
    return ExitCode.OK


@app.command("show", epilog=EXIT_CODES)
@handled
def show_version(
    workflow: options.Workflow,
    version: options.Version = "latest",
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Show a version: its prompts, its metrics, where it comes from, and who moved its aliases."""
    from orcheo_agentensor.cli import versions
    from orcheo_agentensor.cli.stores import read_from

    async def work(opened: Store) -> tuple[ConfigCheckpoint, dict[str, int], list[AliasMove]]:
        found = await opened.checkpoints.get(workflow, version)
        aliases = await opened.aliases.list(workflow)
        return found, aliases, await opened.aliases.log(workflow)

    versions.show_version(*read_from(store, work), as_json=as_json)
    return ExitCode.OK


@app.command("diff", epilog=EXIT_CODES)
@handled
def diff(
    workflow: options.Workflow,
    before: Annotated[str, typer.Argument(metavar="A", help="A version's number, or an alias.")],
    after: Annotated[str, typer.Argument(metavar="B", help="A version's number, or an alias.")],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Compare two versions: prompts as a unified diff, metrics side by side."""
    from orcheo_agentensor.cli import versions
    from orcheo_agentensor.cli.stores import read_from

    async def work(opened: Store) -> tuple[ConfigCheckpoint, ConfigCheckpoint]:
        first = await opened.checkpoints.get(workflow, before)
        return first, await opened.checkpoints.get(workflow, after)

    versions.show_comparison(*read_from(store, work), as_json=as_json)
    return ExitCode.OK


@app.command("export", epilog=EXIT_CODES)
@handled
def export(
    workflow: options.Workflow,
    version: options.Version,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .json, .yaml or .yml file. [default: stdout]"
        ),
    ] = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Write a version's RunnableConfig, ready to be passed to a workflow."""
    from orcheo_agentensor.cli import files
    from orcheo_agentensor.cli.output import print_json, say
    from orcheo_agentensor.cli.stores import read_from

    write = None if output is None else files.writer(output)
    found = read_from(store, lambda opened: opened.checkpoints.get(workflow, version))
    if write is None or output is None:
        print_json(found.runnable_config)
        return ExitCode.OK
    write(found.runnable_config)
    if as_json:
        print_json({"workflow_id": workflow, "version": found.config_version, "file": str(output)})
    else:
        say(f"version {found.config_version} of workflow {workflow!r} written to {output}")
    return ExitCode.OK


@app.command("promote", epilog=EXIT_CODES)
@handled
def promote(
    workflow: options.Workflow,
    version: options.Version,
    alias: Alias = "production",
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|none", help="Only if the alias points to this version (or nowhere)."
        ),
    ] = None,
    reason: options.Reason = "",
    actor: options.Actor = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even where the guardrail rejected the version.")
    ] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Point an alias to a version.

    A version that its own training rejected is held back (exit code 1) unless forced.
    """
    from orcheo_agentensor.cli import versions
    from orcheo_agentensor.cli.stores import write_to
    from orcheo_agentensor.storage import ANY

    wanted = ANY if expect is None else _expected(expect)

    async def work(opened: Store) -> AliasMove:
        found = await opened.checkpoints.get(workflow, version)
        if not force:
            await versions.require_not_rejected(opened, found)
        return await opened.aliases.move(
            workflow,
            alias,
            to=found.config_version,
            expect=wanted,
            actor=options.actor_name(actor),
            reason=reason,
        )

    versions.show_move(write_to(store, work), as_json=as_json)
    return ExitCode.OK


@app.command("rollback", epilog=EXIT_CODES)
@handled
def rollback(
    workflow: options.Workflow,
    alias: Alias = "production",
    reason: options.Reason = "",
    actor: options.Actor = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Undo the last move of an alias; once more undoes the one before it."""
    from orcheo_agentensor.cli import versions
    from orcheo_agentensor.cli.stores import write_to

    async def work(opened: Store) -> AliasMove:
        return await opened.aliases.rollback(
            workflow, alias, actor=options.actor_name(actor), reason=reason
        )

    versions.show_move(write_to(store, work), as_json=as_json)
    return ExitCode.OK


def _expected(text: str) -> Any:
    if text == "none":
        return None
    if not text.isdecimal():
        raise BadInput(field="--expect", value=text, rule="must be a version's number, or none")
    return int(text)
