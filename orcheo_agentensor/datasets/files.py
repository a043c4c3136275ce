"""The bytes and the text of dataset files, and what to write where a file has another encoding."""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import zlib
from pathlib import Path
from typing import Literal, TypeAlias

from orcheo_agentensor.errors import DatasetError

Format: TypeAlias = Literal[
    "agentensor",
    "braintrust",
    "deepeval",
    "dspy",
    "inspect",
    "langfuse",
    "langsmith",
    "mlflow",
    "openai-evals",
    "phoenix",
    "promptfoo",
    "pydantic-evals",
    "ragas",
    "squad",
    "columns",
]
"""The forms of files of other tools; "columns" are tables with names of their own."""

MAX_FILE_BYTES = 512 * 1024 * 1024
"""Most bytes of a dataset file, unpacked."""

UTF8 = "utf-8-sig"
"""UTF-8, with or without the mark at its beginning."""

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LIKELY = "cp1252"
"""What western files that are not UTF-8 mostly are; latin-1 reads any byte, some as a wrong one."""
_MOST_LINES = 5


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, in lower case: that before `.gz`."""
    whole = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return whole.suffix.lower()


def content_of(path: Path) -> bytes:
    """The bytes of a regular file, unpacked where it ends in `.gz`.

    Raises `OSError`: a pipe would never end, and a device gives what it likes.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("is not a regular file")
        packed = path.suffix.lower() == ".gz"
        with gzip.GzipFile(fileobj=file) if packed else file as source:
            data: bytes = source.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"is larger than {MAX_FILE_BYTES:,} bytes")
    return data


def read_text(path: Path, *, encoding: str | None = None) -> str:
    """The text of a file, unpacked where it ends in `.gz`; raises `DatasetError`; blocking."""
    try:
        data = content_of(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            f"{path}: cannot be read ({reason})",
            field="path",
            value=str(path),
            rule="must be a readable file",
        ) from None
    try:
        return data.decode(encoding or UTF8)
    except UnicodeDecodeError as error:
        raise not_in_encoding(data, error, path.name, encoding) from None
    except (LookupError, ValueError):  # Python has some that no file is written in: undefined, idna
        raise DatasetError(
            field="encoding", value=encoding, rule="must be an encoding, such as utf-8 or cp1252"
        ) from None


def not_in_encoding(
    data: bytes, error: UnicodeDecodeError, name: str, encoding: str | None, *, above: int = 0
) -> DatasetError:
    """The error of a file with bytes that its encoding does not have: where, and what to write.

    `above` counts the lines that stand above the data.
    """
    shown = "UTF-8" if encoding in (None, UTF8) else str(encoding)
    rule = f"must be {shown}"
    wide = next((kind for mark, kind in _MARKS.items() if data.startswith(mark)), None)
    if wide is None and data[:1_000].count(0) > len(data[:1_000]) // 4:
        wide = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    if wide is not None and shown == "UTF-8":
        told = f"{name}:1: is {wide.upper()} and not UTF-8: {_write(wide)}"
        return DatasetError(told, field="encoding", rule=rule)
    line = data.count(b"\n", 0, error.start) + 1 + above
    begin = data.rfind(b"\n", 0, error.start) + 1
    found = data[error.start]
    where = f"{name}:{line}: byte {error.start - begin + 1} of the line, 0x{found:02x}, is not"
    around = data[max(begin, error.start - 20) : error.start + 20].partition(b"\n")[0]
    there = around.decode(_LIKELY, "replace")
    if shown != "UTF-8":
        told = f"{where} {shown} (near {there!r}): give the encoding that the file was written in"
        return DatasetError(told, field="encoding", rule=rule)
    good, bad = _lines_by_encoding(data)
    if good:
        lines = ", ".join([*map(str, bad[:_MOST_LINES]), *(["…"] if bad[_MOST_LINES:] else [])])
        todo = (
            f"The file mixes encodings, for UTF-8 stands on other lines ({good}): save in UTF-8 "
            f"what stands in another encoding, probably {_LIKELY}, on these lines: {lines}"
        )
    else:
        todo = f"If the whole file is in another encoding, {_write(_LIKELY)}"
    return DatasetError(
        f"{where} UTF-8 ({there!r} in {_LIKELY}). {todo}", field="encoding", rule=rule
    )


def _write(encoding: str) -> str:
    return (
        f"write `encoding: {encoding}` beside its path, or give --encoding {encoding} to "
        "`agentensor dataset convert`"
    )


def _lines_by_encoding(data: bytes) -> tuple[int, list[int]]:
    """How many lines hold more than ASCII in UTF-8, and the numbers of those that are not UTF-8."""
    good, bad = 0, []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.isascii():
            continue
        try:
            line.decode()
        except UnicodeDecodeError:
            bad.append(number)
        else:
            good += 1
    return good, bad
