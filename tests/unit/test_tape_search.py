from __future__ import annotations

from string import Formatter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.tape import MIN_LITERAL, PromptSearch, blank_out, message_texts


def found(prompts: dict[str, Any], *messages: str) -> set[str]:
    return {name for names in PromptSearch(prompts).groups(messages) for name in names}


plain = st.text(st.characters(exclude_characters="{}\x00", exclude_categories=["Cs"]), max_size=30)
value = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
letters = st.text("abcdefghij klm", min_size=MIN_LITERAL, max_size=30).filter(
    lambda text: len(text.strip()) >= MIN_LITERAL
)


@given(st.lists(plain, max_size=4), letters, st.lists(value, min_size=5, max_size=5), plain, plain)
def test_a_prompt_is_found_whatever_the_graph_fills_in_and_puts_around_it(
    pieces: list[str], long: str, values: list[str], before: str, after: str
) -> None:
    literals = [*pieces, long]
    template = "".join(f"{piece}{{x{index}}}" for index, piece in enumerate(literals))
    names = [field for _, field, _, _ in Formatter().parse(template) if field]
    filled = template.format(**dict(zip(names, values, strict=False)))
    assert blank_out(template, before + filled + after) is not None
    mustache = "".join(f"{piece}{{{{ x{index} }}}}" for index, piece in enumerate(literals))
    replaced = mustache
    for index in range(len(literals)):
        replaced = replaced.replace(f"{{{{ x{index} }}}}", "value")
    assert blank_out(mustache, before + replaced + after) is not None


@given(letters, letters)
def test_a_prompt_is_not_found_in_a_text_that_lacks_a_piece_of_it(one: str, two: str) -> None:
    template = f"{one}{{x}}<{two}>"
    assert blank_out(template, f"{one} filled in {two}") is None
    assert blank_out(template, f"<{two}> before {one}") is None


@pytest.mark.parametrize(
    ("prompt", "text", "is_there"),
    [
        ("Be brief and kind.", "You are Bob. Be brief and kind. Now: hello", True),
        ("Be brief and kind.\n", "You are Bob.\n\nBe brief and kind.", True),
        ("Be brief and kind.", "be brief and kind.", False),
        ("Be  brief and kind.", "Be brief and kind.", False),
        ('Reply as {{"label": 1}} for {name}.', 'Reply as {"label": 1} for Bob.', True),
        ('Reply as {"label": "x"} to the user.', 'Reply as {"label": "x"} to the user.', True),
        ('Reply as {"label": "x"} to the user.', "Reply as nothing to the user.", False),
        ("Rate {score:.2f} of {item!r} fairly", "Rate 0.50 of 'tea' fairly", True),
        ("Plan.", "Plan.", True),
        ("Plan.", "Rules:\nPlan.\nGo.", True),
        ("Plan.", "  Plan.  ", True),
        ("Plan.", "Make a Plan. Go.", False),
        ("Go {x}!", "Go home!", True),
        ("Go {x}!", "first\nGo home!\nlast", True),
        ("Go {x}!", "Let us Go home! now", False),
        ("{x}", "anything", False),
        ("", "anything", False),
        ("   ", "   ", False),
    ],
)
def test_what_counts_as_a_prompt_in_a_text(prompt: str, text: str, is_there: bool) -> None:
    assert (found({"p": prompt}, text) == {"p"}) is is_there


def test_a_prompt_inside_a_longer_one_is_found_only_where_it_stands_alone() -> None:
    prompts = {"short": "You are helpful.", "long": "You are helpful. Be brief."}
    assert found(prompts, "You are helpful. Be brief.") == {"long"}
    assert found(prompts, "You are helpful. Be brief.", "You are helpful.") == {"short", "long"}


def test_a_prompt_filled_into_another_is_found() -> None:
    prompts = {"outer": "Follow this style: {style}. Answer now.", "inner": "Write like a pirate"}
    assert found(prompts, "Follow this style: Write like a pirate. Answer now.") == set(prompts)


def test_prompts_of_one_text_are_found_together_and_frozen_ones_not_at_all() -> None:
    prompts = {
        "a": TextTensor("Be brief and kind."),
        "b": {"text": "Be brief and kind."},
        "frozen": TextTensor("Never promise refunds.", requires_grad=False),
    }
    assert found(prompts, "Be brief and kind. Never promise refunds.") == {"a", "b"}


def test_blocks_of_a_message_are_searched_and_what_a_model_wrote_is_not() -> None:
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": "data:,x"}},
        {"type": "text", "text": "Describe the picture."},
        "Briefly, please.",
    ]
    messages = [SystemMessage("Be kind."), HumanMessage(content), AIMessage("Be very brief.")]
    assert list(message_texts(messages)) == [
        "Be kind.",
        "Describe the picture.\nBriefly, please.",
    ]
