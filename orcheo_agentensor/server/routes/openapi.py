"""The OpenAPI description of the routes, made from the operations themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from orcheo_agentensor.server.routes.api import PREFIX, NoQuery, Operation

_WHY = {
    400: "A header is no text; the server's own answer.",
    401: "No token, or one that is not known; the server's own answer.",
    403: "The token lacks the scope that this needs.",
    404: "There is no such thing, or it is somebody else's.",
    409: "Somebody else has moved the alias meanwhile, or the version was rejected.",
    412: "If-Match does not hold.",
    413: "The body is too large.",
    415: "The body is not JSON in UTF-8.",
    422: "The body is no JSON, or a parameter or it breaks a rule; every problem is listed.",
    503: "The side store cannot be used.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "problems"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "problems": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"field": {}, "value": {}, "rule": {}},
                    },
                },
            },
        }
    },
}


def describe(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The description as OpenAPI 3.1."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(PREFIX + operation.path, {})[operation.method.lower()] = described(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "orcheo-agentensor", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def described(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """One operation; the schemas of its answer and body are put into `schemas`."""
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"{(operation.run.__doc__ or '').strip()} Needs the scope "
        f"`{operation.scope}`.",
        "tags": [operation.tag],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, schemas)],
        "responses": _responses(operation, schemas),
    }
    if operation.body is not None:
        found["parameters"].append(_header("If-Match", "The entity tag of the alias as read."))
        schema = _schema(operation.body, schemas)
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return found


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(operation.answer, schemas)}}
    tag = {"ETag": {"schema": {"type": "string"}}}
    responses: dict[str, Any] = {
        "200": {"description": operation.summary, "content": content, "headers": tag}
    }
    if operation.method == "GET":
        responses["304"] = {
            "description": "The caller has it already: `If-None-Match` held its entity tag.",
            "headers": tag,
        }
    for status in sorted({400, 401, 403, 422, 503, *operation.statuses}):
        responses[str(status)] = {"description": _WHY[status]}
        if status not in (400, 401):  # answered before it gets to us
            schema = {"$ref": "#/components/schemas/Error"}
            responses[str(status)]["content"] = {"application/json": {"schema": schema}}
    return responses


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]*$"},
        }
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]


def _query_parameters(operation: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if operation.query is NoQuery:
        return []
    schema = operation.query.model_json_schema()
    required = schema.get("required", ())
    found = []
    for name, entry in schema["properties"].items():
        forms = entry.get("anyOf", [entry])
        kept = next(form for form in forms if form.get("type") != "null")
        shape = {key: value for key, value in kept.items() if key not in ("title", "description")}
        found.append(
            {
                "name": name,
                "in": "query",
                "required": name in required,
                "description": entry.get("description", ""),
                "schema": shape,
            }
        )
    return found


def _header(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    mode: Any = "validation" if hasattr(kind, "model_config") else "serialization"
    found = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    schemas |= found.pop("$defs", {})
    return found
