from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orcheo_agentensor.errors import BadInput, ConfigError
from orcheo_agentensor.prompts import (
    MAX_GRADIENT_CHARS,
    MAX_GRADIENTS,
    FeedbackRecord,
    TextTensor,
    as_prompts,
    as_tensor,
    prompts_to_json,
)

tensors = st.builds(
    TextTensor,
    text=st.text(),
    requires_grad=st.booleans(),
    metadata=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def test_the_text_may_be_given_first_and_is_what_a_tensor_prints() -> None:
    tensor = TextTensor("Be brief.")
    assert tensor == TextTensor(text="Be brief.")
    assert str(tensor) == f"{tensor}" == "Be brief."
    assert tensor.requires_grad


@given(tensors)
def test_the_json_form_reads_back_as_the_same_tensor(tensor: TextTensor) -> None:
    assert as_tensor(tensor.to_json(), field="prompts.a") == tensor
    assert prompts_to_json({"a": tensor}) == {"a": tensor.to_json()}


def test_feedback_is_collected_forgotten_and_never_stored() -> None:
    tensor = TextTensor("x")
    tensor.backward("say please")
    tensor.backward("and thanks")
    assert [str(one) for one in tensor.gradients] == ["say please", "and thanks"]
    assert "gradients" not in tensor.to_json()
    tensor.zero_grad()
    assert tensor.gradients == []


@pytest.mark.requirement("training.tensors")
def test_gradients_are_bounded_in_number_and_size() -> None:
    tensor = TextTensor("x")
    for number in range(MAX_GRADIENTS + 5):
        tensor.backward(f"{number}")
    assert [str(one) for one in tensor.gradients[:2]] == ["5", "6"]
    tensor.backward(FeedbackRecord(feedback="a" * 50_000 + "end", score=0.5))
    last = tensor.gradients[-1]
    assert len(tensor.gradients) == MAX_GRADIENTS
    assert len(str(last)) < MAX_GRADIENT_CHARS + 100
    assert "40,003 characters left out" in str(last)
    assert (str(last)[-3:], last.score) == ("end", 0.5)


def test_what_is_no_feedback_is_refused() -> None:
    with pytest.raises(BadInput, match="feedback"):
        TextTensor("x").backward(5)  # type: ignore[arg-type]


def test_gradients_are_no_part_of_equality() -> None:
    taught, bare = TextTensor("x"), TextTensor("x")
    taught.backward("say please")
    assert taught == bare
    assert taught != TextTensor("y")


def test_a_frozen_tensor_collects_no_feedback() -> None:
    tensor = TextTensor("x", requires_grad=False)
    tensor.backward("say please")
    assert tensor.gradients == []


def test_another_text_keeps_flags_and_metadata_but_no_feedback() -> None:
    tensor = TextTensor("x", requires_grad=True, metadata={"max_chars": 5})
    tensor.backward("say please")
    other = tensor.with_text("y")
    assert other == TextTensor(text="y", metadata={"max_chars": 5})
    other.metadata["max_chars"] = 6
    assert tensor.metadata == {"max_chars": 5}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (5, "prompts.a"),
        (None, "prompts.a"),
        (["x"], "prompts.a"),
        ({}, "prompts.a.text"),
        ({"text": 5}, "prompts.a.text"),
        ({"text": "x", "txt": "y"}, "prompts.a.txt"),
        ({"text": "x", "type": "Tensor"}, "prompts.a.type"),
    ],
)
def test_what_is_not_a_prompt_is_refused_at_its_path(value: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        as_prompts({"a": value})
    assert caught.value.field == field


def test_prompts_may_be_given_in_any_form() -> None:
    tensor = TextTensor("c", requires_grad=False)
    prompts = as_prompts({"a": "A", "b": {"text": "B"}, "c": tensor})
    assert prompts == {"a": TextTensor("A"), "b": TextTensor("B"), "c": tensor}
    assert as_prompts(None) == {}


def test_a_bad_change_of_a_tensor_is_refused() -> None:
    tensor = TextTensor("x")
    with pytest.raises(ValidationError):
        tensor.text = 5  # type: ignore[assignment]
