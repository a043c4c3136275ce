"""What a run of a served workflow gets: its request over a stored version over its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from orcheo_agentensor.config import RunConfig, merge_configs, resolve_config
from orcheo_agentensor.errors import ConfigError, NotFound
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord

Flag: TypeAlias = Literal["runnable_config_enabled", "agent_trainer_enabled"]
USE = "config.configurable.agentensor.use"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A resolved config, the stored version it was merged over, and that of the defaults."""

    config: RunConfig
    base: int | None = None
    defaults_version: int | None = None


async def resolve(
    request: RunConfig, workflow_id: str, store: Store, settings: Settings
) -> Resolved:
    """Workflow defaults < the stored version that is asked for < `request`, then the caps.

    Raises `ConfigError` where no such version is stored.
    """
    record = await store.workflows.get(workflow_id)
    defaults = RunConfig.parse(record.default_config if record else None, field="defaults")
    use = merge_configs(defaults, request).use
    checkpoint, base = None, None
    if use is not None:
        try:
            version = await store.checkpoints.get(workflow_id, use)
        except NotFound:
            raise ConfigError(
                field=USE, value=use, rule=f"is no stored version or alias of {workflow_id!r}"
            ) from None
        checkpoint = RunConfig.parse(version.runnable_config, field="checkpoint")
        base = version.config_version
    return Resolved(
        config=resolve_config(request, checkpoint=checkpoint, workflow=defaults, settings=settings),
        base=base,
        defaults_version=record.default_version or None if record else None,
    )


async def flag_of(name: Flag, workflow_id: str, store: Store, settings: Settings) -> bool:
    """A feature flag for a workflow: its own where it is set, else the operator's."""
    return flag_in(await store.workflows.get(workflow_id), name, settings)


def flag_in(record: WorkflowRecord | None, name: Flag, settings: Settings) -> bool:
    """As `flag_of`, with what is kept about the workflow at hand."""
    own = record.feature_flags.get(name) if record else None
    return own if isinstance(own, bool) else settings.flag(name)
