"""The config a run gets: several configs merged into one, the same way for everything that runs.

From the lowest to the highest: defaults in code < the workflow's stored defaults < the stored
version that is asked for < the assistant's config < the request; then the operator's caps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orcheo_agentensor.config.model import BASELINE, RunConfig, bind_problems, config_error
from orcheo_agentensor.errors import ConfigError, NotFound
from orcheo_agentensor.prompts import ContentTensor, TextTensor
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.storage import ConfigCheckpoint, Store, WorkflowRecord

Flag: TypeAlias = Literal["runnable_config_enabled", "agent_trainer_enabled"]
"""A feature that is switched on by workflow, or by the operator for all of them."""

Origin: TypeAlias = Literal["default", "version", "assistant", "request", "override"]
"""Where a value of a config comes from: a default (in code, or stored for the workflow), the stored
version, the assistant, the request, or the operator's cap, which overrides them all."""


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig:
    """The config of a run and where it comes from.

    `version` is the stored config that was asked for (`use`), `base_version` its number, and
    `defaults_version` the number of the workflow's stored defaults. `known_sources` is what
    `sources` gives for a config that another process has resolved.
    """

    config: RunConfig
    use: int | str | None = None
    version: RunConfig = field(default_factory=RunConfig)
    base_version: int | None = None
    defaults_version: int | None = None
    layers: tuple[tuple[Origin, RunConfig], ...] = ()
    known_sources: dict[str, Origin] | None = None

    def sources(self) -> dict[str, Origin]:
        """Dotted path of each value of the config -> where it comes from."""
        if self.known_sources is not None:
            return self.known_sources
        layers = [(origin, _values(config)) for origin, config in reversed(self.layers)]
        found: dict[str, Origin] = {}
        for path, value in _values(self.config).items():
            setting = ((origin, values[path]) for origin, values in layers if path in values)
            origin, given = next(setting, (None, None))
            found[path] = origin if origin is not None and given == value else "override"
        return found


async def resolve(
    request: RunConfig,
    *,
    workflow_id: str,
    settings: Settings,
    store: Store | None,
    defaults: RunConfig | None = None,
    assistant: RunConfig | None = None,
    over_binds: Callable[[RunConfig, Mapping[str, TextTensor]], RunConfig] | None = None,
) -> ResolvedConfig:
    """The config of a run: `defaults` < stored defaults < stored version < `assistant` < `request`.

    `over_binds` gives the last two again, with texts for the prompts below them that bind to places
    which they set. The package itself sets nothing, so that without any of these a workflow runs as
    if bare. Raises `NotFound` where the version that is asked for is not stored, and `ConfigError`
    where there is no store to look for it in, or where prompts of different configs bind to the
    same key.
    """
    defaults, assistant = defaults or RunConfig(), assistant or RunConfig()
    if store is None:
        refuse_use(defaults, "defaults")
        refuse_use(request, "config")
        if over_binds is not None:
            assistant = over_binds(assistant, defaults.prompts)
            request = over_binds(request, defaults.prompts)
        return ResolvedConfig(config=settle(defaults, assistant, request, settings=settings))
    record = await store.workflows.get(workflow_id)
    stored = RunConfig.parse(record.default_config if record else None, field="defaults")
    asked = merge_configs(defaults, stored, assistant, request)
    found = await version_of(asked, workflow_id, store=store)
    version = RunConfig.parse(found.runnable_config if found else None, field="checkpoint")
    if over_binds is not None:
        below = merge_configs(defaults, stored, version).prompts
        assistant, request = over_binds(assistant, below), over_binds(request, below)
    layers: tuple[tuple[Origin, RunConfig], ...] = (
        ("default", defaults),
        ("default", stored),
        ("version", version),
        ("assistant", assistant),
        ("request", request),
    )
    return ResolvedConfig(
        config=settle(*(config for _, config in layers), settings=settings),
        layers=layers,
        use=asked.use if found else None,
        version=version,
        base_version=found.config_version if found else None,
        defaults_version=record.default_version or None if record else None,
    )


def _values(config: RunConfig) -> dict[str, Any]:
    """The values that a config sets, by their dotted paths; a prompt's by its fields."""
    values: dict[str, Any] = {}
    plain = config.model_copy(update={"prompts": {}}).to_plain()
    waiting: list[tuple[str, Any]] = [*plain.items()]
    for path, value in waiting:
        if isinstance(value, dict) and value:
            waiting += [(f"{path}.{key}", inner) for key, inner in value.items()]
        elif path in ("tags", "callbacks"):  # are united
            values |= {f"{path}.{name}": name for name in value}
        else:
            values[path] = value
    for name, tensor in config.prompts.items():
        fields = {"text", *tensor.model_fields_set} - {"gradients"}
        values |= {f"configurable.prompts.{name}.{key}": getattr(tensor, key) for key in fields}
    return values


async def version_of(
    config: RunConfig, workflow_id: str, *, store: Store
) -> ConfigCheckpoint | None:
    """The stored version that a config asks for; None for none, or `otherwise: baseline`.

    Raises `NotFound` where neither it nor what is named by `otherwise` is stored.
    """
    for use in config.uses:
        if use == BASELINE and use != config.use:
            return None
        try:
            return await store.checkpoints.get(workflow_id, use)
        except NotFound as error:
            error.value = use
            if use == config.uses[-1]:
                raise
    return None


def refuse_use(
    config: RunConfig | Mapping[str, Any],
    field: str,
    why: str = "the workflow was configured without a store",
) -> None:
    """Raise `ConfigError` where a config asks for a stored version."""
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    own = configurable.get("agentensor") if isinstance(configurable, Mapping) else None
    use = own.get("use") if isinstance(own, Mapping) else None
    if isinstance(config, RunConfig) and config.uses:
        use = config.use
    if use is not None:
        raise ConfigError(
            field=f"{field}.configurable.agentensor.use",
            value=use,
            rule=f"names a stored version, but {why}",
        )


def version_refused(error: NotFound, workflow_id: str) -> ConfigError:
    """The error for a client of a server: unlike `error`, it names nothing else that is stored."""
    return ConfigError(
        field="config.configurable.agentensor.use",
        value=error.value,
        rule=f"is no stored version or alias of {workflow_id!r}",
    )


def settle(*configs: RunConfig, settings: Settings) -> RunConfig:
    """`configs` merged, lowest first, checked as a whole, and with the operator's caps.

    Raises `ConfigError` where prompts from different configs bind to the same key.
    """
    merged = merge_configs(*configs)
    wrong = bind_problems(merged.prompts, "prompts")
    if wrong:
        raise config_error(wrong, "prompts")
    return merged.clamp(settings)


def merge_configs(*configs: RunConfig) -> RunConfig:
    """Merge configs, lowest first.

    Tags and callback names are united in order; `metadata` and `configurable` are merged object by
    object, with anything but an object replaced as a whole; limits, `run_name` and `run_id` are
    overridden where the higher config sets them. Prompts are merged by name and field by field: a
    plain text replaces the text alone and keeps the lower `requires_grad`, `metadata` and `bind`
    (and the media of a `ContentTensor`, whose labels it has to hold), a JSON form replaces each
    field that it spells out.
    """
    with_settings = [config for config in configs if config != _NOTHING_SET]
    return reduce(_merge_two, with_settings) if with_settings else RunConfig()


_NOTHING_SET = RunConfig()


def _merge_two(low: RunConfig, high: RunConfig) -> RunConfig:
    prompts = dict(low.prompts)
    for name, tensor in high.prompts.items():
        try:
            prompts[name] = _merge_prompt(low.prompts.get(name), tensor)
        except ConfigError as error:
            field = f"prompts.{name}.{error.field}"
            raise ConfigError(field=field, value=error.value, rule=error.rule) from None
    return RunConfig.model_construct(
        tags=tuple(dict.fromkeys((*low.tags, *high.tags))),
        metadata=merge_objects(low.metadata, high.metadata),
        configurable=merge_objects(low.configurable, high.configurable),
        run_name=_first(high.run_name, low.run_name),
        run_id=_first(high.run_id, low.run_id),
        recursion_limit=_first(high.recursion_limit, low.recursion_limit),
        max_concurrency=_first(high.max_concurrency, low.max_concurrency),
        callbacks=tuple(dict.fromkeys((*low.callbacks, *high.callbacks))),
        prompts=prompts,
    )


def _merge_prompt(low: TextTensor | None, high: TextTensor) -> TextTensor:
    if low is None:
        return high
    if isinstance(low, ContentTensor) and high.model_fields_set == {"text"}:
        return low.with_text(high.text)
    same = type(low) is type(high)
    fields = {
        name: getattr(low, name)
        for name in low.model_fields_set
        if same or name not in ("type", "text", "blocks")
    }
    fields |= {name: getattr(high, name) for name in high.model_fields_set}
    return type(high)(**fields)


def merge_objects(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Two JSON objects merged object by object; any other value of `high` replaces the lower."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = merge_objects(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _first(high: Any, low: Any) -> Any:
    return low if high is None else high


PHASES: Mapping[str, tuple[Mapping[str, bool], tuple[str, ...]]] = {
    "dev": ({"agent_trainer_enabled": True, "runnable_config_enabled": False}, ("never",)),
    "pilot": (
        {"agent_trainer_enabled": True, "runnable_config_enabled": True},
        ("never", "ask"),
    ),
    "broad": (
        {"agent_trainer_enabled": True, "runnable_config_enabled": True},
        ("never", "ask", "auto"),
    ),
}
"""How far the rollout of a workflow has come: the flags that each phase sets, and the values of
`promote` that a training may have in it."""


async def flag_of(name: Flag, workflow_id: str, *, store: Store, settings: Settings) -> bool:
    """A feature flag for a workflow: its own where it is set, else the operator's."""
    return flag_in(await store.workflows.get(workflow_id), name, settings)


def flag_in(record: WorkflowRecord | None, name: Flag, settings: Settings) -> bool:
    """As `flag_of`, with what is kept about the workflow at hand."""
    own = record.feature_flags.get(name) if record else None
    return own if isinstance(own, bool) else settings.flag(name)
