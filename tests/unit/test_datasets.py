"""Cases, datasets and what a job may say about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.datasets import Case, Dataset, DatasetSpec, as_dataset
from orcheo_agentensor.errors import DatasetError

CASES = [
    {"id": "a", "inputs": {"q": "1+1"}, "expected_output": {"n": 2}, "split": "train"},
    {"id": "b", "inputs": "free text", "metadata": {"language": "en"}, "split": "holdout"},
    {"id": "c", "inputs": [1, 2.5, None, True]},
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def refusal(*cases: object) -> str:
    with pytest.raises(DatasetError) as error:
        Dataset.from_cases(list(cases), id="d")  # type: ignore[arg-type]
    return error.value.message


def test_a_case_needs_nothing_but_inputs() -> None:
    case = Case(inputs="hi")
    assert (case.expected_output, case.metadata, case.split) == (None, {}, None)


def test_an_id_left_out_follows_from_the_content_alone() -> None:
    case = Case(inputs={"q": 1})
    assert case.id.startswith("case-")
    assert len(case.id) == len("case-") + 10
    assert Case(inputs={"q": 1.0}, split="train").id == case.id
    assert Case(inputs={"q": 2}).id != case.id


def test_a_number_is_taken_as_an_id() -> None:
    assert Case(id=17, inputs="x").id == "17"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({}, "d[0]: inputs: is missing"),
        (["x"], "d[0]: case: ['x'] must be an object with `inputs`"),
        ({"input": 1}, "d[0]: input: is not a field of a case; did you mean 'inputs'?"),
        ({"inputs": {"x": float("nan")}}, "d[0]: inputs.x: nan is not a finite number"),
        ({"inputs": 1, "id": " a"}, "d[0]: id: ' a' must be 1 to 200 printable characters"),
        ({"inputs": 1, "id": True}, "d[0]: id: True must be text"),
        ({"inputs": 1, "metadata": [1]}, "d[0]: metadata: [1] must be an object"),
        ({"inputs": 1, "split": 3}, "d[0]: split: 3 must be text"),
        ({"inputs": {1, 2}}, "d[0]: inputs: {1, 2} is not a JSON value"),
    ],
)
def test_a_broken_case_is_refused_by_field_value_and_rule(case: object, message: str) -> None:
    assert refusal(case).startswith(message)


def test_an_empty_dataset_is_refused() -> None:
    assert "holds no case" in refusal()


def test_a_duplicate_id_names_both_places() -> None:
    cases = [{"id": "x", "inputs": 1}, {"id": "y", "inputs": 1}, {"id": "x", "inputs": 2}]
    assert refusal(*cases) == "d[2]: id: 'x' is already the id of d[0]"


def test_the_version_is_of_the_content_in_order() -> None:
    dataset = Dataset.from_cases(CASES)
    assert len(dataset.version) == 64
    assert Dataset.from_cases(CASES, id="other", metadata={"a": 1}).version == dataset.version
    assert Dataset.from_cases(CASES[::-1]).version != dataset.version
    for field, value in [("id", "z"), ("inputs", 0), ("expected_output", 0), ("split", "s")]:
        changed = [{**CASES[0], field: value}, *CASES[1:]]
        assert Dataset.from_cases(changed).version != dataset.version


@given(st.lists(json_values, min_size=1, max_size=4))
def test_json_and_back_is_the_same_dataset(values: list[object]) -> None:
    cases = [{"id": str(n), "inputs": value} for n, value in enumerate(values)]
    dataset = Dataset.from_cases(cases, metadata={"languages": ["en"]})
    stored = json.loads(json.dumps(dataset.to_json()))
    again = Dataset.from_json(stored)
    assert again == dataset
    assert again.version == dataset.version


def test_stored_cases_that_do_not_hash_to_their_version_are_refused() -> None:
    stored = Dataset.from_cases(CASES).to_json()
    stored["cases"][0]["inputs"] = "tampered"
    with pytest.raises(DatasetError, match="its cases have changed"):
        Dataset.from_json(stored)


def test_a_split_keeps_its_cases_in_order() -> None:
    dataset = Dataset.from_cases(CASES)
    assert dataset.splits() == {"train": 1, "holdout": 1}
    assert [case.id for case in dataset.split(["holdout", "train"])] == ["a", "b"]
    assert dataset.split(None) is dataset
    assert len(dataset) == 3
    assert dataset["b"].inputs == "free text"


def test_an_unknown_split_is_refused_with_those_there() -> None:
    with pytest.raises(DatasetError, match=r"'test' is not in .* has: holdout \(1\), train \(1\)"):
        Dataset.from_cases(CASES).split("test")
    with pytest.raises(DatasetError, match="none of its cases has a split"):
        Dataset.from_cases(CASES[2:]).split("test")


def test_every_form_of_a_dataset_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps(CASES))
    dataset = Dataset.from_cases(CASES)
    forms = [dataset, CASES, list(dataset), file, {"cases": CASES}, DatasetSpec(cases=CASES)]
    assert {as_dataset(form).version for form in forms} == {dataset.version}
    for form in ("d.json", {"path": "d.json"}):
        assert as_dataset(form, base_dir=tmp_path).version == dataset.version
    with pytest.raises(DatasetError, match="must be a Dataset, a list of cases, a DataFrame"):
        as_dataset(3)  # type: ignore[arg-type]


def test_a_spec_makes_splits_then_filters_and_overrides_metadata() -> None:
    cases = [{"id": str(n), "inputs": n} for n in range(20)]
    spec = {
        "cases": cases,
        "splits": {"train": 0.5, "validation": 0.25, "holdout": 0.25, "seed": 3},
        "split": "validation",
        "metadata": {"languages": ["de"]},
    }
    dataset = as_dataset(spec)
    assert dataset.splits() == {"validation": 5}
    assert dataset.metadata == {"languages": ["de"]}


def test_a_spec_pins_the_version() -> None:
    with pytest.raises(DatasetError, match="its cases have changed"):
        as_dataset({"cases": CASES, "version": "0" * 64})
    version = Dataset.from_cases(CASES).version
    assert as_dataset({"cases": CASES, "version": version}).version == version


def test_a_spec_of_a_stored_dataset_is_applied_once_it_is_read() -> None:
    dataset = Dataset.from_cases(CASES, id="tickets")
    spec = DatasetSpec.parse({"id": "tickets", "version": dataset.version, "split": "train"})
    assert spec.is_stored
    assert [case.id for case in spec.apply(dataset)] == ["a"]
    with pytest.raises(DatasetError, match="side store"):
        spec.load()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "give path, cases, or id and version"),
        ({"path": "a", "cases": []}, "not both"),
        ({"pth": "a"}, "dataset.pth"),
        ({"path": "a", "splits": {"train": 2}}, "dataset.splits.train: 2"),
    ],
)
def test_a_broken_spec_is_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        DatasetSpec.parse(spec)
