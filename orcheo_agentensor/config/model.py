"""The per-run config: one strict model that every `RunnableConfig` is parsed with.

`RunConfig.parse` is for what comes from outside the process, `RunConfig.trusted` for callers in
it, who may pass live callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeAlias, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ConfigDict, Field, field_validator

from orcheo_agentensor.config.overrides import NODE_OVERRIDES, NodeOverride
from orcheo_agentensor.config.rules import (
    ALIAS,
    MAX_PROBLEMS,
    NAME,
    NAME_RULE,
    VERSION,
    LiveCallbacks,
    bind_problems,
    config_error,
    config_problems,
    join_callbacks,
    named_callbacks,
    read_prompts,
    registered_callbacks,
    split_trusted,
)
from orcheo_agentensor.json_values import TOO_LARGE
from orcheo_agentensor.prompts import CONFIGURABLE, TextTensor, path_in, prompts_to_json, put
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.settings import Settings

_Limit: TypeAlias = Annotated[int, Field(ge=1, strict=True)]


class RunConfig(BaseModel):
    """A validated run config; immutable.

    `prompts` are named `TextTensor`s. `callbacks` are registered names: live callbacks are kept
    beside the model (see `trusted`) and are never stored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    configurable: dict[str, Any] = Field(default_factory=dict)
    run_name: str | None = None
    run_id: UUID | None = None
    recursion_limit: _Limit | None = None
    max_concurrency: _Limit | None = None
    callbacks: tuple[str, ...] = ()
    prompts: dict[str, TextTensor] = Field(default_factory=dict)

    @field_validator("prompts")
    @classmethod
    def _check_names(cls, prompts: dict[str, TextTensor]) -> dict[str, TextTensor]:
        wrong = [
            (f"prompts.{name}", name, f"is not a prompt name: it {NAME_RULE}")
            for name in prompts
            if not NAME.fullmatch(name)
        ]
        wrong += bind_problems(prompts, "prompts")
        if wrong:
            raise config_error(wrong, "prompts")
        return prompts

    @classmethod
    def parse(
        cls, obj: Any, *, settings: Settings | None = None, field: str = "config"
    ) -> RunConfig:
        """A config from outside the process, in the form of a `RunnableConfig` as JSON.

        Raises one `ConfigError` that lists every problem, each with its path under `field`. With
        `settings`, limits are capped as by `clamp`. None is the empty config.
        """
        if obj is None:
            return cls()
        found = config_problems(obj, field=field, callbacks=registered_callbacks())
        problems = list(islice(found, MAX_PROBLEMS + 1))
        prompts: dict[str, TextTensor] = {}
        if isinstance(obj, dict) and not any(rule in TOO_LARGE for _, _, rule in problems):
            prompts, wrong = read_prompts(obj, field)
            problems += wrong
        if problems:
            raise config_error(problems, field)
        given = {key: value for key, value in obj.items() if value is not None}
        configurable = dict(given.get("configurable", {}))
        configurable.pop("prompts", None)
        run_id = given.get("run_id")
        config = cls(
            tags=_united(given.get("tags", ())),
            metadata=_copy(given.get("metadata", {})),
            configurable=_copy(configurable),
            run_name=given.get("run_name"),
            run_id=None if run_id is None else UUID(run_id),
            recursion_limit=given.get("recursion_limit"),
            max_concurrency=given.get("max_concurrency"),
            callbacks=_united(given.get("callbacks", ())),
            prompts=prompts,
        )
        return config if settings is None else config.clamp(settings)

    @classmethod
    def trusted(
        cls, obj: Mapping[str, Any] | RunConfig | None, *, field: str = "config"
    ) -> tuple[RunConfig, LiveCallbacks]:
        """A config of a caller in this process, and its live callbacks apart.

        The same rules as in `parse`, except: `callbacks` may hold live handlers or be a callback
        manager, prompts may be `TextTensor`s, ids may be `UUID`s, and LangGraph's own keys of
        `configurable` are left out instead of refused (see `runtime_configurable`).
        """
        if isinstance(obj, RunConfig):
            return obj, []
        if not isinstance(obj, Mapping):
            return cls.parse(obj, field=field), []
        plain, live = split_trusted(obj)
        return cls.parse(plain, field=field), live

    @property
    def use(self) -> str | int | None:
        """The stored version asked for by `configurable.agentensor.use`: alias, number or None."""
        found: str | int | None = self.configurable.get("agentensor", {}).get("use")
        return int(found) if isinstance(found, str) and VERSION.fullmatch(found) else found

    def clamp(self, settings: Settings) -> RunConfig:
        """This config with its limits capped by the operator's; a limit not set stays so."""
        capped = {
            "recursion_limit": _smaller(self.recursion_limit, settings.max_recursion_limit),
            "max_concurrency": _smaller(self.max_concurrency, settings.max_target_concurrency),
        }
        return self.model_copy(update=capped)

    def to_runnable(self, callbacks: LiveCallbacks = ()) -> RunnableConfig:
        """As LangGraph takes it: prompts in `configurable.prompts`, callbacks as live objects.

        The text of a prompt that binds to a place in `configurable` is there as well. Holds only
        what is set, so that an empty config changes nothing. Raises `ConfigError` where a prompt
        binds to a place inside something that is no object.
        """
        plain = self.to_plain()
        if self.prompts:
            plain["configurable"] = with_prompts(plain["configurable"], self.prompts)
        if self.run_id is not None:
            plain["run_id"] = self.run_id
        plain.pop("callbacks", None)
        live = join_callbacks(named_callbacks(self.callbacks), callbacks)
        if not isinstance(live, Sequence) or live:
            plain["callbacks"] = live
        return cast("RunnableConfig", plain)

    def to_json(self) -> dict[str, Any]:
        """As stored: only what is set, prompts in `configurable.prompts`, secrets redacted."""
        stored: dict[str, Any] = redact(self.to_plain())
        return stored

    def to_plain(self) -> dict[str, Any]:
        """As sent to a server: only what is set, prompts in `configurable.prompts`, secrets too."""
        configurable = _copy(self.configurable)
        if self.prompts:
            configurable["prompts"] = prompts_to_json(self.prompts)
        plain = {
            "tags": list(self.tags),
            "metadata": _copy(self.metadata),
            "configurable": configurable,
            "run_name": self.run_name,
            "run_id": None if self.run_id is None else str(self.run_id),
            "recursion_limit": self.recursion_limit,
            "max_concurrency": self.max_concurrency,
            "callbacks": list(self.callbacks),
        }
        return {key: value for key, value in plain.items() if value not in (None, [], {})}


def with_prompts(
    configurable: Mapping[str, Any], prompts: Mapping[str, TextTensor]
) -> dict[str, Any]:
    """`configurable` as a graph gets it: with the prompts, and with their texts where they bind.

    Raises `ConfigError` where a prompt binds to a place inside something that is no object.
    """
    placed = dict(configurable)
    for name, tensor in prompts.items():
        path = path_in(tensor.bind, CONFIGURABLE)
        if path is not None:
            placed = put(placed, path, tensor.text, field=f"prompts.{name}.bind")
    return {**placed, "prompts": prompts_to_json(prompts)}


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a config as `RunConfig.parse` takes it."""
    schema = RunConfig.model_json_schema()
    prompt = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/TextTensor"}]}
    prompts = {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": prompt,
    }
    texts = [{"type": "string", "pattern": f"^{one.pattern}$"} for one in (ALIAS, VERSION)]
    use = {"anyOf": [*texts, {"type": "integer", "minimum": 1}]}
    reserved = {"type": "object", "properties": {"use": use}, "additionalProperties": False}
    del schema["$defs"]["TextTensor"]["properties"]["gradients"]
    properties = schema["properties"]
    properties["prompts"] = prompts
    override = NodeOverride.model_json_schema()
    properties["configurable"]["properties"] = {
        "prompts": prompts,
        "agentensor": reserved,
        NODE_OVERRIDES: {"type": "object", "additionalProperties": override},
    }
    names = registered_callbacks()
    properties["callbacks"] |= {"items": {"enum": names}} if names else {"maxItems": 0}
    return schema


def _smaller(value: int | None, cap: int) -> int | None:
    return None if value is None else min(value, cap)


def _united(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _copy(value: Any) -> Any:
    """A deep copy of a JSON value: what a node does to its config stays with that run."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
