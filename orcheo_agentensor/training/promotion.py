"""Whether a version may be promoted by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.errors import NotFound

if TYPE_CHECKING:
    from orcheo_agentensor.storage import ConfigCheckpoint, Store


async def rejection(store: Store, version: ConfigCheckpoint) -> str | None:
    """Why the training run of a version has rejected it, in a sentence; None where it has not."""
    if version.run_id is None:
        return None
    try:
        run = await store.runs.get(version.run_id)
    except NotFound:
        return None
    result = run.result or {}
    decision, best = result.get("decision") or {}, result.get("best") or {}
    rejected = decision.get("status") == "rejected"
    if not rejected or best.get("config_version") != version.config_version:
        return None
    reasons = "; ".join(decision["reasons"])
    return (
        f"version {version.config_version} of workflow {version.workflow_id!r} was rejected by "
        f"its training run {run.run_id}: {reasons}"
    )
