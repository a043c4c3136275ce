"""`agentensor checkpoints` and `publish`: versions compared, exported, promoted, published."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options, output
from orcheo_agentensor.cli.errors import ThresholdMissed, command
from orcheo_agentensor.cli.options import read_from, write_to
from orcheo_agentensor.cli.output import as_yaml, print_json, say, show, show_diff, show_table
from orcheo_agentensor.cli.promptfiles import write_texts
from orcheo_agentensor.display import compared, number, percent, when
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.publishing import Publication
    from orcheo_agentensor.storage import AliasMove, ConfigCheckpoint, Store

app = typer.Typer(help="Look at, compare, export and promote versions.", no_args_is_help=True)

Alias = Annotated[str, typer.Option(metavar="ALIAS", help="The alias to move.")]

_MOVES_SHOWN = 10
_LISTED = {
    "config_version",
    "workflow_id",
    "parent_version",
    "run_id",
    "dataset_version",
    "evaluator_set",
    "created_at",
    "metadata",
}


@command(app, "list")
def list_versions(
    workflow: Annotated[
        str | None, typer.Argument(metavar="[WORKFLOW]", help="All workflows when left out.")
    ] = None,
    limit: options.Limit = 100,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """List the versions of a workflow, newest first, or the workflows that have versions."""
    if workflow is None:
        _list_workflows(store, as_json=as_json)
        return

    async def work(opened: Store) -> tuple[list[ConfigCheckpoint], dict[str, int]]:
        found = await opened.checkpoints.list(workflow, limit=limit)
        if not found:
            await opened.checkpoints.get(workflow, "latest")  # says which workflows there are
        return found, await opened.aliases.list(workflow)

    found, aliases = read_from(store, work)
    if as_json:
        versions = [
            {
                **version.model_dump(mode="json", include=_LISTED),
                "objective": version.metrics.get("objective"),
                "coverage": version.metrics.get("coverage"),
                "aliases": _aliases_of(version, aliases),
            }
            for version in found
        ]
        print_json({"versions": versions})
        return
    rows = [
        (
            version.config_version,
            ", ".join(_aliases_of(version, aliases)),
            number(version.metrics.get("objective")),
            percent(version.metrics.get("coverage")),
            version.parent_version,
            version.metadata.get("reason"),
            version.run_id,
            when(version.created_at),
        )
        for version in found
    ]
    columns = (">version", "aliases", ">objective", ">coverage", ">parent", "why", "run", "stored")
    show_table(columns, rows)


def _list_workflows(store: str | None, *, as_json: bool) -> None:
    async def work(opened: Store) -> dict[str, dict[str, int]]:
        workflows = await opened.checkpoints.list_workflows()
        return {name: await opened.aliases.list(name) for name in workflows}

    found = read_from(store, work)
    if as_json:
        listed = [{"workflow_id": name, "aliases": aliases} for name, aliases in found.items()]
        print_json({"workflows": listed})
    elif not found:
        show("no versions")
    else:
        rows = [
            (name, ", ".join(f"{alias} -> {version}" for alias, version in aliases.items()))
            for name, aliases in found.items()
        ]
        show_table(("workflow", "aliases"), rows)


def _aliases_of(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> list[str]:
    return [name for name, target in aliases.items() if target == version.config_version]


@command(app, "show")
def show_version(
    workflow: options.Workflow,
    version: options.Version = "latest",
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a version: its prompts, its metrics, its origin, and the moves of its aliases."""

    async def work(opened: Store) -> tuple[ConfigCheckpoint, dict[str, int], list[AliasMove]]:
        found = await opened.checkpoints.get(workflow, version)
        aliases = await opened.aliases.list(workflow)
        return found, aliases, await opened.aliases.log(workflow)

    found, aliases, log = read_from(store, work)
    moves = [m for m in log if found.config_version in (m.from_version, m.to_version)]
    names = _aliases_of(found, aliases)
    if as_json:
        document = {**found.model_dump(mode="json"), "aliases": names}
        print_json({**document, "alias_log": [move.model_dump(mode="json") for move in moves]})
        return
    show(f"version    {found.config_version} of workflow {found.workflow_id!r}")
    show(f"aliases    {', '.join(names) or 'none'}")
    show(f"stored     {when(found.created_at)}, {found.metadata.get('reason', 'no reason')}")
    show(f"from       run {found.run_id or '-'}, parent version {found.parent_version or '-'}")
    show(f"dataset    {(found.dataset_version or '-')[:12]}")
    if "evaluators" in found.metrics:
        output.show_evaluators(found.metrics)
        output.show_measures(found.metrics)
    for name, prompt in found.prompts.items():
        show()
        show(f"{name}{'' if prompt.requires_grad else ' (frozen)'}", style="bold")
        show(prompt.text)
    if moves:
        show()
        for move in moves[:_MOVES_SHOWN]:
            show(f"{when(move.created_at)}  {_move_line(move)}")


@command(app, "diff")
def diff(
    workflow: options.Workflow,
    before: Annotated[str, typer.Argument(metavar="A", help="A version's number, or an alias.")],
    after: Annotated[str, typer.Argument(metavar="B", help="A version's number, or an alias.")],
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare two versions: prompts as a unified diff, metrics side by side."""
    from orcheo_agentensor.training.decision import prompt_diff

    async def work(opened: Store) -> list[ConfigCheckpoint]:
        return [await opened.checkpoints.get(workflow, name) for name in (before, after)]

    first, second = read_from(store, work)
    prompts = prompt_diff(
        *(
            {name: prompt.text for name, prompt in version.prompts.items()}
            for version in (first, second)
        )
    )
    same_data = first.dataset_version == second.dataset_version
    comparable = same_data and first.evaluator_set == second.evaluator_set
    if as_json:
        print_json(
            {
                "workflow_id": first.workflow_id,
                "versions": [first.config_version, second.config_version],
                "prompts": prompts,
                "metrics": [first.metrics, second.metrics],
                "measured_alike": comparable,
            }
        )
        return
    if prompts:
        show_diff(prompts)
    else:
        show("the prompts are the same")
    old, new = (
        {name: entry["mean"] for name, entry in version.metrics.get("evaluators", {}).items()}
        for version in (first, second)
    )
    objectives = first.metrics.get("objective"), second.metrics.get("objective")
    rows = [("objective", *compared(*objectives))]
    rows += [(name, *compared(old.get(name), new.get(name))) for name in sorted({*old, *new})]
    columns = ("", f">version {first.config_version}", f">version {second.config_version}")
    show_table((*columns, ">change"), rows)
    if not comparable:
        show("measured on different data or by different evaluators", style="yellow")


@command(app, "export")
def export(
    workflow: options.Workflow,
    version: options.Version,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=r"A .json, .yaml or .yml file. \[default: stdout]",
        ),
    ] = None,
    write_prompts: Annotated[
        bool,
        typer.Option(
            "--write-prompts",
            help="Write the texts of prompts into the files that they came from, here.",
        ),
    ] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a version's RunnableConfig, ready to be passed to a workflow.

    With --write-prompts, write its texts into the project's own files instead.
    """
    if output is not None:
        _check_output(output)
    found = read_from(store, lambda opened: opened.checkpoints.get(workflow, version))
    if write_prompts:
        _write_prompts(found, as_json=as_json)
        return
    if output is None:
        print_json(found.to_runnable())
        return
    encode = _json if output.suffix.lower() == ".json" else as_yaml
    _write(output, encode(found.to_runnable()))
    if as_json:
        print_json({"workflow_id": workflow, "version": found.config_version, "file": str(output)})
    else:
        say(f"version {found.config_version} of workflow {workflow!r} written to {output}")


def _write_prompts(version: ConfigCheckpoint, *, as_json: bool) -> None:
    files = [
        {"prompt": name, "file": str(path), "changed": changed}
        for name, path, changed in write_texts(version.prompts, Path.cwd())
    ]
    if not files:
        raise BadInput(
            f"no prompt of version {version.config_version} came from a file; name it in the job: "
            "prompts: {planner: {file: prompts/planner.md}}",
            field="--write-prompts",
            value=version.config_version,
        )
    if as_json:
        known = {"workflow_id": version.workflow_id, "version": version.config_version}
        print_json({**known, "files": files})
        return
    for one in files:
        show(f"{one['prompt']}: {one['file']}{'' if one['changed'] else ' has the text already'}")


def _check_output(path: Path) -> None:
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise BadInput(field="--output", value=str(path), rule="must end in .json, .yaml or .yml")
    if not path.parent.is_dir():
        raise BadInput(field="--output", value=str(path), rule="must be in a folder that exists")


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    """Write through a temporary file beside `path`, so that nobody reads half a config."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise BadInput(
            f"--output: {path} cannot be written ({error.strerror})",
            field="--output",
            value=str(path),
            rule="must be writable",
        ) from None


@command(app, "promote")
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
) -> None:
    """Point an alias to a version.

    A version that its own training rejected is held back (exit code 1) unless forced.
    """
    from orcheo_agentensor.storage import ANY

    if expect is not None and expect != "none" and not expect.isdecimal():
        raise BadInput(field="--expect", value=expect, rule="must be a version's number, or none")
    wanted = ANY if expect is None else None if expect == "none" else int(expect)

    async def work(opened: Store) -> AliasMove:
        found = await opened.checkpoints.get(workflow, version)
        if not force:
            await _require_not_rejected(opened, found)
        return await opened.aliases.move(
            workflow,
            alias,
            to=found.config_version,
            expect=wanted,
            actor=options.actor_name(actor),
            reason=reason,
        )

    _show_move(write_to(store, work), as_json=as_json)


@command(app, "rollback")
def rollback(
    workflow: options.Workflow,
    alias: Alias = "production",
    reason: options.Reason = "",
    actor: options.Actor = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Undo the last move of an alias; once more undoes the one before it."""
    by = options.actor_name(actor)
    move = write_to(
        store, lambda opened: opened.aliases.rollback(workflow, alias, actor=by, reason=reason)
    )
    _show_move(move, as_json=as_json)


async def _require_not_rejected(store: Store, version: ConfigCheckpoint) -> None:
    """Raise `ThresholdMissed` for the version that its own training run has rejected."""
    from orcheo_agentensor.training.decision import rejection

    why = await rejection(store, version)
    if why is not None:
        raise ThresholdMissed(f"{why}. To promote it all the same, add --force")


def _show_move(move: AliasMove, *, as_json: bool) -> None:
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        show(_move_line(move))


def _move_line(move: AliasMove) -> str:
    origin = "nothing" if move.from_version is None else f"version {move.from_version}"
    back = " back" if move.kind == "rollback" else ""
    why = f": {move.reason}" if move.reason else ""
    target = "nothing" if move.to_version is None else f"version {move.to_version}"
    return f"{move.alias!r} moved{back} from {origin} to {target} by {move.actor}{why}"


def publish(
    workflow: options.Workflow,
    version: Annotated[
        str, typer.Argument(metavar="[VERSION|ALIAS]", help="The version to publish.")
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
) -> None:
    """Put a stored version into an assistant of a LangGraph server, as a new version of it."""
    from orcheo_agentensor.publishing import apublish, arollback_publication

    if not url or not assistant:
        missing = "--url" if assistant else "--assistant"
        raise BadInput(field=missing, value=None, rule="is needed")
    shared: dict[str, Any] = {
        "url": url[0] if len(url) == 1 else url,
        "assistant": assistant,
        "api_key_env": api_key_env,
        "prompts_in": prompts_in,
        "actor": options.actor_name(actor),
        "reason": reason,
        "settings": options.load_settings(),
    }

    async def work(opened: Store) -> list[Publication]:
        if rollback:
            return await arollback_publication(workflow, store=opened, **shared)
        found = await opened.checkpoints.get(workflow, version)
        if not force:
            await _require_not_rejected(opened, found)
        return await apublish(
            workflow,
            found.config_version,
            store=opened,
            graph=graph,
            create=create,
            force=force,
            **shared,
        )

    published = write_to(store, work)
    if as_json:
        print_json({"published": [one.model_dump(mode="json") for one in published]})
        return
    for one in published:
        what = f"version {one.config_version} of workflow {one.workflow_id!r}"
        if one.config_version is None:
            what = "what was set before"
        where = f"assistant {one.assistant_id} at {one.url}, its version {one.assistant_version}"
        back = "" if one.rollback_of is None else f", back from version {one.rollback_of}"
        if one.changed:
            show(f"{what} is published to {'a new ' if one.created else ''}{where}{back}")
        else:
            show(f"{what} is served already by {where}; nothing was changed (--force does)")
