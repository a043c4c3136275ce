"""`bind`: the rules on places, and where the text of a bound prompt is put."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from orcheo_agentensor import RunConfig, Settings, TextTensor
from orcheo_agentensor.config import config_schema, settle
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.prompts import Candidate, as_tensor, put
from orcheo_agentensor.targets.context import bound_context


@pytest.mark.parametrize(
    "bind", ["configurable.system_prompt", "context.system_prompt", "configurable.agent.a-b.c_1"]
)
def test_a_place_is_kept_with_the_prompt(bind: str) -> None:
    tensor = TextTensor("x", bind=bind)
    assert tensor.with_text("y") == TextTensor("y", bind=bind)
    assert tensor.to_json()["bind"] == bind
    assert as_tensor({"text": "x", "bind": bind}, field="p") == tensor
    assert as_tensor(tensor.to_json(), field="p") == tensor


def test_a_prompt_without_a_place_is_written_as_ever() -> None:
    assert TextTensor("x").to_json() == {
        "type": "TextTensor",
        "text": "x",
        "requires_grad": True,
        "metadata": {},
    }
    assert "bind" not in TextTensor("x").model_dump()
    assert Candidate.of({"a": TextTensor("x")}).hash != (
        Candidate.of({"a": TextTensor("x", bind="configurable.a")}).hash
    )


@pytest.mark.parametrize(
    ("bind", "rule"),
    [
        ("system_prompt", "must be one of: 'configurable.<path>'"),
        ("configurable", "must be one of: 'configurable.<path>'"),
        ("configurable.", "must be one of: 'configurable.<path>'"),
        ("configurable.a..b", "must be one of: 'configurable.<path>'"),
        ("configurable.a b", "must be one of: 'configurable.<path>'"),
        ("metadata.a", "must be one of: 'configurable.<path>'"),
        ("configurable." + ".".join("a" * 17), "at most 16 keys"),
        ("configurable.thread_id", "reserved"),
        ("configurable.checkpoint_id", "reserved"),
        ("configurable.prompts.a", "reserved"),
        ("configurable.agentensor.use", "reserved"),
        ("configurable.langgraph_auth_user", "reserved"),
        ("configurable.__pregel_runtime", "must be|reserved"),
        ("configurable.a.__b", "reserved"),
        ("context.prompts", "reserved"),
    ],
)
def test_another_place_is_refused(bind: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        TextTensor("x", bind=bind)
    with pytest.raises(ConfigError, match=rule) as caught:
        RunConfig.parse({"prompts": {"p": {"text": "x", "bind": bind}}})
    assert caught.value.field == "config.prompts.p.bind"


@pytest.mark.parametrize("other", ["configurable.a", "configurable.a.b"])
def test_two_prompts_cannot_bind_to_one_place_or_inside_each_other(other: str) -> None:
    prompts = {
        "one": {"text": "1", "bind": "configurable.a"},
        "two": {"text": "2", "bind": other},
        "three": {"text": "3", "bind": "configurable.ab"},
    }
    with pytest.raises(ConfigError, match=r"prompts.two.bind.*prompt 'one'"):
        RunConfig.parse({"prompts": prompts})
    low = RunConfig.parse({"prompts": {"one": prompts["one"]}})
    high = RunConfig.parse({"prompts": {"two": prompts["two"]}})
    with pytest.raises(ConfigError, match=r"prompts.two.bind.*prompt 'one'"):
        settle(low, high, settings=Settings())
    assert len(RunConfig.parse({"prompts": {k: prompts[k] for k in ("one", "three")}}).prompts) == 2


def test_the_text_is_put_in_place_beside_what_the_config_holds() -> None:
    config = RunConfig.parse(
        {
            "configurable": {"agent": {"model": "small", "system_prompt": "old"}, "n": 1},
            "prompts": {"p": {"text": "new", "bind": "configurable.agent.system_prompt"}},
        }
    )
    configurable = config.to_runnable()["configurable"]
    assert configurable["agent"] == {"model": "small", "system_prompt": "new"}
    assert configurable["n"] == 1
    assert configurable["prompts"]["p"]["text"] == "new"
    assert config.to_json()["configurable"]["agent"]["system_prompt"] == "old"


def test_a_plain_text_in_a_request_keeps_the_place() -> None:
    low = RunConfig.parse({"prompts": {"p": {"text": "low", "bind": "configurable.x"}}})
    merged = settle(low, RunConfig.parse({"prompts": {"p": "high"}}), settings=Settings())
    assert merged.to_runnable()["configurable"]["x"] == "high"


def test_a_value_in_the_way_is_named() -> None:
    config = RunConfig.parse(
        {
            "configurable": {"agent": "small"},
            "prompts": {"p": {"text": "x", "bind": "configurable.agent.system_prompt"}},
        }
    )
    with pytest.raises(ConfigError, match=r"prompts.p.bind: 'system_prompt' leads into .* str"):
        config.to_runnable()


def test_the_schema_of_a_config_shows_the_place() -> None:
    assert "bind" in config_schema()["$defs"]["TextTensor"]["properties"]


keys = st.sampled_from("abc")
trees = st.recursive(
    st.integers(), lambda below: st.dictionaries(keys, below, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(trees, st.lists(keys, min_size=1, max_size=3))
def test_putting_a_text_changes_nothing_else(tree: dict[str, Any], path: list[str]) -> None:
    before = repr(tree)
    try:
        placed = put(tree, tuple(path), "text", field="f")
    except ConfigError:
        return
    assert repr(tree) == before
    for key in path[:-1]:
        assert {k: v for k, v in placed.items() if k != key} == {
            k: v for k, v in tree.items() if k != key
        }
        placed, tree = placed[key], tree.get(key, {})
    assert {**placed} == {**tree, path[-1]: "text"}


@dataclass(frozen=True)
class Agent:
    system_prompt: str = "default"
    model: str = "small"


@dataclass
class DataContext:
    system_prompt: str
    agent: Agent = field(default_factory=lambda: Agent(model="special"))
    other: Agent | None = None


class ModelAgent(BaseModel):
    system_prompt: str = "default"
    model: str = "small"


class ModelContext(BaseModel):
    system_prompt: str
    agent: ModelAgent = ModelAgent(model="special")
    other: ModelAgent | None = None


class TypedContext(TypedDict, total=False):
    system_prompt: str
    agent: dict[str, Any]
    other: dict[str, Any]


@pytest.mark.parametrize("schema", [DataContext, ModelContext, TypedContext])
def test_a_context_of_any_kind_is_made_with_the_text_in_place(schema: Any) -> None:
    bound = [
        ("a", ("system_prompt",), "A"),
        ("b", ("agent", "system_prompt"), "B"),
        ("c", ("other", "system_prompt"), "C"),
    ]
    made = bound_context(schema, {"other": {"model": "given"}}, bound)

    def at(value: Any, *path: str) -> Any:
        for key in path:
            value = value[key] if isinstance(value, dict) else getattr(value, key)
        return value

    assert at(made, "system_prompt") == "A"
    assert at(made, "agent", "system_prompt") == "B"
    assert at(made, "other", "system_prompt") == "C"
    assert at(made, "other", "model") == "given"
    if schema is not TypedContext:
        assert isinstance(made, schema)
        assert at(made, "agent", "model") == "special"
    again = bound_context(schema, made, [("a", ("system_prompt",), "AA")])
    assert at(again, "system_prompt") == "AA"
    assert at(again, "agent", "system_prompt") == "B"
    assert at(made, "system_prompt") == "A"
