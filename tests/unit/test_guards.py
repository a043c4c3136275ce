from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orcheo_agentensor.optimizers import ComponentRequest
from orcheo_agentensor.optimizers.guards import COPY_LENGTH, CaseTexts, placeholders, refusals

NO_CASES = CaseTexts([])


def component(text: str, **changes: Any) -> ComponentRequest:
    fields: dict[str, Any] = {
        "name": "p",
        "text": text,
        "feedback": (),
        "siblings": {},
        "history": (),
        "max_chars": 500,
        "placeholders": placeholders(text),
    }
    return ComponentRequest(**{**fields, **changes})


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("Say hi.", "", "empty"),
        ("Say hi.", "  \n", "empty"),
        ("Say hi.", "Say hi.", "identical"),
        ("Say hi.", "x" * 501, "over the cap of 500"),
        ("Hi {name}", "Hello there", "lost placeholders: {name}"),
        ("Hi {{inputs.x}}", "Hello", "lost placeholders: {{inputs.x}}"),
        ("Hi", "Hi {name}", "invented placeholders: {name}"),
        ("Hi", "Do:\n```\ncode", "not closed"),
        ("Hi", "a\0b", "cannot be stored"),
        ("Hi", "a\ud800b", "cannot be stored"),
    ],
)
def test_each_guard_refuses_with_its_reason(before: str, after: str, reason: str) -> None:
    assert any(reason in found for found in refusals(component(before), after, cases=NO_CASES))


def test_a_sound_rewrite_passes() -> None:
    asked = component("Hi {name}, see {{ inputs.x }}.")
    assert refusals(asked, "Dear {name}: {{inputs.x}}\n```\nok\n```", cases=NO_CASES) == []


def test_json_braces_are_not_placeholders() -> None:
    assert placeholders('{"a": 1} {} {0} {{}}') == ()


def test_the_word_cap_counts_the_words_after_a_label() -> None:
    asked = component("a: one", metadata={"max_line_words": 2})
    assert refusals(asked, "a: one two\nno label on this long line", cases=NO_CASES) == []
    (reason,) = refusals(asked, "fine: one\na: one two three", cases=NO_CASES)
    assert "line 2 has 3 words" in reason


def test_a_prompt_may_say_what_must_stay_and_what_may_not_come_in() -> None:
    asked = component("Be kind.", metadata={"must_keep": ["kind"], "never": "refund"})
    assert refusals(asked, "Be very kind.", cases=NO_CASES) == []
    assert refusals(asked, "Be nice. No Refunds.", cases=NO_CASES) == [
        "must keep 'kind'",
        "must never say 'refund'",
    ]


@given(st.text(alphabet=string.ascii_letters + " ", min_size=60, max_size=120), st.integers(0, 20))
def test_a_copied_stretch_is_found_wherever_it_stands(case: str, offset: int) -> None:
    stretch = " ".join(case.split())[offset : offset + COPY_LENGTH].strip()
    assume(len(stretch) == COPY_LENGTH)
    cases = CaseTexts([{"deep": [case]}])
    assert cases.copied(f"Before. {stretch.upper()} After.", parent="") is not None


def test_short_quotes_and_what_the_parent_already_held_are_no_copies() -> None:
    sentence = "please tell me where my card is because it never came"
    cases = CaseTexts([{"ticket": sentence}])
    assert cases.copied("e.g. 'where my card is'", parent="") is None
    assert cases.copied(sentence, parent=f"Example: {sentence}") is None
    assert cases.copied(sentence, parent="") is not None
