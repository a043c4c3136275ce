"""What Studio shows of the served graphs: forms that say what they want and can be filled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
GRAPHS: dict[str, Any] = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
NODES = {
    "evaluation": {"prepare", "run_cases", "summarize"},
    "training": {"prepare", "baseline", "step", "checkpoint", "holdout", "decide"},
    "host_workflow": {"arrive", "evaluate", "train", "report"},
    "support_triage": {"triage", "reply"},
}


def properties(schema: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property at every depth, by its path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{at}{name}", field
    for name, definition in schema.get("$defs", {}).items():
        yield from properties(definition, f"{name}.")


@pytest.mark.parametrize("graph", GRAPHS)
async def test_every_field_has_a_title_and_a_description(client: Any, graph: str) -> None:
    [assistant] = await client.assistants.search(graph_id=graph)
    schemas = await client.assistants.get_schemas(assistant["assistant_id"])
    for kind in ("input_schema", "output_schema", "state_schema"):
        untold = [
            path
            for path, field in properties(schemas[kind])
            if not (field.get("title") and field.get("description"))
        ]
        assert untold == [], kind
    assert schemas["input_schema"]["title"]
    assert schemas["input_schema"]["description"]
    drawn = await client.assistants.get_graph(assistant["assistant_id"])
    assert {node["id"] for node in drawn["nodes"]} - {"__start__", "__end__"} == NODES[graph]


@pytest.mark.parametrize("graph", ["evaluation", "training", "host_workflow"])
async def test_a_form_asks_for_nothing_it_cannot_express(client: Any, graph: str) -> None:
    [assistant] = await client.assistants.search(graph_id=graph)
    schema = (await client.assistants.get_schemas(assistant["assistant_id"]))["input_schema"]
    assert not schema.get("required")
    for path, field in properties(schema):
        assert {"type": "null"} not in field.get("anyOf", []), path
        assert field.get("default", "") is not None, path
    if graph == "training":
        assert schema["properties"]["promote"]["enum"] == ["auto", "ask", "never"]
        assert schema["properties"]["promote"]["default"] == "never"
        assert schema["properties"]["limits"]["default"]["concurrency"] == 10


@pytest.mark.parametrize("graph", ["evaluation", "training"])
async def test_a_form_offers_what_is_built_in_with_its_options(client: Any, graph: str) -> None:
    [assistant] = await client.assistants.search(graph_id=graph)
    schema = (await client.assistants.get_schemas(assistant["assistant_id"]))["input_schema"]
    definitions = schema["$defs"]
    fields = {"evaluators": ("type", "ExactMatch", "exact_match")}
    if graph == "training":
        fields["optimizer"] = ("name", "Reflective", "reflective")
    for field, (key, definition, name) in fields.items():
        place = schema["properties"][field].get("items", schema["properties"][field])
        forms = definitions[place["$ref"].removeprefix("#/$defs/")] if "$ref" in place else place
        named, by_name, *_ = forms["anyOf"]
        assert name in named["enum"]
        assert by_name["discriminator"]["mapping"][name] == f"#/$defs/{definition}"
        assert definitions[definition]["properties"][key]["const"] == name
    for field in ("target", "dataset", "config", "prompts"):
        assert "#/$defs/" in json.dumps(schema["properties"][field]), field


def untouched(field: dict[str, Any]) -> Any:
    """What a form sends of a field that nobody has touched."""
    return field.get(
        "default", {"string": "", "object": {}, "array": []}.get(field.get("type", ""))
    )


async def test_a_form_filled_with_its_examples_starts_a_training(client: Any) -> None:
    [assistant] = await client.assistants.search(graph_id="training")
    schema = (await client.assistants.get_schemas(assistant["assistant_id"]))["input_schema"]
    filled = {
        name: field["examples"][0] if "examples" in field else untouched(field)
        for name, field in schema["properties"].items()
    }
    filled["config"] = None  # the example asks for what is in production: nothing, yet
    filled["workflow_id"] = "from-a-form"
    filled["dataset"] = {"path": str(ROOT / filled["dataset"]), "split": ["train", "validation"]}
    thread = await client.threads.create()
    found = await client.runs.wait(thread["thread_id"], "training", input=filled)
    assert found["status"] == "finished"
    assert found["best"]["objective"] > found["baseline"]["objective"]
    assert found["run_id"]


def test_langgraph_validate_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_cli", "validate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
