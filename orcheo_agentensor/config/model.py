"""The per-run config: one strict model that every `RunnableConfig` is parsed with, and its rules.

`RunConfig.parse` is for what comes from outside the process, `RunConfig.trusted` for callers in
it, who may pass live callbacks. Each rule that is broken is reported with its path and value.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator

from orcheo_agentensor.config.overrides import NODE_OVERRIDES, NodeOverride, override_problems
from orcheo_agentensor.errors import ConfigError, shorten
from orcheo_agentensor.json_values import (
    MAX_DEPTH,
    TOO_LARGE,
    Trail,
    dotted,
    json_problems,
    json_size,
    prose_only,
)
from orcheo_agentensor.media import names_file
from orcheo_agentensor.prompts import (
    TENSORS,
    ContentTensor,
    TextTensor,
    as_tensor,
    overlap_rule,
    overlaps,
    prompts_to_json,
    with_prompts,
)
from orcheo_agentensor.redaction import REDACTED, holds_secret, is_secret_name, redact
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

MAX_BYTES = 1024 * 1024
"""Most bytes of a config as compact JSON."""

MAX_PROBLEMS = 100
"""Most problems listed in one error."""

_LONGEST_PATH = 200

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""What a prompt or a registered callback may be called."""

ALIAS = re.compile(r"(?!\d+$)[a-z0-9_-]{1,64}")
"""What an alias of a stored version may be called."""

BASELINE = "baseline"
"""What `otherwise` names where a run may do without a stored version."""

_USE_RULE = (
    "must be an alias such as 'production', a version number, or "
    '{"alias": "production", "otherwise": "baseline"}'
)

VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""The number of a stored version where it is given as a text, as from a form."""

NAME_RULE = "must be letters, digits, '_', '.' and '-', starting with a letter or '_'"

Problem: TypeAlias = tuple[str, Any, str]


_Limit: TypeAlias = Annotated[int, Field(ge=1, strict=True)]


class RunConfig(BaseModel):
    """A validated run config; immutable.

    `RunConfig.parse` reads one from outside the process.

    Args:
        tags: Reach every nested call and its callbacks.
        metadata: Likewise.
        configurable: Values that the nodes read.
        run_name: The name of the root run in traces.
        run_id: Its id.
        recursion_limit: Most supersteps of the graph.
        max_concurrency: Most nodes of one superstep at once.
        callbacks: Registered names; live callbacks are kept beside the model (see `trusted`) and
            are never stored.
        prompts: Prompt name to `TextTensor`.

    Raises:
        ConfigError: The config breaks rules; the message lists every one.

    Example:
        >>> from orcheo_agentensor import RunConfig
        >>> config = RunConfig.parse({"tags": ["a", "a"], "prompts": {"tone": "Kindly:"}})
        >>> config.tags, config.prompts["tone"].text
        (('a',), 'Kindly:')
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=prose_only)

    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    configurable: dict[str, Any] = Field(default_factory=dict)
    run_name: str | None = None
    run_id: UUID | None = None
    recursion_limit: _Limit | None = None
    max_concurrency: _Limit | None = None
    callbacks: tuple[str, ...] = ()
    prompts: dict[str, SerializeAsAny[TextTensor]] = Field(default_factory=dict)

    @field_validator("tags", "callbacks")
    @classmethod
    def _drop_doubles(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(texts))

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
        if isinstance(obj, dict) and isinstance(obj.get("context"), dict):
            obj = _mirrored(obj)
        found = config_problems(obj, field=field, callbacks=registered_callbacks())
        problems = list(islice(found, MAX_PROBLEMS + 1))
        prompts: dict[str, TextTensor] = {}
        if isinstance(obj, dict) and not any(rule in TOO_LARGE for _, _, rule in problems):
            prompts, wrong = read_prompts(obj, field)
            problems += wrong
        if problems:
            raise config_error(problems, field)
        given = {key: _copy(value) for key, value in obj.items() if value is not None}
        given.setdefault("configurable", {}).pop("prompts", None)
        config = cls(**{**given, "prompts": prompts})
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
        return self.uses[0] if self.uses else None

    @property
    def uses(self) -> tuple[str | int, ...]:
        """`use`, and the version to take where that is not stored, if one is named."""
        use = self.configurable.get("agentensor", {}).get("use")
        found = (use["alias"], use["otherwise"]) if isinstance(use, dict) else (use,)
        return tuple(
            int(one) if isinstance(one, str) and one.isdecimal() else one
            for one in found
            if one is not None
        )

    def clamp(self, settings: Settings) -> RunConfig:
        """This config with its limits capped by the operator's; a limit not set stays so."""
        caps = {
            "recursion_limit": settings.max_recursion_limit,
            "max_concurrency": settings.max_target_concurrency,
        }
        limits = {name: getattr(self, name) for name in caps}
        capped = {name: min(limit, caps[name]) for name, limit in limits.items() if limit}
        return self.model_copy(update=capped)

    def to_runnable(self, callbacks: LiveCallbacks = ()) -> RunnableConfig:
        """As LangGraph takes it: prompts in `configurable.prompts`, callbacks as live objects.

        The text of a prompt that binds to a key of `configurable` is there as well. Holds only
        what is set, so that an empty config changes nothing. Raises `ConfigError` where a prompt
        binds to a key of something that is no object.
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


def _mirrored(obj: dict[str, Any]) -> dict[str, Any]:
    """A config whose `context`, as in a downloaded version, is in `configurable`, as on a server.

    Texts of its own prompts are left to the prompts, which go to the same places.
    """
    given = {key: value for key, value in obj.items() if key != "context"}
    inner = given.get("configurable")
    if not isinstance(inner, dict | None):
        return given
    return {**given, "configurable": {**obj["context"], **(inner or {})}}


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a config as `RunConfig.parse` takes it."""
    schema = RunConfig.model_json_schema()
    content = ContentTensor.model_json_schema()
    content["properties"].pop("bind")
    schema["$defs"]["ContentTensor"] = content
    tensors = [{"$ref": f"#/$defs/{name}"} for name in TENSORS]
    prompt = {"anyOf": [{"type": "string"}, *tensors]}
    prompts = {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": prompt,
    }
    texts = [{"type": "string", "pattern": f"^{one.pattern}$"} for one in (ALIAS, VERSION)]
    one = {"anyOf": [*texts, {"type": "integer", "minimum": 1}]}
    either = {"alias": one, "otherwise": one}
    both = {"type": "object", "properties": either, "required": [*either]}
    use = {"anyOf": [*one["anyOf"], {**both, "additionalProperties": False}]}
    reserved = {"type": "object", "properties": {"use": use}, "additionalProperties": False}
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


def _copy(value: Any) -> Any:
    """A deep copy of a JSON value: what a node does to its config stays with that run."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def read_prompts(obj: dict[str, Any], field: str) -> tuple[dict[str, TextTensor], list[Problem]]:
    """The prompts under `prompts` and `configurable.prompts`, and what is wrong with them."""
    prompts: dict[str, TextTensor] = {}
    problems: list[Problem] = []
    configurable = obj.get("configurable")
    inner = configurable.get("prompts") if isinstance(configurable, dict) else None
    for path, given in (
        (f"{field}.prompts", obj.get("prompts")),
        (f"{field}.configurable.prompts", inner),
    ):
        if not isinstance(given, dict | None):
            problems.append((path, given, "must be an object of prompt names to texts"))
            continue
        for name, value in (given or {}).items():
            if not isinstance(name, str):
                continue  # already reported: keys must be texts
            try:
                if name in prompts:
                    rule = f"is given in {field}.prompts as well"
                    raise ConfigError(field=f"{path}.{name}", value=name, rule=rule)
                prompts[name] = _prompt(name, value, f"{path}.{name}")
            except ConfigError as error:
                problems.append((str(error.field), error.value, str(error.rule)))
    return prompts, problems + bind_problems(prompts, f"{field}.prompts")


def _prompt(name: str, value: Any, path: str) -> TextTensor:
    if not NAME.fullmatch(name):
        raise ConfigError(field=path, value=name, rule=f"is not a prompt name: it {NAME_RULE}")
    if isinstance(value, dict) and not isinstance(value.get("requires_grad", True), bool):
        wrong = value["requires_grad"]
        raise ConfigError(field=f"{path}.requires_grad", value=wrong, rule="must be true or false")
    if isinstance(value, dict) and "gradients" in value:
        rule = "is working state, not part of a prompt"
        raise ConfigError(field=f"{path}.gradients", value=value["gradients"], rule=rule)
    tensor = as_tensor(value, field=path)
    blocks = tensor.blocks if isinstance(tensor, ContentTensor) else []
    for number, block in enumerate(blocks):
        if names_file(block):
            rule = "names a file, which no config may: give its base64, or a job or configure() the"
            raise ConfigError(field=f"{path}.blocks.{number}", value=block, rule=f"{rule} prompt")
    if holds_secret(str(tensor.identity) if blocks else tensor.text):
        rule = "holds a secret; prompts are stored, so keep keys out of them"
        raise ConfigError(field=path, value=REDACTED, rule=rule)
    return tensor


def bind_problems(prompts: Mapping[str, TextTensor], field: str) -> list[Problem]:
    """The bindings of prompts that overlap."""
    if not prompts:
        return []
    binds = {name: tensor.bind for name, tensor in prompts.items()}
    return [
        (f"{field}.{inner}.bind", binds[inner], overlap_rule(binds, outer, inner))
        for outer, inner in overlaps(binds)
    ]


def config_problems(obj: Any, *, field: str, callbacks: Collection[str]) -> Iterator[Problem]:
    """Every rule that `obj`, a config as JSON without looking at its prompts, breaks."""
    if not isinstance(obj, dict):
        yield field, obj, "must be an object"
        return
    json_wrong = list(islice(json_problems(obj, field=field), MAX_PROBLEMS))
    yield from json_wrong
    if any(rule in TOO_LARGE for _, _, rule in json_wrong):
        return
    if not json_wrong and (size := json_size(obj)) > MAX_BYTES:
        yield field, f"<{size:,} bytes>", f"is larger than {MAX_BYTES:,} bytes"
        return
    known = RunConfig.model_fields
    for key in obj:
        if isinstance(key, str) and key not in known:
            yield f"{field}.{key}", key, _unknown_rule(key, known, "key of a config")
    for trail, rule in _misleading_keys(obj, None, 0):
        yield dotted(field, trail), trail[1] if trail else None, rule
    registered = ", ".join(callbacks) or "none"
    unknown = f"is not the name of a registered callback; registered: {registered}"
    for key, allowed in (("tags", None), ("callbacks", callbacks)):
        value = obj.get(key)
        if not isinstance(value, list | None):
            yield f"{field}.{key}", value, "must be a list of texts"
            continue
        for index, item in enumerate(value or ()):
            if not isinstance(item, str) and allowed is None:
                yield f"{field}.{key}.{index}", item, "must be a text"
            elif allowed is not None and item not in allowed:
                yield f"{field}.{key}.{index}", item, unknown
    for key in ("metadata", "configurable"):
        if not isinstance(obj.get(key), dict | None):
            yield f"{field}.{key}", obj[key], "must be an object"
    for key in ("recursion_limit", "max_concurrency"):
        value = obj.get(key)
        if value is not None and (type(value) is not int or value < 1):
            yield f"{field}.{key}", value, "must be a whole number of at least 1"
    if not isinstance(obj.get("run_name"), str | None):
        yield f"{field}.run_name", obj["run_name"], "must be a text"
    if not _is_uuid(obj.get("run_id")):
        yield f"{field}.run_id", obj["run_id"], "must be a UUID"
    if isinstance(obj.get("configurable"), dict):
        yield from _configurable(obj["configurable"], f"{field}.configurable")


def config_error(problems: Iterable[Problem], field: str) -> ConfigError:
    """One error that lists the last problem of each path, without the secrets in them."""
    found = list(islice(problems, MAX_PROBLEMS + 1))
    more = len(found) > MAX_PROBLEMS
    unique = list({path: (path, value, rule) for path, value, rule in found}.values())
    shown = [
        (
            path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…",
            _shown(path, value),
            rule,
        )
        for path, value, rule in unique[:MAX_PROBLEMS]
    ]
    lines = [f"{path}: {shorten(value)} {rule}" for path, value, rule in shown]
    message = lines[0]
    if len(lines) > 1:
        count = f"more than {MAX_PROBLEMS}" if more else len(lines)
        message = f"{count} problems in {field}:\n  " + "\n  ".join(lines)
    first_path, first_value, first_rule = shown[0]
    return ConfigError(
        message,
        field=first_path,
        value=first_value,
        rule=first_rule,
        problems=[
            {"field": path, "value": shorten(value), "rule": rule} for path, value, rule in shown
        ],
    )


def _unknown_rule(key: str, known: Collection[str], what: str) -> str:
    near = get_close_matches(key, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"is not a {what}{hint}; known: {', '.join(known)}"


def _misleading_keys(value: Any, trail: Trail, depth: int) -> Iterator[tuple[Trail, str]]:
    if depth > MAX_DEPTH or not isinstance(value, dict | list):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        rule = _key_rule(key) if isinstance(key, str) else None
        if rule is None:
            yield from _misleading_keys(item, (trail, key), depth + 1)
        elif depth > 0:  # an unknown key at the top is reported as that
            yield (trail, key), rule


_LOOK_ALIKES = str.maketrans(
    "аеорсухіјѕԁԛԝһӏАВЕКМНОРСТУХІЈЅԌԚԜαονρυιΑΒΕΖΗΙΚΜΝΟΡΤΥΧıոսօհ",
    "aeopcyxijsdqwhlABEKMHOPCTYXIJSGQWaovpuiABEZHIKMNOPTYXinuoh",
)
"""Cyrillic, Greek and other letters, and the Latin ones that they look like."""


def _key_rule(key: str) -> str | None:
    """What is wrong with a key that passes for another one, or that is not a caller's to set."""
    if key == "lc" or key.startswith("__"):
        return "is a reserved key"
    if key != key.strip() or not key.isprintable():
        return "begins or ends with a space, or holds a character that cannot be seen"
    if key.isascii():
        return None
    looks = unicodedata.normalize("NFKC", key).translate(_LOOK_ALIKES)
    return f"looks like {looks!r}, and is another key" if looks.isascii() else None


def _configurable(value: dict[str, Any], path: str) -> Iterator[Problem]:
    for key in value:
        if isinstance(key, str) and key.startswith("checkpoint_"):
            yield f"{path}.{key}", key, "is a reserved key: checkpoints are not chosen by a config"
        elif isinstance(key, str) and key.startswith("langgraph_"):
            yield f"{path}.{key}", key, "is a reserved key: LangGraph and the server set these"
    yield from override_problems(value.get(NODE_OVERRIDES), f"{path}.{NODE_OVERRIDES}")
    own = value.get("agentensor")
    if own is None:
        return
    path = f"{path}.agentensor"
    if not isinstance(own, dict):
        yield path, own, 'must be an object such as {"use": "production"}'
        return
    for key in own:
        if key != "use":
            yield f"{path}.{key}", key, _unknown_rule(str(key), ("use",), "key of agentensor")
    use = own.get("use")
    parts = {"use": use}
    if isinstance(use, dict) and use.keys() == {"alias", "otherwise"}:
        parts = {f"use.{key}": one for key, one in use.items()}
    for key, one in parts.items():
        named = isinstance(one, str) and (ALIAS.fullmatch(one) or VERSION.fullmatch(one))
        numbered = type(one) is int and one >= 1
        if not named and not numbered and (one is not None or key != "use"):
            yield f"{path}.{key}", one, _USE_RULE


def _is_uuid(value: Any) -> bool:
    if value is None:
        return True
    try:
        UUID(value)
    except (ValueError, AttributeError, TypeError):
        return False
    return True


def _shown(path: str, value: Any) -> Any:
    secret = any(is_secret_name(part) for part in path.split("."))
    return REDACTED if secret and not isinstance(value, bool | None) else redact(value)


LiveCallbacks: TypeAlias = Sequence[BaseCallbackHandler] | BaseCallbackManager
CallbackFactory: TypeAlias = Callable[[], BaseCallbackHandler]

_factories: dict[str, CallbackFactory] = {}


def register_callback(name: str, factory: CallbackFactory) -> None:
    """Let configs name a callback: `{"callbacks": [name]}` adds `factory()` to the run.

    Only names registered here are accepted from outside the process.

    Args:
        name: What configs say. Registering it again replaces its factory.
        factory: Called without arguments for each run; gives a `BaseCallbackHandler`.

    Raises:
        ConfigError: The name cannot be one.

    Example:
        >>> from langchain_core.callbacks import BaseCallbackHandler
        >>> from langchain_core.runnables import RunnableLambda
        >>> from orcheo_agentensor import configure, register_callback
        >>> class Audit(BaseCallbackHandler):
        ...     def on_chain_end(self, outputs, *, parent_run_id=None, **kwargs):
        ...         if parent_run_id is None:
        ...             print("ended with", outputs)
        >>> register_callback("audit", Audit)
        >>> shout = configure(RunnableLambda(str.upper), workflow_id="shout")
        >>> shout.invoke("hi", {"callbacks": ["audit"]})
        ended with HI
        'HI'
    """
    if not NAME.fullmatch(name):
        raise ConfigError(field="callback name", value=name, rule=NAME_RULE)
    _factories[name] = factory


def registered_callbacks() -> list[str]:
    """The names that configs may use in `callbacks`, sorted."""
    return sorted(_factories)


def join_callbacks(first: Sequence[BaseCallbackHandler], then: LiveCallbacks) -> LiveCallbacks:
    """Both: a list, or a copy of the manager `then` with the handlers of `first` added."""
    if not isinstance(then, BaseCallbackManager):
        return [*first, *then]
    manager = then.copy()
    for handler in first:
        manager.add_handler(handler, inherit=True)
    return manager


def named_callbacks(names: Sequence[str]) -> list[BaseCallbackHandler]:
    """New handlers from the factories registered under `names`."""
    unknown = [name for name in names if name not in _factories]
    if unknown:
        raise ConfigError(field="callbacks", value=unknown[0], rule="is not a registered callback")
    return [_factories[name]() for name in names]


def split_trusted(obj: Mapping[str, Any]) -> tuple[dict[str, Any], LiveCallbacks]:
    """A runnable config as JSON, and its live callbacks apart; LangGraph's own keys are left out.

    What has no JSON form is left in place, to be refused by the rules.
    """
    plain = dict(obj)
    live: LiveCallbacks = []
    callbacks = plain.pop("callbacks", None)
    if isinstance(callbacks, BaseCallbackManager):
        live = callbacks
    elif isinstance(callbacks, list | tuple):
        live = [item for item in callbacks if isinstance(item, BaseCallbackHandler)]
        plain["callbacks"] = [
            item for item in callbacks if not isinstance(item, BaseCallbackHandler)
        ]
    elif callbacks is not None:
        plain["callbacks"] = callbacks
    limit = plain.get("recursion_limit")
    if isinstance(limit, int) and type(limit) not in (int, bool):
        del plain["recursion_limit"]  # LangGraph's marker for its default
    configurable = plain.get("configurable")
    if isinstance(configurable, Mapping):
        plain["configurable"] = {
            key: value for key, value in configurable.items() if not is_runtime_key(key)
        }
    for key in ("tags", "run_id", "prompts", "configurable", "metadata"):
        if key in plain:
            plain[key] = as_json(plain[key])
    return plain, live


def runtime_configurable(obj: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of `configurable` that are LangGraph's own: `__*`, `checkpoint_*`, `langgraph_*`.

    From a trusted caller they steer time travel and nesting, and travel beside the config.
    """
    configurable = (obj or {}).get("configurable")
    if not isinstance(configurable, Mapping):
        return {}
    return {key: value for key, value in configurable.items() if is_runtime_key(key)}


def is_runtime_key(key: object) -> bool:
    """Whether a key of `configurable` is LangGraph's own."""
    return isinstance(key, str) and key.startswith(("__", "checkpoint_", "langgraph_"))


def as_json(value: Any, depth: int = 0) -> Any:
    """What in-process callers write naturally, as JSON values; the rest is left to `parse`."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, TextTensor):
        written = value.to_json()
        return {k: v for k, v in written.items() if k == "type" or k in value.model_fields_set}
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {key: as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(item, depth + 1) for item in value]
    return value


def inherited_from(around: RunnableConfig) -> tuple[RunConfig, dict[str, Any]]:
    """What a call inherits from the config around it, and what of that cannot be recorded."""
    inherited = {
        key: value
        for key, value in around.items()
        if key in RunConfig.model_fields and key not in ("callbacks", "run_id", "run_name")
    }
    unrecorded: dict[str, Any] = {}
    for key in ("metadata", "configurable"):
        held = cast("Mapping[str, Any]", inherited.get(key) or {})
        live = {
            name: value
            for name, value in held.items()
            if is_runtime_key(name) or any(json_problems(as_json(value), field=name))
        }
        inherited[key] = {name: held[name] for name in held if name not in live}
        unrecorded[key] = live
    return RunConfig.trusted(inherited)[0], unrecorded["configurable"]
