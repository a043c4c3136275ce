"""Prompts: texts that can be trained, complete sets of them, and where they bind.

A prompt binds to a place that an unmodified graph reads already: `configurable.<path>` or
`context.<path>`, a dotted path of keys; a constant of a module; the system prompt of an agent or a
message of a template in a node; the description of a tool or of one of its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
)

from orcheo_agentensor.errors import BadInput, ConfigError, shorten
from orcheo_agentensor.json_values import all_json, check_json, content_hash, prose_only

Path: TypeAlias = tuple[str, ...]

CONFIGURABLE, CONTEXT = "configurable", "context"

SHOWN_FIELDS = ("case_id", "score", "feedback")
"""What a gradient is without its case: what events, results and the state of a graph hold."""

MODEL_KWARGS = (
    "temperature",
    "max_tokens",
    "max_completion_tokens",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "timeout",
    "max_retries",
    "reasoning_effort",
    "frequency_penalty",
    "presence_penalty",
)
"""What a prompt may say of its model: nothing that leads a call, or a key, elsewhere."""

MAX_GRADIENTS = 1_000
MAX_GRADIENT_CHARS = 10_000

_MOST_KEYS = 16
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = frozenset({"agentensor", "prompts", "thread_id"})
_RESERVED_STARTS = ("checkpoint_", "langgraph_")
_MODULE = re.compile(r"(?:[A-Za-z]\w*(?:\.[A-Za-z]\w*)*|[^:\0]+\.py):_?[A-Za-z]\w*", re.ASCII)
_TOOL = re.compile(r"tools\.([\w-]+)(?:\.args\.([A-Za-z_]\w*))?\.description")
_IN_NODE = re.compile(r"([^\0:]+)\.(system_prompt|prompt\.\d{1,3})")
_FORM = (
    "must be one of: 'configurable.<path>' or 'context.<path>', such as "
    f"'configurable.system_prompt', with at most {_MOST_KEYS} keys of letters, digits, '_' and "
    "'-'; 'module:NAME', a text of a module; '<node>.system_prompt' or '<node>.prompt.<number>', "
    "of an agent or a template in a node; 'tools.<name>.description' or "
    "'tools.<name>.args.<argument>.description'"
)


def constant_in(bind: object) -> str | None:
    """`bind` where it names a constant of a module ("prompts:PLANNER"); None for any other."""
    return bind if isinstance(bind, str) and _MODULE.fullmatch(bind) else None


def part_in(bind: object) -> str | None:
    """`bind` where it names a part of a graph: of an agent, a template or a tool; else None."""
    if not isinstance(bind, str) or bind.split(".")[0] in (CONFIGURABLE, CONTEXT):
        return None
    return bind if _TOOL.fullmatch(bind) or _IN_NODE.fullmatch(bind) else None


def bind_problem(bind: str) -> str | None:
    """The rule that `bind` breaks; None where it breaks none."""
    if constant_in(bind) or part_in(bind):
        return None
    root, *path = bind.split(".")
    if root not in (CONFIGURABLE, CONTEXT) or not 1 <= len(path) <= _MOST_KEYS:
        return _FORM
    if not all(_KEY.fullmatch(key) for key in path):
        return _FORM
    reserved = path[0] in _RESERVED or path[0].startswith(_RESERVED_STARTS)
    if reserved or any(key == "lc" or key.startswith("__") for key in path):
        return "is a reserved place: the runtime keeps it for itself"
    return None


def path_in(bind: object, root: str) -> Path | None:
    """The path of `bind` under `root` ("configurable" or "context"); None for any other bind."""
    if not isinstance(bind, str) or not bind.startswith(f"{root}."):
        return None
    return tuple(bind.split(".")[1:])


def overlaps(binds: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """Pairs of prompt names that bind to the same place, or the second inside the first."""
    taken = sorted((bind, name) for name, bind in binds.items() if bind is not None)
    for index, (bind, name) in enumerate(taken):
        for other, inner in taken[index + 1 :]:
            if other == bind or other.startswith(f"{bind}."):
                yield name, inner


def overlap_rule(binds: Mapping[str, str | None], outer: str, inner: str) -> str:
    """The rule that `inner`, the second of a pair from `overlaps`, breaks."""
    if binds[outer] == binds[inner]:
        return f"is where prompt {outer!r} binds as well: two prompts cannot bind to one place"
    return f"lies inside {binds[outer]!r}, where prompt {outer!r} binds"


def put(holder: Any, path: Path, text: str, *, field: str) -> Any:
    """A copy of `holder` with `text` at `path`; all else in it stays.

    `holder` and each value on the path may be None, a mapping, a dataclass or a pydantic model.
    Raises `ConfigError` naming `field` for any other value.
    """
    if not path:
        return text
    key, rest = path[0], path[1:]
    if holder is None or isinstance(holder, Mapping):
        return {**(holder or {}), key: put((holder or {}).get(key), rest, text, field=field)}
    if isinstance(holder, BaseModel) and key in type(holder).model_fields:
        below = put(getattr(holder, key), rest, text, field=field)
        return holder.model_copy(update={key: below})
    if is_dataclass(holder) and not isinstance(holder, type) and hasattr(holder, key):
        return replace(holder, **{key: put(getattr(holder, key), rest, text, field=field)})
    kind = type(holder).__name__
    raise ConfigError(
        field=field,
        value=".".join(path),
        rule=f"leads into a value of type {kind}, which has no place for {key!r}",
    )


PromptLike: TypeAlias = "str | TextTensor | Mapping[str, Any]"
"""A prompt: its text, a `TextTensor`, or the JSON form of one."""

PromptsLike: TypeAlias = Mapping[str, PromptLike]


def without_middle(text: str, *, limit: int) -> str:
    """`text` in at most about `limit` characters: of a longer one the middle is left out."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 3, limit // 3
    left_out = f"[… {len(text) - limit:,} characters left out …]"
    return f"{text[:head]} {left_out} {text[len(text) - tail :]}"


@dataclass(frozen=True, kw_only=True)
class FeedbackRecord:
    """A gradient: what one case taught about one prompt. As a text it is its `feedback`.

    Args:
        feedback: What was wrong, in words.
        case_id: The case.
        inputs: The case's.
        output: What the target gave.
        expected_output: The case's.
        score: The case's objective; None when the target failed.
        trace: The runs of the nodes that read the prompt (`node`, `inputs`, `output`).
        earlier: Whether another text of the prompts was at work, and not the one to be rewritten.

    Example:
        >>> from orcheo_agentensor import FeedbackRecord, TextTensor
        >>> tensor = TextTensor("Answer.")
        >>> tensor.backward(FeedbackRecord(feedback="too long", case_id="a", score=0.0))
        >>> str(tensor.gradients[0]), tensor.gradients[0].case_id
        ('too long', 'a')
    """

    feedback: str
    case_id: str = ""
    inputs: Any = None
    output: Any = None
    expected_output: Any = None
    score: float | None = None
    trace: tuple[Mapping[str, Any], ...] = ()
    earlier: bool = False

    def __str__(self) -> str:
        return self.feedback


class TextTensor(BaseModel):
    """A prompt text with what training needs to know about it.

    `gradients` are what a backward pass has taught about the text, in words, an idea and a name of
    TextGrad (Yuksekgonul et al., 2024): the newest `MAX_GRADIENTS` records. They are no part of the
    JSON form or of equality. In the state of a graph a tensor keeps the `case_id`, `score` and
    `feedback` of each.

    Args:
        text: The prompt.
        type: The mark of the JSON form.
        requires_grad: False freezes it: no optimizer changes a byte of it.
        metadata: Free, except for the constraints that the proposal guards read: `max_chars`,
            `max_line_words`, `must_keep`, `never`.
        bind: A place that an unmodified graph already reads: `configurable.<path>`,
            `context.<path>`, `module:NAME`, `<node>.system_prompt`, `<node>.prompt.<number>`,
            `tools.<name>.description`, `tools.<name>.args.<argument>.description`. The text is put
            there for each run.
        model: The chat model that rewrites this prompt, in place of the optimizer's: its name, or
            the model itself.
        model_kwargs: What it is made with, such as `{"temperature": 0.2}`; without `model`, what
            the optimizer's model is called with for this prompt.

    Raises:
        ConfigError: `bind` is anything else, or `model_kwargs` is not for a chat model.

    Example:
        >>> from orcheo_agentensor import TextTensor
        >>> tensor = TextTensor("Be brief.", metadata={"max_chars": 200})
        >>> str(tensor), tensor.requires_grad
        ('Be brief.', True)
        >>> TextTensor("Be brief.", bind="context.system_prompt").to_json()["bind"]
        'context.system_prompt'
    """

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, json_schema_extra=prose_only
    )

    type: Literal["TextTensor"] = Field("TextTensor", description="The mark of the JSON form.")
    text: str = Field(description="The prompt.")
    requires_grad: bool = Field(True, description="Whether a training may change it.")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Free; max_chars and other rules of proposals stand here."
    )
    bind: str | None = Field(
        default=None,
        description=(
            "Where an unmodified graph reads the text: configurable.<path>, context.<path>, "
            "module:NAME, <node>.system_prompt, tools.<name>.description"
        ),
    )
    model: Any = Field(
        default=None, description="The chat model that rewrites it: provider:name, such as openai:x"
    )
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="What that model is made with, such as a temperature."
    )
    _gradients: list[FeedbackRecord] = PrivateAttr(default_factory=list)

    def __init__(self, text: str | None = None, /, **data: Any) -> None:
        """Accept the text as the only positional argument: `TextTensor("Be brief.")`."""
        if text is not None:
            data["text"] = text
        gradients = data.pop("gradients", ())
        super().__init__(**data)
        self._gradients = [
            one if isinstance(one, FeedbackRecord) else FeedbackRecord(**one) for one in gradients
        ]

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, bind: str | None) -> str | None:
        rule = None if bind is None else bind_problem(bind)
        if rule is not None:
            raise ConfigError(field="bind", value=bind, rule=rule)
        return bind

    @field_validator("model", "model_kwargs")
    @classmethod
    def _check_model(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "model" and not (
            value is None or isinstance(value, str) or hasattr(value, "ainvoke")
        ):
            rule = 'must name a chat model, such as "openai:gpt-5-mini", or be one'
            raise ConfigError(field="model", value=value, rule=rule)
        for key in value if info.field_name == "model_kwargs" else ():
            if key not in MODEL_KWARGS:
                rule = f"is not one of {', '.join(MODEL_KWARGS)}; give a model made with it"
                raise ConfigError(field=f"model_kwargs.{key}", value=value[key], rule=rule)
        return value

    @field_serializer("model")
    def _name_of_model(self, model: Any) -> str | None:
        return model if isinstance(model, str) else None

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most prompts have not: hashes of older prompts stay as they are."""
        written: dict[str, Any] = handler(self)
        for name in ("bind", "model", "model_kwargs"):
            if not written.get(name):
                written.pop(name, None)
        if self._gradients:
            written["gradients"] = [
                {key: getattr(one, key) for key in SHOWN_FIELDS} for one in self._gradients
            ]
        return written

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextTensor) and self.__dict__ == other.__dict__

    @property
    def gradients(self) -> list[FeedbackRecord]:
        """What `backward` has collected since the last `zero_grad`, oldest first."""
        return self._gradients

    def with_text(self, text: str) -> TextTensor:
        """The same tensor (flags, metadata, bind) with another text and no gradients."""
        return TextTensor(
            text=text,
            requires_grad=self.requires_grad,
            metadata=dict(self.metadata),
            bind=self.bind,
            model=self.model,
            model_kwargs=dict(self.model_kwargs),
        )

    def backward(self, feedback: str | FeedbackRecord) -> None:
        """Collect one gradient; a frozen tensor collects none.

        Of feedback over `MAX_GRADIENT_CHARS` characters the middle is left out. Raises `BadInput`
        for what is neither a text nor a record.
        """
        if isinstance(feedback, str):
            feedback = FeedbackRecord(feedback=feedback)
        elif not isinstance(feedback, FeedbackRecord):
            rule = "must be a text or a FeedbackRecord"
            raise BadInput(field="feedback", value=feedback, rule=rule)
        if self.requires_grad:
            short = without_middle(feedback.feedback, limit=MAX_GRADIENT_CHARS)
            self._gradients.append(replace(feedback, feedback=short))
            del self._gradients[:-MAX_GRADIENTS]

    def zero_grad(self) -> None:
        """Forget the gradients: what they taught was used, or is not wanted."""
        self._gradients.clear()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: `{"type": "TextTensor", "text", "requires_grad", "metadata"}`.

        `bind`, `model` and `model_kwargs` are in it only where the prompt has them, and a model
        only by its name.
        """
        written = self.model_dump(mode="json")
        written.pop("gradients", None)
        return written


def as_tensor(value: Any, *, field: str) -> TextTensor:
    """A text, a `TextTensor` or its JSON form, as a `TextTensor`.

    Raises `ConfigError` naming `field` for anything else.
    """
    if isinstance(value, TextTensor):
        return value
    if isinstance(value, str):
        return TextTensor(text=value)
    if isinstance(value, Mapping):
        check_json(dict(value), field=field)
        try:
            return TextTensor.model_validate(dict(value))
        except ConfigError as error:
            raise ConfigError(
                field=f"{field}.{error.field}", value=error.value, rule=error.rule
            ) from None
        except ValidationError as error:
            problems = [_problem(one, field) for one in error.errors(include_url=False)]
            text = "; ".join(f"{p['field']}: {p['value']} {p['rule']}" for p in problems)
            raise ConfigError(text, **problems[0], problems=problems) from None
    raise ConfigError(
        field=field,
        value=value,
        rule='must be a text or {"type": "TextTensor", "text": ..., "requires_grad": ...}',
    )


def _problem(entry: Mapping[str, Any], field: str) -> dict[str, Any]:
    """One of pydantic's errors on a prompt as the field, the value and the rule it breaks."""
    path = ".".join([field, *map(str, entry["loc"])])
    if entry["type"] == "missing":
        return {"field": path, "value": None, "rule": "must be given"}
    rule = f"is not valid: {entry['msg']}"
    if entry["type"] == "extra_forbidden":
        rule = f"is not a field of a prompt; there are: {', '.join(TextTensor.model_fields)}"
    return {"field": path, "value": shorten(entry["input"]), "rule": rule}


_PLAIN_FORM = {"type", "text", "requires_grad", "metadata"}


def text_of(value: Any, *, field: str) -> str:
    """The text of what `as_tensor` takes. The form that a rollout brings is not validated anew."""
    if isinstance(value, dict) and value.keys() == _PLAIN_FORM and value["metadata"] == {}:
        text: Any = value["text"]
        sound = isinstance(text, str) and isinstance(value["requires_grad"], bool)
        if sound and value["type"] == "TextTensor" and all_json(text):
            return str(text)
    return as_tensor(value, field=field).text


def as_prompts(value: PromptsLike | None, *, field: str = "prompts") -> dict[str, TextTensor]:
    """A mapping of names to texts, tensors or JSON forms, as named `TextTensor`s."""
    return {
        name: as_tensor(prompt, field=f"{field}.{name}") for name, prompt in (value or {}).items()
    }


def prompts_to_json(prompts: Mapping[str, TextTensor]) -> dict[str, dict[str, Any]]:
    """Named tensors in their JSON form, as they travel in `configurable.prompts`."""
    return {name: tensor.to_json() for name, tensor in prompts.items()}


def with_prompts(
    configurable: Mapping[str, Any], prompts: Mapping[str, TextTensor]
) -> dict[str, Any]:
    """`configurable` as a graph gets it: with the prompts, and with their texts where they bind.

    Raises `ConfigError` where a prompt binds to a key of something that is no object.
    """
    placed = dict(configurable)
    for name, tensor in prompts.items():
        path = path_in(tensor.bind, CONFIGURABLE)
        if path is not None:
            placed = put(placed, path, tensor.text, field=f"prompts.{name}.bind")
    return {**placed, "prompts": prompts_to_json(prompts)}


def complete_config(config: Mapping[str, Any], fields: Iterable[str] = ()) -> dict[str, Any]:
    """A stored config as a graph that knows nothing of ours takes it.

    The text of a prompt that binds to a key of `configurable` is there as well. Those that bind to
    the context are in `context`, with the values of `configurable` that are `fields` of it: what
    goes to a graph as `graph.invoke(inputs, config, context=config["context"])`.
    """
    configurable = dict(config.get("configurable") or {})
    prompts = as_prompts(configurable.get("prompts") or config.get("prompts"))
    if not prompts:
        return dict(config)
    context: Any = {}
    for name, tensor in prompts.items():
        if path := path_in(tensor.bind, CONTEXT):
            context = put(context, path, tensor.text, field=f"prompts.{name}.bind")
    plain = {key: value for key, value in config.items() if key != "prompts"}
    plain["configurable"] = with_prompts(configurable, prompts)
    if context:
        given = {key: configurable[key] for key in fields if key in configurable}
        plain["context"] = {**given, **context}
    return plain


@dataclass(frozen=True)
class Candidate:
    """A complete prompt set and its hash over names, texts and binds."""

    prompts: Mapping[str, TextTensor]
    hash: str

    @classmethod
    def of(cls, prompts: Mapping[str, TextTensor]) -> Candidate:
        """The candidate of these prompts."""
        return cls(
            prompts=dict(prompts),
            hash=content_hash(
                {
                    name: tensor.text if tensor.bind is None else [tensor.text, tensor.bind]
                    for name, tensor in prompts.items()
                }
            ),
        )
