"""`agentensor db` and `agentensor workflows`: the store's database, and a server's workflows."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import ExitCode, command
from orcheo_agentensor.cli.options import on_store, read_from, require_store, revision_of
from orcheo_agentensor.cli.output import print_json, show, show_table
from orcheo_agentensor.display import when
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord

database_app = typer.Typer(help="Look after the store's database.", no_args_is_help=True)


@command(database_app, "current")
def current(store: options.StoreUrl = None, as_json: options.AsJson = False) -> None:
    """Print the schema revision of the store, and the one this release works with."""
    from orcheo_agentensor.storage.engine import HEAD

    async def work(opened: Store) -> tuple[str, str | None]:
        return opened.target.shown, await revision_of(opened)

    where, revision = on_store(store, work)
    if as_json:
        print_json({"store": where, "revision": revision, "head": HEAD})
        return
    show(f"store      {where}")
    show(f"revision   {revision or 'none: nothing is stored yet'}")
    show(f"head       {HEAD}")


@command(database_app, "upgrade")
def upgrade(
    revision: Annotated[
        str, typer.Option(metavar="REVISION", help="The revision to stop at.")
    ] = "head",
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Bring the store to the schema of this release; creates one that does not exist."""

    async def work(opened: Store) -> None:
        await opened.upgrade(revision)

    _migrate(store, work, as_json=as_json)


@command(database_app, "downgrade")
def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="A revision; `base` removes every table.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Take the store back to an older schema. What that schema has no place for is lost."""

    async def check(opened: Store) -> str:
        await require_store(opened)
        return opened.target.shown

    async def work(opened: Store) -> None:
        await opened.downgrade(revision)

    where = on_store(store, check)
    if not yes:
        _confirm(f"Take {where} down to {revision!r}? Data may be lost.")
    _migrate(store, work, as_json=as_json)


def _confirm(question: str) -> None:
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # the end of the input is no answer
        agreed = False
    if not agreed:
        raise BadInput(
            "not confirmed, nothing was changed; --yes goes ahead without asking",
            field="--yes",
            rule="must be given, or the question answered",
        )


def _migrate(
    url: str | None, migrate: Callable[[Store], Coroutine[Any, Any, None]], *, as_json: bool
) -> None:
    async def work(opened: Store) -> tuple[str, str | None]:
        await migrate(opened)
        return opened.target.shown, await opened.schema_revision()

    where, revision = on_store(url, work)
    if as_json:
        print_json({"store": where, "revision": revision})
    else:
        show(f"{where} is at revision {revision or 'none'}")


@command(database_app, "stats")
def stats(store: options.StoreUrl = None, as_json: options.AsJson = False) -> None:
    """Show how large the store is: rows and bytes per table, runs by status and by workflow."""

    async def work(opened: Store) -> dict[str, Any]:
        return {"store": opened.target.shown, **await opened.maintenance.stats()}

    found = read_from(store, work)
    if as_json:
        print_json(found)
        return
    show(f"store      {found['store']}")
    counts = [f"{count} {status}" for status, count in found["runs"]["by_status"].items()]
    show(f"runs       {', '.join(counts) or 'none'}")
    rows = [(entry["table"], entry["rows"], entry["bytes"]) for entry in found["tables"]]
    show_table(("table", ">rows", ">bytes"), rows)
    if found["workflows"]:
        columns = ("workflow_id", "runs", "rollouts", "versions")
        workflows = [
            (
                *(entry[name] for name in columns),
                *(
                    when(at and datetime.fromisoformat(at))
                    for at in (entry["oldest"], entry["newest"])
                ),
            )
            for entry in found["workflows"]
        ]
        heads = ("workflow", ">runs", ">rollouts", ">versions", "oldest run", "newest run")
        show_table(heads, workflows)


@command(database_app, "check")
def check(store: options.StoreUrl = None, as_json: options.AsJson = False) -> int:
    """Look for damage and for rows that belong to nothing; exits with 2 where there are any."""

    async def work(opened: Store) -> tuple[str, list[dict[str, Any]]]:
        await require_store(opened)
        return opened.target.shown, await opened.maintenance.check()

    where, problems = on_store(store, work)
    code = ExitCode.BAD_INPUT if problems else ExitCode.OK
    if as_json:
        print_json({"store": where, "problems": problems, "exit_code": int(code)})
        return code
    for found in problems:
        many = "" if found["rows"] is None else f"{found['rows']} rows of {found['table']}: "
        keys = ["/".join(map(str, key.values())) for key in found["first"]]
        show(f"{many}{found['problem']}" + (f", such as {', '.join(keys)}" if keys else ""))
    show(f"{where}: {f'{len(problems)} problems' if problems else 'nothing is wrong'}")
    return code


workflows_app = typer.Typer(
    help="Owners, default configs and feature flags of workflows.", no_args_is_help=True
)


@command(workflows_app, "list")
def list_workflows(store: options.StoreUrl = None, as_json: options.AsJson = False) -> None:
    """List the workflows that have an owner, defaults or flags."""
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


@command(workflows_app, "flag")
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
) -> None:
    """Set a feature flag of a workflow; it goes over the operator's setting."""
    flags: dict[str, Any] = {flag: {"on": True, "off": False, "unset": None}[value]}
    _show(on_store(store, lambda opened: opened.workflows.set_flags(workflow, flags)), as_json)


@command(workflows_app, "phase")
def set_phase(
    workflow: options.Workflow,
    phase: Annotated[
        Literal["dev", "pilot", "broad", "unset"],
        typer.Argument(help="How far its rollout has come; unset: only its flags count."),
    ],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Set the phase of a workflow's rollout: its flags, and how its trainings may promote."""
    from orcheo_agentensor.config.resolve import PHASES

    none = dict.fromkeys(("agent_trainer_enabled", "runnable_config_enabled", "phase"))
    flags: dict[str, Any] = none if phase == "unset" else {**PHASES[phase][0], "phase": phase}
    _show(on_store(store, lambda opened: opened.workflows.set_flags(workflow, flags)), as_json)


@command(workflows_app, "defaults")
def set_defaults(
    workflow: options.Workflow,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A RunnableConfig, in YAML or JSON.")
    ],
    actor: options.Actor = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Store a new version of the config that every run of a workflow starts from."""
    from orcheo_agentensor.cli.jobfile import read_document
    from orcheo_agentensor.config.model import RunConfig

    config = RunConfig.parse(read_document(file), field="defaults").to_json()
    by = options.actor_name(actor)
    record = on_store(
        store, lambda opened: opened.workflows.set_defaults(workflow, config, actor=by)
    )
    _show(record, as_json)


@command(workflows_app, "owner")
def set_owner(
    workflow: options.Workflow,
    identity: Annotated[
        str,
        typer.Argument(
            metavar="IDENTITY|none", help="The owner's identity; none: the workflow is shared."
        ),
    ],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Set the owner of a workflow: a server with tokens shows it to its owner alone."""
    owner = None if identity == "none" else identity
    _show(on_store(store, lambda opened: opened.workflows.set_owner(workflow, owner)), as_json)


def _show(record: WorkflowRecord, as_json: bool) -> None:
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        show(
            f"workflow {record.workflow_id!r}: owner {record.owner or 'nobody'}, "
            f"defaults version {record.default_version or 'none'}, "
            f"flags {_flags(record) or 'none'}"
        )


def _flags(record: WorkflowRecord) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, str) else 'on' if value else 'off'}"
        for name, value in record.feature_flags.items()
    )
