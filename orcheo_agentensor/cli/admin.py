"""`agentensor db` and `agentensor workflows`: the store's schema, and a server's workflows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled
from orcheo_agentensor.errors import BadInput, NotFound

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord


database_app = typer.Typer(help="Look at and migrate the store's schema.", no_args_is_help=True)


@database_app.command("current", epilog=EXIT_CODES)
@handled
def current(store: options.StoreUrl = None, as_json: options.AsJson = False) -> int:
    """Print the schema revision of the store, and the one this release works with."""
    from orcheo_agentensor.cli.options import is_fresh, named_store
    from orcheo_agentensor.cli.output import print_json, show
    from orcheo_agentensor.storage.migrate import HEAD

    opened = named_store(store)

    async def work() -> str | None:
        try:
            return None if await is_fresh(opened) else await opened.schema_revision()
        finally:
            await opened.close()

    found = asyncio.run(work())
    if as_json:
        print_json({"store": opened.target.shown, "revision": found, "head": HEAD})
    else:
        show(f"store      {opened.target.shown}")
        show(f"revision   {found or 'none: nothing is stored yet'}")
        show(f"head       {HEAD}")
    return ExitCode.OK


@database_app.command("upgrade", epilog=EXIT_CODES)
@handled
def upgrade(
    revision: Annotated[
        str, typer.Option(metavar="REVISION", help="The revision to stop at.")
    ] = "head",
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Bring the store to the schema of this release; creates one that does not exist."""
    from orcheo_agentensor.cli.options import named_store

    opened = named_store(store)

    async def work() -> str | None:
        try:
            await opened.upgrade(revision)
            return await opened.schema_revision()
        finally:
            await opened.close()

    _show(opened, asyncio.run(work()), as_json=as_json)
    return ExitCode.OK


@database_app.command("downgrade", epilog=EXIT_CODES)
@handled
def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="A revision; `base` removes every table.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Take the store back to an older schema. What that schema has no place for is lost."""
    from orcheo_agentensor.cli.options import is_fresh, named_store

    opened = named_store(store)

    async def fresh() -> bool:
        try:
            return await is_fresh(opened)
        finally:
            await opened.close()

    async def work() -> str | None:
        try:
            await opened.downgrade(revision)
            return await opened.schema_revision()
        finally:
            await opened.close()

    if asyncio.run(fresh()):
        raise NotFound(f"there is no store at {opened.target.shown} yet")
    if not yes:
        _confirm(f"Take {opened.target.shown} down to {revision!r}? Data may be lost.")
    _show(opened, asyncio.run(work()), as_json=as_json)
    return ExitCode.OK


def _confirm(question: str) -> None:
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # nobody there to answer
        agreed = False
    if not agreed:
        raise BadInput(
            "not confirmed, nothing was changed; --yes goes ahead without asking",
            field="--yes",
            rule="must be given, or the question answered",
        )


def _show(store: Store, revision: str | None, *, as_json: bool) -> None:
    from orcheo_agentensor.cli.output import print_json, show

    if as_json:
        print_json({"store": store.target.shown, "revision": revision})
    else:
        show(f"{store.target.shown} is at revision {revision or 'none'}")


workflows_app = typer.Typer(
    help="Owners, default configs and feature flags of workflows.", no_args_is_help=True
)


@workflows_app.command("list", epilog=EXIT_CODES)
@handled
def list_workflows(store: options.StoreUrl = None, as_json: options.AsJson = False) -> int:
    """List the workflows something is kept about."""
    from orcheo_agentensor.cli.options import read_from
    from orcheo_agentensor.cli.output import print_json, show, show_table

    found = read_from(store, lambda opened: opened.workflows.list())
    if as_json:
        print_json({"workflows": [record.model_dump(mode="json") for record in found]})
    elif not found:
        show("no workflows")
    else:
        rows = [
            (record.workflow_id, record.owner, record.default_version or None, _flags(record))
            for record in found
        ]
        show_table(("workflow", "owner", ">defaults", "flags"), rows)
    return ExitCode.OK


@workflows_app.command("flag", epilog=EXIT_CODES)
@handled
def set_flag(
    workflow: options.Workflow,
    flag: Annotated[
        Literal["runnable_config_enabled", "agent_trainer_enabled"],
        typer.Argument(help="The feature flag."),
    ],
    value: Annotated[
        Literal["on", "off", "unset"],
        typer.Argument(help="unset: as the operator's settings say."),
    ],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Set a feature flag of a workflow; it goes over the operator's setting."""
    wanted = {"on": True, "off": False, "unset": None}[value]
    return _change(
        store, as_json, lambda opened: opened.workflows.set_flags(workflow, {flag: wanted})
    )


@workflows_app.command("defaults", epilog=EXIT_CODES)
@handled
def set_defaults(
    workflow: options.Workflow,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A RunnableConfig, in YAML or JSON.")
    ],
    actor: options.Actor = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Store a new version of the config that every run of a workflow starts from."""
    from orcheo_agentensor.cli.jobfile import read_document
    from orcheo_agentensor.config.model import RunConfig

    config = RunConfig.parse(read_document(file), field="defaults").to_json()
    return _change(
        store,
        as_json,
        lambda opened: opened.workflows.set_defaults(
            workflow, config, actor=options.actor_name(actor)
        ),
    )


@workflows_app.command("owner", epilog=EXIT_CODES)
@handled
def set_owner(
    workflow: options.Workflow,
    identity: Annotated[
        str, typer.Argument(metavar="IDENTITY|none", help="Whose it is; none: everybody's.")
    ],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Say whose a workflow is: on a server with tokens nobody else sees it."""
    owner = None if identity == "none" else identity
    return _change(store, as_json, lambda opened: opened.workflows.set_owner(workflow, owner))


def _change(url: str | None, as_json: bool, work: Any) -> int:
    import asyncio

    from orcheo_agentensor.cli.options import named_store
    from orcheo_agentensor.cli.output import print_json, show

    async def main() -> WorkflowRecord:
        store: Store = named_store(url)
        async with store:
            changed: WorkflowRecord = await work(store)
            return changed

    record = asyncio.run(main())
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        show(
            f"workflow {record.workflow_id!r}: owner {record.owner or 'nobody'}, "
            f"defaults version {record.default_version or 'none'}, "
            f"flags {_flags(record) or 'none'}"
        )
    return ExitCode.OK


def _flags(record: WorkflowRecord) -> str:
    return ", ".join(
        f"{name}={'on' if value else 'off'}" for name, value in record.feature_flags.items()
    )
