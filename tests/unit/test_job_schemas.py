"""The JSON Schemas of jobs say what jobs take: names and options of what is built in, as unions."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orcheo_agentensor import EvaluationJob, TrainingJob


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(TrainingJob.model_json_schema())


TAKEN: list[dict[str, Any]] = [
    {"target": "shop.flow:graph"},
    {"target": "./flow.py:graph"},
    {"target": {"entrypoint": "shop.flow:graph", "output": "messages.-1.content"}},
    {"target": {"entrypoint": "a:b", "conversation": {"persona": "a clerk", "max_turns": 3}}},
    {"target": {"url": "http://a.example", "assistant": "triage", "api_key_env": "KEY"}},
    {"target": {"assistant": "triage", "prompts_in": "context", "output": "reply"}},
    {"dataset": "cases.jsonl"},
    {"dataset": [{"inputs": 1}, {"id": 7, "inputs": None, "split": None}, {"turns": ["Hi"]}]},
    {"dataset": {"path": "a.csv", "format": "langsmith", "columns": {"inputs": "Q"}, "id": "a"}},
    {"dataset": {"path": "a.csv", "encoding": "cp1252"}},
    {"dataset": {"cases": [{"inputs": 1}], "splits": {"train": 1}, "split": ["train"]}},
    {"dataset": {"id": "a", "version": "0a", "metadata_version": "0b", "split": "train"}},
    {"evaluators": ["exact_match", "shop.checks:polite"]},
    {"evaluators": [{"type": "contains", "value": ["a", "b"], "ignore_case": True, "weight": 2}]},
    {"evaluators": [{"type": "json_schema", "schema": {"type": "object"}, "field": "reply"}]},
    {"evaluators": [{"type": "llm_judge", "rubric": "Kind.", "model": "openai:x", "votes": 3}]},
    {"evaluators": [{"type": "each_turn", "evaluator": {"type": "regex", "pattern": "^a"}}]},
    {"evaluators": [{"entrypoint": "a:b", "kind": "langsmith", "scale": [1, 5], "name": "n"}]},
    {"prompts": {"a": "Text.", "b": {"text": "More.", "bind": "context.b", "metadata": {"x": 1}}}},
    {"prompts": {"a": {"type": "ContentTensor", "blocks": [{"type": "text", "text": "Look."}]}}},
    {"config": {"tags": ["a"], "configurable": {"agentensor": {"use": "production"}, "k": 1}}},
    {"optimizer": "reflective"},
    {"optimizer": {}},
    {"optimizer": {"minibatch": "auto", "opening": True}},
    {"optimizer": {"name": "textgrad", "momentum": 3, "proposer": "shop.tutor:Tutor"}},
    {"stop": [{"type": "patience", "steps": 6}, {"type": "target_score", "score": 1}]},
    {"promote": "ask"},
    {"publish": {"url": "http://a.example", "assistant": "triage", "graph": "g", "create": True}},
]
REFUSED: list[dict[str, Any]] = [
    {"evaluators": ["exakt_match"]},
    {"evaluators": ["regex"]},  # which needs its pattern
    {"evaluators": [{"type": "contains", "pattern": "^a"}]},
    {"evaluators": [{"type": "http", "url": "http://a.example", "allowed_hosts": ["a"]}]},
    {"evaluators": [{"entrypoint": "a:b", "value": 1}]},
    {"optimizer": "adam"},
    {"optimizer": {"name": "textgrad", "chain": 3}},
    {"stop": [{"type": "patience", "score": 1}]},
    {"dataset": {"path": "a.csv", "cases": []}},
    {"dataset": {"id": "a"}},
    {"target": {"entrypoint": "a:b", "assistant": "c"}},
    {"promote": "maybe"},
]


@pytest.mark.parametrize("job", TAKEN, ids=str)
def test_a_schema_takes_every_form_that_a_job_takes(job: dict[str, Any]) -> None:
    TrainingJob.parse(job)
    assert list(validator().iter_errors(job)) == []


@pytest.mark.parametrize("job", REFUSED, ids=str)
def test_a_schema_refuses_names_and_options_that_there_are_not(job: dict[str, Any]) -> None:
    assert list(validator().iter_errors(job))


def test_every_field_is_one_plain_input_with_a_title_and_a_description() -> None:
    schema = TrainingJob.model_json_schema()
    for where, part in {"job": schema, **schema["$defs"]}.items():
        for name, field in part.get("properties", {}).items():
            assert field.get("title"), (where, name)
            assert field.get("description"), (where, name)
            assert {"type": "null"} not in field.get("anyOf", []), (where, name)
            assert field.get("default", "") is not None, (where, name)


def test_each_kind_is_told_by_one_name_and_every_option_is_described() -> None:
    schema = EvaluationJob.model_json_schema()
    definitions = schema["$defs"]
    named, by_type, *_ = definitions["Evaluator"]["anyOf"]
    mapping = by_type["discriminator"]["mapping"]
    assert set(named["enum"]) < set(mapping)
    for kind, place in mapping.items():
        one = definitions[place.removeprefix("#/$defs/")]
        assert one["properties"]["type"]["const"] == kind
        untold = [name for name, field in one["properties"].items() if "description" not in field]
        assert untold == []
    assert "optimizer" not in schema["properties"]
