"""What a case asserts of its own output, in `metadata.assert`, in the form of promptfoo.

Here is what an assertion may be; `evaluators/assertions.py` decides whether an output keeps it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Assertion: TypeAlias = dict[str, Any]

ASSERT, LEFT_OUT, THRESHOLD = "assert", "assert_left_out", "assert_threshold"
"""The keys of a case's metadata: what is asserted, what is not taken over, and the score from which
the case passes."""

MOST_DISTANCE = 1_000
_VALUE = frozenset({"equals", "contains", "icontains", "starts-with", "regex", "levenshtein"})
_VALUES = frozenset({"contains-all", "contains-any", "icontains-all", "icontains-any"})
_SCHEMA = frozenset({"is-json", "contains-json"})
_NUMBER = frozenset({"latency", "cost"})
RUBRIC, SET = "llm-rubric", "assert-set"
TYPES = frozenset({*_VALUE, *_VALUES, *_SCHEMA, *_NUMBER, RUBRIC, SET})
"""The types that are scored; each may have `not-` before it."""

_CODE = "is code: write it as an evaluator (output, context)"
_MODEL = "asks a model in a way of promptfoo's own: use llm-rubric, or an evaluator of your own"
_WHY = {
    **dict.fromkeys(("javascript", "python", "ruby", "webhook"), _CODE),
    "similar": "compares embeddings: string_similarity compares texts",
    **dict.fromkeys(("factuality", "model-graded-closedqa", "g-eval", "answer-relevance"), _MODEL),
    **dict.fromkeys(("context-faithfulness", "context-recall", "context-relevance"), _MODEL),
    **dict.fromkeys(("model-graded-factuality", "select-best", "moderation", "classifier"), _MODEL),
}
_ALIASES = {"grade": RUBRIC, "eval": "javascript", "fn": "javascript", "file": "javascript"}
_WRITTEN = re.compile(r"(?P<type>[a-z][a-z-]*)(?:\((?P<threshold>\d+(?:\.\d+)?)\))?(?::(?P<value>.*))?", re.S)  # fmt: skip  # noqa: E501
_PLACE = re.compile(r"\{\{-?\s*([\w.]+)\s*-?\}\}")
_TEMPLATE = re.compile(r"\{\{|\{%")


def kind_of(assertion: Mapping[str, Any]) -> tuple[str, bool]:
    """The type of an assertion without its `not-`, and whether that was there."""
    kind = str(assertion.get("type", ""))
    return kind.removeprefix("not-"), kind.startswith("not-")


def problem_of(assertion: object) -> str | None:
    """Why an assertion cannot be scored; None for one that can."""
    if not isinstance(assertion, Mapping) or not isinstance(assertion.get("type"), str):
        return "must be an object with a type"
    kind, _ = kind_of(assertion)
    if kind not in TYPES:
        return _WHY.get(kind, f"is not one of: {', '.join(sorted(TYPES))}")
    for key in ("transform", "contextTransform", "rubricPrompt", "config"):
        if assertion.get(key):
            return f"has a {key}, which is promptfoo's own"
    value, weight = assertion.get("value"), assertion.get("weight", 1)
    if not _is_number(weight) or weight < 0:
        return "has a weight that is no number of at least 0"
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(one, str) and one.startswith("file://") for one in texts):
        return "has its value in a file of its own: put the value in its place"
    return _value_problem(kind, value, assertion)


def _value_problem(kind: str, value: Any, assertion: Mapping[str, Any]) -> str | None:
    threshold = assertion.get("threshold")
    if threshold is not None and not _is_number(threshold):
        return "has a threshold that is no number"
    if kind in _NUMBER and threshold is None:
        return "has no threshold"
    if kind == "levenshtein" and not 0 <= (5 if threshold is None else threshold) <= MOST_DISTANCE:
        return f"has a threshold beyond {MOST_DISTANCE:,}"
    if kind in _VALUE and value is None:
        return "has no value"
    if kind == "regex":
        try:
            re.compile(str(value))
        except (re.error, RecursionError, OverflowError) as error:
            return f"is no regular expression: {error}"
    if kind in _VALUES and (value is None or not wanted_in(value)):
        return "has no values"
    if kind in _SCHEMA and value is not None and not isinstance(value, Mapping):
        return "has a value that is no JSON Schema"
    if kind == RUBRIC and not (isinstance(value, str) and value.strip()):
        return "has no rubric"
    if kind == SET:
        inner = assertion.get(ASSERT)
        if not isinstance(inner, list) or not inner:
            return "has no assertions"
        return next(filter(None, map(problem_of, inner)), None)
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def wanted_in(value: Any) -> list[str]:
    """The texts of `contains-all` and its like: a list, or one text with commas."""
    if isinstance(value, list):
        return [one if isinstance(one, str) else str(one) for one in value]
    return [part.strip() for part in str(value).split(",") if part.strip()]


def written(text: str) -> Assertion:
    """promptfoo's short form in tables: `contains: x`, `levenshtein(3): x`, `is-json`; without a
    type it is `equals`."""
    found = _WRITTEN.fullmatch(text.strip())
    kind = "" if found is None else _ALIASES.get(found["type"], found["type"])
    name = kind.removeprefix("not-")
    alone = name in _SCHEMA | _NUMBER
    if found is None or not (name in _WHY or name in TYPES):
        return {"type": "equals", "value": text}
    if found["value"] is None and not alone:
        return {"type": "equals", "value": text}
    made: Assertion = {"type": kind}
    if found["value"] is not None and found["value"].strip():
        made["value"] = found["value"].strip()
    if found["threshold"] is not None:
        made["threshold"] = float(found["threshold"])
    return made


def sorted_out(
    assertions: Sequence[Any], inputs: Mapping[str, Any]
) -> tuple[list[Assertion], list[Assertion]]:
    """The assertions that can be scored, with the inputs in their templates, and the others, each
    with `why` it cannot."""
    taken: list[Assertion] = []
    left: list[Assertion] = []
    for one in assertions:
        filled = _filled(one, inputs)
        why = problem_of(filled)
        if why is None and _has_template(filled):
            why = "has a template with more than names of vars"
        if why is None:
            taken.append(filled)
        else:
            left.append({**(one if isinstance(one, dict) else {"value": one}), "why": why})
    return taken, left


def notes_on(left: Iterable[Assertion], taken: Iterable[Assertion]) -> list[str]:
    """What is to be said of the assertions of a file."""
    taken = [*taken]
    notes = []
    if taken:
        notes.append(
            f"{_count(len(taken))} kept as metadata.{ASSERT}; the evaluator {{type: assertions}} "
            "scores them, case by case"
        )
    rubrics = sum(kind_of(one)[0] == RUBRIC for one in taken)
    if rubrics:
        notes.append(f"{rubrics} of them are {RUBRIC}: give that evaluator a model")
    counts = Counter((str(one.get("type", "without a type")), str(one["why"])) for one in left)
    notes += [
        f"{_count(count, f' of type {kind}')} left out (metadata.{LEFT_OUT}): each {why}"
        for (kind, why), count in counts.items()
    ]
    return notes


def _count(number: int, which: str = "") -> str:
    return f"1 assertion{which} is" if number == 1 else f"{number} assertions{which} are"


def _filled(value: Any, inputs: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return _PLACE.sub(lambda found: _named(found, inputs), value)
    if isinstance(value, list):
        return [_filled(one, inputs) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, inputs) for key, one in value.items()}
    return value


def _named(found: re.Match[str], inputs: Mapping[str, Any]) -> str:
    value: Any = inputs
    for key in found[1].split("."):
        if not isinstance(value, Mapping) or key not in value:
            return found[0]
        value = value[key]
    return value if isinstance(value, str) else found[0] if isinstance(value, dict) else str(value)


def _has_template(value: Any) -> bool:
    if isinstance(value, str):
        return _TEMPLATE.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_template, value.values()))
    return isinstance(value, list) and any(map(_has_template, value))
