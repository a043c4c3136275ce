"""Dataset files: every format, and errors that name the line."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orcheo_agentensor.datasets import Case, Dataset, DatasetSpec
from orcheo_agentensor.errors import DatasetError

CASES = [
    {"id": "a", "inputs": {"q": "1+1"}, "expected_output": {"n": 2}, "split": "train"},
    {"id": "b", "inputs": "no", "metadata": {"language": "en", "since": "2024-01-31"}},
    {"inputs": [1, 2.5, 1e300, None, True, "12:30"]},
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab: #-"), inner),
    max_leaves=8,
)


def write(directory: Path, name: str, content: str | bytes) -> Path:
    file = directory / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refusal(file: Path) -> str:
    with pytest.raises(DatasetError) as error:
        Dataset.load(file)
    return error.value.message


@pytest.mark.requirement("dataset.version")
def test_the_same_content_has_one_version_in_every_format(tmp_path: Path) -> None:
    document = {"id": "tickets", "metadata": {"languages": ["en"]}, "cases": CASES}
    files = [
        write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, CASES))),
        write(tmp_path, "b.json", json.dumps(CASES)),
        write(tmp_path, "c.json", json.dumps(document, indent=2)),
        write(tmp_path, "d.yaml", yaml.safe_dump(CASES)),
        write(tmp_path, "e.yml", yaml.safe_dump(document)),
    ]
    datasets = [Dataset.load(file) for file in files]
    assert len({dataset.version for dataset in datasets}) == 1
    assert [dataset.id for dataset in datasets] == ["a", "b", "tickets", "d", "tickets"]
    assert datasets[4].metadata == {"languages": ["en"]}
    assert Dataset.load(files[4], id="mine").id == "mine"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(value=json_values)
def test_yaml_as_others_write_it_is_read_as_json(tmp_path: Path, value: object) -> None:
    text = yaml.safe_dump([{"id": "a", "inputs": value}], allow_unicode=True)
    file = write(tmp_path, "d.yaml", text)
    assert Dataset.load(file).cases[0].inputs == value


def test_plain_yaml_scalars_follow_json_not_yaml_1_1(tmp_path: Path) -> None:
    file = write(
        tmp_path, "d.yaml", "- inputs: {a: no, b: 12:30, c: 2024-01-31, d: 010, e: true, f: }\n"
    )
    assert Dataset.load(file).cases[0].inputs == {
        "a": "no", "b": "12:30", "c": "2024-01-31", "d": "010", "e": True, "f": None,
    }  # fmt: skip


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    file = write(tmp_path, "d.jsonl", '\ufeff{"inputs": 1}\r\n\n  \n{"inputs": "\u2028"}\n')
    assert [case.inputs for case in Dataset.load(file)] == [1, "\u2028"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"inputs": 1}\n\n{"inputs": NaN}', "t.jsonl:3: is not JSON: NaN is not a"),
        ("t.jsonl", '{"inputs": 1e999}', "t.jsonl:1: inputs: inf is not a finite number"),
        ("t.jsonl", '{"inputs": 1}\n{"inputs": ', "t.jsonl:2: is not JSON: Expecting value"),
        ("t.jsonl", '{"inputs": 1}\n[]', "t.jsonl:2: case: [] must be an object"),
        ("t.jsonl", '{"inputs": 1, "inputs": 2}', "t.jsonl:1: is not JSON: the key 'inputs' is"),
        ("t.jsonl", "[" * 100_000, "t.jsonl:1: is not JSON: nested too deeply"),
        ("t.jsonl", "\n\n", "t.jsonl: holds no case"),
        ("t.jsonl", b'{"inputs": 1}\n{"inputs": "\xe9"}', "t.jsonl:2: byte 13 of the line, 0xe9,"),
        (
            "t.jsonl",
            '{"id": "a", "inputs": 1}\n\n{"id": "a", "inputs": 2}',
            "t.jsonl:3: id: 'a' is already the id of t.jsonl:1",
        ),
        ("t.json", '[{"inputs": 1},\n {"inputs": 1, "x": 2}]', "t.json:2: x: is not a field"),
        (
            "t.json",
            '{"metadata": {"cases": [1]},\n "cases": [\n{"inputs": 1},\n{"inputs": [1e999]}]}',
            "t.json:4: inputs.0: inf is not",
        ),
        ("t.json", '{"metadata": {},\n "cases": [],}', "t.json:2: is not JSON"),
        ("t.json", '{"cases": [], "name": 1}', "t.json: name: is not a field of a dataset file"),
        ("t.json", "3", "t.json: must be a list of cases"),
        ("t.json", "[" * 100_000, "t.json: is not JSON: nested too deeply"),
        ("t.yaml", "- inputs: 1\n- inputs: {a: .nan}", "t.yaml:2: .nan is not a finite number"),
        ("t.yaml", "- inputs: &a [1]\n- inputs: *a", "t.yaml:2: an alias (*) is not supported"),
        ("t.yaml", "- inputs: 1\n- inputs: !!python/name:os.system ''", "t.yaml:2: the tag"),
        ("t.yaml", "- inputs: 1\n  inputs: 2", "t.yaml:2: the key 'inputs' is given twice"),
        ("t.yaml", "- inputs: 1\n- inputs: [", "t.yaml:3: is not YAML"),
        ("t.yaml", "- inputs: 1\n---\n- inputs: 2", "t.yaml:2: a second document"),
        ("t.yaml", "cases:\n- inputs: 1\n- input: 2", "t.yaml:3: input: is not a field"),
        ("t.yaml", "[" * 100_000, "t.yaml:1: nested too deeply"),
        ("t.yaml", "", "t.yaml: holds no case"),
        ("t.csv", "id,question\n1,x", "t.csv:1: column 2, 'question', is not a column"),
        ("t.csv", "inputs,inputs.x\n1,x", "t.csv:1: column 2, 'inputs.x', is given twice"),
        ("t.csv", "id,inputs\n1,x\n2,y,z", "t.csv:3: 3 cells under 2 columns"),
        ("t.csv", 'id,inputs\n1,"x\ny"\n1,z', "t.csv:4: id: '1' is already the id of t.csv:2"),
        ("t.csv", "id,inputs\n1,", "t.csv:2: inputs: is missing"),
        ("t.csv", 'inputs\n"x', "t.csv:2: is not CSV"),
        ("t.txt", "x", "t.txt: a dataset file ends in .jsonl, .ndjson, .json, .yaml"),
    ],
)
def test_a_broken_file_is_refused_at_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    assert refusal(write(tmp_path, name, content)).startswith(message)


TEXTS = {
    "t.csv": ("inputs.q,expected_output\ncafé,ok\n", "t.csv:2: byte 4"),
    "t.tsv": ("inputs.q\texpected_output\ncafé\tok\n", "t.tsv:2: byte 4"),
    "t.jsonl": ('{"inputs": {"q": "café"}, "expected_output": "ok"}\n', "t.jsonl:1: byte 22"),
    "t.yaml": ("- inputs: {q: café}\n  expected_output: ok\n", "t.yaml:1: byte 18"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_another_encoding_is_told_by_its_place_and_what_to_write(
    tmp_path: Path, name: str, packed: bool
) -> None:
    text, place = TEXTS[name]
    name, place = (f"{name}.gz", place.replace(":", ".gz:", 1)) if packed else (name, place)

    def written(content: bytes) -> Path:
        return write(tmp_path, name, gzip.compress(content) if packed else content)

    [case] = Dataset.load(written(text.encode()))
    for encoding in ("cp1252", "utf-16"):
        told = refusal(written(text.encode(encoding)))
        assert f"write `encoding: {encoding}` beside its path" in told
        spec = DatasetSpec(path=name, encoding=encoding)
        assert [*spec.load(base_dir=tmp_path)] == [case]
    told = refusal(written(text.encode("cp1252")))
    assert told.startswith(f"{place} of the line, 0xe9, is not UTF-8")
    told = refusal(written(text.encode("cp1252") + text.encode()))
    number = place.partition(":")[2].partition(":")[0]
    assert told.endswith(f"in another encoding, probably cp1252, on these lines: {number}")


@pytest.mark.parametrize(
    ("name", "content", "told", "columns"),
    [
        (
            "t.csv",
            "Question,Answer,Topic\nq,a,sky\n",
            "t.csv:1: column 1, 'Question', is not a column of a dataset (metadata.Question keeps",
            {"inputs.Question": "Question", "expected_output": "Answer"},
        ),
        (
            "t.tsv",
            "id\tinputs.q\tGold answer\na\tq\ta\n",
            "t.tsv:1: column 3, 'Gold answer', is not a column",
            {"id": "id", "inputs.q": "inputs.q"},
        ),
        (
            "t.jsonl",
            '{"inputs": "q"}\n{"inputs": "q", "topic": "sky"}\n',
            "t.jsonl:2: topic: is not a field of a case",
            {"inputs": "inputs"},
        ),
        (
            "t.yaml",
            "- inputs: q\n- {inputs: p, topic: sky}\n",
            "t.yaml:2: topic: is not a field of a case",
            {"inputs": "inputs"},
        ),
    ],
)
def test_an_unknown_column_is_told_with_the_columns_to_write(
    tmp_path: Path, name: str, content: str, told: str, columns: dict[str, str]
) -> None:
    file = write(tmp_path, name, content)
    said = refusal(file)
    assert said.startswith(told)
    written = "columns: {" + said.partition("`columns: {")[2].partition("}")[0] + "}"
    assert yaml.safe_load(written) == {"columns": columns}
    last = Dataset.load(file, columns=columns).cases[-1]
    assert last.metadata["Gold answer" if "Gold" in content else
                         "Topic" if "Topic" in content else "topic"]  # fmt: skip


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    assert "none.json: cannot be read (No such file" in refusal(tmp_path / "none.json")


def test_csv_columns_become_fields_and_cells_stay_text(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "t.csv",
        "\ufeffid,split,inputs.question,inputs.user.age,expected_output.n,metadata.lang\n"
        '7,train,"1, 2\nand 3?",40,6,en\n'
        "\n"
        "8,,x,,,\n",
    )
    first, second = Dataset.load(file)
    assert first.to_json() == {
        "id": "7",
        "split": "train",
        "inputs": {"question": "1, 2\nand 3?", "user": {"age": "40"}},
        "expected_output": {"n": "6"},
        "metadata": {"lang": "en"},
    }
    assert (second.inputs, second.expected_output, second.split) == ({"question": "x"}, None, None)


def test_a_whole_csv_cell_that_is_a_json_object_or_list_is_read_as_one(tmp_path: Path) -> None:
    file = write(tmp_path, "t.csv", 'input,expected_output\n"{""n"": 1}",42\n{name} wrote,[1]\n')
    first, second = Dataset.load(file)
    assert (first.inputs, first.expected_output) == ({"n": 1}, "42")
    assert (second.inputs, second.expected_output) == ("{name} wrote", [1])


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    for suffix in ("jsonl", "json", "yaml", "csv"):
        with suppress(DatasetError):
            assert len(Dataset.load(write(tmp_path, f"t.{suffix}", content))) > 0


ODD_LINES = [
    '{"id": "a", "inputs": {"q": "x, y: z", "n": 1.5, "m": [1, 2.0, -3], "b": true, "c": null}}',
    '{"id":"a","inputs":"tight","metadata":{"k":"v"},"split":"train","expected_output":{"a":[]}}',
    '{ "id" : "a" , "inputs" : 1e5 }',
    '{"id": 7, "inputs": 9223372036854775807}',
    '{"inputs": "without an id"}',
    '{"id": "a", "inputs": "an \\u00fc escaped, and ü as it is"}',
    '  {"id": "a", "inputs": [[[]]]}  ',
]


@pytest.mark.parametrize("line", ODD_LINES)
def test_a_line_is_the_same_case_however_it_is_read(line: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(line, encoding="utf-8")
    (case,) = Dataset.load(file).cases
    assert case == Case.model_validate(json.loads(line))
    assert case.content_hash == Case.model_validate(json.loads(line)).content_hash
    assert case.model_copy(update={"split": "holdout"}).split == "holdout"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"inputs": {"a": 1, "a": 2}}', "the key 'a' is given twice"),
        ('{"inputs": 9223372036854775808}', "is an integer beyond 64 bits"),
        ('{"inputs": 12345678901234567890}', "is an integer beyond 64 bits"),
        ('{"inputs": NaN}', "NaN is not a finite number"),
        ('{"inputs": ' + "[" * 40 + "]" * 40 + "}", "is nested deeper than 32 levels"),
        ('{"inputs": "a\\u0000b"}', "holds a NUL character"),
        ('{"input": "a"}', "is not a field of a case; did you mean 'inputs'"),
        ('{"inputs": 1, "metadata": [1]}', "metadata: .* must be an object"),
        ('{"inputs": 1, "split": " a"}', "split: .* must be 1 to 64 printable characters"),
    ],
)
def test_a_short_line_that_breaks_a_rule_is_refused_with_its_place(
    line: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=f"^a.jsonl:2: .*{message}"):
        Dataset.load(file)
