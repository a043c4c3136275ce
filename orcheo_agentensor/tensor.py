"""`TextTensor`: a prompt that can be trained, or frozen.

The name and the idea of textual gradients come from TextGrad (Yuksekgonul et al., 2024): a
tensor collects feedback in words in `gradients`, and an optimizer turns it into a new text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.places import bind_problem

PromptsLike: TypeAlias = "Mapping[str, str | TextTensor | Mapping[str, Any]]"


class TextTensor(BaseModel):
    """A prompt text with what training needs to know about it.

    `text` is the prompt; `requires_grad=False` freezes it: no optimizer will change a byte of it.
    `gradients` collects feedback during a backward pass; it is working state and is not part of
    the JSON form, of equality of configs, or of anything stored. `metadata` is free, except for
    the constraints that the proposal guards read: `max_chars`, `max_line_words`, `must_keep`,
    `never`.

    `bind` names a place that an unmodified graph already reads, `configurable.<path>` or
    `context.<path>`: the text is put there for each run. `ConfigError` is raised for another place.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    type: Literal["TextTensor"] = "TextTensor"
    text: str
    requires_grad: bool = True
    metadata: dict[str, Any] = Field(default_factory=dict)
    bind: str | None = Field(
        None,
        description="Where an unmodified graph reads the text: configurable.<path>, context.<path>",
    )
    gradients: list[str] = Field(default_factory=list, exclude=True, repr=False)

    def __init__(self, text: str | None = None, /, **data: Any) -> None:
        """Accept the text as the only positional argument: `TextTensor("Be brief.")`."""
        if text is not None:
            data["text"] = text
        super().__init__(**data)

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, bind: str | None) -> str | None:
        rule = None if bind is None else bind_problem(bind)
        if rule is not None:
            raise ConfigError(field="bind", value=bind, rule=rule)
        return bind

    @model_serializer(mode="wrap")
    def _without_empty_bind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Prompts that bind to nothing are written as they were before there was `bind`."""
        written: dict[str, Any] = handler(self)
        if written.get("bind") is None:
            written.pop("bind", None)
        return written

    def __str__(self) -> str:
        return self.text

    def with_text(self, text: str) -> TextTensor:
        """The same tensor (flags, metadata, place) with another text and no gradients."""
        bound = {} if self.bind is None else {"bind": self.bind}
        return TextTensor(
            text=text, requires_grad=self.requires_grad, metadata=dict(self.metadata), **bound
        )

    def backward(self, feedback: str) -> None:
        """Collect one piece of feedback; a frozen tensor collects none."""
        if self.requires_grad:
            self.gradients.append(feedback)

    def zero_grad(self) -> None:
        """Forget the collected feedback."""
        self.gradients.clear()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: `{"type": "TextTensor", "text", "requires_grad", "metadata"}`.

        `bind` is in it only where the prompt binds to a place.
        """
        return self.model_dump(mode="json")


def as_tensor(value: Any, *, field: str) -> TextTensor:
    """A text, a `TextTensor` or its JSON form, as a `TextTensor`.

    Raises `ConfigError` naming `field` for anything else.
    """
    if isinstance(value, TextTensor):
        return value
    if isinstance(value, str):
        return TextTensor(text=value)
    if isinstance(value, Mapping):
        try:
            return TextTensor.model_validate(dict(value))
        except ConfigError as error:
            raise ConfigError(
                field=f"{field}.{error.field}", value=error.value, rule=error.rule
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join([field, *(str(part) for part in first["loc"])])
            raise ConfigError(
                field=path, value=first.get("input"), rule=f"is not valid: {first['msg']}"
            ) from None
    raise ConfigError(
        field=field,
        value=value,
        rule='must be a text or {"type": "TextTensor", "text": ..., "requires_grad": ...}',
    )


def as_prompts(value: PromptsLike | None, *, field: str = "prompts") -> dict[str, TextTensor]:
    """A mapping of names to texts, tensors or JSON forms, as named `TextTensor`s."""
    return {
        name: as_tensor(prompt, field=f"{field}.{name}") for name, prompt in (value or {}).items()
    }


def prompts_to_json(prompts: Mapping[str, TextTensor]) -> dict[str, dict[str, Any]]:
    """Named tensors in their JSON form, as they travel in `configurable.prompts`."""
    return {name: tensor.to_json() for name, tensor in prompts.items()}
