"""Built-ins for JSON outputs."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, field_validator

from orcheo_agentensor.evaluators.builtin.base import Comparing, OfOutput, differs
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.evaluators.values import MISSING, pick, same, split_path


class JsonValid(OfOutput):
    """1 when the output is JSON, else 0: a text must parse, other outputs are JSON already."""

    type_name: ClassVar[str] = "json_valid"

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        _, problem = parsed(found)
        return self.falls_short(problem) if problem else self.passes()


class JsonSchema(OfOutput):
    """1 when the output fits a JSON Schema (draft 2020-12 unless it says otherwise), else 0.

    A text is parsed first. `$ref` reaches only into the schema itself.
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

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for
        from referencing.jsonschema import EMPTY_REGISTRY

        kind = validator_for(self.json_schema, default=Draft202012Validator)
        return kind(self.json_schema, registry=EMPTY_REGISTRY)

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        found = self.part(ctx)
        if found is MISSING:
            return self.no_such_field()
        value, problem = parsed(found)
        if problem:
            return self.falls_short(problem)
        errors = sorted(self._validator.iter_errors(value), key=lambda error: error.json_path)
        if not errors:
            return self.passes()
        told = [f"{error.json_path}: {error.message[:200]}" for error in errors[:5]]
        return self.falls_short("; ".join(told))


class JsonFieldMatch(Comparing):
    """The share of fields that equal the expected ones; passed when all do.

    `fields` are dotted paths; left out, they are the keys of the expected output. A text is parsed
    as JSON first.
    """

    type_name: ClassVar[str] = "json_field_match"

    fields_: list[str] | None = Field(
        default=None, alias="fields", min_length=1, description="Dotted paths to compare"
    )

    def evaluate(self, ctx: EvaluatorContext) -> Outcome:
        """Score one rollout."""
        wanted, problem = parsed(self.expected(ctx))
        if problem or not isinstance(wanted, dict | list):
            return self.lacks(ctx, "an object as expected output")
        fields = self.fields_ or [str(key) for key in wanted]
        expected = [pick(wanted, split_path(field)) for field in fields]
        if not fields or MISSING in expected:
            lacking = [f for f, value in zip(fields, expected, strict=True) if value is MISSING]
            return self.lacks(ctx, f"expected_output.{lacking[0]}" if lacking else "a field")
        output, problem = parsed(self.part(ctx))
        if problem:
            return self.falls_short(problem)
        wrong = []
        for field, value in zip(fields, expected, strict=True):
            found = pick(output, split_path(field))
            if found is MISSING or not same(value, found):
                wrong.append(f"{field}: {differs(value, found)}")
        if not wrong:
            return self.passes()
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
