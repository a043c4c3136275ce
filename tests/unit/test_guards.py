from __future__ import annotations

import random
import string
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.optimizers import ComponentRequest
from orcheo_agentensor.optimizers.guards import (
    COPY_LENGTH,
    CaseTexts,
    placeholders,
    refusals,
    require_satisfiable,
    template_of,
)

ProcessorTime = Callable[[], AbstractContextManager[list[float]]]
NO_CASES = CaseTexts([])


def component(text: str, **changes: Any) -> ComponentRequest:
    fields: dict[str, Any] = {
        "name": "p",
        "text": text,
        "feedback": (),
        "siblings": {},
        "history": (),
        "max_chars": 500,
    }
    fields |= changes
    template = template_of(text, fields.get("metadata", {}))
    return ComponentRequest(template=template, placeholders=placeholders(text, template), **fields)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("Say hi.", "", "empty"),
        ("Say hi.", "  \n", "empty"),
        ("Say hi.", "Say hi.", "identical"),
        ("Say hi.", "x" * 501, "over the cap of 500"),
        ("Hi {name}", "Hello there", "lost placeholders: {name}"),
        ("Hi {{inputs.x}}", "Hello", "lost placeholders: {{inputs.x}}"),
        ("Hi {name}", "Hi {name} {n}", "invented placeholders: {n}"),
        ("Give {p:.2f}", "Give {p}", "lost placeholders: {p:.2f}"),
        ("Say {n!r}", "Say {n}", "lost placeholders: {n!r}"),
        ("Say {0}", "Say it", "lost placeholders: {0}"),
        ("Say {x[k]}", "Say {x}", "lost placeholders: {x[k]}"),
        ("Say {x.y} ", "Say it", "lost placeholders: {x.y}"),
        ('Fill {q} into {"a": 1}', 'Fill it into {"a": 1}', "lost placeholders: {q}"),
        ("Ask {q}", 'Ask {q} and give {"a": 1}', "no f-string template any more"),
        ("{% if a %}x{% endif %}", "{% if a %}x", "lost placeholders: {% endif %}"),
        ("{{ a | upper }}", "{{ a }}", "lost placeholders: {{a|upper}}"),
        ("{{#a}}x{{/a}}", "{{#a}}x", "lost placeholders: {{/a}}"),
        ("Cost: $x", "Cost: x", "lost placeholders: $x"),
        ("Cost: ${x}", "Cost: x", "lost placeholders: ${x}"),
        ("Dear %(x)s", "Dear you", "lost placeholders: %(x)s"),
        ("Dear %(x)s", "Dear %(x)s, 100% sure", "invented placeholders: % s"),
        ("Hi", "<think>Hm.</think>Hello", "reasoning"),
        ("Hi", "Sure! Here is the improved prompt: Hello", "chatter"),
        ("Hi", "Here's an improved version:\nHello", "chatter"),
        ("Hi", "Hello.\n\nI hope this helps!", "chatter"),
        ("Hi", "Use the key sk-abcdefghijklmnop1234567890", "secret"),
        ("Hi", "Do:\n```\ncode", "not closed"),
        ("Hi", "a\0b", "cannot be stored"),
        ("Hi", "a\ud800b", "cannot be stored"),
    ],
)
@pytest.mark.requirement("training.guards")
def test_each_guard_refuses_with_its_reason(before: str, after: str, reason: str) -> None:
    assert any(reason in found for found in refusals(component(before), after, cases=NO_CASES))


def test_a_sound_rewrite_passes() -> None:
    asked = component("Hi {name}, see {{ inputs.x }}.")
    assert refusals(asked, "Dear {name}: {{inputs.x}}\n```\nok\n```", cases=NO_CASES) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1} {} {{}}',
        r"Write \boxed{answer}, \frac{a}{b} and $x$.",
        "Costs $5, 100 % sure, 50% off",
        "Say {yes or no}",
    ],
)
def test_braces_formulas_and_money_are_text(text: str) -> None:
    assert template_of(text, {}) == "none"
    assert refusals(component(text), "Be kind.", cases=NO_CASES) == []


@pytest.mark.parametrize(
    "after",
    [
        r"Write \boxed{answer}",
        "Say {yes} or {no}",
        'Give {"a": {"b": 1}}',
        "{{x}} $x %(x)s {% x %}",
    ],
)
def test_a_prompt_without_placeholders_may_get_any_braces(after: str) -> None:
    assert refusals(component("Be kind."), after, cases=NO_CASES) == []


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("Hi {name}, {{ inputs.x }}", "f-string"),
        ("Hi {{ inputs.x }}", "mustache"),
        ("Hi {{ x | upper }}", "jinja"),
        ("Hi {% if x %}", "jinja"),
        ("Hi %(x)s", "percent"),
        ("Hi $x", "dollar"),
        ("Hi", "none"),
    ],
)
def test_the_template_language_is_detected(text: str, template: str) -> None:
    assert template_of(text, {}) == template


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        ("Translate {} into {}.", "Put {} into {}, please.", True),
        ("Translate {} into {}.", "Put {} into French.", False),
        ("Translate {} into {}.", "Put {} into {} or {}.", False),
        ("Costs {:.2f} for {}.", "For {} it costs {:.2f}.", True),
        ("Costs {:.2f} for {}.", "For {} it costs {}.", False),
        ("Answer with JSON, or {} if there is none.", "Answer with JSON.", True),
        ("Put %s into %d words.", "In %d words, put %s.", True),
        ("Put %s into %s.", "Put it into %s.", False),
        ("Be 100% sure, or 50 % at least.", "Be sure.", True),
    ],
)
def test_places_filled_by_position_are_kept_in_number(
    before: str, after: str, passes: bool
) -> None:
    template = template_of(before, {})
    assert (placeholders(before, template) == placeholders(after, template)) == passes


def test_the_metadata_may_say_the_template_language() -> None:
    plain = component("Say {yes}", metadata={"template": "none"})
    assert refusals(plain, "Say {no}", cases=NO_CASES) == []
    strict = component("Say yes", metadata={"template": "f-string"})
    assert refusals(strict, "Say {no}", cases=NO_CASES) == ["invented placeholders: {no}"]
    with pytest.raises(BadInput, match=r"must be one of f-string, jinja"):
        template_of("Hi", {"template": "erb"})


def test_a_prompt_about_reasoning_tags_may_keep_them() -> None:
    asked = component("Think in <think> tags.")
    assert refusals(asked, "Think hard in <think>…</think>.", cases=NO_CASES) == []


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


LABELS = [f"{name} account holder with an outstanding balance" for name in ("new", "business")]


def test_training_cases_may_be_quoted_and_held_ones_not() -> None:
    quoted, secret = (
        "a case of training that is quoted here",
        "what only one case of the holdout has",
    )
    cases = CaseTexts(
        [[f"{secret} in it", LABELS[0]]], train=[[f"{quoted} word for word", LABELS[0]]]
    )
    assert cases.copied(f"{quoted} word for word", parent="") is None
    assert cases.copied(f"{quoted} word for word", parent="", no_quotes=True) is not None
    assert cases.copied(f"{secret} in it", parent="") is not None
    assert cases.copied(LABELS[0], parent="") is None


def test_what_is_common_to_many_cases_is_no_copy_of_one() -> None:
    cases = CaseTexts([[f"ticket {n}", LABELS[n % 2]] for n in range(8)])
    assert cases.copied(" / ".join(LABELS), parent="") is None
    assert CaseTexts([[LABELS[0]]]).copied(LABELS[0], parent="") is not None


class Counted(str):
    """A text that counts the slices taken of it."""

    slices = 0

    def __getitem__(self, key: Any) -> str:
        Counted.slices += 1
        return super().__getitem__(key)


def test_the_search_for_copies_takes_a_step_per_block_of_the_cases() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=6)) for _ in range(5_000)]
    cases = CaseTexts([" ".join(draw.choices(words, k=720)) for _ in range(500)])
    cases._held = [Counted(text) for text in cases._held]
    Counted.slices = 0
    text = " ".join(draw.choices(words, k=560))
    assert cases.copied(text, parent="") is None
    assert Counted.slices <= 500 * 5_100 / 20


def test_a_text_over_the_cap_is_searched_for_nothing(processor_time: ProcessorTime) -> None:
    class Unsearched(CaseTexts):
        def copied(self, text: str, **options: Any) -> str | None:
            raise AssertionError("searched")

    text = "word {x} " * 120_000
    with processor_time() as seconds:
        refusals(component("Hi", max_chars=100), text, cases=Unsearched([]))
    (reason,) = refusals(component("Hi", max_chars=100), text, cases=Unsearched([]))
    assert "over the cap of 100" in reason
    assert seconds[0] < 0.1


@pytest.mark.parametrize(
    "unit", ["{{ ", "{a:", "$ ", "<", "%(", "{%", " ", "a: ", "hope this helps "]
)
def test_the_guards_take_time_linear_in_the_text(unit: str, processor_time: ProcessorTime) -> None:
    cost = []
    for size in (20_000, 80_000):
        text = unit * (size // len(unit)) + "x"
        with processor_time() as seconds:
            refusals(component("Hi {x}", max_chars=size + 9), text, cases=NO_CASES)
        cost += seconds
    assert cost[1] < 8 * cost[0] + 0.05


def test_short_quotes_and_what_the_parent_already_held_are_no_copies() -> None:
    sentence = "please tell me where my card is because it never came"
    cases = CaseTexts([{"ticket": sentence}])
    assert cases.copied("e.g. 'where my card is'", parent="") is None
    assert cases.copied(sentence, parent=f"Example: {sentence}") is None
    assert cases.copied(sentence, parent="") is not None


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"must_keep": ["Say Hello."], "never": "hello"}, "'hello' is part of 'Say Hello.'"),
        ({"must_keep": "Say hello.", "max_chars": 8}, "max_chars: 8 is too small.*takes 15 char"),
        ({"max_chars": 9}, "max_chars: 9 is too small.*takes 15 characters"),
    ],
)
def test_metadata_that_no_text_could_follow_is_refused_with_numbers(
    metadata: dict[str, Any], told: str
) -> None:
    text = "Answer {question} for {who}."
    with pytest.raises(BadInput, match=told):
        require_satisfiable(text, metadata, template="f-string", field="prompts.p.metadata")


def test_metadata_that_some_text_could_follow_is_taken() -> None:
    metadata = {"must_keep": "Say hello.", "never": "bye", "max_chars": 15}
    require_satisfiable("Go {question} {who}.", metadata, template="f-string", field="metadata")
