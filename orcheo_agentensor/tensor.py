"""`TextTensor`: a prompt that can be trained, or frozen.

The name and the idea of textual gradients come from TextGrad (Yuksekgonul et al., 2024): a
tensor collects feedback in words in `gradients`, and an optimizer turns it into a new text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orcheo_agentensor.errors import ConfigError

PromptsLike: TypeAlias = "Mapping[str, str | TextTensor | Mapping[str, Any]]"


class TextTensor(BaseModel):
    """A prompt text with what training needs to know about it.

    `text` is the prompt; `requires_grad=False` freezes it: no optimizer will change a byte of it.
    `gradients` collects feedback during a backward pass; it is working state and is not part of
    the JSON form, of equality of configs, or of anything stored. `metadata` is free, except for
    the constraints that the proposal guards read: `max_chars`, `max_line_words`, `must_keep`,
    `never`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    type: Literal["TextTensor"] = "TextTensor"
    text: str
    requires_grad: bool = True
    metadata: dict[str, Any] = Field(default_factory=dict)
    gradients: list[str] = Field(default_factory=list, exclude=True, repr=False)

    def __init__(self, text: str | None = None, /, **data: Any) -> None:
        """Accept the text as the only positional argument: `TextTensor("Be brief.")`."""
        if text is not None:
            data["text"] = text
        super().__init__(**data)

    def __str__(self) -> str:
        return self.text

    def with_text(self, text: str) -> TextTensor:
        """The same tensor (flags and metadata) with another text and no gradients."""
        return TextTensor(text=text, requires_grad=self.requires_grad, metadata=dict(self.metadata))

    def backward(self, feedback: str) -> None:
        """Collect one piece of feedback; a frozen tensor collects none."""
        if self.requires_grad:
            self.gradients.append(feedback)

    def zero_grad(self) -> None:
        """Forget the collected feedback."""
        self.gradients.clear()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: `{"type": "TextTensor", "text", "requires_grad", "metadata"}`."""
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
