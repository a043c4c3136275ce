"""Files and objects of other tools as datasets: what each field becomes, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import yaml
from langchain_core.messages import HumanMessage, messages_to_dict
from langsmith.schemas import Example

from orcheo_agentensor import Dataset, evaluate
from orcheo_agentensor.datasets.formats import read_foreign
from orcheo_agentensor.errors import DatasetError

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Sky",
            "paragraphs": [
                {
                    "context": "It is blue.",
                    "qas": [
                        {"id": "s1", "question": "Colour?", "answers": [{"text": "blue"}]},
                        {"id": "s2", "question": "Taste?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}

# (form, name of the file, its records or document, the first case)
FILES: list[tuple[str, str, Any, dict[str, Any]]] = [
    (
        "langsmith",
        "export.jsonl",
        [
            {
                "id": "l1",
                "dataset_id": "d",
                "inputs": {"question": "q"},
                "outputs": {"answer": "a"},
                "metadata": {"dataset_split": ["test"], "lang": "en"},
                "created_at": "2025-01-01T00:00:00Z",
            }
        ],
        {
            "id": "l1",
            "inputs": {"question": "q"},
            "expected_output": {"answer": "a"},
            "metadata": {"lang": "en"},
            "split": "holdout",
        },
    ),
    (
        "promptfoo",
        "promptfooconfig.yaml",
        {
            "description": "greetings",
            "prompts": ["Hello {{name}}"],
            "providers": ["openai:gpt-5-mini"],
            "defaultTest": {"vars": {"lang": "en"}, "assert": [{"type": "is-json"}]},
            "tests": [
                {"vars": {"name": "Bob"}, "assert": [{"type": "equals", "value": "Hello Bob"}]}
            ],
        },
        {
            "inputs": {"lang": "en", "name": "Bob"},
            "expected_output": "Hello Bob",
            "metadata": {"assert": [{"type": "is-json"}, {"type": "equals", "value": "Hello Bob"}]},
        },
    ),
    (
        "promptfoo",
        "tests.csv",
        "name,__expected,__description\nBob,contains: Bob,greets\n",
        {
            "inputs": {"name": "Bob"},
            "metadata": {
                "assert": [{"type": "contains", "value": "Bob"}],
                "description": "greets",
            },
        },
    ),
    (
        "pydantic-evals",
        "sums.yaml",
        {
            "name": "sums",
            "cases": [
                {"name": "two", "inputs": "1+1", "expected_output": "2", "metadata": {"k": 1}}
            ],
            "evaluators": ["EqualsExpected"],
        },
        {"id": "two", "inputs": "1+1", "expected_output": "2", "metadata": {"k": 1}},
    ),
    (
        "openai-evals",
        "samples.jsonl",
        [{"input": [{"role": "user", "content": "q"}], "ideal": ["11"]}],
        {"inputs": {"messages": [{"role": "user", "content": "q"}]}, "expected_output": "11"},
    ),
    (
        "openai-evals",
        "items.jsonl",
        [{"item": {"ticket": "no ink", "label": "printer"}}],
        {"inputs": {"ticket": "no ink"}, "expected_output": "printer"},
    ),
    (
        "deepeval",
        "goldens.json",
        [
            {
                "input": "q",
                "actual_output": None,
                "expected_output": "a",
                "retrieval_context": ["r"],
                "additional_metadata": {"lang": "en"},
            }
        ],
        {
            "inputs": "q",
            "expected_output": "a",
            "metadata": {"retrieval_context": ["r"], "lang": "en"},
        },
    ),
    (
        "braintrust",
        "rows.jsonl",
        [{"input": {"q": 1}, "expected": "a", "metadata": {"x": 1}, "tags": ["t"]}],
        {"inputs": {"q": 1}, "expected_output": "a", "metadata": {"x": 1, "tags": ["t"]}},
    ),
    (
        "inspect",
        "samples.jsonl",
        [{"id": 7, "input": "q", "target": "B", "choices": ["x", "y"]}],
        {"id": "7", "inputs": {"input": "q", "choices": ["x", "y"]}, "expected_output": "B"},
    ),
    (
        "phoenix",
        "examples.jsonl",
        [{"example_id": "p1", "input": {"q": "?"}, "output": {"a": "!"}, "metadata": {"m": 1}}],
        {
            "id": "p1",
            "inputs": {"q": "?"},
            "expected_output": {"a": "!"},
            "metadata": {"m": 1},
        },
    ),
    (
        "langfuse",
        "items.json",
        [
            {
                "id": "f1",
                "datasetId": "d",
                "status": "ACTIVE",
                "input": {"q": "?"},
                "expectedOutput": {"a": "!"},
                "metadata": None,
            }
        ],
        {"id": "f1", "inputs": {"q": "?"}, "expected_output": {"a": "!"}},
    ),
    (
        "mlflow",
        "evaluation.json",
        [
            {
                "inputs": {"question": "q"},
                "expectations": {"expected_response": "a"},
                "tags": {"t": "1"},
            }
        ],
        {
            "inputs": {"question": "q"},
            "expected_output": {"expected_response": "a"},
            "metadata": {"tags": {"t": "1"}},
        },
    ),
    (
        "ragas",
        "testset.jsonl",
        [{"user_input": "q", "retrieved_contexts": ["c"], "response": "r", "reference": "a"}],
        {
            "inputs": "q",
            "expected_output": "a",
            "metadata": {"retrieved_contexts": ["c"], "response": "r"},
        },
    ),
    (
        "dspy",
        "trainset.json",
        [{"question": "q", "answer": "a", "dspy_uuid": "u1", "dspy_split": "dev"}],
        {
            "id": "u1",
            "inputs": {"question": "q"},
            "expected_output": {"answer": "a"},
            "split": "validation",
        },
    ),
    (
        "squad",
        "train-v1.1.json",
        SQUAD,
        {
            "id": "s1",
            "inputs": {"context": "It is blue.", "question": "Colour?"},
            "expected_output": "blue",
            "metadata": {"title": "Sky", "answers": ["blue"]},
        },
    ),
    (
        "squad",
        "rows.jsonl",
        [{"id": "h", "context": "c", "question": "q", "answers": {"text": ["a", "b"]}}],
        {
            "id": "h",
            "inputs": {"context": "c", "question": "q"},
            "expected_output": "a",
            "metadata": {"answers": ["a", "b"]},
        },
    ),
    (
        "columns",
        "table.tsv",
        "Question\tAnswer\tTopic\nq\ta\tsky\n",
        {"inputs": {"Question": "q"}, "expected_output": "a", "metadata": {"Topic": "sky"}},
    ),
]


def write(folder: Path, name: str, content: Any) -> Path:
    file = folder / name
    if not isinstance(content, str):
        if file.suffix == ".jsonl":
            content = "\n".join(map(json.dumps, content))
        else:
            content = yaml.safe_dump(content) if file.suffix == ".yaml" else json.dumps(content)
    file.write_text(content)
    return file


@pytest.mark.parametrize(("form", "name", "content", "expected"), FILES)
def test_a_file_of_another_tool_is_told_by_its_fields_and_keeps_its_values(
    tmp_path: Path, form: str, name: str, content: Any, expected: dict[str, Any]
) -> None:
    file = write(tmp_path, name, content)
    found = read_foreign(file)
    assert found.form == form
    assert found.cases[0][1] == expected
    loaded = Dataset.load(file, format="auto")
    case = loaded.cases[0].to_json()
    assert {key: case[key] for key in expected} == expected


@pytest.mark.parametrize(("form", "name", "content", "expected"), FILES)
def test_without_a_format_such_a_file_is_refused_by_the_name_of_its_tool(
    tmp_path: Path, form: str, name: str, content: Any, expected: dict[str, Any]
) -> None:
    with pytest.raises(DatasetError) as refused:
        Dataset.load(write(tmp_path, name, content))
    told = "`columns: {inputs." if form == "columns" else f"`format: {form}`"
    assert told in refused.value.message
    assert f"agentensor dataset convert {name}" in refused.value.message


def test_columns_say_where_each_field_comes_from_and_the_rest_is_metadata(tmp_path: Path) -> None:
    file = write(tmp_path, "t.csv", "Nr;Frage;Antwort;Thema\n1;was?;das;a\n2;wer?;sie;b\n")
    columns = {"id": "Nr", "inputs.question": "Frage", "expected_output.text": "Antwort"}
    dataset = Dataset.load(file, columns=columns)
    assert [case.to_json() for case in dataset][1] == {
        "id": "2",
        "inputs": {"question": "wer?"},
        "expected_output": {"text": "sie"},
        "metadata": {"Thema": "b"},
        "split": None,
    }
    report = evaluate(
        lambda inputs: {"text": "das"},
        dataset={"path": str(file), "columns": columns},
        evaluators=["exact_match"],
    )
    assert report.scores["exact_match"].mean == 0.5


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"inputs.q": "Fragen"}, "no column 'Fragen'; there are: Frage"),
        ({"input": "Frage"}, "'input' is no field of a case"),
        ({"id.x": "Frage"}, "'id.x' is no field of a case"),
        ({"expected_output": "Frage"}, "none of the columns of `inputs`"),
    ],
)
def test_columns_that_cannot_be_are_refused_by_name(
    tmp_path: Path, columns: dict[str, str], told: str
) -> None:
    file = write(tmp_path, "t.csv", "Frage\nwas?\n")
    with pytest.raises(DatasetError, match=r"columns|inputs|field") as refused:
        Dataset.load(file, columns=columns)
    assert told in refused.value.message


def test_a_table_without_a_telling_name_asks_for_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"--column inputs\.question=Question"):
        read_foreign(write(tmp_path, "t.csv", "a,b\n1,2\n"))


def test_a_record_that_lacks_what_its_form_has_is_refused_at_its_line(tmp_path: Path) -> None:
    rows = [{"user_input": "q", "reference": "a"}, {"question": "q2", "reference": "b"}]
    with pytest.raises(DatasetError, match=r"t\.jsonl:2: has no 'user_input', which ragas has"):
        read_foreign(write(tmp_path, "t.jsonl", rows))


def test_cells_are_text_unless_typed_and_lists_and_objects_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, "t.csv", 'question,answer,tags\n007,1,"[""x""]"\n')
    (_, plain), (_, typed) = (read_foreign(file, typed=typed).cases[0] for typed in (False, True))
    assert plain["inputs"] == {"question": "007"}
    assert (plain["expected_output"], typed["expected_output"]) == ("1", 1)
    assert plain["metadata"] == {"tags": ["x"]}


def test_packed_files_folders_and_other_encodings_are_read(tmp_path: Path) -> None:
    lines = b'{"inputs": "a"}\n{"inputs": "b"}\n'
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "t.ndjson").write_bytes(lines)
    packed, plain = Dataset.load(tmp_path / "t.jsonl.gz"), Dataset.load(tmp_path / "t.ndjson")
    assert (packed.id, packed.version) == ("t", plain.version)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear all")
    (tmp_path / "letters" / "two.yaml").write_text("inputs: Hi\nexpected_output: short\n")
    assert [
        (case.id, case.inputs) for case in Dataset.load(tmp_path / "letters", format="auto")
    ] == [
        ("one", "Dear all"),
        ("two", "Hi"),
    ]
    latin = tmp_path / "t.csv"
    latin.write_bytes("question\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="--encoding cp1252"):
        Dataset.load(latin)
    assert read_foreign(latin, encoding="latin-1").cases[0][1]["inputs"] == {"question": "café"}


def test_messages_of_langchain_become_role_and_content(tmp_path: Path) -> None:
    stored = messages_to_dict([HumanMessage("hi")])
    rows = [{"inputs": {"messages": stored}, "outputs": {"answer": "hello"}}]
    found = read_foreign(write(tmp_path, "t.jsonl", rows))
    assert found.cases[0][1]["inputs"] == {"messages": [{"role": "user", "content": "hi"}]}


def test_live_datasets_of_other_packages_are_taken_as_they_are() -> None:
    frame = pandas.DataFrame({"question": ["1", "2"], "answer": ["1", None], "n": [1, 2]})
    examples = [
        Example(
            id="3fa85f64-5717-4562-b3fc-2c963f66afa0",
            inputs={"question": "1"},
            outputs={"answer": "1"},
        )
    ]
    pydantic = SimpleNamespace(
        name="sums",
        evaluators=[],
        cases=[SimpleNamespace(name="a", inputs="1", expected_output="1", metadata=None)],
    )
    for dataset, wanted in (
        (frame, [({"question": "1"}, "1"), ({"question": "2"}, None)]),
        (examples, [({"question": "1"}, {"answer": "1"})]),
        (pydantic, [("1", "1")]),
    ):
        seen: list[Any] = []
        report = evaluate(
            lambda inputs, seen=seen: seen.append(inputs) or inputs,
            dataset=dataset,
            evaluators=["exact_match"],
        )
        found = [(case.inputs, case.expected_output) for case in report.cases]
        assert found == wanted
        assert len(seen) == len(wanted)
