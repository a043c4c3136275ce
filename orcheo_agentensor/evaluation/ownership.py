"""Whose a run and its data are, asked wherever a job names what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orcheo_agentensor.callers import Caller, inside_a_host
from orcheo_agentensor.errors import ConfigError, Forbidden, NotFound
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.datasets import DatasetSpec
    from orcheo_agentensor.storage import RunRecord, Store


async def may_use_run(store: Store, run: RunRecord, caller: Caller) -> bool:
    """Whether a run is the caller's: of a workflow that they see, and submitted by them.

    As `storage.runs.is_others` says of a row.
    """
    if caller.identity is None:
        return True
    record = await store.workflows.get(run.workflow_id)
    return caller.may_see(run.refs.get("identity")) and (
        record is None or caller.may_see(record.owner)
    )


async def require_run(store: Store, run_id: str, caller: Caller) -> None:
    """Raise `NotFound` unless the caller may use this run, the same where there is none."""
    if caller.identity is None:
        await store.runs.get(run_id)
        return
    try:
        found = await may_use_run(store, await store.runs.get(run_id), caller)
    except NotFound:  # its message names other runs
        found = False
    if not found:
        raise NotFound(f"there is no run {run_id!r}")


async def require_free_run_id(store: Store, run_id: str, caller: Caller) -> None:
    """Raise `Forbidden` where this run id is that of somebody else's run."""
    if caller.identity is None:
        return
    try:
        run = await store.runs.get(run_id)
    except NotFound:
        return
    if not await may_use_run(store, run, caller):
        raise Forbidden(f"run_id {run_id!r} cannot be used by you; choose another one")


def workflow_taken(workflow_id: str) -> Forbidden:
    """What is said of a workflow that is somebody else's."""
    return Forbidden(f"workflow_id {workflow_id!r} cannot be used by you; choose another one")


async def require_dataset(store: Store, spec: DatasetSpec, caller: Caller) -> None:
    """Raise `NotFound` where a job asks for a stored dataset that no run of the caller had.

    A job that a host graph makes inside is the host's, as for files.
    """
    if caller.identity is None or not spec.is_stored or spec.id is None or inside_a_host():
        return
    seen = await store.datasets.list(spec.id, seen_by=caller.identity)
    if spec.version not in {record.version for record in seen}:
        raise NotFound(f"there is no version {spec.version!r} of a dataset {spec.id!r}")


def require_readable(dataset: Any, settings: Settings, caller: Caller) -> None:
    """Raise `ConfigError` for a file of this machine that whoever sends a job may not read.

    Where a server knows its callers, files are off until the operator names a folder for them, but
    in the bundled development set-up. A job that a host graph makes inside is the host's, who may
    read what it likes.
    """
    path = dataset.get("path") if isinstance(dataset, dict) else dataset
    allowed = caller.identity is None or settings.dataset_dir is not None
    allowed = allowed or settings.dev_server or inside_a_host()
    if isinstance(path, str) and not allowed:
        raise ConfigError(
            field="job.dataset",
            value=path,
            rule="is a file; files are off until the operator sets AGENTENSOR_DATASET_DIR",
        )
