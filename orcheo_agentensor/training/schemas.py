"""JSON Schemas of what people submit."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from orcheo_agentensor.config import config_schema
from orcheo_agentensor.datasets import Case, DatasetSpec


def schema_of_job(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a job model, with the schemas of its config and its dataset in it."""
    schema = model.model_json_schema()
    _embed(schema, "config", "RunConfig", config_schema())
    if "dataset" in schema["properties"]:
        _embed(schema, "dataset", "DatasetSpec", DatasetSpec.model_json_schema())
    return schema


def dataset_schema() -> dict[str, Any]:
    """The schema of a dataset document: a list of cases, or an object that holds them."""
    case = Case.model_json_schema()
    definitions = case.pop("$defs", {})
    cases = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Case"}}
    document = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "metadata": {"type": "object"}, "cases": cases},
        "required": ["cases"],
        "additionalProperties": False,
    }
    return {
        "title": "Dataset",
        "anyOf": [cases, document],
        "$defs": {**definitions, "Case": case},
    }


def _embed(schema: dict[str, Any], field: str, name: str, inner: dict[str, Any]) -> None:
    """Put a model's schema in the place of the plain object among a field's forms."""
    definitions = schema.setdefault("$defs", {})
    definitions |= inner.pop("$defs", {})
    definitions[name] = inner
    place = schema["properties"][field]
    if place.get("type") == "object":
        told = {key: place[key] for key in ("title", "description", "examples") if key in place}
        schema["properties"][field] = {"$ref": f"#/$defs/{name}", **told}
        return
    place["anyOf"] = [
        {"$ref": f"#/$defs/{name}"} if form.get("type") == "object" else form
        for form in place["anyOf"]
    ]
