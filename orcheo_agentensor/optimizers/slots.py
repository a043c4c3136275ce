"""Where worked examples stand in a prompt, and how one is written: `metadata["demos"]`.

    {"slot": "{examples}", "format": "{inputs.name} -> {output}", "max_chars": 2000}

`slot` is a text that stands once in the prompt, in whose place the examples go; without one they
are appended. In `format`, `{inputs}` and `{output}` are what a node took in and gave out, and
`{inputs.name}` is a field of it. `False` in place of all that keeps examples out of a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.optimizers.guards import (
    Template,
    max_chars_of,
    require_satisfiable,
    slot_text,
    template_of,
)
from orcheo_agentensor.optimizers.protocol import DEMO_CHARS
from orcheo_agentensor.prompts import TextTensor

KEY = "demos"
HEADING = "Examples:"
MIN_ROOM = 20
"""Fewest characters that are worth being kept for examples."""
_FIELD = re.compile(r"\{(inputs|output)((?:\.[^{}.]+)*)\}")
_ESCAPED = {"f-string": ("{", "}"), "percent": ("%",), "dollar": ("$",)}
_DOUBLED = {"jinja": ("{{", "}}", "{%", "%}"), "mustache": ("{{", "}}")}


class DemoSlot(StrictNumbers):
    """Where the worked examples of a prompt stand, how one is written, and how long all may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slot: str | None = Field(default=None, min_length=1)
    format: str = "Input: {inputs}\nOutput: {output}"
    max_chars: int = Field(default=DEMO_CHARS, ge=MIN_ROOM)

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        if {part for part, _path in _FIELD.findall(value)} != {"inputs", "output"}:
            raise ValueError("must hold {inputs} and {output}, or fields of them ({inputs.name})")
        return value

    @property
    def separator(self) -> str:
        """What stands between two examples: an empty line where one has several lines."""
        return "\n\n" if "\n" in self.format else "\n"

    def example(self, inputs: Any, output: Any, *, template: str) -> str | None:
        """One example; None where a field of the format is missing, or the prompt's template
        language has no way to write it."""
        known = {"inputs": inputs, "output": output}
        texts = []
        for part, path in _FIELD.findall(self.format):
            text = _text_at(known[part], path.split(".")[1:])
            if text is None or not text.strip():
                return None
            if any(mark in text for mark in _DOUBLED.get(template, ())):
                return None
            for mark in _ESCAPED.get(template, ()):
                text = text.replace(mark, 2 * mark)
            texts.append(text)
        found = iter(texts)
        return _FIELD.sub(lambda _field: next(found), self.format)

    def filled(self, text: str, examples: Sequence[str]) -> str:
        """The prompt with these examples in its slot, or after its end."""
        shown = self.separator.join(examples)
        if self.slot is not None and self.slot in text:
            return text.replace(self.slot, shown)
        heading = f"\n\n{HEADING}\n\n" if "\n" in self.format else "\n"
        return f"{text.rstrip()}{heading}{shown}" if text.strip() else shown


def slot_of(metadata: Mapping[str, Any], *, field: str = "metadata") -> DemoSlot | None:
    """What the metadata of a prompt says of worked examples; None where it wants none.

    Raises `BadInput` naming `field` for anything that is no such saying.
    """
    said = metadata.get(KEY, {})
    if said is False or metadata.get("no_quotes"):
        return None
    if not isinstance(said, Mapping):
        rule = "must be false, or have some of: slot, format, max_chars"
        raise BadInput(field=f"{field}.{KEY}", value=said, rule=rule)
    try:
        return DemoSlot.model_validate(dict(said))
    except ValidationError as error:
        one = error.errors(include_url=False)[0]
        path = ".".join([f"{field}.{KEY}", *map(str, one["loc"])])
        rule = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            rule = f"is not one of: {', '.join(DemoSlot.model_fields)}"
        raise BadInput(field=path, value=one["input"], rule=rule) from None


def plain_template(text: str, metadata: Mapping[str, Any]) -> Template:
    """The template language of a prompt, its slot for examples aside."""
    slot = slot_text(metadata)
    return template_of(text.replace(slot, "") if slot else text, metadata)


def check_slots(
    prompts: Mapping[str, TextTensor], names: Iterable[str], *, used: bool
) -> list[str]:
    """The prompts among `names` that take worked examples.

    Raises `BadInput` for a slot that does not stand exactly once in its prompt, for a length cap
    that is none, for metadata that no text could follow, and where examples are `used`, for a cap
    that leaves no room for them.
    """
    found = []
    for name in names:
        tensor, field = prompts[name], f"prompts.{name}.metadata"
        cap = max_chars_of(tensor.text, tensor.metadata, field=field)
        template = plain_template(tensor.text, tensor.metadata)
        require_satisfiable(tensor.text, tensor.metadata, template=template, field=field)
        slot = slot_of(tensor.metadata, field=field)
        if slot is None:
            continue
        times = 0 if slot.slot is None else tensor.text.count(slot.slot)
        if slot.slot is not None and times != 1:
            rule = (
                f"must stand once in the text of the prompt; it stands there {times} times "
                f"({len(tensor.text)} characters)"
            )
            raise BadInput(field=f"{field}.{KEY}.slot", value=slot.slot, rule=rule)
        if used and cap - len(tensor.text) < MIN_ROOM:
            rule = (
                f"leaves {max(0, cap - len(tensor.text))} characters for examples beside a text of "
                f"{len(tensor.text)}; it must be at least {len(tensor.text) + MIN_ROOM}, or "
                "metadata.demos false"
            )
            raise BadInput(field=f"{field}.max_chars", value=cap, rule=rule)
        found.append(name)
    return found


def plain_value(value: Any) -> Any:
    """What stands for a value in an example: the last message of a conversation, the one value of
    an object that has only one."""
    if isinstance(value, Mapping):
        messages = value.get("messages")
        if isinstance(messages, list | tuple) and messages:
            last = messages[-1]
            return plain_value(last.get("content")) if isinstance(last, Mapping) else last
        if len(value) == 1:
            return plain_value(next(iter(value.values())))
    return value


def _text_at(value: Any, path: Sequence[str]) -> str | None:
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    value = plain_value(value) if not path else value
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
