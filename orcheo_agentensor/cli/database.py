"""`agentensor db`: the schema of the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled
from orcheo_agentensor.errors import BadInput, NotFound

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

app = typer.Typer(help="Look at and migrate the store's schema.", no_args_is_help=True)


@app.command("current", epilog=EXIT_CODES)
@handled
def current(store: options.StoreUrl = None, as_json: options.AsJson = False) -> int:
    """Print the schema revision of the store, and the one this release works with."""
    from orcheo_agentensor.cli.output import print_json, show
    from orcheo_agentensor.cli.stores import is_fresh, named_store
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


@app.command("upgrade", epilog=EXIT_CODES)
@handled
def upgrade(
    revision: Annotated[
        str, typer.Option(metavar="REVISION", help="The revision to stop at.")
    ] = "head",
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Bring the store to the schema of this release; creates one that does not exist."""
    from orcheo_agentensor.cli.stores import named_store

    opened = named_store(store)

    async def work() -> str | None:
        try:
            await opened.upgrade(revision)
            return await opened.schema_revision()
        finally:
            await opened.close()

    _show(opened, asyncio.run(work()), as_json=as_json)
    return ExitCode.OK


@app.command("downgrade", epilog=EXIT_CODES)
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
    from orcheo_agentensor.cli.stores import is_fresh, named_store

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
