"""Options that commands share, and the settings, stores and module paths that commands use."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orcheo_agentensor.cli.jobfile import PROJECT_FILE, project_settings
from orcheo_agentensor.errors import BadInput, ConfigError, NotFound, shorten
from orcheo_agentensor.logs import configure_logging
from orcheo_agentensor.redaction import redact_url

if TYPE_CHECKING:
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import Store

JobFile = Annotated[
    Path,
    typer.Argument(
        metavar="[JOB]", help=f"The job file, in YAML or JSON; {PROJECT_FILE} when left out."
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The database of runs and versions: sqlite:///PATH or postgresql://… "
        r"\[default: AGENTENSOR_DATABASE_URL]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
RunId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The id of the run; a known one goes on where it stopped."),
]
OverrideFlag = Annotated[
    bool,
    typer.Option(
        "--override-flag", help="Train although the flag is off; noted in the run's record."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Of the search, and of get_seed(); goes over the job's."),
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
AcceptDrift = Annotated[
    bool,
    typer.Option(
        "--accept-drift", help="Go on although the target's code has changed since; recorded."
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Try again what failed by an outage, a refused key or a timeout, also of a run that "
        "has finished; its report and decision follow.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, show what would run, write nothing.")
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache", help="Use recorded rollouts of earlier runs of the workflow; `cache` of the job."
    ),
]
Tape = Annotated[
    bool,
    typer.Option(
        "--tape", help="Record the path of each case through the nodes, for `runs show --case`."
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate", help="Run each execution of the target in a process of its own, which may die."
    ),
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
    str | None,
    typer.Option(
        metavar="NAME", help=r"The name of the person who decides. \[default: your user name]"
    ),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="The reason; kept in the log.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that exists.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Most rows to show.")]

T = TypeVar("T")


def actor_name(given: str | None) -> str:
    """The actor of a command: the one given, else the name of the user at the shell."""
    import getpass

    try:
        return given or getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "unknown"


def load_settings() -> Settings:
    """The settings from the environment; raises `ConfigError` naming every wrong variable."""
    from pydantic import ValidationError

    from orcheo_agentensor.settings import Settings

    given = project_settings(Path.cwd())
    if env_file := given.pop("env_file", None):
        load_env_file(Path(str(env_file)))
    given = {
        name: value
        for name, value in given.items()
        if f"AGENTENSOR_{name.upper()}" not in os.environ
    }
    try:
        settings = Settings(**given)
        configure_logging(settings.log_format, level=settings.log_level)
        here = any(Path(name).is_file() for name in ("langgraph.json", PROJECT_FILE))
        project = [Path.cwd()] if here else []
        folders = (*settings.allowed_folders, *project)
        # The folder of datasets is for servers.
        return settings.model_copy(update={"dataset_dir": None, "allowed_folders": folders})
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


def load_env_file(path: Path) -> None:
    """Take the variables of a file that the environment does not have."""
    from dotenv import load_dotenv

    if not path.is_file():
        raise ConfigError(
            field="project.env_file", value=str(path), rule="must be a file in the project"
        )
    load_dotenv(path, override=False)


def make_importable(*folders: Path) -> None:
    """Let jobs name modules in these folders, and in their `src`; installed packages come first."""
    for folder in (folder.resolve() for folder in folders):
        for place in (folder, folder / "src"):
            if place.is_dir() and str(place) not in sys.path:
                sys.path.append(str(place))


def named_store(url: str | None, settings: Settings | None = None) -> Store:
    """The store that `--store` or the settings name; nothing is opened yet."""
    from orcheo_agentensor.storage import Store

    return Store.from_url(url or (settings or load_settings()).database_url)


async def revision_of(store: Store) -> str | None:
    """The schema revision of a store; None where nothing was stored yet, and nothing is created."""
    path = store.target.path
    if path is not None and (not path.exists() or not path.stat().st_size):
        return None
    return await store.schema_revision()


@asynccontextmanager
async def reading(store: Store) -> AsyncIterator[Store]:
    """`store` to read from, or an empty one in memory where it does not exist yet.

    Reading therefore never creates a database.
    """
    from orcheo_agentensor.storage import Store

    try:
        exists = await revision_of(store) is not None
        opened = store if exists else Store.from_url(None)
        try:
            yield opened
        except NotFound as error:
            where = store.target.shown if exists else f"{store.target.shown} does not exist yet"
            raise NotFound(f"{error.message} ({where})") from error
        finally:
            if not exists:
                await opened.close()
    finally:
        await store.close()


def on_store(url: str | None, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the store, which opens with its first call and creates what is missing."""

    async def main() -> T:
        store = named_store(url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())


def read_from(url: str | None, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the store, only to read."""

    async def read(store: Store) -> T:
        async with reading(store) as opened:
            return await work(opened)

    return on_store(url, read)


async def require_store(store: Store) -> None:
    """Raise `NotFound` where nothing was stored yet."""
    if await revision_of(store) is None:
        raise NotFound(f"there is no store at {store.target.shown} yet")


def write_to(url: str | None, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the store; one that does not exist yet is not created."""

    async def write(store: Store) -> T:
        await require_store(store)
        return await work(store)

    return on_store(url, write)


def store_option(url: str | None) -> str:
    """The `--store` option to repeat in a suggested command; passwords are not repeated."""
    if url is None:
        return ""
    return f" --store {url}" if redact_url(url) == url else " --store URL"


def moment(text: str | None, option: str = "--since") -> datetime | None:
    """The moment that an option names: a date, a time, or so long ago. Raises `BadInput`."""
    if text is None:
        return None
    span = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        if span is not None:
            names = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
            return datetime.now(UTC) - timedelta(**{names[span[2]]: int(span[1])})
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        rule = "must be a date or a time, such as 2026-05-01, or a span such as 24h or 7d"
        raise BadInput(field=option, value=text, rule=rule) from None
    return found if found.tzinfo else found.astimezone()
