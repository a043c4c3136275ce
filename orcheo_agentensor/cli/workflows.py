"""`agentensor workflows`: what a server keeps about each workflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord

app = typer.Typer(
    help="Owners, default configs and feature flags of workflows.", no_args_is_help=True
)


@app.command("list", epilog=EXIT_CODES)
@handled
def list_workflows(store: options.StoreUrl = None, as_json: options.AsJson = False) -> int:
    """List the workflows something is kept about."""
    from orcheo_agentensor.cli.output import print_json, show, show_table
    from orcheo_agentensor.cli.stores import read_from

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


@app.command("flag", epilog=EXIT_CODES)
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


@app.command("defaults", epilog=EXIT_CODES)
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
    from orcheo_agentensor.config import RunConfig

    config = RunConfig.parse(read_document(file), field="defaults").to_json()
    return _change(
        store,
        as_json,
        lambda opened: opened.workflows.set_defaults(
            workflow, config, actor=options.actor_name(actor)
        ),
    )


@app.command("owner", epilog=EXIT_CODES)
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

    from orcheo_agentensor.cli.output import print_json, show
    from orcheo_agentensor.cli.stores import named_store

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
