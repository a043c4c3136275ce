"""Large JSONL files are read as needed, and are otherwise as any other."""

from __future__ import annotations

import base64
import gc
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import Limits, evaluate
from orcheo_agentensor.datasets import Case, Dataset, StreamedCases
from orcheo_agentensor.errors import DatasetError

SPLITS = ("train", "validation", "holdout", None)
ROWS: list[dict[str, Any]] = [
    {
        "id": f"c{n}",
        "inputs": {"q": f"café {n}", "n": n / 3},
        "expected_output": f"café {n}",
        "metadata": {"language": "en" if n % 3 else "fr"},
        "split": SPLITS[n % 4],
    }
    for n in range(600)
]
LINES = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.jsonl"
    path.write_text(LINES)
    return path


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large."""
    monkeypatch.setattr("orcheo_agentensor.datasets.streamed.STREAMED_FROM", 0)


@pytest.mark.requirement("dataset.version")
def test_a_streamed_dataset_is_the_same_dataset(
    file: Path, streaming: None, tmp_path: Path
) -> None:
    packed = tmp_path / "tickets.jsonl.gz"  # which is read whole
    packed.write_bytes(gzip.compress(file.read_bytes()))
    large, whole = Dataset.load(file), Dataset.load(packed)
    assert isinstance(large.cases, StreamedCases)
    assert isinstance(whole.cases, tuple)
    assert (large.id, large.version, len(large)) == (whole.id, whole.version, len(whole))
    assert [*large] == [*whole.cases]
    assert large.splits() == whole.splits()
    assert large["c7"] == whole["c7"]
    plan = {"train": 0.5, "holdout": 0.5}
    for change in (
        lambda one: one.split(["train", "holdout"]),
        lambda one: one.with_splits(plan, seed=3),
        lambda one: one.with_splits(plan, stratify="metadata.language").split("holdout"),
        lambda one: one.sample(50, seed=2).split("train"),
    ):
        mine, theirs = change(large), change(whole)
        assert isinstance(mine.cases, StreamedCases)
        assert mine.version == theirs.version
        assert [*mine] == [*theirs]
    assert [*large.cases_to_json()] == [*whole.cases_to_json()]


def test_an_evaluation_holds_few_cases_of_a_streamed_file(
    file: Path, streaming: None, tmp_path: Path
) -> None:
    most = 0

    def cases_in_memory() -> int:
        gc.collect()
        return sum(type(one) is Case and is_of_file(one) for one in gc.get_objects())

    def is_of_file(case: Case) -> bool:
        return isinstance(case.inputs, dict) and "café" in str(case.inputs.get("q"))

    before = cases_in_memory()

    def answer(inputs: dict[str, Any]) -> Any:
        nonlocal most
        if inputs["q"].endswith("99"):
            most = max(most, cases_in_memory())
        return inputs["q"]

    store = f"sqlite:///{tmp_path / 'a.db'}"
    report = evaluate(
        answer,
        dataset=str(file),
        evaluators=["exact_match"],
        store=store,
        limits=Limits(concurrency=1),  # more would read on while others count
    )
    assert report.objective == 1.0
    assert len(report.cases) == 600
    assert report.cases[599].inputs == {"q": "café 599", "n": 599 / 3}
    assert before < most < before + 400
    again = evaluate(
        lambda inputs: "no",
        dataset=str(file),
        evaluators=["exact_match"],
        store=store,
        run_id="again",
    )
    assert (again.objective, len(again.cases)) == (0.0, 600)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"inputs": NaN}', "tickets.jsonl:1201: is not JSON: NaN"),
        (b'{"inputs": 1, "x": 2}', "tickets.jsonl:1201: x: is not a field of a case"),
        (b'{"id": "c3", "inputs": 1}', "tickets.jsonl:1201: id: 'c3' is already the id of"),
        (b'{"inputs": "caf\xe9"}', "tickets.jsonl:1201: byte 16 of the line, 0xe9, is not UTF-8"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number(
    file: Path, streaming: None, line: bytes, told: str
) -> None:
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(DatasetError) as refused:
        Dataset.load(file)
    assert refused.value.message.startswith(told)


def test_a_file_that_changes_while_it_is_read_from_is_refused(file: Path, streaming: None) -> None:
    dataset = Dataset.load(file)
    changed = file.read_bytes().replace("café 500".encode(), "café 501".encode())
    with file.open("r+b") as written:
        written.write(changed)
    assert dataset["c499"].inputs["q"] == "café 499"
    with pytest.raises(DatasetError, match=r"tickets\.jsonl:1001: the file has changed"):
        dataset["c500"]


def test_a_file_with_media_is_read_whole_as_far_as_that_goes(
    file: Path, streaming: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(5_000)).decode()
    picture = {"type": "image", "base64": raw, "mime_type": "image/png"}
    message = {"role": "user", "content": [{"type": "text", "text": "Look."}, picture]}
    with file.open("a") as written:
        written.write(json.dumps({"inputs": {"messages": [message]}}))
    dataset = Dataset.load(file)
    assert isinstance(dataset.cases, tuple)
    assert len(dataset.media) == 1
    monkeypatch.setattr("orcheo_agentensor.datasets.files.MAX_FILE_BYTES", 1_000)
    with pytest.raises(DatasetError, match=r"tickets\.jsonl:1201: holds media, which"):
        Dataset.load(file)
