"""`Case`, and the files that hold cases, read with the line on which each case stands.

JSONL holds one case per line. JSON and YAML hold a list of cases, or `{id, metadata, cases}`. CSV
has the columns `id`, `split`, `inputs` (or `input`), `expected_output`, `metadata`, and dotted ones
such as `inputs.question` or `metadata.language`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orcheo_agentensor.datasets.attachments import Attachments, may_hold_media
from orcheo_agentensor.datasets.files import kind_of, read_text
from orcheo_agentensor.errors import BadInput, DatasetError, shorten
from orcheo_agentensor.json_values import (
    MAX_DEPTH,
    all_json,
    check_json,
    content_hash,
    private_copy,
    prose_only,
    quick_text,
)

FIELDS = ("id", "inputs", "expected_output", "metadata", "split", "turns", "conversation")
_KNOWN = frozenset({*FIELDS, "forms"})
_ALL_SET = set(_KNOWN)  # one for all cases: a set takes as much memory as the rest of a small case
UNKNOWN = "is not a field of a case"
MAX_ID = 200
MAX_SPLIT = 64
FILE_FIELDS = ("id", "metadata", "cases")

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


class Case(BaseModel):
    """One example: what goes in, what should come out, and what is known about it.

    All fields hold JSON. Messages, tuples, dates, times, decimals and UUIDs in Python inputs are
    kept as JSON, with their `forms`, and reach a target in this process as they were given. An `id`
    left out is derived from the content (`case-` and ten hex
    digits), so it stays the same wherever the case stands. A whole number is taken as an id too.

    Raises:
        DatasetError: A field breaks a rule.

    Example:
        >>> from orcheo_agentensor import Case
        >>> case = Case(inputs={"text": "a crash"}, expected_output="bug", split="holdout")
        >>> case.id
        'case-...'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=prose_only)
    __slots__ = ("_digest",)  # no entry of `__dict__`, which would double in size

    id: str = Field(default="", description="Unique in the dataset; derived when left out")
    inputs: Any = Field(description="What the target is given")
    expected_output: Any = Field(default=None, description="What evaluators compare with")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Language, domain, …")
    split: str | None = Field(default=None, description="train, validation, holdout or another")
    conversation: bool = Field(
        default=False,
        description="Whether its inputs are those of a conversation; so it is where the user's "
        "messages are given as `turns`",
    )
    forms: tuple[Any, ...] = Field(
        default=(), description="Written by Python: which inputs are no JSON, and what they are"
    )

    @model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        return _checked(data)

    def given(self) -> Any:
        """The inputs as they were given, for a receiver who may change them."""
        return _as_given(self.inputs, self.forms) if self.forms else private_copy(self.inputs)

    @property
    def content_hash(self) -> str:
        """SHA-256 over every field."""
        return digest_of(self).hex()

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON; `Case.model_validate` reads it back."""
        held = self.__dict__  # a field by its name takes three times as long
        data = {
            "id": held["id"],
            "inputs": held["inputs"],
            "expected_output": held["expected_output"],
            "metadata": held["metadata"],
            "split": held["split"],
        }
        if held["conversation"]:
            data["conversation"] = True
        if held["forms"]:
            data["forms"] = [*held["forms"]]
        return data


_PLAIN_FIELDS = ("id", "inputs", "expected_output", "metadata", "split")
"""The fields that nearly every case has, and no other."""
_PLAIN = frozenset(_PLAIN_FIELDS)


def digest_of(case: Case) -> bytes:
    """The `content_hash` of a case, in bytes."""
    try:
        # A slot, and no field: pydantic would look for it at length where it is not set yet.
        digest: bytes = object.__getattribute__(case, "_digest")
    except AttributeError:
        digest = bytes.fromhex(content_hash(case.to_json(), checked=True))
        object.__setattr__(case, "_digest", digest)
    return digest


def _checked(data: Any) -> dict[str, Any]:
    """The fields of a case, each as the case holds it. Raises `DatasetError`."""
    if not isinstance(data, Mapping):
        raise DatasetError(field="case", value=data, rule="must be an object with `inputs`")
    if not data.keys() <= _KNOWN:
        name = next(name for name in data if name not in FIELDS)
        raise _unknown(name, data[name])
    if data.get("turns") is not None:
        data = _with_turns(data)
    if "inputs" not in data:
        raise DatasetError("inputs: is missing", field="inputs", value=None, rule="is missing")
    case = dict(data)
    if not all_json(case["inputs"], case.get("expected_output"), case.get("metadata")):
        forms: list[Any] = []
        case["inputs"] = _plain(case["inputs"], (), forms)
        if "expected_output" in case:
            case["expected_output"] = _plain(case["expected_output"], (), [])
        if forms and not case.get("forms"):
            case["forms"] = forms
        require_json(
            inputs=case["inputs"],
            expected_output=case.get("expected_output"),
            metadata=case.get("metadata"),
        )
    if case.get("metadata") is None:
        case["metadata"] = {}
    if not isinstance(case["metadata"], dict):
        raise DatasetError(field="metadata", value=case["metadata"], rule="must be an object")
    if case.get("split") is not None:
        check_name("split", case["split"], MAX_SPLIT)
    case["id"] = _case_id(case)
    if case.get("forms"):
        case["forms"] = tuple(case["forms"])
        _as_given(case["inputs"], case["forms"])  # or it is refused
    return case


def _with_turns(data: Mapping[str, Any]) -> dict[str, Any]:
    """A case with its `turns` among its inputs, as the target's conversation reads them."""
    inputs = data.get("inputs")
    if inputs is not None and not (isinstance(inputs, Mapping) and "turns" not in inputs):
        raise DatasetError(
            field="turns", value=data["turns"], rule="stands beside `inputs` that are no object, "
            "or that have turns of their own",
        )  # fmt: skip
    rest = {key: value for key, value in data.items() if key != "turns"}
    return {**rest, "inputs": {**(inputs or {}), "turns": data["turns"]}, "conversation": True}


_OTHER_DEFAULTS = {
    name: field.default for name, field in Case.model_fields.items() if name not in _PLAIN
}


def parse_case(data: Any, *, where: str) -> Case:
    """`Case.model_validate(data)`; its errors begin with `where` ("tickets.jsonl:17")."""
    if isinstance(data, Case):
        return data
    if (case := _quickly(data)) is not None:
        return case
    try:
        found = _checked(data)
    except DatasetError as error:
        raise DatasetError(
            f"{where}: {error.message}", field=error.field, value=error.value, rule=error.rule
        ) from None
    if found.keys() <= _PLAIN:  # pydantic would find nothing, in twice the time
        whole = {name: found.get(name) for name in _PLAIN_FIELDS}
        return _case_of({**whole, "metadata": found["metadata"].copy()})
    case = Case.model_validate(data)
    object.__setattr__(case, "__pydantic_fields_set__", _ALL_SET)
    return case


def _quickly(data: Any) -> Case | None:
    """The case that one look at its text shows to be in order; its hash is of the same text."""
    if type(data) is not dict or not data.keys() <= _PLAIN or "inputs" not in data:
        return None
    name, split, metadata = data.get("id"), data.get("split"), data.get("metadata")
    if type(name) is not str or not _is_name(name, MAX_ID):
        return None
    if split is not None and not (type(split) is str and _is_name(split, MAX_SPLIT)):
        return None
    if metadata is not None and type(metadata) is not dict:
        return None
    fields = {
        "id": name,
        "inputs": data["inputs"],
        "expected_output": data.get("expected_output"),
        "metadata": metadata.copy() if metadata else {},
        "split": split,
    }
    whole = quick_text(fields)
    if whole is None:
        return None
    case = _case_of(fields)
    object.__setattr__(case, "_digest", hashlib.sha256(whole.encode()).digest())
    return case


def _case_of(fields: dict[str, Any]) -> Case:
    """The case with these plain fields, which are in order."""
    case = Case.__new__(Case)
    # One after the other into the dict that it has, which shares its keys with those of others.
    held, put = case.__dict__, object.__setattr__
    held["id"], held["inputs"] = fields["id"], fields["inputs"]
    held["expected_output"], held["metadata"] = fields["expected_output"], fields["metadata"]
    held["split"] = fields["split"]
    for name, value in _OTHER_DEFAULTS.items():
        held[name] = value
    put(case, "__pydantic_extra__", None)
    put(case, "__pydantic_private__", None)
    put(case, "__pydantic_fields_set__", _ALL_SET)
    return case


def with_media(case: Case, media: Attachments, *, where: str) -> Case:
    """`case` with references for its media, which `media` then has; itself where it has none."""
    held = case.__dict__
    if not may_hold_media(held["inputs"], held["expected_output"]):
        return case
    changed = media.attach({"inputs": case.inputs, "expected_output": case.expected_output}, where)
    if changed is None:
        return case
    made = case.model_copy(update=changed)
    if case.id == _derived_id(case.inputs, case.expected_output, case.metadata):
        own = _derived_id(made.inputs, made.expected_output, made.metadata)
        made = made.model_copy(update={"id": own})
    return made


_SCALARS: Mapping[str, tuple[type, Callable[[str], Any]]] = {
    "datetime": (datetime, datetime.fromisoformat),  # before the date that it is as well
    "date": (date, date.fromisoformat),
    "time": (time, time.fromisoformat),
    "decimal": (Decimal, Decimal),
    "uuid": (UUID, UUID),
}
"""Kinds of values that are kept as text, each with how it is made of that."""
_OF_MESSAGES = ("additional_kwargs", "response_metadata", "usage_metadata")


def _plain(value: Any, path: tuple[str | int, ...], forms: list[Any]) -> Any:
    """What Python callers write naturally as the JSON that a file would hold: messages in
    role/content form, tuples as lists, dates and times in ISO form; the rest is left as it is.

    `forms` gets what was no JSON, each as [path, kind], and what else a message holds.
    """
    for kind, (of, _) in _SCALARS.items():
        if isinstance(value, of):
            forms.append([[*path], kind])
            return value.isoformat() if hasattr(value, "isoformat") else str(value)
    if len(path) > MAX_DEPTH:  # to be refused
        return value
    if isinstance(value, Mapping):
        return {key: _plain(entry, (*path, key), forms) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        if isinstance(value, tuple):
            forms.append([[*path], "tuple"])
        return [_plain(entry, (*path, n), forms) for n, entry in enumerate(value)]
    if not (hasattr(value, "content") and hasattr(value, "additional_kwargs")):
        return value
    role = {"human": "user", "ai": "assistant"}.get(value.type, value.type)
    rest = {key: getattr(value, key, None) for key in ("name", "id", "tool_calls", "tool_call_id")}
    message = {key: _plain(entry, (), []) for key, entry in rest.items() if entry}
    more = {key: found for key in _OF_MESSAGES if (found := getattr(value, key, None))}
    forms.append([[*path], "message", *([more] if more and all_json(more) else [])])
    return {"role": role, "content": value.content, **message}


def _as_given(inputs: Any, forms: Iterable[Any]) -> Any:
    """A copy of inputs with their `forms`; raises `DatasetError` for forms that do not suit."""
    whole = [private_copy(inputs)]
    try:
        for path, kind, *more in sorted(forms, key=lambda form: -len(form[0])):
            keys: list[Any] = [0, *path]
            around: Any = whole
            for key in keys[:-1]:
                around = around[key]
            last = keys[-1]
            around[last] = _formed(around[last], kind, *more)
    except Exception as error:  # noqa: BLE001 - whatever a file may say
        rule = f"does not suit the inputs ({type(error).__name__}: {error})"
        raise DatasetError(field="forms", value=list(forms), rule=rule) from None
    return whole[0]


def _formed(value: Any, kind: str, more: Mapping[str, Any] | None = None) -> Any:
    if kind == "tuple":
        return tuple(value)
    if kind != "message":
        return _SCALARS[kind][1](value)
    from langchain_core.messages import convert_to_messages

    (message,) = convert_to_messages([value])
    held = {key: found for key, found in (more or {}).items() if key in _OF_MESSAGES}
    return message.model_copy(update=held) if held else message


def require_json(**fields: Any) -> None:
    """Raise `DatasetError` for the first of `fields` that is not JSON; see `check_json`."""
    if all_json(*fields.values()):
        return
    for name, value in fields.items():
        try:
            check_json(value, field=name)
        except BadInput as error:
            raise DatasetError(field=error.field, value=error.value, rule=error.rule) from None


def _case_id(case: dict[str, Any]) -> str:
    given = case.get("id")
    if given is None or given == "":
        return _derived_id(case["inputs"], case.get("expected_output"), case["metadata"])
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    check_name("id", given, MAX_ID)
    return str(given)


def _derived_id(inputs: Any, expected_output: Any, metadata: Any) -> str:
    return f"case-{content_hash([inputs, expected_output, metadata])[:10]}"


def _is_name(text: str, longest: int) -> bool:
    return text.isprintable() and text == text.strip() and 1 <= len(text) <= longest


def check_name(field: str, value: Any, longest: int) -> None:
    """Raise `DatasetError` unless `value` can be the name of a case or of a split."""
    if not isinstance(value, str):
        raise DatasetError(field=field, value=value, rule="must be text")
    if not _is_name(value, longest):
        raise DatasetError(
            field=field,
            value=value,
            rule=f"must be 1 to {longest} printable characters without spaces around them",
        )


def _unknown(name: Any, value: Any) -> DatasetError:
    near = get_close_matches(str(name), FIELDS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"a case has: {', '.join(FIELDS)}."
    return DatasetError(
        f"{name}: is not a field of a case; {hint} What is neither goes into metadata",
        field=str(name),
        value=value,
        rule=UNKNOWN,
    )


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
    import yaml

    reader = _YamlReader(text, name)
    try:
        return reader.document(), reader.case_lines
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        at = getattr(error, "position", None)  # of a character that YAML does not take
        if isinstance(at, int):
            line = ":" + str(text.count("\n", 0, at) + 1)
        reason = getattr(error, "problem", None) or str(error)
        problem, rule = f"is not YAML: {' '.join(reason.split())}", "must be YAML"
        if "nesting depth" in reason:  # libyaml's own bound, looking ahead of what is read here
            problem = rule = "nested too deeply"
        raise DatasetError(f"{name}{line}: {problem}", rule=rule) from None


class _YamlReader:
    """Builds JSON values from parser events, to a bounded depth."""

    def __init__(self, text: str, name: str) -> None:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.events = iter(yaml.parse(text, Loader=loader))
        self.yaml: Any = yaml
        self.name = name
        self.case_lines: list[int] = []

    def document(self) -> Any:
        next(self.events)  # the stream begins
        event = next(self.events)
        if isinstance(event, self.yaml.StreamEndEvent):
            return []
        first = next(self.events)
        value = self.value(first, 0, is_cases=True)
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, self.yaml.StreamEndEvent):
            raise self.error(event, "a second document is not supported")
        return value

    def value(self, event: Any, depth: int, *, is_cases: bool = False) -> Any:
        """The value that begins at `event`; `is_cases` for what may be the list of cases."""
        if isinstance(event, self.yaml.AliasEvent):
            raise self.error(event, "an alias (*) is not supported")
        if event.tag not in (None, "!"):
            raise self.error(event, f"the tag {event.tag} is not supported")
        if isinstance(event, self.yaml.ScalarEvent):
            return self.scalar(event)
        if depth > MAX_DEPTH + 3:  # the file's own levels: document, cases, case
            raise self.error(event, "nested too deeply")
        if isinstance(event, self.yaml.SequenceStartEvent):
            return self.sequence(depth, is_cases=is_cases)
        return self.mapping(depth)

    def sequence(self, depth: int, *, is_cases: bool) -> list[Any]:
        found = []
        while not isinstance(event := next(self.events), self.yaml.SequenceEndEvent):
            if is_cases:
                self.case_lines.append(_line(event))
            found.append(self.value(event, depth + 1))
        return found

    def mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), self.yaml.MappingEndEvent):
            if not isinstance(event, self.yaml.ScalarEvent):
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


Content: TypeAlias = tuple[dict[str, Any], Iterable[tuple[int, Any]]]
"""The head of a dataset file (`id`, `metadata`), and each of its cases with its line."""


class Places(Sequence[str]):
    """Where cases stand: "tickets.jsonl:17". Only the lines are kept: the texts would take as much
    room as a tenth of the cases."""

    def __init__(self, name: str) -> None:
        self.lines = array("l")
        self._name = name

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        return f"{self._name}:{self.lines[index]}"


def read_file(
    path: Path, *, encoding: str | None = None
) -> tuple[dict[str, Any], tuple[Case, ...], Places]:
    """The head, the cases, and the place of each ("tickets.jsonl:17"); raises `DatasetError`."""
    reader = READERS.get(kind_of(path))
    if reader is None:
        raise DatasetError(
            f"{path.name}: a dataset file ends in {', '.join(READERS)}, or in one of them and .gz",
            field="path",
            value=str(path),
            rule="must be a JSONL, JSON, YAML, CSV or TSV file",
        )
    head, items = reader(read_text(path, encoding=encoding), path.name)
    cases: list[Case] = []
    places = Places(path.name)
    for line, item in items:
        places.lines.append(line)
        cases.append(parse_case(item, where=places[-1]))
    if not cases:
        raise DatasetError(f"{path.name}: holds no case", field="path", rule="holds no case")
    return head, tuple(cases), places


def decode_json(text: str) -> Any:
    """`json.loads` that refuses NaN, infinities and a key given twice; raises `ValueError`."""
    return _STRICT.decode(text)


def json_lines(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each value of a JSONL text with its line; raises `DatasetError`."""
    at = number = 0
    while at <= len(text):  # and not all lines at once, which would take the room of their cases
        number += 1
        end = text.find("\n", at)
        line = text[at : end if end >= 0 else len(text)]
        at += len(line) + 1
        if line and not line.isspace():
            yield number, decode_line(line, f"{name}:{number}")


def decode_line(text: str, where: str) -> Any:
    """The value of a line of JSONL; raises `DatasetError`, which begins with `where`."""
    try:
        return decode_json(text)
    except (ValueError, RecursionError) as error:
        raise _not_readable(where, "JSON", error) from None


def json_document(text: str, name: str) -> Any:
    """The value of a JSON text; raises `DatasetError`."""
    try:
        return decode_json(text)
    except json.JSONDecodeError as error:
        raise _not_readable(f"{name}:{error.lineno}", "JSON", error) from None
    except (ValueError, RecursionError) as error:
        raise _not_readable(name, "JSON", error) from None


def _read_json(text: str, name: str) -> Content:
    head, cases = _split(json_document(text, name), name)
    return head, zip(json_case_lines(text), cases, strict=False)


def _read_yaml(text: str, name: str) -> Content:
    document, lines = read_yaml(text, name)
    head, cases = _split(document, name)
    return head, zip(lines, cases, strict=False)


def table_rows(text: str, name: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Each row of a CSV text with the line on which it begins; raises `DatasetError`."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in rows:
            yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise _not_readable(f"{name}:{line}", "CSV", error) from None


def require_width(row: list[str], columns: list[str], where: str) -> None:
    """Raise `DatasetError` for a row with more cells than there are columns."""
    if len(row) > len(columns):
        extra = shorten(row[len(columns)])
        raise DatasetError(
            f"{where}: {len(row)} cells under {len(columns)} columns; cell {len(columns) + 1} is "
            f"{extra}. A text with the delimiter in it stands in quotes"
        )


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _csv_cases(text: str, name: str, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    columns: list[str] | None = None
    for line, row in table_rows(text, name, delimiter):
        if columns is None:
            columns = _columns(row, name)
        elif row:
            require_width(row, columns, f"{name}:{line}")
            yield line, _csv_case(columns, row, f"{name}:{line}")


def _columns(header: list[str], name: str) -> list[str]:
    columns = [cell.strip() for cell in header]
    columns = ["inputs" if cell == "input" else cell for cell in columns]
    every, seen = set(columns), set[str]()
    for number, column in enumerate(columns, start=1):
        head, dot, rest = column.partition(".")
        dotted = head in ("inputs", "expected_output", "metadata") and all(rest.split("."))
        whole = column in ("id", "split", "inputs", "expected_output", "metadata")
        if not (whole or (dot and dotted)):
            kept = f" (metadata.{column} keeps it)" if column else ""
            raise DatasetError(
                f"{name}:1: column {number}, {column!r}, is not a column of a dataset{kept}; "
                "columns are id, split, inputs, expected_output, metadata and inputs.x, "
                "expected_output.y, metadata.z",
                field=column,
                rule="is not a column of a dataset",
            )
        if column in seen or (dot and head in every):
            raise DatasetError(
                f"{name}:1: column {number}, {column!r}, is given twice",
                field=column,
                rule="is given twice",
            )
        seen.add(column)
    return columns


def _csv_case(columns: list[str], row: list[str], where: str) -> dict[str, Any]:
    """One row as a case. Empty cells are left out; values stay text.

    Only a whole-field cell that is a JSON object or list is read as one.
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
        level[leaf] = json_or_text(cell) if whole else cell
    return case


def json_or_text(cell: str, *, typed: bool = False) -> Any:
    """A cell that is a JSON object or list (any JSON, where `typed`), else its text."""
    if typed or cell.lstrip().startswith(("{", "[")):
        try:
            return decode_json(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _split(document: Any, name: str) -> tuple[dict[str, Any], list[Any]]:
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


def _not_readable(where: str, kind: str, error: Exception) -> DatasetError:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DatasetError(f"{where}: is not {kind}: {reason}", rule=f"must be {kind}")


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"the key {first_twice(key for key, _ in pairs)!r} is given twice")
    return found


_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)
"""One for all lines: making it takes as long as reading one."""

READERS: dict[str, Callable[[str, str], Content]] = {
    ".jsonl": lambda text, name: ({}, json_lines(text, name)),
    ".ndjson": lambda text, name: ({}, json_lines(text, name)),
    ".json": _read_json,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".csv": lambda text, name: ({}, _csv_cases(text, name)),
    ".tsv": lambda text, name: ({}, _csv_cases(text, name, "\t")),
}
