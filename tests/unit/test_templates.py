from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from orcheo_agentensor.errors import TemplateError
from orcheo_agentensor.nodes.templates import interpolate
from orcheo_agentensor.prompts import TextTensor

TONE = TextTensor(text="Be kind to {{inputs.name}}.", metadata={"max_chars": 90})


class Address(BaseModel):
    """A model in the scope and, with templates, in a node."""

    street: str
    lines: list[str] = []
    _private: str = "hidden"

    @property
    def computed(self) -> str:
        """Not a field."""
        return "computed"


SCOPE: dict[str, Any] = {
    "config": {
        "prompts": {
            "tone": TONE,
            "frozen": {"type": "TextTensor", "text": "F", "requires_grad": False},
            "dotted.name": TextTensor("D"),
        }
    },
    "inputs": {"name": "Ada", "count": 3, "ok": True, "none": None, "a.b": "dotted key"},
    "results": {
        "search": {"hits": [{"title": "One"}, {"title": "Two"}]},
        "address": Address(street="Long Road"),
    },
    "messages": [HumanMessage("hello"), AIMessage("hi")],
    "structured_response": None,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{inputs.name}}", "Ada"),
        ("{{ inputs.name }}", "Ada"),
        ("{{\tinputs.name\n}}", "Ada"),
        ("{{inputs.count}}", 3),
        ("{{inputs.none}}", None),
        ("{{inputs.a.b}}", "dotted key"),
        ("{{results.search.hits}}", [{"title": "One"}, {"title": "Two"}]),
        ("{{results.search.hits.1.title}}", "Two"),
        ("{{results.search.hits.-1.title}}", "Two"),
        ("{{results.address.street}}", "Long Road"),
        ("{{messages.-1.content}}", "hi"),
        ("{{structured_response}}", None),
        ("{{inputs}}", SCOPE["inputs"]),
        ("{{config.prompts.frozen.requires_grad}}", False),
    ],
)
def test_a_whole_reference_becomes_the_value(template: str, expected: Any) -> None:
    assert interpolate(template, SCOPE) == expected


def test_a_whole_reference_to_a_prompt_is_its_tensor() -> None:
    assert interpolate("{{config.prompts.tone}}", SCOPE) is TONE
    frozen = interpolate("{{config.prompts.frozen}}", SCOPE)
    assert frozen == TextTensor(text="F", requires_grad=False)
    assert interpolate("{{config.prompts.dotted.name}}", SCOPE) == TextTensor("D")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Hello {{inputs.name}}!", "Hello Ada!"),
        ("{{inputs.name}}{{inputs.count}}", "Ada3"),
        ("{{config.prompts.frozen}} {{inputs.name}}", "F Ada"),
        (" {{inputs.ok}} {{inputs.none}}", " true null"),
        ("hits: {{results.search.hits}}", 'hits: [{"title": "One"}, {"title": "Two"}]'),
        ("at {{results.address}}", 'at {"street": "Long Road", "lines": []}'),
        ("{{{inputs.name}}}", "{Ada}"),
    ],
)
def test_a_reference_in_longer_text_is_rendered(template: str, expected: str) -> None:
    assert interpolate(template, SCOPE) == expected


def test_rendered_prompts_inside_objects_show_their_text() -> None:
    scope = {"inputs": {"p": TextTensor("kind"), "ä": {1}}}
    assert interpolate("x {{inputs}}", scope) == 'x {"p": "kind", "ä": "{1}"}'


def test_what_was_put_in_is_not_looked_at_again() -> None:
    assert interpolate("{{config.prompts.tone}} Now.", SCOPE) == "Be kind to {{inputs.name}}. Now."
    scope = {"inputs": {"x": "{{inputs.secret}}", "secret": "s"}}
    assert interpolate({"a": "{{inputs.x}}", "b": "-{{inputs.x}}"}, scope) == {
        "a": "{{inputs.secret}}",
        "b": "-{{inputs.secret}}",
    }


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "{x}", "{{}}", "{{ }}", "{{ not a reference }}", "{{inputs.name|upper}}",
        "{{inputs['name']}}", "{{inputs.}}", "{{.name}}", "{{1}}", "{{inputs..name}}",
        "{{inputs.name}", "{% if x %}", '{"a": {"b": 1}}', "{{f(x)}}",
    ],
)  # fmt: skip
def test_other_braces_are_plain_text(text: str) -> None:
    assert interpolate(text, SCOPE) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{config.prompts.nope}}",
            "'nope' in config.prompts, which has tone, frozen, dotted.name",
        ),
        ("{{nope.x}}", "'nope' in the scope, which has config, inputs, results, messages"),
        ("{{nope}}", "'nope' in the scope, which has config"),
        ("{{results.search.hits.2}}", "'2' in results.search.hits, which has 2 items"),
        ("{{results.search.hits.-3}}", "which has 2 items"),
        ("{{results.search.hits.title}}", "which has 2 items"),
        ("{{inputs.name.x}}", "'x' in inputs.name, which has no parts (it is a str)"),
        ("{{results.address.town}}", "'town' in results.address, which has street, lines"),
        ("say {{inputs.nope}}", "'nope' in inputs, which has name, count"),
    ],
)
def test_a_reference_that_leads_nowhere_lists_what_there_is(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        interpolate({"field": [template]}, SCOPE)
    assert message in str(caught.value)
    assert caught.value.field is not None


@pytest.mark.parametrize(
    "path",
    [
        "inputs.__class__", "inputs.keys", "results.address.computed", "results.address._private",
        "results.address.model_dump", "results.address.__dict__", "inputs.name.upper",
        "messages.0.pretty_repr", "config.prompts.tone.to_json", "inputs.name.0",
    ],
)  # fmt: skip
def test_attributes_cannot_be_reached(path: str) -> None:
    with pytest.raises(TemplateError):
        interpolate(f"{{{{{path}}}}}", SCOPE)


def test_long_listings_are_cut() -> None:
    with pytest.raises(TemplateError, match="n19 and 980 more"):
        interpolate("{{inputs.x}}", {"inputs": {f"n{i}": i for i in range(1000)}})


def test_a_broken_prompt_in_the_scope_is_a_template_error() -> None:
    scope = {"config": {"prompts": {"a": {"type": "TextTensor", "txt": "x"}}}}
    with pytest.raises(TemplateError, match=r"config\.prompts\.a"):
        interpolate("{{config.prompts.a}}", scope)


# -- Walking ---------------------------------------------------------------------------------------


def test_containers_and_models_are_walked() -> None:
    template = {
        "list": ["{{inputs.name}}", {"deep": "{{inputs.count}}"}],
        "tuple": ("{{inputs.name}}", 1),
        "model": Address(street="{{inputs.name}} Street", lines=["{{inputs.count}}!"]),
        "{{inputs.name}}": "keys are left alone",
    }
    assert interpolate(template, SCOPE) == {
        "list": ["Ada", {"deep": 3}],
        "tuple": ("Ada", 1),
        "model": Address(street="Ada Street", lines=["3!"]),
        "{{inputs.name}}": "keys are left alone",
    }
    assert template["model"].street == "{{inputs.name}} Street"


def test_messages_are_walked() -> None:
    (message,) = interpolate([HumanMessage("Hi {{inputs.name}}")], SCOPE)
    assert message == HumanMessage("Hi Ada")


def test_what_holds_no_reference_is_handed_back_itself() -> None:
    template = {"a": [Address(street="x"), ("y",)], "b": 1}
    assert interpolate(template, SCOPE) is template


def test_prompts_and_runnables_in_a_template_are_left_as_they_are() -> None:
    model = FakeListChatModel(responses=["{{inputs.name}}"])
    template = {"prompt": TextTensor("{{inputs.name}}"), "model": model}
    assert interpolate(template, SCOPE) is template


@given(
    st.recursive(
        st.text("{}ab. ", max_size=6) | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner),
    )
)
def test_only_references_can_change_a_template(template: Any) -> None:
    try:
        result = interpolate(template, {})
    except TemplateError:
        return
    assert result == template


# -- Reads of prompts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{{config.prompts.tone}}", ["tone"]),
        ("{{config.prompts.frozen.text}} please", ["frozen"]),
        ("{{config.prompts.dotted.name}} {{config.prompts.tone}}", ["dotted.name", "tone"]),
        ("{{config.prompts.tone.metadata.max_chars}}", []),
        ("{{inputs.name}}", []),
        ("{{config.prompts}}", ["tone", "frozen", "dotted.name"]),
        ("{{config}}", ["tone", "frozen", "dotted.name"]),
    ],
)
def test_each_read_of_a_prompt_is_told(template: str, names: list[str]) -> None:
    reads: list[tuple[str, TextTensor]] = []
    interpolate(template, SCOPE, on_read=lambda name, tensor: reads.append((name, tensor)))
    assert [name for name, _ in reads] == names
    assert all(isinstance(tensor, TextTensor) for _, tensor in reads)


def test_a_prompt_given_as_plain_text_is_a_read_too() -> None:
    reads: list[str] = []
    scope = {"config": {"prompts": {"a": "plain"}}}
    value = interpolate("{{config.prompts.a}}", scope, on_read=lambda name, _: reads.append(name))
    assert value == TextTensor("plain")
    assert reads == ["a"]
