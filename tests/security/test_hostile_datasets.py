"""Dataset files that would hang or fill the process: refused, or read in time linear in them."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from orcheo_agentensor import Dataset
from orcheo_agentensor.errors import DatasetError

ProcessorTime = Callable[[], AbstractContextManager[list[float]]]


def keys(n: int, *, twice: bool = False) -> str:
    inner = ", ".join(f'"k{i}": {i}' for i in range(n)) + (f', "k{n - 1}": 0' if twice else "")
    return f'{{"inputs": {{{inner}}}}}'


def columns(n: int) -> str:
    head = ",".join(f"inputs.c{i}" for i in range(n))
    return f"{head}\n{','.join('1' * n)}\n"


BOMBS = {
    "json keys": ("a.json", lambda n: f"[{keys(n)}]"),
    "json keys, one twice": ("a.json", lambda n: f"[{keys(n, twice=True)}]"),
    "jsonl keys, one twice": ("a.jsonl", lambda n: keys(n, twice=True)),
    "yaml keys": ("a.yaml", lambda n: f"- {keys(n)}"),
    "csv columns": ("a.csv", columns),
    "csv columns, one twice": ("a.csv", lambda n: f"inputs.c0,{columns(n)}"),
    "json cases": ("a.json", lambda n: json.dumps([{"inputs": i} for i in range(n)])),
    "json top-level keys": ("a.json", lambda n: json.dumps({f"k{i}": 1 for i in range(n)})),
    "unknown fields": (
        "a.jsonl",
        lambda n: json.dumps({"inputs": 1} | {f"k{i}": 1 for i in range(n)}),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_the_time_to_read_a_file_is_linear_in_its_size(
    name: str, tmp_path: Path, processor_time: ProcessorTime
) -> None:
    file, content = BOMBS[name]
    spent = []
    for size in (5_000, 40_000):
        (tmp_path / file).write_text(content(size))
        with processor_time() as seconds, contextlib.suppress(DatasetError):
            Dataset.load(tmp_path / file)
        spent += seconds
    assert spent[1] < 24 * spent[0] + 0.5  # 8 times the size: a quadratic reader takes 64 times


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json", ".yaml", ".jsonl.gz"])
def test_neither_a_pipe_nor_a_device_is_read(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"folder{suffix}").mkdir()
    for kind in ("pipe", "device", "folder", "missing"):
        with pytest.raises(DatasetError, match="cannot be read") as caught:
            Dataset.load(tmp_path / f"{kind}{suffix}")
        assert caught.value.field == "path"


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_larger_than_the_bound_is_refused_before_it_is_unpacked_whole(
    packed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processor_time: ProcessorTime,
) -> None:
    monkeypatch.setattr("orcheo_agentensor.datasets.files.MAX_FILE_BYTES", 1_000_000)
    file = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    content = b'{"inputs": "' + b"a" * 50_000_000 + b'"}'
    file.write_bytes(gzip.compress(content) if packed else content)
    with (
        processor_time() as seconds,
        pytest.raises(DatasetError, match="larger than 1,000,000 bytes"),
    ):
        Dataset.load(file)
    assert seconds[0] < 0.5
