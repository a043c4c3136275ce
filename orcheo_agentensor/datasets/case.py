"""`Case`: one example of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orcheo_agentensor.errors import BadInput, DatasetError
from orcheo_agentensor.json_values import check_json, content_hash

FIELDS = ("id", "inputs", "expected_output", "metadata", "split")
MAX_ID = 200
MAX_SPLIT = 64


class Case(BaseModel):
    """One example: what goes in, what should come out, and what is known about it.

    All fields hold JSON. An `id` left out is derived from the content (`case-` and ten hex
    digits), so it stays the same wherever the case stands. A whole number is taken as an id too.
    Breaking a rule raises `DatasetError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(default="", description="Unique in the dataset; derived when left out")
    inputs: Any = Field(description="What the target is given")
    expected_output: Any = Field(default=None, description="What evaluators compare with")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Language, domain, …")
    split: str | None = Field(default=None, description="train, validation, holdout or another")

    @model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise DatasetError(field="case", value=data, rule="must be an object with `inputs`")
        for name in data:
            if name not in FIELDS:
                raise _unknown(name, data[name])
        if "inputs" not in data:
            raise DatasetError("inputs: is missing", field="inputs", value=None, rule="is missing")
        case = {name: data[name] for name in FIELDS if name in data}
        for name in ("inputs", "expected_output", "metadata"):
            require_json(case.get(name), field=name)
        if case.get("metadata") is None:
            case["metadata"] = {}
        if not isinstance(case["metadata"], dict):
            raise DatasetError(field="metadata", value=case["metadata"], rule="must be an object")
        if case.get("split") is not None:
            check_name("split", case["split"], MAX_SPLIT)
        case["id"] = _case_id(case)
        return case

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over every field."""
        return content_hash(self.to_json())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, changed by `update`; it does not keep the hash of the original."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("content_hash", None)
        return copied

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON; `Case.model_validate` reads it back."""
        return {name: getattr(self, name) for name in FIELDS}


def parse_case(data: Any, *, where: str) -> Case:
    """`Case.model_validate(data)`; its errors begin with `where` ("tickets.jsonl:17")."""
    if isinstance(data, Case):
        return data
    try:
        return Case.model_validate(data)
    except DatasetError as error:
        raise DatasetError(
            f"{where}: {error.message}", field=error.field, value=error.value, rule=error.rule
        ) from None


def require_json(value: Any, *, field: str) -> None:
    """Raise `DatasetError` unless `value` is JSON; see `check_json`."""
    try:
        check_json(value, field=field)
    except BadInput as error:
        raise DatasetError(field=error.field, value=error.value, rule=error.rule) from None


def _case_id(case: dict[str, Any]) -> str:
    given = case.get("id")
    if given is None or given == "":
        content = [case["inputs"], case.get("expected_output"), case["metadata"]]
        return f"case-{content_hash(content)[:10]}"
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    check_name("id", given, MAX_ID)
    return str(given)


def check_name(field: str, value: Any, longest: int) -> None:
    """Raise `DatasetError` unless `value` can be the name of a case or of a split."""
    if not isinstance(value, str):
        raise DatasetError(field=field, value=value, rule="must be text")
    if not value.isprintable() or value != value.strip() or not 1 <= len(value) <= longest:
        raise DatasetError(
            field=field,
            value=value,
            rule=f"must be 1 to {longest} printable characters without spaces around them",
        )


def _unknown(name: Any, value: Any) -> DatasetError:
    near = get_close_matches(str(name), FIELDS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"a case has: {', '.join(FIELDS)}"
    return DatasetError(
        f"{name}: is not a field of a case; {hint}",
        field=str(name),
        value=value,
        rule="is not a field of a case",
    )
