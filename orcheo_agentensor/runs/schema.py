"""The JSON Schemas of jobs: the forms that each field takes, with the options of what is built in.

A form, such as Studio's, shows them as choices. What a job may hold is decided where it is parsed;
a schema is made only when somebody asks for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from orcheo_agentensor.json_values import prose_only
from orcheo_agentensor.prompts import TENSORS

Schema: TypeAlias = dict[str, Any]
Definitions: TypeAlias = dict[str, Schema]
"""The `$defs` of a schema, to which a form adds its own."""

Form: TypeAlias = Callable[[Definitions], Schema]
"""What makes the schema of one field of a job."""

_TEXT: Schema = {"type": "string"}
_ARGUMENT = re.compile(r"^    (\w+): (.+?)(?=^    \w|\Z)", re.MULTILINE | re.DOTALL)
_ARGS = re.compile(r"^Args:\n(.*?)(?=^\w|\Z)", re.MULTILINE | re.DOTALL)


def as_form(schema: Schema) -> None:
    """Leave null out of a model's JSON Schema, so that a form shows one plain input per field.

    Null is still taken, and means that the field is left out.
    """
    prose_only(schema)
    for field in schema.get("properties", {}).values():
        if isinstance(field.get("default"), dict):
            field["default"] = {k: v for k, v in field["default"].items() if v is not None}
        if {"type": "null"} not in field.get("anyOf", []):
            continue
        if field.get("default", ...) is None:
            del field["default"]
        field["anyOf"].remove({"type": "null"})
        if len(field["anyOf"]) == 1:
            field |= field.pop("anyOf")[0]


def with_forms(schema: Schema, **more: Form) -> Schema:
    """The schema of a job's model, in which each field that holds anything says what it takes.

    `more` are forms of further fields.
    """
    definitions: Definitions = schema.setdefault("$defs", {})
    for name, form in {**_FORMS, **more}.items():
        field = schema["properties"].get(name)
        if field is not None:
            told = {key: field[key] for key in ("title", "description", "examples") if key in field}
            schema["properties"][name] = {**form(definitions), **told}
    return schema


def model_form(
    model: type[BaseModel], definitions: Definitions, *, drop: Iterable[str] = ()
) -> Schema:
    """The schema of a model, for the definitions: without null, each field told.

    What the model itself refers to is put among the definitions. A field without a description has
    that of the argument in the model's docstring.
    """
    schema = model.model_json_schema()
    for name, inner in schema.pop("$defs", {}).items():
        as_form(inner)
        definitions.setdefault(name, inner)
    as_form(schema)
    told = arguments_of(model)
    for name in drop:
        schema["properties"].pop(name, None)
    for name, field in schema["properties"].items():
        field.setdefault("title", name.replace("_", " ").capitalize())
        if "description" not in field and name in told:
            field["description"] = told[name]
        if field.get("default", ...) is None:
            del field["default"]
    return schema


def arguments_of(model: type) -> dict[str, str]:
    """The `Args` of a class's docstring, those of its bases too."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        section = _ARGS.search(inspect.cleandoc(vars(kind).get("__doc__") or ""))
        for name, text in _ARGUMENT.findall(section[1] if section else ""):
            found[name] = " ".join(text.split())
    return found


def named(schema: Schema, key: str, value: str) -> Schema:
    """A schema of an object of the kind that `key` names, which stands first."""
    kind = {"const": value, "type": "string", "title": key.capitalize()}
    kind["description"] = "Which one this is."
    rest = {name: field for name, field in schema["properties"].items() if name != key}
    required = [key, *(name for name in schema.get("required", ()) if name != key)]
    return {**schema, "properties": {key: kind, **rest}, "required": required}


def one_of(key: str, references: Mapping[str, str]) -> Schema:
    """One of several definitions, told apart by the value of `key`."""
    at = {value: f"#/$defs/{name}" for value, name in references.items()}
    return {
        "oneOf": [{"$ref": place} for place in at.values()],
        "discriminator": {"propertyName": key, "mapping": at},
    }


def _entrypoint(what: str) -> Schema:
    told = f'{what}: "module:attribute" or "./path.py:attribute".'
    return {"type": "string", "pattern": "^$|:", "title": "Entry point", "description": told}


# -- Targets, datasets, prompts, configs -----------------------------------------------------------


def _target(definitions: Definitions) -> Schema:
    from orcheo_agentensor.targets.conversation import ConversationSpec
    from orcheo_agentensor.targets.remote import RemoteTargetSpec

    talk = definitions["Conversation"] = model_form(ConversationSpec, definitions)
    for name in ("user", "model", "stop"):  # live objects in Python
        talk["properties"][name] |= _TEXT
    conversation = {
        "$ref": "#/$defs/Conversation",
        "title": "Conversation",
        "description": "How the target is talked to, where each case is a conversation.",
    }
    output = {
        "type": "string",
        "title": "Output",
        "description": "The part of the output to keep, as a dotted path: messages.-1.content",
    }
    definitions["EntrypointTarget"] = {
        "type": "object",
        "title": "A workflow in this process",
        "properties": {
            "entrypoint": _entrypoint("The workflow"),
            "output": output,
            "conversation": conversation,
        },
        "required": ["entrypoint"],
        "additionalProperties": False,
    }
    remote = model_form(RemoteTargetSpec, definitions)
    remote["title"] = "An assistant on a LangGraph server"
    remote["properties"]["conversation"] = conversation
    definitions["AssistantTarget"] = remote
    return {
        "anyOf": [
            _entrypoint("The workflow"),
            {"$ref": "#/$defs/EntrypointTarget"},
            {"$ref": "#/$defs/AssistantTarget"},
        ]
    }


def _dataset(definitions: Definitions) -> Schema:
    from orcheo_agentensor.datasets import Case, DatasetSpec

    definitions["Case"] = _case(model_form(Case, definitions))
    whole = model_form(DatasetSpec, definitions)
    fields = whole["properties"]
    fields["cases"] = {
        "type": "array",
        "items": {"$ref": "#/$defs/Case"},
        "title": "Cases",
        "description": "The cases themselves.",
    }
    always = ("splits", "split", "metadata")
    kinds = {
        "DatasetFile": (
            "A dataset file",
            ("path",),
            ("id", "version", "format", "columns", "encoding", *always),
        ),
        "DatasetInPlace": ("Cases in the job", ("cases",), ("id", "version", *always)),
        "StoredDataset": (
            "A dataset that a run has stored",
            ("id", "version"),
            ("metadata_version", *always),
        ),
    }
    for name, (title, required, optional) in kinds.items():
        definitions[name] = {
            "type": "object",
            "title": title,
            "properties": {key: fields[key] for key in (*required, *optional) if key in fields},
            "required": [*required],
            "additionalProperties": False,
        }
    path = {**_TEXT, "title": "Path", "description": "A dataset file."}
    return {"anyOf": [path, fields["cases"], *({"$ref": f"#/$defs/{name}"} for name in kinds)]}


def _case(schema: Schema) -> Schema:
    """A case as a list of cases may hold it: as data, with null where something is left out."""
    fields = schema["properties"]
    for name, kinds in {"id": ("string", "integer"), "split": ("string",)}.items():
        fields[name] |= {"type": [*kinds, "null"]}
    fields["metadata"]["type"] = ["object", "null"]
    fields["turns"] = {
        "type": "array",
        "title": "Turns",
        "description": "The user's messages of a conversation, in place of inputs or beside them.",
    }
    return {key: value for key, value in schema.items() if key != "required"}


def _prompts(definitions: Definitions) -> Schema:
    _add_config(definitions)
    tensor = definitions["TextTensor"]
    file = {"type": "string", "title": "File", "description": "A file, in place of the text."}
    rest = {key: field for key, field in tensor["properties"].items() if key != "text"}
    definitions["PromptFile"] = {
        "type": "object",
        "title": "A prompt in a file; for job files",
        "properties": {"file": file, **rest},
        "required": ["file"],
        "additionalProperties": False,
    }
    kinds = (*TENSORS, "PromptFile")
    forms = [_TEXT, *({"$ref": f"#/$defs/{kind}"} for kind in kinds)]
    return {"type": "object", "additionalProperties": {"anyOf": forms}}


def _config(definitions: Definitions) -> Schema:
    _add_config(definitions)
    return {"$ref": "#/$defs/RunConfig"}


def _add_config(definitions: Definitions) -> None:
    from orcheo_agentensor.config.model import RunConfig, config_schema

    if "RunConfig" in definitions:
        return
    schema = config_schema()
    inner = schema.pop("$defs", {})
    told = arguments_of(RunConfig)
    for one in (schema, *inner.values()):
        as_form(one)
        for name, field in one.get("properties", {}).items():
            field.setdefault("title", name.replace("_", " ").capitalize())
            if name in told:
                field.setdefault("description", told[name])
            if field.get("default", ...) is None:
                del field["default"]
    gradients = {"type": "array", "title": "Gradients", "description": "What was fed back on it."}
    for kind in TENSORS:
        inner[kind]["properties"]["gradients"] = gradients
    definitions |= {**inner, "RunConfig": schema}


def _publish(definitions: Definitions) -> Schema:
    from orcheo_agentensor.publishing import PublishTo

    definitions["PublishTo"] = model_form(PublishTo, definitions)
    return {"$ref": "#/$defs/PublishTo"}


# -- Evaluators ------------------------------------------------------------------------------------


def _evaluators(definitions: Definitions) -> Schema:
    from orcheo_agentensor.evaluators.binding import BUILTINS
    from orcheo_agentensor.evaluators.detection import DIALECTS

    name = {"type": "string", "title": "Name", "description": "What its results go by."}
    weight = {
        "type": "number",
        "minimum": 0,
        "default": 1.0,
        "title": "Weight",
        "description": "Its share in the weighted mean; 0 only observes.",
    }
    by_type: dict[str, str] = {}
    for kind, model in BUILTINS.items():
        schema = model_form(model, definitions, drop=model.in_process_only)
        schema["properties"] |= {"name": name, "weight": weight}
        if "model" in schema["properties"]:
            schema["properties"]["model"] |= _TEXT
        by_type[kind] = model.__name__
        definitions[model.__name__] = named(schema, "type", kind)
    definitions["EntrypointEvaluator"] = {
        "type": "object",
        "title": "An evaluator of your own",
        "properties": {
            "entrypoint": _entrypoint("The evaluator"),
            "params": {
                "type": "object",
                "title": "Params",
                "description": "What it is made or called with.",
            },
            "kind": {
                "enum": [*DIALECTS],
                "title": "Kind",
                "description": "Its form, where that cannot be told.",
            },
            "scale": {
                "type": "array",
                "items": {"type": "number"},
                "minItems": 2,
                "maxItems": 2,
                "title": "Scale",
                "description": "Its worst score and its best, where these are not 0 and 1.",
            },
            "name": name,
            "weight": weight,
        },
        "required": ["entrypoint"],
        "additionalProperties": False,
    }
    plain = {"enum": _without_options(BUILTINS), "type": "string", "title": "Built in"}

    def forms(kinds: Mapping[str, str]) -> list[Schema]:
        names = [one for one in plain["enum"] if one in kinds]
        own = [_entrypoint("The evaluator"), {"$ref": "#/$defs/EntrypointEvaluator"}]
        return [{**plain, "enum": names}, one_of("type", kinds), *own]

    # An evaluator of turns has one of any other kind in it, so that no form goes on for ever.
    inner = {kind: name for kind, name in by_type.items() if kind != "each_turn"}
    of_turn = definitions["EachTurn"]["properties"]["evaluator"]
    of_turn["anyOf"] = forms(inner)
    definitions["Evaluator"] = {"title": "Evaluator", "anyOf": forms(by_type)}
    return {"type": "array", "items": {"$ref": "#/$defs/Evaluator"}}


def _without_options(kinds: Mapping[str, Any]) -> list[str]:
    """The kinds that can be named alone."""
    found = []
    for name, kind in kinds.items():
        try:
            kind()
        except ValidationError:
            continue
        found.append(name)
    return found


_FORMS: dict[str, Form] = {
    "target": _target,
    "dataset": _dataset,
    "evaluators": _evaluators,
    "prompts": _prompts,
    "config": _config,
    "publish": _publish,
}


def dataset_schema() -> Schema:
    """The JSON Schema of a dataset document: a list of cases, or an object that holds them."""
    from orcheo_agentensor.datasets import Case

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
