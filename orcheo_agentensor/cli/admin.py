"""`agentensor db` and `agentensor workflows`: the store's database, and a server's workflows."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import ExitCode, command
from orcheo_agentensor.cli.options import on_store, read_from, require_store, revision_of
from orcheo_agentensor.cli.output import print_json, require_new, show, show_table
from orcheo_agentensor.display import when
from orcheo_agentensor.errors import BadInput, NotFound

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
    yes: options.Yes = False,
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


@command(database_app, "recover")
def recover(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file that a run has named.")],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Bring back what a run has saved in FILE, because its store could not be written."""

    async def work(opened: Store) -> dict[str, int]:
        await require_store(opened)
        return await opened.maintenance.recover(file)

    found = on_store(store, work)
    if as_json:
        print_json({"runs": found})
        return
    for run_id, count in found.items():
        show(f"{count} rows of run {run_id} are in the store: agentensor resume {run_id}")


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


@command(database_app, "prune")
def prune(
    older_than: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Runs that ended before this: a date, or so long ago, such as 30d."
        ),
    ],
    workflow: Annotated[
        str | None, typer.Option(metavar="WORKFLOW", help="Only runs of this workflow.")
    ] = None,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Also runs that could still be resumed or reviewed."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be deleted, delete nothing.")
    ] = False,
    yes: options.Yes = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete old runs; versions in use, and the runs that prove them, stay."""
    from orcheo_agentensor.storage.saver import saver_path

    before = options.moment(older_than, "--older-than")
    assert before is not None

    async def work(opened: Store, dry_run: bool) -> dict[str, Any]:
        await require_store(opened)
        path = opened.target.path
        keeps = path is None or saver_path(path).exists()
        async with opened.checkpointer() if keeps else nullcontext() as saver:
            found = await opened.maintenance.prune(
                before, workflow_id=workflow, unfinished=unfinished, dry_run=dry_run, saver=saver
            )
        return {"store": opened.target.shown, **found}

    found = on_store(store, lambda opened: work(opened, True))
    if not dry_run and found["runs"]:
        if not yes:
            _confirm(f"Delete {_counted(found)} from {found['store']}?")
        found = on_store(store, lambda opened: work(opened, False))
    if as_json:
        print_json({**found, "dry_run": dry_run})
        return
    show(f"{'would delete' if dry_run else 'deleted'} {_counted(found)}")
    kept = found["kept"]
    show(
        f"kept of that age: {kept['proofs']} runs that prove versions in use, "
        f"{kept['unfinished']} unfinished, {kept['changed']} that changed meanwhile"
    )


def _counted(found: dict[str, Any]) -> str:
    names = ("runs", "versions", "threads")
    parts = [f"{found[name]} {name}" for name in names]
    return f"{', '.join(parts)} ({found['rows']} rows)"


@command(database_app, "backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    force: options.Force = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Copy a SQLite store, also while runs write to it; its threads go to a file beside."""
    from orcheo_agentensor.storage.maintenance import back_up
    from orcheo_agentensor.storage.saver import saver_path

    path = _file_of(store, "backup", "pg_dump")
    if not path.exists():
        raise NotFound(f"there is no store at {path} yet")
    # The threads first: a thread that is older than the store resumes, and repeats nothing.
    pairs = [(saver_path(path), saver_path(file)), (path, file)]
    for _, to in pairs:
        if not to.parent.is_dir():
            raise BadInput(field="FILE", value=str(to), rule="must be in a folder that exists")
        if to.exists() and path.exists() and to.samefile(path):
            raise BadInput(field="FILE", value=str(to), rule="must not be the store itself")
        require_new(to, force=force)
    sizes = {str(to): back_up(there, to) for there, to in pairs if there.exists()}
    if as_json:
        print_json({"files": sizes})
        return
    for name, size in sizes.items():
        show(f"{name} is written, {size} bytes")


@command(database_app, "restore")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that db backup has made.")],
    yes: options.Yes = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a SQLite store what it was when a backup was taken; all of now is lost."""
    from orcheo_agentensor.storage.maintenance import copy_database
    from orcheo_agentensor.storage.saver import saver_path

    path = _file_of(store, "restore", "pg_restore")
    if not file.is_file():
        raise NotFound(f"there is no file {file}")

    async def check(opened: Store) -> None:
        if await revision_of(opened) is None:
            raise BadInput(field="FILE", value=str(file), rule="holds no store")

    on_store(f"sqlite:///{file}", check)
    if path.exists() and not yes:
        _confirm(f"Replace all of {path} by {file}?")
    for there, to in ((saver_path(file), saver_path(path)), (file, path)):
        if there.exists():
            copy_database(there, to)
    if as_json:
        print_json({"store": str(path), "restored": str(file)})
    else:
        show(f"{path} is what {file} holds")


def _file_of(store: str | None, what: str, instead: str) -> Path:
    target = options.named_store(store).target
    if target.path is None:
        rule = f"must be a SQLite file for db {what}; PostgreSQL has {instead} for it"
        raise BadInput(field="--store", value=target.shown, rule=rule)
    return target.path


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
