"""Dataset files, read case by case with the line on which each stands.

JSONL holds one case per line. JSON and YAML hold a list of cases, or `{id, metadata, cases}`. CSV
has the columns `id`, `split`, `inputs` (or `input`), `expected_output`, `metadata`, and dotted ones
such as `inputs.question` or `metadata.language`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orcheo_agentensor.datasets.case import Case, parse_case
from orcheo_agentensor.errors import DatasetError
from orcheo_agentensor.json_values import MAX_DEPTH

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def json_case_lines(text: str) -> Iterator[int]:
    """The line on which each case of a valid JSON dataset file begins."""
    at = _skip(text, 0)
    if text[at] == "{":
        at = _skip(text, at + 1)
        while True:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
            if key == "cases":
                break
            _, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
    line, counted = 1, 0
    at = _skip(text, at + 1)
    while text[at] != "]":
        line += text.count("\n", counted, at)
        counted = at
        yield line
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)


def read_yaml(text: str, name: str) -> tuple[Any, list[int]]:
    """A YAML document as JSON values, and the line on which each of its cases begins.

    Plain scalars are read by the rules of JSON: `no`, `007`, `12:30` and `2024-01-31` are text.
    Tags and aliases are refused, so a small file cannot unfold into a huge one.
    """
    reader = _YamlReader(text, name)
    try:
        return reader.document(), reader.case_lines
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        if "nesting depth" in reason:  # libyaml's own bound, looking ahead of what is read here
            raise DatasetError(
                f"{name}{line}: nested too deeply", rule="nested too deeply"
            ) from None
        raise DatasetError(f"{name}{line}: is not YAML: {reason}", rule="must be YAML") from None


class _YamlReader:
    """Builds JSON values from parser events, to a bounded depth."""

    def __init__(self, text: str, name: str) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.events = iter(yaml.parse(text, Loader=loader))
        self.name = name
        self.case_lines: list[int] = []

    def document(self) -> Any:
        next(self.events)  # the stream begins
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return []
        first = next(self.events)
        value = self.value(first, 0, is_cases=True)
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.error(event, "a second document is not supported")
        return value

    def value(self, event: Any, depth: int, *, is_cases: bool = False) -> Any:
        """The value that begins at `event`; `is_cases` for what may be the list of cases."""
        if isinstance(event, yaml.AliasEvent):
            raise self.error(event, "an alias (*) is not supported")
        if event.tag not in (None, "!"):
            raise self.error(event, f"the tag {event.tag} is not supported")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if depth > MAX_DEPTH + 3:  # the file's own levels: document, cases, case
            raise self.error(event, "nested too deeply")
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(depth, is_cases=is_cases)
        return self.mapping(depth)

    def sequence(self, depth: int, *, is_cases: bool) -> list[Any]:
        found = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            if is_cases:
                self.case_lines.append(_line(event))
            found.append(self.value(event, depth + 1))
        return found

    def mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.error(event, "a key must be text")
            if event.value in found:
                raise self.error(event, f"the key {event.value!r} is given twice")
            is_cases = depth == 0 and event.value == "cases"
            found[event.value] = self.value(next(self.events), depth + 1, is_cases=is_cases)
        return found

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style or event.tag:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.fullmatch(text):
            if len(text) > 20:
                raise self.error(event, f"{text[:20]}… is an integer beyond 64 bits")
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _NOT_FINITE.fullmatch(text):
            raise self.error(event, f"{text} is not a finite number")
        return text

    def error(self, event: Any, rule: str) -> DatasetError:
        return DatasetError(f"{self.name}:{_line(event)}: {rule}", rule=rule)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


FILE_FIELDS = ("id", "metadata", "cases")


@dataclass(frozen=True)
class FileContent:
    """What a dataset file holds; `places` says where each case stands ("tickets.jsonl:17")."""

    cases: tuple[Case, ...]
    places: list[str]
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_file(path: Path) -> FileContent:
    """Read a dataset file by its extension; raises `DatasetError`."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(
            f"{path.name}: a dataset file ends in {', '.join(READERS)}",
            field="path",
            value=str(path),
            rule="must be a JSONL, JSON, YAML or CSV file",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror})",
            field="path",
            value=str(path),
            rule="must be a readable file",
        ) from None
    content = reader(_text(data, path.name), path.name)
    if not content.cases:
        raise DatasetError(f"{path.name}: holds no case", field="path", rule="holds no case")
    return content


def decode_json(text: str) -> Any:
    """`json.loads` that refuses NaN, infinities and a key given twice; raises `ValueError`."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)


def _read_jsonl(text: str, name: str) -> FileContent:
    def items() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(text.split("\n"), start=1):
            if line and not line.isspace():
                try:
                    yield number, decode_json(line)
                except (ValueError, RecursionError) as error:
                    raise _not_readable(f"{name}:{number}", "JSON", error) from None

    return _content(items(), name)


def _read_json(text: str, name: str) -> FileContent:
    try:
        document = decode_json(text)
    except json.JSONDecodeError as error:
        raise _not_readable(f"{name}:{error.lineno}", "JSON", error) from None
    except (ValueError, RecursionError) as error:
        raise _not_readable(name, "JSON", error) from None
    head, cases = split_document(document, name)
    return _content(zip(json_case_lines(text), cases, strict=False), name, head)


def _read_yaml(text: str, name: str) -> FileContent:
    document, lines = read_yaml(text, name)
    head, cases = split_document(document, name)
    return _content(zip(lines, cases, strict=False), name, head)


def _read_csv(text: str, name: str) -> FileContent:
    def items() -> Iterator[tuple[int, Any]]:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        line = 1
        columns: list[str] | None = None
        try:
            for row in rows:
                if columns is None:
                    columns = _columns(row, name)
                elif row:
                    if len(row) > len(columns):
                        raise DatasetError(
                            f"{name}:{line}: {len(row)} cells under {len(columns)} columns"
                        )
                    yield line, _csv_case(columns, row, f"{name}:{line}")
                line = rows.line_num + 1
        except csv.Error as error:
            raise _not_readable(f"{name}:{line}", "CSV", error) from None

    return _content(items(), name)


def _columns(header: list[str], name: str) -> list[str]:
    columns = [cell.strip() for cell in header]
    columns = ["inputs" if cell == "input" else cell for cell in columns]
    for n, column in enumerate(columns):
        head, dot, rest = column.partition(".")
        dotted = head in ("inputs", "expected_output", "metadata") and all(rest.split("."))
        whole = column in ("id", "split", "inputs", "expected_output", "metadata")
        if not (whole or (dot and dotted)):
            raise DatasetError(
                f"{name}:1: {column!r} is not a column of a dataset; columns are id, split, "
                "inputs, expected_output, metadata and inputs.x, expected_output.y, metadata.z",
                field=column,
                rule="is not a column of a dataset",
            )
        if column in columns[:n] or (dot and head in columns):
            raise DatasetError(
                f"{name}:1: {column!r} is given twice", field=column, rule="is given twice"
            )
    return columns


def _csv_case(columns: list[str], row: list[str], where: str) -> dict[str, Any]:
    """One row as a case. Empty cells are left out; values stay text.

    Only a whole-field cell that is a JSON object is read as one.
    """
    case: dict[str, Any] = {}
    for column, cell in zip(columns, row, strict=False):
        if cell == "":
            continue
        *parents, leaf = column.split(".")
        level = case
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise DatasetError(f"{where}: {column}: stands under a column with a value")
        if leaf in level:
            raise DatasetError(f"{where}: {column}: also has columns under it")
        whole = not parents and column not in ("id", "split")
        level[leaf] = _json_object_or_text(cell) if whole else cell
    return case


def _json_object_or_text(cell: str) -> Any:
    if cell.lstrip().startswith("{"):
        try:
            return decode_json(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def split_document(document: Any, name: str) -> tuple[dict[str, Any], list[Any]]:
    """The head (`id`, `metadata`) and the cases of a JSON or YAML dataset file."""
    if isinstance(document, list):
        return {}, document
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise DatasetError(
            f"{name}: must be a list of cases or an object with a list `cases`",
            field="cases",
            rule="must be a list of cases",
        )
    for key in document:
        if key not in FILE_FIELDS:
            raise DatasetError(
                f"{name}: {key}: is not a field of a dataset file; "
                f"its fields are {', '.join(FILE_FIELDS)}",
                field=str(key),
                value=document[key],
                rule="is not a field of a dataset file",
            )
    return document, document["cases"]


def _content(
    items: Iterable[tuple[int, Any]], name: str, head: dict[str, Any] | None = None
) -> FileContent:
    cases: list[Case] = []
    places: list[str] = []
    for line, item in items:
        places.append(f"{name}:{line}")
        cases.append(parse_case(item, where=places[-1]))
    head = head or {}
    return FileContent(
        cases=tuple(cases), places=places, id=head.get("id"), metadata=head.get("metadata") or {}
    )


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{name}:{line}: is not UTF-8 (byte 0x{data[error.start]:02x})",
            rule="must be UTF-8",
        ) from None


def _not_readable(where: str, kind: str, error: Exception) -> DatasetError:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DatasetError(f"{where}: is not {kind}: {reason}", rule=f"must be {kind}")


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for n, key in enumerate(keys) if key in keys[:n])
        raise ValueError(f"the key {twice!r} is given twice")
    return found


READERS: dict[str, Callable[[str, str], FileContent]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".csv": _read_csv,
}
