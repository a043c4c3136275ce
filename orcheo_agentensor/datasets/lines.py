"""Where each case of a JSON or YAML dataset file begins, and YAML read as plain JSON values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from orcheo_agentensor.errors import DatasetError
from orcheo_agentensor.json_values import MAX_DEPTH

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
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
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text):
            return True
        if _FALSE.fullmatch(text):
            return False
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
