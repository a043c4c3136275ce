"""Options that commands share, and the store, settings and modules a command works with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orcheo_agentensor.errors import ConfigError, NotFound, shorten

if TYPE_CHECKING:
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import Store


JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file, in YAML or JSON.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where runs and versions are kept: sqlite:///PATH or postgresql://… "
        "[default: AGENTENSOR_DATABASE_URL]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
RunId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The id of the run; a known one goes on where it stopped."),
]
Concurrency = Annotated[
    int | None, typer.Option(metavar="N", help="Most cases in flight; goes over the job's limit.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION|ALIAS",
        help="Start from the prompts and settings of this stored version, not the job's prompts.",
    ),
]
Reuse = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Use the recorded rollouts of this run where they fit."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, show what would run, write nothing.")
]
MinScore = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[EVALUATOR=]X",
        help="Exit with 1 when the objective (or this evaluator's mean) is below X; repeatable.",
    ),
]
Workflow = Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's id.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A version's number, or an alias.")]
Actor = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides. [default: your user name]")
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the log.")]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Most rows to show.")]


def actor_name(given: str | None) -> str:
    """The actor of a command: the one given, else the name of the user at the shell."""
    if given:
        return given
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "unknown"


T = TypeVar("T")


def load_settings() -> Settings:
    """The settings from the environment; raises `ConfigError` naming every wrong variable."""
    from pydantic import ValidationError

    from orcheo_agentensor.settings import Settings

    try:
        return Settings().model_copy(update={"dataset_dir": None})  # it is for servers
    except ValidationError as error:
        problems = [
            {
                "field": f"AGENTENSOR_{'_'.join(map(str, entry['loc'])).upper()}",
                "value": shorten(entry.get("input")),
                "rule": entry["msg"][0].lower() + entry["msg"][1:],
            }
            for entry in error.errors(include_url=False)
        ]
        text = "; ".join(f"{p['field']}: {p['value']} {p['rule']}" for p in problems)
        raise ConfigError(text, problems=problems) from None


def make_importable(*folders: Path) -> None:
    """Let jobs name modules in these folders; installed packages come first."""
    for folder in folders:
        place = str(folder.resolve())
        if place not in sys.path:
            sys.path.append(place)


def named_store(url: str | None, settings: Settings | None = None) -> Store:
    """The store that `--store` or the settings name; nothing is opened yet."""
    from orcheo_agentensor.storage import Store

    return Store.from_url(url or (settings or load_settings()).database_url)


@asynccontextmanager
async def reading(store: Store) -> AsyncIterator[Store]:
    """`store` to read from, or an empty one in memory where it does not exist yet.

    So that looking at something never creates a database.
    """
    from orcheo_agentensor.storage import Store

    try:
        opened = Store.from_url(None) if await is_fresh(store) else store
        try:
            yield opened
        except NotFound as error:
            where = f"{store.target.shown} does not exist yet" if opened is not store else ""
            raise NotFound(f"{error.message} ({where or store.target.shown})") from error
        finally:
            if opened is not store:
                await opened.close()
    finally:
        await store.close()


async def is_fresh(store: Store) -> bool:
    """Whether nothing has been stored there: no file, or no tables in it."""
    path = store.target.path
    if path is not None and (not path.exists() or not path.stat().st_size):
        return True
    return await store.schema_revision() is None


def read_from(url: str | None, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the store, only to read."""

    async def main() -> T:
        async with reading(named_store(url)) as store:
            return await work(store)

    return asyncio.run(main())


def write_to(url: str | None, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the store; one that does not exist yet is not created."""

    async def main() -> T:
        store = named_store(url)
        if await is_fresh(store):
            await store.close()
            raise NotFound(f"there is no store at {store.target.shown} yet")
        async with store:
            return await work(store)

    return asyncio.run(main())


def store_option(url: str | None) -> str:
    """The `--store` option to repeat in a suggested command; passwords are not repeated."""
    if url is None:
        return ""
    from orcheo_agentensor.redaction import redact_url

    return f" --store {url}" if redact_url(url) == url else " --store URL"
