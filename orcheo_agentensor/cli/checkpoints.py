"""`agentensor checkpoints` and `publish`: versions compared, exported, promoted, published."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, ThresholdMissed, handled
from orcheo_agentensor.cli.output import (
    number,
    percent,
    print_json,
    show,
    show_diff,
    show_table,
    when,
)
from orcheo_agentensor.errors import BadInput

if TYPE_CHECKING:
    from orcheo_agentensor.publishing import Publication
    from orcheo_agentensor.storage import AliasMove, ConfigCheckpoint, Store


_JSON = (".json",)
_YAML = (".yaml", ".yml")


def writer(path: Path) -> Callable[[dict[str, Any]], None]:
    """What writes a config to `path` in the format of its ending; raises `BadInput` for others."""
    kind = path.suffix.lower()
    if kind not in (*_JSON, *_YAML):
        raise BadInput(field="--output", value=str(path), rule="must end in .json, .yaml or .yml")
    if not path.parent.is_dir():
        raise BadInput(field="--output", value=str(path), rule="must be in a folder that exists")
    encode = _json if kind in _JSON else _yaml
    return lambda config: _write(path, encode(config))


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(config, Dumper=Dumper, allow_unicode=True, sort_keys=False)


def _write(path: Path, text: str) -> None:
    """Through a temporary file beside it, so that a reader never sees half a config."""
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


_MOVES_SHOWN = 10


async def read_workflows(store: Store) -> list[dict[str, Any]]:
    """The workflows that have versions, with their newest version and aliases."""
    found = []
    for workflow_id in await store.checkpoints.list_workflows():
        aliases = await store.aliases.list(workflow_id)
        found.append({"workflow_id": workflow_id, "aliases": aliases})
    return found


def show_workflows(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print workflows."""
    if as_json:
        print_json({"workflows": list(found)})
    elif not found:
        show("no versions")
    else:
        rows = [(entry["workflow_id"], _aliases(entry["aliases"])) for entry in found]
        show_table(("workflow", "aliases"), rows)


async def read_versions(
    store: Store, workflow_id: str, limit: int
) -> tuple[list[ConfigCheckpoint], dict[str, int]]:
    """The versions of a workflow and its aliases; raises `NotFound` where there are none."""
    found = await store.checkpoints.list(workflow_id, limit=limit)
    if not found:
        await store.checkpoints.get(workflow_id, "latest")  # says which workflows there are
    return found, await store.aliases.list(workflow_id)


def show_versions(
    found: Sequence[ConfigCheckpoint], aliases: Mapping[str, int], *, as_json: bool
) -> None:
    """Print versions."""
    if as_json:
        print_json({"versions": [brief(version, aliases) for version in found]})
        return
    rows = [
        (
            version.config_version,
            ", ".join(_names(version, aliases)),
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


def print_version(
    version: ConfigCheckpoint,
    aliases: Mapping[str, int],
    log: Sequence[AliasMove],
    *,
    as_json: bool,
) -> None:
    """Print one version."""
    from orcheo_agentensor.cli import output

    moves = [m for m in log if version.config_version in (m.from_version, m.to_version)]
    if as_json:
        document = {**version.model_dump(mode="json"), "aliases": _names(version, aliases)}
        print_json({**document, "alias_log": [m.model_dump(mode="json") for m in moves]})
        return
    names = _names(version, aliases)
    show(f"version    {version.config_version} of workflow {version.workflow_id!r}")
    show(f"aliases    {', '.join(names) or 'none'}")
    show(f"stored     {when(version.created_at)}, {version.metadata.get('reason', 'no reason')}")
    show(f"from       run {version.run_id or '-'}, parent version {version.parent_version or '-'}")
    show(f"dataset    {(version.dataset_version or '-')[:12]}")
    if "evaluators" in version.metrics:
        output.show_evaluators(version.metrics)
        output.show_measures(version.metrics)
    for name, prompt in version.prompts.items():
        show()
        show(f"{name}{'' if prompt.requires_grad else ' (frozen)'}", style="bold")
        show(prompt.text)
    if moves:
        show()
        for move in moves[:_MOVES_SHOWN]:
            show(f"{when(move.created_at)}  {told(move)}")


def show_comparison(before: ConfigCheckpoint, after: ConfigCheckpoint, *, as_json: bool) -> None:
    """Print two versions side by side."""
    from orcheo_agentensor.training.decision import prompt_diff

    diff = prompt_diff(
        {name: prompt.text for name, prompt in before.prompts.items()},
        {name: prompt.text for name, prompt in after.prompts.items()},
    )
    comparable = (before.dataset_version, before.evaluator_set) == (
        after.dataset_version,
        after.evaluator_set,
    )
    if as_json:
        print_json(
            {
                "workflow_id": before.workflow_id,
                "versions": [before.config_version, after.config_version],
                "prompts": diff,
                "metrics": [before.metrics, after.metrics],
                "measured_alike": comparable,
            }
        )
        return
    if diff:
        show_diff(diff)
    else:
        show("the prompts are the same")
    names = sorted({*_means(before), *_means(after)})
    rows = [("objective", *_cells(before.metrics.get("objective"), after.metrics.get("objective")))]
    rows += [(name, *_cells(_means(before).get(name), _means(after).get(name))) for name in names]
    columns = ("", f">version {before.config_version}", f">version {after.config_version}")
    show_table((*columns, ">change"), rows)
    if not comparable:
        show("measured on different data or by different evaluators", style="yellow")


async def require_not_rejected(store: Store, version: ConfigCheckpoint) -> None:
    """Raise `ThresholdMissed` for the version that its own training run has rejected."""
    from orcheo_agentensor.training.decision import rejection

    why = await rejection(store, version)
    if why is not None:
        raise ThresholdMissed(f"{why}. To promote it all the same, add --force")


def show_move(move: AliasMove, *, as_json: bool) -> None:
    """Print what became of an alias."""
    if as_json:
        print_json(move.model_dump(mode="json"))
    else:
        show(told(move))


def told(move: AliasMove) -> str:
    """A move of an alias, in a line."""
    origin = "nothing" if move.from_version is None else f"version {move.from_version}"
    back = " back" if move.kind == "rollback" else ""
    why = f": {move.reason}" if move.reason else ""
    target = f"version {move.to_version}"
    return f"{move.alias!r} moved{back} from {origin} to {target} by {move.actor}{why}"


def brief(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> dict[str, Any]:
    """A version without its config."""
    keys = {
        "config_version",
        "workflow_id",
        "parent_version",
        "run_id",
        "dataset_version",
        "evaluator_set",
        "created_at",
        "metadata",
    }
    return {
        **version.model_dump(mode="json", include=keys),
        "objective": version.metrics.get("objective"),
        "coverage": version.metrics.get("coverage"),
        "aliases": _names(version, aliases),
    }


def _names(version: ConfigCheckpoint, aliases: Mapping[str, int]) -> list[str]:
    return [name for name, target in aliases.items() if target == version.config_version]


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{name} -> {version}" for name, version in aliases.items())


def _means(version: ConfigCheckpoint) -> dict[str, float | None]:
    return {name: entry["mean"] for name, entry in version.metrics.get("evaluators", {}).items()}


def _cells(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = "-" if before is None or after is None else f"{after - before:+.3f}"
    return number(before), number(after), change


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
    from orcheo_agentensor.cli.options import read_from

    if workflow is None:
        show_workflows(read_from(store, read_workflows), as_json=as_json)
        return ExitCode.OK
    found, aliases = read_from(store, lambda s: read_versions(s, workflow, limit))
    show_versions(found, aliases, as_json=as_json)
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
    from orcheo_agentensor.cli.options import read_from

    async def work(opened: Store) -> tuple[ConfigCheckpoint, dict[str, int], list[AliasMove]]:
        found = await opened.checkpoints.get(workflow, version)
        aliases = await opened.aliases.list(workflow)
        return found, aliases, await opened.aliases.log(workflow)

    print_version(*read_from(store, work), as_json=as_json)
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
    from orcheo_agentensor.cli.options import read_from

    async def work(opened: Store) -> tuple[ConfigCheckpoint, ConfigCheckpoint]:
        first = await opened.checkpoints.get(workflow, before)
        return first, await opened.checkpoints.get(workflow, after)

    show_comparison(*read_from(store, work), as_json=as_json)
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
    from orcheo_agentensor.cli.options import read_from
    from orcheo_agentensor.cli.output import print_json, say

    write = None if output is None else writer(output)
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
    from orcheo_agentensor.cli.options import write_to
    from orcheo_agentensor.storage import ANY

    wanted = ANY if expect is None else _expected(expect)

    async def work(opened: Store) -> AliasMove:
        found = await opened.checkpoints.get(workflow, version)
        if not force:
            await require_not_rejected(opened, found)
        return await opened.aliases.move(
            workflow,
            alias,
            to=found.config_version,
            expect=wanted,
            actor=options.actor_name(actor),
            reason=reason,
        )

    show_move(write_to(store, work), as_json=as_json)
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
    from orcheo_agentensor.cli.options import write_to

    async def work(opened: Store) -> AliasMove:
        return await opened.aliases.rollback(
            workflow, alias, actor=options.actor_name(actor), reason=reason
        )

    show_move(write_to(store, work), as_json=as_json)
    return ExitCode.OK


def _expected(text: str) -> Any:
    if text == "none":
        return None
    if not text.isdecimal():
        raise BadInput(field="--expect", value=text, rule="must be a version's number, or none")
    return int(text)


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
    from orcheo_agentensor.cli.options import load_settings, write_to
    from orcheo_agentensor.publishing import apublish, arollback_publication

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
            await require_not_rejected(opened, found)
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
