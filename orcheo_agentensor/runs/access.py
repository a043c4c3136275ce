"""Who may use a run, and who works on it: owners of stored runs and datasets, leases, one end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.config.model import config_error
from orcheo_agentensor.config.resolve import PHASES
from orcheo_agentensor.errors import (
    AgentensorError,
    ConfigError,
    Forbidden,
    NotFound,
    RunAlreadyActive,
)
from orcheo_agentensor.identity import Identity, inside_a_host
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.runs.job import Job
    from orcheo_agentensor.storage import Lease, RunRecord, Store


async def may_use_run(store: Store, run: RunRecord, caller: Identity) -> bool:
    """Whether a run is the caller's: submitted by them, or of a workflow that they see where it is
    not known who submitted it.

    As `storage.runs.is_others` says of a row.
    """
    if caller.name is None:
        return True
    if (submitted := run.refs.get("identity")) is not None:
        return caller.may_see(submitted)
    record = await store.workflows.get(run.workflow_id)
    return record is None or caller.may_see(record.owner)


async def require_run(store: Store, run_id: str, caller: Identity) -> None:
    """Raise `NotFound` unless the caller may use this run, the same where there is none."""
    if caller.name is None:
        await store.runs.get(run_id)
        return
    try:
        found = await may_use_run(store, await store.runs.get(run_id), caller)
    except NotFound:  # its message names other runs
        found = False
    if not found:
        raise NotFound(f"there is no run {run_id!r}")


def not_found_in(data: Mapping[str, Any]) -> NotFound:
    """What is said to a caller of a job that names what is not stored, or not theirs: what *they*
    have named, and nothing of what there is."""
    dataset = data.get("dataset")
    config = data.get("config")
    named = {
        "reuse": data.get("reuse"),
        "dataset": {k: dataset[k] for k in ("id", "version") if dataset.get(k)}
        if isinstance(dataset, Mapping) and dataset.get("version")
        else None,
        "config": config if isinstance(config, Mapping) and "configurable" in config else None,
    }
    given = {f"job.{key}": value for key, value in named.items() if value}
    found = NotFound("names something that is not stored: " + ", ".join(given or ["job"]))
    found.value = given
    return found


async def require_free_run_id(store: Store, run_id: str, caller: Identity) -> None:
    """Raise `Forbidden` where this run id is that of somebody else's run."""
    if caller.name is None:
        return
    try:
        run = await store.runs.get(run_id)
    except NotFound:
        return
    if not await may_use_run(store, run, caller):
        raise Forbidden(f"run_id {run_id!r} cannot be used by you; choose another one")


TRAINER = "agent_trainer_enabled"
"""The flag that a training needs, and the field of the error where it is off."""


async def require_trainer(
    store: Store, workflow_id: str, *, promote: str, settings: Settings, override: bool
) -> bool:
    """Whether a workflow is trained only because of `override`: its flag is off.

    Raises `ConfigError` where it is off without that, and where the workflow's phase forbids how
    the training would promote. A flag that is not set forbids nothing here; a server asks for one
    that is on.
    """
    record = await store.workflows.get(workflow_id)
    flags = {} if record is None else record.feature_flags
    phase = str(flags.get("phase"))
    if phase in PHASES and promote not in (allowed := PHASES[phase][1]):
        raise ConfigError(
            field="job.promote",
            value=promote,
            rule=f"is not for phase {phase!r} of workflow {workflow_id!r}, which allows "
            f"{' and '.join(allowed)}; `agentensor workflows phase` sets the next one",
        )
    if flags.get("agent_trainer_enabled", settings.agent_trainer_enabled) is not False:
        return False
    if override:
        return True
    where = "the operator's settings" if "agent_trainer_enabled" not in flags else "its flags"
    raise ConfigError(
        field=TRAINER,
        value="off",
        rule=f"in {where} forbids to train workflow {workflow_id!r}: `agentensor workflows flag "
        f"{workflow_id} agent_trainer_enabled on` allows it, and so does, for one run and noted in "
        "its record, --override-flag",
    )


def workflow_taken(workflow_id: str) -> Forbidden:
    """What is said of a workflow that is somebody else's."""
    return Forbidden(f"workflow_id {workflow_id!r} cannot be used by you; choose another one")


def require_readable(dataset: Any, settings: Settings, caller: Identity) -> None:
    """Raise `ConfigError` for a file of this machine that whoever sends a job may not read.

    Where a server knows its callers, files are off until the operator names a folder for them, but
    in the bundled development set-up. A job that a host graph makes inside is the host's, who may
    read what it likes.
    """
    path = dataset.get("path") if isinstance(dataset, dict) else dataset
    if isinstance(path, str) and not may_read_files(settings, caller):
        raise ConfigError(
            field="job.dataset",
            value=path,
            rule="is a file; files are off until the operator sets AGENTENSOR_DATASET_DIR",
        )


def may_read_files(settings: Settings, caller: Identity) -> bool:
    """Whether a job of `caller` may name files of this machine as its data."""
    allowed = caller.name is None or settings.dataset_dir is not None
    return allowed or settings.dev_server or inside_a_host()


def require_config(job: Job, settings: Settings, caller: Identity) -> None:
    """Raise `ConfigError` for each chat model that a job names and that the operator does not let
    it use, and for somebody else's `user_id`."""
    places = {"evaluators": job.evaluators, "optimizer": getattr(job, "optimizer", None)}
    places |= {"target": job.target}
    places |= {"config": job.config, "prompts": job.prompts}
    found = models_refused(places, settings, caller)
    problems = [(f"job.{path}", name, MODEL_RULE) for path, name in found]
    configurable = (job.config or {}).get("configurable")
    if user_refused(configurable, caller):
        problems.append(("job.config.configurable.user_id", configurable["user_id"], USER_RULE))  # type: ignore[index]
    if problems and not inside_a_host():
        raise config_error(problems, "the job")


def models_refused(
    places: Mapping[str, Any], settings: Settings, caller: Identity
) -> list[tuple[str, str]]:
    """Path and name of each chat model in `places` that `caller` may not have used.

    What a graph makes of `configurable.model` is its own; it is looked at where there is a list.
    """
    return [
        (path, name)
        for place, given in places.items()
        for path, name in _models_in(given, place)
        if not settings.may_use_model(name, known_caller=caller.name is not None)
        and (path != "config.configurable.model" or settings.allowed_models is not None)
    ]


MODEL_RULE = "is not a model that the operator allows (AGENTENSOR_ALLOWED_MODELS)"


def _models_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The texts under a key `model`, each with its path."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        if key == "model" and isinstance(item, str):
            yield f"{path}.{key}", item
        elif key != "metadata":
            yield from _models_in(item, f"{path}.{key}")


def user_refused(configurable: Any, caller: Identity) -> bool:
    """Whether a config of a known caller names somebody else as the user.

    Graphs keep what they remember by `configurable.user_id`, which LangGraph's server sets.
    """
    given = configurable.get("user_id") if isinstance(configurable, Mapping) else None
    return given is not None and caller.name is not None and given != caller.name


USER_RULE = "must be your own identity, or left out"


LOOK_AGAIN = 0.1
"""Seconds between two looks at a run that somebody else works on."""

LOOK_LATER = 1.0
"""Seconds between two tries for a lease that has been waited for: each locks the store."""


class RunEnded(Exception):
    """The run that was to be worked on has ended; `result` is what its record holds."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("the run has ended")
        self.result = result


async def take_lease(store: Store, run_id: str, **fields: Any) -> Lease:
    """The lease of a run, once it is free; with it `fields` of the run are changed.

    One that arrives after a cancellation is given back. This process holds it where the same job
    was submitted twice, or where its server goes on by itself with a run that was killed: that is
    waited for. So is the lease of a process elsewhere that may be dead, until it expires or is
    seen to be renewed. Raises `RunAlreadyActive` where another process is at work, `RunEnded` for
    a run that has its result.
    """
    from orcheo_agentensor.storage import process_owner

    seen: float | None = None
    pause = LOOK_AGAIN
    while True:
        taking = asyncio.create_task(store.runs.acquire(run_id, **fields))
        try:
            lease = await asyncio.shield(taking)
        except asyncio.CancelledError:
            with contextlib.suppress(AgentensorError):
                await store.runs.release(await taking)
            raise
        except RunAlreadyActive as held:
            if held.owner != process_owner():
                if seen is not None and held.expires > seen:
                    raise
                seen = held.expires
        else:
            if lease.result is None:
                return lease
            await store.runs.release(lease)
            raise RunEnded(lease.result)
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, LOOK_LATER)
