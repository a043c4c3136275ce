"""The simulated chat model: what it reads in prompts, and what it does about it."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from orcheo_agentensor.demo.model import (
    BLAND_REPLY,
    LexicalChatModel,
    Router,
    answer,
    content_words,
    parse_definitions,
    parse_rule,
    parse_rules,
    with_definitions,
    words,
)

PROMPT = "Pick one.\n\nTopics:\nfruit: apple pear\nveg: leek pear\n\nThanks: all\n"


def test_words_are_lower_case_and_without_punctuation() -> None:
    assert words("I can\u2019t pay: £20, really!") == ["i", "can't", "pay", "20", "really"]
    assert content_words("My card is in my wallet, the card!") == {"card", "wallet"}


def test_definitions_are_the_block_under_a_heading() -> None:
    assert parse_definitions(PROMPT) == {"fruit": ("apple", "pear"), "veg": ("leek", "pear")}
    assert parse_definitions("fruit: apple\nveg: leek\n") == {}
    assert parse_definitions("Rules:\n- Be brief.\n") == {}


def test_definitions_are_replaced_in_place_and_new_labels_added() -> None:
    text = with_definitions(PROMPT, {"veg": ["kale"], "nuts": ["almond"]})
    assert text == PROMPT.replace("veg: leek pear", "veg: kale\nnuts: almond")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("an APPLE, please", "fruit"),
        ("leek or pear?", "veg"),
        ("a pear", "fruit"),  # a tie: the alphabetically first
        ("something else", "fruit"),
        ("apple leek kale", "veg"),
    ],
)
def test_words_count_one_over_the_lines_that_hold_them(text: str, label: str) -> None:
    router = Router({"veg": ["leek", "pear", "kale"], "fruit": ["apple", "pear"]})
    assert router.route(words(text)) == label


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ('Start with "Hello".', "start", "Hello"),
        ('Every reply begins with "Hi"', "start", "Hi"),
        ('It ends with "Yours"', "end", "Yours"),
        ('Never say "no".', "avoid", "no"),
        ('Do not mention "fees"', "avoid", "fees"),
        ('Include "never share your PIN"', "include", "never share your PIN"),
        ("Use at most 40 words.", "limit", "40"),
        ("Name the team that answers", "name", "team"),
    ],
)
def test_rules_are_known_by_their_verbs(text: str, kind: str, value: str) -> None:
    rule = parse_rule(text)
    assert rule is not None
    assert (rule.kind, rule.value) == (kind, value)


def test_only_list_items_of_a_known_form_are_rules() -> None:
    assert parse_rules('Start with "Hi".\n- Be kind.\n* End with "Bye".\n')[0].kind == "end"
    assert len(parse_rules('- Be kind.\n1. End with "Bye".')) == 1


def test_without_rules_the_reply_is_bland() -> None:
    assert answer("You answer customers.", "Hello?") == " ".join(BLAND_REPLY)


@pytest.mark.parametrize(
    "rule",
    [
        'start with "Dear customer"',
        'end with "Yours sincerely"',
        'include "call us any time"',
        'avoid "somebody"',
        "have at most 20 words",
        "name the desk",
    ],
)
def test_the_model_acts_on_each_rule_that_it_finds(rule: str) -> None:
    parsed = parse_rule(rule)
    assert parsed is not None
    fields = {"desk": "loans"}
    user = "Desk: loans\nMessage: what now?"
    assert not parsed.kept(answer("You answer customers.", user), fields)
    assert parsed.kept(answer(f"You answer customers.\n- {rule}\n", user), fields)


async def test_the_model_says_that_it_is_simulated_and_counts_words() -> None:
    message = await LexicalChatModel().ainvoke([SystemMessage(PROMPT), HumanMessage("a leek")])
    assert message.text == "veg"
    assert message.response_metadata["simulated"] is True
    assert message.response_metadata["model_name"] == "lexical"
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == len(words(PROMPT)) + 2
    assert message.usage_metadata["output_tokens"] == 1
    assert LexicalChatModel().invoke([SystemMessage(PROMPT), HumanMessage("a leek")]).text == "veg"
