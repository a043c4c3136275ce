"""What Studio shows of the served graphs: forms that say what they want and can be filled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prompt_readers import UNTRAINED

from orcheo_agentensor import Store

ROOT = Path(__file__).parent.parent.parent
GRAPHS: dict[str, Any] = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
NODES = {
    "evaluation": {"prepare", "run_cases", "summarize"},
    "training": {"prepare", "folds", "baseline", "step", "checkpoint", "holdout", "decide"},
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


async def context_of(client: Any, graph: str) -> dict[str, Any]:
    [assistant] = await client.assistants.search(graph_id=graph, limit=1)
    schemas = await client.assistants.get_schemas(assistant["assistant_id"])
    return (schemas["context_schema"] or {}).get("properties", {})


async def test_prompts_are_edited_in_the_nodes_that_read_them(client: Any) -> None:
    fields = await context_of(client, "support_triage")
    nodes = {"triage": ["triage"], "reply": ["reply"], "policy": ["reply"]}
    for name, where in nodes.items():
        assert fields[name]["langgraph_type"] == "prompt"
        assert fields[name]["langgraph_nodes"] == where
        assert fields[name]["default"]
    assert fields["use"]["examples"] == ["production"]

    ticket = {"ticket": "One of my payments is missing"}

    async def reply(**context: Any) -> str:
        found = await client.runs.wait(None, "support_triage", input=ticket, context=context)
        return str(found["reply"])

    edited = 'You write the first reply to a bank\'s customer.\n\nRules:\n- Start with "Ahoy".\n'
    untouched = {name: fields[name]["default"] for name in nodes}
    plain = await reply()
    assert await reply(**untouched, use="") == plain
    assert (await reply(**untouched | {"reply": edited})).startswith("Ahoy")


async def test_a_form_that_nobody_has_touched_leaves_a_stored_version_as_it_is(
    client: Any, store: Store
) -> None:
    config = {"configurable": {"prompts": {"tone": "Trained."}}}
    saved = await store.checkpoints.save(
        workflow_id="form_template", runnable_config=config, metrics={}
    )
    use = str(saved.config_version)
    for tone, said in ((UNTRAINED, "Trained."), ("", "Trained."), ("Edited.", "Edited.")):
        made = await client.assistants.create("form_template", context={"tone": tone, "use": use})
        found = await client.runs.wait(None, made["assistant_id"], input={})
        assert found["results"]["seen"] == said
    for context in ({"use": "nowhere"}, {"tone": ["Edited."]}):
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            await client.runs.wait(None, "form_template", input={}, context=context)


async def test_a_field_of_the_graphs_own_context_is_edited_there(client: Any) -> None:
    fields = await context_of(client, "form_context")
    assert fields["system_prompt"]["langgraph_type"] == "prompt"
    assert fields["system_prompt"]["langgraph_nodes"] == ["read"]
    assert fields["system_prompt"]["default"] == UNTRAINED
    assert "tone" not in fields

    async def said(**context: Any) -> str:
        found = await client.runs.wait(None, "form_context", input={}, context=context)
        return str(found["results"]["seen"])

    assert await said(system_prompt=UNTRAINED, model="small") == UNTRAINED
    assert await said(system_prompt="Edited.", model="small") == "Edited."
    # A prompt that binds elsewhere, or is read by name, is a field of its own.
    for graph in ("form_configurable", "form_template"):
        fields = await context_of(client, graph)
        assert fields["tone"]["langgraph_nodes"] == ["read"]
        found = await client.runs.wait(None, graph, input={}, context={"tone": "Edited."})
        assert found["results"]["seen"] == "Edited."


async def test_a_form_offers_nothing_that_nobody_would_look_at(client: Any, store: Store) -> None:
    assert await context_of(client, "bare") == {}
    assert "use" in await context_of(client, "echo")
    await store.workflows.set_flags("echo", {"runnable_config_enabled": False})
    assert await context_of(client, "echo") == {}
    await store.workflows.set_flags("echo", {"runnable_config_enabled": None})
    assert "use" in await context_of(client, "echo")


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
