"""Reading and printing versions, and the gate before a promotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.cli.errors import ThresholdMissed
from orcheo_agentensor.cli.output import (
    number,
    percent,
    print_json,
    show,
    show_diff,
    show_table,
    when,
)

if TYPE_CHECKING:
    from orcheo_agentensor.storage import AliasMove, ConfigCheckpoint, Store

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


def show_version(
    version: ConfigCheckpoint,
    aliases: Mapping[str, int],
    log: Sequence[AliasMove],
    *,
    as_json: bool,
) -> None:
    """Print one version."""
    from orcheo_agentensor.cli import reports

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
        reports.show_evaluators(version.metrics)
        reports.show_measures(version.metrics)
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
    from orcheo_agentensor.training.decide import prompt_diff

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
    from orcheo_agentensor.training.promotion import rejection

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
