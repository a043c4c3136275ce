"""The built-in evaluators of JSON: it parses, fits a schema, or has the expected fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, field_validator

from orcheo_agentensor.errors import shorten
from orcheo_agentensor.evaluators.builtin import (
    MISSING,
    Comparing,
    OfOutput,
    differs,
    pick,
    same,
)
from orcheo_agentensor.evaluators.context import (
    EvaluatorContext,
    Outcome,
)
from orcheo_agentensor.evaluators.patterns import linear_pattern
from orcheo_agentensor.json_values import canonical_json


class JsonValid(OfOutput):
    """1 when the output is JSON, else 0: a text must parse, other outputs are JSON already.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, JsonValid
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output='{"queue": "refunds"')
        >>> JsonValid().evaluate(ctx).score
        0.0
    """

    type_name: ClassVar[str] = "json_valid"

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        _, problem = parsed(found)
        return self.falls_short(problem) if problem else self.full_score


class JsonSchema(OfOutput):
    """1 when the output fits a JSON Schema (draft 2020-12 unless it says otherwise), else 0.

    A text is parsed first. `$ref` reaches only into the schema itself.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, JsonSchema
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output={"queue": "refunds"})
        >>> JsonSchema(schema={"required": ["queue"]}).evaluate(ctx).score
        1.0
    """

    type_name: ClassVar[str] = "json_schema"

    json_schema: dict[str, Any] = Field(alias="schema", description="The JSON Schema")

    @field_validator("json_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for

        try:
            validator_for(schema, default=Draft202012Validator).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is not a JSON Schema: {error.message}") from None
        return schema

    _bounded: bool = PrivateAttr(default=False)

    def for_job(self) -> Self:
        """Itself, with patterns that are matched in linear time, and a bound on what it follows."""
        for pattern in _patterns_in(self.json_schema):
            linear_pattern(pattern)
        self._bounded = True
        return self

    @property
    def is_quick(self) -> bool:
        """Whether its work is short enough to be done on the event loop."""
        return not self._bounded

    @cached_property
    def _kind(self) -> Any:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for

        return validator_for(self.json_schema, default=Draft202012Validator)

    def _validator(self) -> Any:
        from jsonschema.validators import extend
        from referencing.jsonschema import EMPTY_REGISTRY

        kind = self._kind
        if self._bounded:
            bounded: Any = extend
            kind = bounded(kind, _bounded_keywords(kind.VALIDATORS))
        return kind(self.json_schema, registry=EMPTY_REGISTRY)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        value, problem = parsed(found)
        if problem:
            return self.falls_short(problem)
        found_errors = islice(self._validator().iter_errors(value), _MOST_ERRORS)
        errors = sorted(found_errors, key=lambda error: error.json_path)
        if not errors:
            return self.full_score
        return self.falls_short(
            "; ".join(f"{error.json_path}: {error.message[:200]}" for error in errors[:5])
        )


_MOST_ERRORS = 1_000
_MOST_CHECKS = 100_000
"""Most schemas that one validation goes into: a few references can stand for very many."""


def _patterns_in(schema: Any) -> Iterator[str]:
    """The patterns in a JSON Schema."""
    level = [schema]
    while level:
        one = level.pop()
        if isinstance(one, dict):
            if isinstance(one.get("pattern"), str):
                yield one["pattern"]
            if isinstance(one.get("patternProperties"), dict):
                yield from one["patternProperties"]
            level += one.values()
        elif isinstance(one, list):
            level += one


def _bounded_keywords(known: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a JSON Schema that could take for ever, bounded for one validation."""
    from jsonschema import ValidationError

    left = _MOST_CHECKS

    def pattern(_validator: Any, wanted: str, value: Any, _schema: Any) -> Iterator[Any]:
        if isinstance(value, str) and not linear_pattern(wanted).matches(value):
            yield ValidationError(f"{shorten(value)} does not match {wanted!r}")

    def pattern_properties(validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[Any]:
        for regex, inner in wanted.items() if isinstance(value, dict) else ():
            matches = linear_pattern(regex).matches
            for key in filter(matches, value):
                yield from validator.descend(value[key], inner, path=key, schema_path=regex)

    def unique(_validator: Any, wanted: bool, value: Any, _schema: Any) -> Iterator[Any]:
        items = value if wanted and isinstance(value, list) else []
        if len({canonical_json(item) for item in items}) < len(items):
            yield ValidationError(f"{shorten(value)} has non-unique elements")

    def counted(check: Any) -> Any:
        def keyword(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
            nonlocal left
            left -= 1
            if left < 0:
                raise ValueError(f"the schema leads to more than {_MOST_CHECKS:,} checks")
            yield from check(validator, wanted, value, schema) or ()

        return keyword

    own = {"pattern": pattern, "patternProperties": pattern_properties, "uniqueItems": unique}
    return {
        name: counted(own.get(name, known.get(name)))
        for name in (*own, *_APPLYING)
        if name in known
    }


_APPLYING = (
    "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if",
    "unevaluatedItems", "unevaluatedProperties", "dependentSchemas",
)  # fmt: skip
"""The keywords that lead from a schema to others for the same value."""


class JsonFieldMatch(Comparing):
    """The share of fields that equal the expected ones; passed when all do.

    `fields` are dotted paths; left out, they are the keys of the expected output. A text is parsed
    as JSON first.

    Example:
        >>> from orcheo_agentensor import EvaluatorContext, JsonFieldMatch
        >>> wanted = {"queue": "refunds", "urgent": True}
        >>> found = {"queue": "refunds", "urgent": False}
        >>> ctx = EvaluatorContext(case_id="a", inputs={}, output=found, expected_output=wanted)
        >>> JsonFieldMatch().evaluate(ctx).score
        0.5
    """

    type_name: ClassVar[str] = "json_field_match"

    fields_: list[str] | None = Field(
        default=None, alias="fields", min_length=1, description="Dotted paths to compare"
    )

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        wanted, problem = parsed(self.expected(ctx))
        if problem or not isinstance(wanted, dict | list):
            return self.lacks(ctx, "an object as expected output")
        fields = self.fields_ or [str(key) for key in wanted]
        expected = [pick(wanted, field.split(".")) for field in fields]
        if not fields or MISSING in expected:
            lacking = [f for f, value in zip(fields, expected, strict=True) if value is MISSING]
            return self.lacks(ctx, f"expected_output.{lacking[0]}" if lacking else "a field")
        output, problem = parsed(self.part(ctx))
        if problem:
            return self.falls_short(problem)
        wrong = []
        for field, value in zip(fields, expected, strict=True):
            found = pick(output, field.split("."))
            if found is MISSING or not same(value, found):
                wrong.append(f"{field}: {differs(value, found)}")
        if not wrong:
            return self.full_score
        return self.falls_short("; ".join(wrong), (len(fields) - len(wrong)) / len(fields))


def parsed(value: Any) -> tuple[Any, str]:
    """A text parsed as JSON, and what is wrong with it; other values as they are."""
    if value is MISSING:
        return None, "there is no output to look at"
    if not isinstance(value, str):
        return value, ""
    try:
        return json.loads(value, parse_constant=_refuse), ""
    except (ValueError, RecursionError) as error:
        return None, f"is not JSON: {error}"


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not a finite number")
