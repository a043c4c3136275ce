"""Prompts: texts that can be trained, complete sets of them, and where they bind.

A prompt binds to a place that an unmodified graph reads already: `configurable.<path>` or
`context.<path>`, a dotted path of keys; a constant of a module; the system prompt of an agent or a
message of a template in a node; the description of a tool or of one of its arguments.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal, Self, TypeAlias

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
    model_validator,
)

from orcheo_agentensor.errors import BadInput, ConfigError, shorten
from orcheo_agentensor.json_values import all_json, check_json, content_hash, prose_only
from orcheo_agentensor.media import (
    medium_of,
    names_file,
    references_in,
    split_at,
    with_media_at_hand,
    with_references,
)

Path: TypeAlias = tuple[str, ...]

CONFIGURABLE, CONTEXT = "configurable", "context"

TENSORS = ("TextTensor", "ContentTensor")
"""The marks of the JSON form of prompts."""

OFFERED = "x-agentensor"
"""The key that marks a field which a served graph adds to the schema of its context, for forms."""

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
"""A prompt: its text, a `TextTensor` or `ContentTensor`, or the JSON form of one."""

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
        if gradients := self._gradients:
            written["gradients"] = [
                {"case_id": one.case_id, "score": one.score, "feedback": one.feedback}
                for one in gradients
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

    @property
    def content(self) -> str | list[dict[str, Any]]:
        """What the content of a message is made of: the text."""
        return self.text

    @property
    def labels(self) -> list[str]:
        """The labels in the text that a new text must keep; a plain text has none."""
        return []

    @property
    def identity(self) -> Any:
        """What makes it another prompt, as JSON: the text, and where it binds."""
        return self.text if self.bind is None else [self.text, self.bind]

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

    def taught(self, gradients: Iterable[Mapping[str, Any]]) -> Self:
        """A copy with these gradients, for the state of a graph: it holds no live model."""
        model = self.model if isinstance(self.model, str) else None
        made = self.model_copy(update={"metadata": dict(self.metadata), "model": model})
        made._gradients = [FeedbackRecord(**one) for one in gradients]
        return made

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


class ContentTensor(TextTensor):
    """A prompt of content blocks: texts, with images, sounds or files between them.

    Its `text` is what trains: that of the blocks, with a label in the place of each other block,
    such as `[image/png 1.3 MB 640x480 sha256 9a2f41c0]`. A new text keeps every label, once and in
    order; the blocks that they stand for stay as they are. Runs store each medium once, and keep a
    reference to it in the place of its base64. It binds to no place: those take text.

    Args:
        blocks: `{"type": "text", "text": ...}`, and content blocks of images, audio, video and
            files in the forms of LangChain, OpenAI, Anthropic and Google.
        type: The mark of the JSON form.
        text: That of the blocks; it may be left out.
        requires_grad: False freezes it: no optimizer changes a byte of it.
        metadata: As that of a `TextTensor`.
        bind: Is refused.
        model: The chat model that rewrites it, in place of the optimizer's.
        model_kwargs: What that is made with.

    Raises:
        ConfigError: A block is of another kind, or a new text does not keep the labels.

    Example:
        >>> from orcheo_agentensor import ContentTensor, evaluate, get_prompt
        >>> logo = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
        >>> look = ContentTensor(blocks=[{"type": "text", "text": "Our logo: "}, logo])
        >>> look.text
        'Our logo: [image/png 8 B sha256 4c4b6a3b]'
        >>> def target(inputs):
        ...     return [block["type"] for block in get_prompt("look").content]
        >>> report = evaluate(
        ...     target,
        ...     dataset=[{"inputs": "", "expected_output": ["text", "image"]}],
        ...     evaluators=["exact_match"],
        ...     prompts={"look": look},
        ... )
        >>> report.objective
        1.0
    """

    type: Literal["ContentTensor"] = Field(  # type: ignore[assignment]
        "ContentTensor", description="The mark of the JSON form."
    )
    text: str = Field("", description="That of the blocks, with labels; it may be left out.")
    blocks: list[dict[str, Any]] = Field(
        min_length=1, description="Content blocks: texts, images, audio, video and files."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_blocks(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("blocks"), list | tuple):
            return data
        if not data["blocks"]:
            raise ConfigError(field="blocks", value=[], rule="must have at least one block")
        blocks = [_checked_block(one, f"blocks.{n}") for n, one in enumerate(data["blocks"])]
        text = "".join(_text_of_block(one) for one in blocks)
        if data.get("text", text) != text:
            rule = f"must be that of the blocks, {shorten(text)}; leave it out"
            raise ConfigError(field="text", value=data["text"], rule=rule)
        if split_at(text, _labels(blocks)) is None:
            rule = "hold the label of a medium as text"
            raise ConfigError(field="blocks", value=text, rule=rule)
        if data.get("bind") is not None:
            rule = "is a place that takes text, and this prompt has content blocks: read it by "
            rule += "get_prompt or TrainablePrompt, in a template, or leave the blocks out"
            raise ConfigError(field="bind", value=data["bind"], rule=rule)
        return {**data, "blocks": blocks, "text": text}

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep text and blocks the same: what sets one of them sets the other."""
        if name in ("text", "blocks", "bind"):
            changed = {"blocks": self._blocks_of(value)} if name == "text" else {name: value}
            made = ContentTensor(**{"blocks": self.blocks, **changed})
            self.__dict__.update(blocks=made.blocks, text=made.text)
            return
        super().__setattr__(name, value)

    @property
    def content(self) -> list[dict[str, Any]]:
        """What the content of a message is made of: the blocks, with their media.

        Raises `ConfigError` where these are not at hand: outside of a run.
        """
        blocks: list[dict[str, Any]] = copy.deepcopy(with_media_at_hand(self.blocks))
        if missing := references_in(blocks):
            raise ConfigError(
                field="blocks",
                value=", ".join(sorted(missing)),
                rule="are media that are not at hand here: read the prompt inside a run of "
                "evaluate, train, configure or serve whose store has them",
            )
        if file := next((block for block in blocks if names_file(block)), None):
            rule = "names a file that is not read here: give its base64, or the prompt to evaluate,"
            raise ConfigError(field="blocks", value=file, rule=f"{rule} train or configure")
        return blocks

    @property
    def labels(self) -> list[str]:
        """The labels in the text that a new text must keep, in their order."""
        return _labels(self.blocks)

    @property
    def identity(self) -> Any:
        """What makes it another prompt, as JSON: the blocks, however their media are given."""
        return {"blocks": with_references(self.blocks, lambda raw: None)}

    def with_text(self, text: str) -> ContentTensor:
        """The same tensor (flags, metadata, media) with another text and no gradients."""
        return self.with_blocks(self._blocks_of(text))

    def with_blocks(self, blocks: list[dict[str, Any]]) -> ContentTensor:
        """The same tensor (flags, metadata) with other blocks and no gradients."""
        return ContentTensor(
            blocks=blocks,
            requires_grad=self.requires_grad,
            metadata=dict(self.metadata),
            model=self.model,
            model_kwargs=dict(self.model_kwargs),
        )

    def _blocks_of(self, text: Any) -> list[dict[str, Any]]:
        """The blocks with their texts replaced by `text`; one that stays is kept with its marks."""
        labels = self.labels
        new = split_at(text, labels) if isinstance(text, str) else None
        if new is None:
            kept = " ".join(labels)
            rule = f"must be a text that keeps these labels, each once and in this order: {kept}"
            raise ConfigError(field="text", value=text, rule=rule)
        old: list[list[dict[str, Any]]] = [[]]
        media = []
        for block in self.blocks:
            if block["type"] == "text":
                old[-1].append(block)
            else:
                media.append(block)
                old.append([])
        found: list[dict[str, Any]] = []
        for number, (piece, before) in enumerate(zip(new, old, strict=True)):
            if piece == "".join(block["text"] for block in before):
                found += before
            elif piece:
                found.append({**(before[0] if before else {"type": "text"}), "text": piece})
            found += media[number : number + 1]
        return found


def _checked_block(block: Any, field: str) -> dict[str, Any]:
    """A copy of a content block; raises `ConfigError` for what is none."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    is_text = kind == "text" and isinstance(block.get("text"), str)
    if not is_text and (not isinstance(kind, str) or medium_of(dict(block)) is None):
        rule = 'must be {"type": "text", "text": ...} or a block of an image, audio, video or file'
        raise ConfigError(field=field, value=block, rule=rule)
    check_json(dict(block), field=field)
    return copy.deepcopy(dict(block))


def _text_of_block(block: Mapping[str, Any]) -> str:
    medium = None if block["type"] == "text" else medium_of(block)
    return str(block["text"]) if medium is None else medium.label


def _labels(blocks: Iterable[Mapping[str, Any]]) -> list[str]:
    return [_text_of_block(block) for block in blocks if block["type"] != "text"]


class PromptText(str):
    """The text of a prompt, as `get_prompt` gives it.

    Args:
        text: The text, with labels for the media of a `ContentTensor`.
        tensor: The prompt, where it has such media.

    Example:
        >>> from langchain_core.messages import SystemMessage
        >>> from orcheo_agentensor import TextTensor, get_prompt
        >>> config = {"configurable": {"prompts": {"tone": "Be brief."}}}
        >>> tone = get_prompt("tone", config)
        >>> tone == "Be brief."
        True
        >>> SystemMessage(tone.content).text
        'Be brief.'
    """

    __slots__ = ("_tensor",)
    _tensor: TextTensor | None

    def __new__(cls, text: str, tensor: TextTensor | None = None) -> PromptText:
        made = super().__new__(cls, text)
        made._tensor = tensor
        return made

    @property
    def content(self) -> str | list[dict[str, Any]]:
        """What the content of a message is made of: the text, or the blocks of a `ContentTensor`
        with their media. Raises `ConfigError` where these are not at hand."""
        return str(self) if self._tensor is None else self._tensor.content


def prompt_text(value: Any, *, field: str) -> PromptText:
    """What `as_tensor` takes, as a node reads it."""
    if is_content(value):
        tensor = as_tensor(value, field=field)
        return PromptText(tensor.text, tensor)
    return PromptText(text_of(value, field=field))


def is_content(value: Any) -> bool:
    """Whether a prompt is a `ContentTensor` or the JSON form of one."""
    if isinstance(value, Mapping):
        kind = value.get("type", "ContentTensor" if "blocks" in value else None)
        return bool(kind == "ContentTensor")
    return isinstance(value, ContentTensor)


def as_tensor(value: Any, *, field: str) -> TextTensor:
    """A text, a tensor or the JSON form of one, as a `TextTensor` or a `ContentTensor`.

    Raises `ConfigError` naming `field` for anything else.
    """
    if isinstance(value, TextTensor):
        return value
    if isinstance(value, str):
        return TextTensor(text=value)
    if isinstance(value, Mapping):
        check_json(dict(value), field=field)
        kind = ContentTensor if is_content(value) else TextTensor
        try:
            return kind.model_validate(dict(value))
        except ConfigError as error:
            raise ConfigError(
                field=f"{field}.{error.field}", value=error.value, rule=error.rule
            ) from None
        except ValidationError as error:
            errors = error.errors(include_url=False)
            problems = [_problem(one, field, kind=kind) for one in errors]
            text = "; ".join(f"{p['field']}: {p['value']} {p['rule']}" for p in problems)
            raise ConfigError(text, **problems[0], problems=problems) from None
    raise ConfigError(
        field=field,
        value=value,
        rule='must be a text or {"type": "TextTensor", "text": ..., "requires_grad": ...}, or '
        '{"type": "ContentTensor", "blocks": [...]}',
    )


def _problem(entry: Mapping[str, Any], field: str, *, kind: type[TextTensor]) -> dict[str, Any]:
    """One of pydantic's errors on a prompt as the field, the value and the rule it breaks."""
    path = ".".join([field, *map(str, entry["loc"])])
    if entry["type"] == "missing":
        return {"field": path, "value": None, "rule": "must be given"}
    rule = f"is not valid: {entry['msg']}"
    if entry["type"] == "extra_forbidden":
        rule = f"is not a field of a prompt; there are: {', '.join(kind.model_fields)}"
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
    """A complete prompt set and its hash over names, texts or blocks, and binds."""

    prompts: Mapping[str, TextTensor]
    hash: str

    @classmethod
    def of(cls, prompts: Mapping[str, TextTensor]) -> Candidate:
        """The candidate of these prompts."""
        return cls(
            prompts=dict(prompts),
            hash=content_hash({name: tensor.identity for name, tensor in prompts.items()}),
        )
