from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager

from orcheo_agentensor.config import (
    RunConfig,
    config_schema,
    merge_configs,
    model,
    register_callback,
    registered_callbacks,
    runtime_configurable,
    settle,
)
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.settings import Settings

RUN_ID = "5f0f3a52-7d4c-4f7a-9d53-0c5a3a2f6a11"


class Audit(BaseCallbackHandler):
    """A callback to register."""


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    before = dict(model._factories)
    register_callback("audit", Audit)
    register_callback("trace", Audit)
    yield
    model._factories.clear()
    model._factories.update(before)


def problems(obj: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(obj)
    return {problem["field"]: problem["rule"] for problem in caught.value.problems}


# -- What is accepted ------------------------------------------------------------------------------


def test_a_full_config_is_parsed() -> None:
    config = RunConfig.parse(
        {
            "tags": ["a", "b", "a"],
            "metadata": {"team": "support"},
            "configurable": {"thread_id": "t", "tone": {"formal": True}},
            "run_name": "nightly",
            "run_id": RUN_ID,
            "recursion_limit": 50,
            "max_concurrency": 4,
            "callbacks": ["audit"],
            "prompts": {"answer": "Be brief."},
        }
    )
    assert config.tags == ("a", "b")
    assert config.metadata == {"team": "support"}
    assert config.configurable == {"thread_id": "t", "tone": {"formal": True}}
    assert config.run_id == UUID(RUN_ID)
    assert (config.run_name, config.recursion_limit, config.max_concurrency) == ("nightly", 50, 4)
    assert config.callbacks == ("audit",)
    assert config.prompts == {"answer": TextTensor("Be brief.")}


@pytest.mark.parametrize("nothing", [None, {}, {"tags": None, "max_concurrency": None}])
def test_nothing_is_the_empty_config(nothing: Any) -> None:
    assert RunConfig.parse(nothing) == RunConfig()
    assert RunConfig.parse(nothing).to_runnable() == {}
    assert RunConfig.parse(nothing).to_json() == {}


def test_prompts_may_stand_at_the_top_or_in_configurable_or_in_both() -> None:
    config = RunConfig.parse(
        {"prompts": {"a": "A"}, "configurable": {"prompts": {"b.c-d": {"text": "B"}}, "x": 1}}
    )
    assert {name: prompt.text for name, prompt in config.prompts.items()} == {
        "a": "A",
        "b.c-d": "B",
    }
    assert config.configurable == {"x": 1}


@pytest.mark.parametrize(
    ("use", "expected"), [("production", "production"), (7, 7), ("7", 7), (None, None)]
)
def test_a_stored_version_can_be_asked_for(use: Any, expected: Any) -> None:
    assert RunConfig.parse({"configurable": {"agentensor": {"use": use}}}).use == expected


def test_no_version_is_asked_for_by_default() -> None:
    assert RunConfig().use is None


def test_later_changes_by_the_caller_do_not_reach_the_config() -> None:
    given_: dict[str, Any] = {"metadata": {"a": {"b": 1}}, "configurable": {"c": [1]}}
    config = RunConfig.parse(given_)
    given_["metadata"]["a"]["b"] = 2
    given_["configurable"]["c"].append(2)
    assert config.metadata == {"a": {"b": 1}}
    assert config.configurable == {"c": [1]}


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("obj", [[], "tags", 5, True, object()])
def test_what_is_not_an_object_is_refused(obj: Any) -> None:
    assert problems(obj) == {"config": "must be an object"}


def test_an_unknown_key_is_refused_with_the_known_ones_and_the_nearest() -> None:
    rule = problems({"tag": ["a"]})["config.tag"]
    assert "did you mean 'tags'?" in rule
    assert "recursion_limit" in rule


@pytest.mark.parametrize(
    ("obj", "field", "rule"),
    [
        ({"tags": "a"}, "tags", "list of texts"),
        ({"tags": ["a", 1]}, "tags.1", "must be a text"),
        ({"metadata": []}, "metadata", "must be an object"),
        ({"configurable": "x"}, "configurable", "must be an object"),
        ({"run_name": 3}, "run_name", "must be a text"),
        ({"run_id": "nightly"}, "run_id", "must be a UUID"),
        ({"run_id": 5}, "run_id", "must be a UUID"),
        ({"recursion_limit": 0}, "recursion_limit", "at least 1"),
        ({"recursion_limit": True}, "recursion_limit", "whole number"),
        ({"recursion_limit": 2.0}, "recursion_limit", "whole number"),
        ({"max_concurrency": "a"}, "max_concurrency", "whole number"),
        ({"max_concurrency": -1}, "max_concurrency", "at least 1"),
        ({"callbacks": "audit"}, "callbacks", "list"),
        ({"callbacks": ["nope"]}, "callbacks.0", "registered: audit, trace"),
        ({"callbacks": [Audit()]}, "callbacks.0", "not the name of a registered callback"),
        ({"callbacks": [{"id": 1}]}, "callbacks.0", "not the name of a registered callback"),
        ({"metadata": {"x": math.nan}}, "metadata.x", "finite"),
        ({"metadata": {"x": {"lc": 1}}}, "metadata.x.lc", "reserved"),
        ({"configurable": {"a": [{"lc": 1}]}}, "configurable.a.0.lc", "reserved"),
        ({"configurable": {"__pregel_x": 1}}, "configurable.__pregel_x", "reserved"),
        ({"configurable": {"a": {"__x": 1}}}, "configurable.a.__x", "reserved"),
        ({"configurable": {"checkpoint_id": "1"}}, "configurable.checkpoint_id", "reserved"),
        ({"configurable": {"checkpoint_ns": ""}}, "configurable.checkpoint_ns", "reserved"),
        ({"configurable": {"x": "\x00"}}, "configurable.x", "NUL"),
        ({"configurable": {"x": "\ud800"}}, "configurable.x", "surrogate"),
        ({"configurable": {"x": 2**64}}, "configurable.x", "64 bits"),
        ({"configurable": {"x": object()}}, "configurable.x", "JSON"),
        ({"configurable": {"agentensor": 1}}, "configurable.agentensor", "object"),
        ({"configurable": {"agentensor": {"us": 1}}}, "configurable.agentensor.us", "'use'"),
        ({"configurable": {"agentensor": {"use": 0}}}, "configurable.agentensor.use", "alias"),
        ({"configurable": {"agentensor": {"use": True}}}, "configurable.agentensor.use", "alias"),
        ({"configurable": {"agentensor": {"use": "07"}}}, "configurable.agentensor.use", "alias"),
        ({"prompts": ["x"]}, "prompts", "must be an object"),
        ({"prompts": {"a b": "x"}}, "prompts.a b", "not a prompt name"),
        ({"prompts": {"": "x"}}, "prompts.", "not a prompt name"),
        ({"prompts": {"a": 5}}, "prompts.a", "must be a text"),
        ({"prompts": {"a": {"txt": "x"}}}, "prompts.a.text", "must be given"),
        ({"prompts": {"a": {"text": "x", "type": "Other"}}}, "prompts.a.type", "not valid"),
        (
            {"prompts": {"a": {"text": "x", "requires_grad": "no"}}},
            "prompts.a.requires_grad",
            "true or false",
        ),
        (
            {"prompts": {"a": {"text": "x", "gradients": ["y"]}}},
            "prompts.a.gradients",
            "working state",
        ),
        (
            {"prompts": {"a": "x"}, "configurable": {"prompts": {"a": "y"}}},
            "configurable.prompts.a",
            "config.prompts as well",
        ),
    ],
)
@pytest.mark.requirement("config.validated")
def test_a_broken_rule_is_reported_at_its_path(obj: Any, field: str, rule: str) -> None:
    found = problems(obj)
    assert list(found) == [f"config.{field}"]
    assert rule in found[f"config.{field}"]


def test_prompt_names_are_checked_however_a_config_is_made() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.a b: 'a b' is not a prompt name"):
        RunConfig(prompts={"a b": TextTensor("x")})


def test_the_schema_is_sound_without_registered_callbacks() -> None:
    model._factories.clear()
    jsonschema.validate({"callbacks": []}, config_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"callbacks": ["audit"]}, config_schema())


@pytest.mark.requirement("config.validated")
def test_all_problems_are_reported_at_once_in_one_text() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"tags": 5, "metadat": {}, "run_id": "x"}, field="job.config")
    assert [problem["field"] for problem in caught.value.problems] == [
        "job.config.metadat",
        "job.config.tags",
        "job.config.run_id",
    ]
    assert str(caught.value).startswith("3 problems in job.config:\n")
    assert "job.config.tags: 5 must be a list of texts" in str(caught.value)


def test_a_single_problem_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"tags": 5})
    assert str(caught.value) == "config.tags: 5 must be a list of texts"
    assert (caught.value.field, caught.value.value) == ("config.tags", 5)


def test_a_flood_of_problems_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"tags": [1] * 5_000})
    assert len(caught.value.problems) == 100
    assert str(caught.value).startswith("more than 100 problems in config:")


def hostile() -> Iterator[Any]:
    bomb: Any = "x"
    for _ in range(30):
        bomb = [bomb, bomb]
    yield {"metadata": bomb}
    yield {"prompts": {"a": {"text": bomb}}}
    yield {"tags": bomb}
    yield {"k" * 500_000: dict.fromkeys(map(str, range(50_000)))}
    yield {"metadata": {"k" * 400_000: [math.nan] * 100_000}}
    yield {f"k{i}": i for i in range(100_000)}
    yield {"prompts": {f"k {i}": i for i in range(50_000)}}
    yield {"callbacks": ["x"] * 200_000}


@pytest.mark.parametrize("obj", list(hostile()))
def test_hostile_input_is_refused_without_much_work(obj: Any) -> None:
    started = time.thread_time()
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(obj)
    assert time.thread_time() - started < 10
    assert len(caught.value.problems) <= 100
    assert len(str(caught.value)) < 100_000


def test_a_config_of_more_than_a_mebibyte_is_refused() -> None:
    RunConfig.parse({"metadata": {"x": "y" * (1024 * 1024 - 100)}})
    assert (
        "larger than 1,048,576 bytes" in problems({"metadata": {"x": "y" * 1024 * 1024}})["config"]
    )


def test_a_config_nested_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    (rule,) = problems({"metadata": deep}).values()
    assert rule == "is nested deeper than 32 levels"


def test_a_secret_in_a_prompt_is_refused_and_not_shown() -> None:
    key = "sk-proj-4f9a8b7c6d5e4f3a2b1c"
    with pytest.raises(ConfigError, match="holds a secret") as caught:
        RunConfig.parse({"prompts": {"a": f"Use {key}."}})
    assert key not in str(caught.value)


def test_secrets_among_refused_values_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"configurable": {"api_key": "hush\x00"}, "run_id": "Bearer abcdef123456"})
    assert "hush" not in str(caught.value)
    assert "abcdef123456" not in str(caught.value)
    assert "hush" not in str(caught.value.problems)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["tags", "prompts", "configurable", "metadata", "lc", "__x", "a", "text"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(any_json)
def test_anything_is_either_refused_or_stored_as_it_was_read(obj: Any) -> None:
    try:
        parsed = RunConfig.parse(obj)
    except ConfigError:
        return
    assert RunConfig.parse(parsed.to_json()) == parsed


# -- Round trips and merging -----------------------------------------------------------------------

words = st.text("abcdefgh", min_size=1, max_size=4)
leaves = st.none() | st.booleans() | st.integers(-9, 9) | words | st.lists(words, max_size=2)
# A key begins with "o" where it holds an object, in every config: then merging is associative.
trees = st.dictionaries(words.map("v".__add__), leaves, max_size=3)
objects = st.builds(
    lambda values, inner: values | inner,
    trees,
    st.dictionaries(words.map("o".__add__), trees, max_size=2),
)
prompt_forms = st.one_of(
    words,
    st.fixed_dictionaries({"text": words}, optional={"requires_grad": st.booleans()}),
    st.fixed_dictionaries(
        {"type": st.just("TextTensor"), "text": words},
        optional={"requires_grad": st.booleans(), "metadata": trees},
    ),
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(words, max_size=3),
        "metadata": objects,
        "configurable": objects,
        "run_name": words,
        "run_id": st.uuids().map(str),
        "recursion_limit": st.integers(1, 100),
        "max_concurrency": st.integers(1, 100),
        "callbacks": st.lists(st.sampled_from(["audit", "trace"]), max_size=2),
        "prompts": st.dictionaries(words, prompt_forms, max_size=3),
    },
)
parsed_configs = configs.map(lambda obj: _with_callbacks(obj))


def _with_callbacks(obj: dict[str, Any]) -> RunConfig:
    register_callback("audit", Audit)
    register_callback("trace", Audit)
    return RunConfig.parse(obj)


@given(parsed_configs)
def test_what_is_stored_reads_back_as_the_same_config(config: RunConfig) -> None:
    stored = json.loads(json.dumps(config.to_json()))
    assert RunConfig.parse(stored) == config


@given(parsed_configs)
def test_a_trusted_reading_of_the_runnable_form_is_the_same_config(config: RunConfig) -> None:
    again, live = RunConfig.trusted(config.to_runnable())
    assert again == config.model_copy(update={"callbacks": ()})
    assert len(live) == len(config.callbacks)  # type: ignore[arg-type]


@given(parsed_configs)
def test_the_empty_config_is_the_identity_of_merging(config: RunConfig) -> None:
    assert merge_configs(RunConfig(), config) == config
    assert merge_configs(config, RunConfig()) == config
    assert merge_configs(config, config) == config


@given(parsed_configs, parsed_configs, parsed_configs)
@pytest.mark.requirement("config.merged")
def test_merging_is_associative(low: RunConfig, mid: RunConfig, high: RunConfig) -> None:
    at_once = merge_configs(low, mid, high)
    assert merge_configs(merge_configs(low, mid), high) == at_once
    assert merge_configs(low, merge_configs(mid, high)) == at_once


@settings(max_examples=30)  # building the schema is slow
@given(configs)
def test_what_parses_keeps_to_the_schema(obj: dict[str, Any]) -> None:
    _with_callbacks(obj)
    jsonschema.validate(obj, config_schema())


@pytest.mark.parametrize(
    "obj",
    [
        {"tagz": []},
        {"recursion_limit": 0},
        {"prompts": {"a b": "x"}},
        {"prompts": {"a": {"text": "x", "gradients": []}}},
        {"configurable": {"agentensor": {"us": 1}}},
        {"callbacks": ["nope"]},
    ],
)
def test_the_schema_refuses_what_the_model_refuses(obj: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(obj, config_schema())
    assert problems(obj)


@pytest.mark.requirement("config.merged")
def test_the_order_is_workflow_then_checkpoint_then_request_then_caps() -> None:
    workflow = RunConfig.parse(
        {
            "tags": ["w", "x"],
            "metadata": {"team": {"name": "w", "floor": 1}},
            "configurable": {"model": "w", "top_k": 1, "list": [1, 2]},
            "recursion_limit": 10,
            "max_concurrency": 2,
            "run_name": "w",
            "prompts": {"a": "workflow", "b": {"text": "workflow", "requires_grad": False}},
        }
    )
    checkpoint = RunConfig.parse(
        {"tags": ["c"], "configurable": {"top_k": 2}, "prompts": {"a": "trained"}}
    )
    request = RunConfig.parse(
        {
            "tags": ["x", "r"],
            "metadata": {"team": {"name": "r"}},
            "configurable": {"model": "r", "list": [3]},
            "recursion_limit": 5_000,
            "prompts": {"b": "request"},
        }
    )
    merged = settle(
        workflow,
        checkpoint,
        request,
        settings=Settings(max_recursion_limit=100, max_target_concurrency=1),
    )
    assert merged.tags == ("w", "x", "c", "r")
    assert merged.metadata == {"team": {"name": "r", "floor": 1}}
    assert merged.configurable == {"model": "r", "top_k": 2, "list": [3]}
    assert (merged.recursion_limit, merged.max_concurrency) == (100, 1)
    assert merged.run_name == "w"
    assert merged.prompts == {
        "a": TextTensor("trained"),
        "b": TextTensor(text="request", requires_grad=False),
    }


def test_a_plain_prompt_text_keeps_the_flags_below_and_a_json_form_sets_what_it_spells_out() -> (
    None
):
    low = RunConfig.parse(
        {"prompts": {"a": {"text": "low", "requires_grad": False, "metadata": {"max_chars": 9}}}}
    )

    def over(prompt: Any) -> TextTensor:
        return merge_configs(low, RunConfig.parse({"prompts": {"a": prompt}})).prompts["a"]

    assert over("high") == TextTensor(text="high", requires_grad=False, metadata={"max_chars": 9})
    assert over({"text": "high", "requires_grad": True}) == TextTensor(
        text="high", requires_grad=True, metadata={"max_chars": 9}
    )
    assert over(TextTensor(text="high").with_text("all").to_json()) == TextTensor(text="all")


def test_limits_are_capped_and_limits_not_set_stay_so() -> None:
    settings = Settings(max_recursion_limit=10, max_target_concurrency=3)
    config = RunConfig.parse({"recursion_limit": 99, "max_concurrency": 2}, settings=settings)
    assert (config.recursion_limit, config.max_concurrency) == (10, 2)
    assert RunConfig().clamp(settings) == RunConfig()


def test_merging_leaves_its_inputs_as_they_were() -> None:
    low = RunConfig.parse({"configurable": {"a": {"b": 1}}, "prompts": {"p": "low"}})
    high = RunConfig.parse({"configurable": {"a": {"c": 2}}, "prompts": {"p": "high"}})
    merge_configs(low, high)
    assert low.configurable == {"a": {"b": 1}}
    assert low.prompts["p"].text == "low"


# -- Handing over and storing ----------------------------------------------------------------------


def test_prompts_travel_in_configurable_in_json_form() -> None:
    runnable = RunConfig.parse({"prompts": {"a": "x"}, "configurable": {"y": 1}}).to_runnable()
    assert runnable == {
        "configurable": {
            "y": 1,
            "prompts": {
                "a": {"type": "TextTensor", "text": "x", "requires_grad": True, "metadata": {}}
            },
        }
    }


def test_a_node_that_changes_its_config_changes_only_that_run() -> None:
    config = RunConfig.parse({"configurable": {"a": {"b": 1}}, "metadata": {"c": {}}})
    config.to_runnable()["configurable"]["a"]["b"] = 2
    config.to_runnable()["metadata"]["c"]["d"] = 2
    assert config.to_runnable() == {"configurable": {"a": {"b": 1}}, "metadata": {"c": {}}}


def test_registered_callbacks_come_alive() -> None:
    runnable = RunConfig.parse({"callbacks": ["audit"]}).to_runnable()
    assert [type(handler) for handler in runnable["callbacks"]] == [Audit]
    assert registered_callbacks() == ["audit", "trace"]


def test_a_callback_name_must_be_a_name() -> None:
    with pytest.raises(ConfigError, match="callback name"):
        register_callback("not a name", Audit)


@pytest.mark.requirement("audit.secrets")
def test_secrets_are_not_stored() -> None:
    config = RunConfig.parse({"configurable": {"api_key": "hush"}, "metadata": {"max_tokens": 5}})
    assert config.to_json() == {
        "configurable": {"api_key": "[redacted]"},
        "metadata": {"max_tokens": 5},
    }
    assert config.to_runnable()["configurable"] == {"api_key": "hush"}


# -- Trusted callers -------------------------------------------------------------------------------


def test_live_callbacks_of_a_trusted_caller_are_kept_apart() -> None:
    handler = Audit()
    config, live = RunConfig.trusted({"callbacks": [handler, "trace"], "tags": ("a",)})
    assert live == [handler]
    assert config.callbacks == ("trace",)
    assert "Audit" not in str(config.to_json())
    callbacks = config.to_runnable(live)["callbacks"]
    assert isinstance(callbacks, list)
    assert [type(item) for item in callbacks] == [Audit, Audit]


def test_a_callback_manager_of_a_trusted_caller_stays_a_manager() -> None:
    manager = CallbackManager([Audit()])
    config, live = RunConfig.trusted({"callbacks": manager})
    assert live is manager
    given_on = RunConfig(callbacks=("trace",)).to_runnable(live)["callbacks"]
    assert isinstance(given_on, CallbackManager)
    assert len(given_on.handlers) == 2
    assert len(manager.handlers) == 1
    assert config == RunConfig()


def test_a_trusted_caller_may_use_tensors_uuids_and_keys_of_the_runtime() -> None:
    given_ = {
        "run_id": UUID(RUN_ID),
        "prompts": {"a": TextTensor(text="x", requires_grad=False)},
        "configurable": {
            "thread_id": UUID(RUN_ID),
            "checkpoint_id": "c",
            "__pregel_x": object(),
            "langgraph_auth_user": object(),
            "prompts": {"b": TextTensor("y")},
        },
    }
    config, live = RunConfig.trusted(given_)
    assert live == []
    assert config.run_id == UUID(RUN_ID)
    assert config.configurable == {"thread_id": RUN_ID}
    assert config.prompts == {
        "a": TextTensor(text="x", requires_grad=False),
        "b": TextTensor("y"),
    }
    assert runtime_configurable(given_).keys() == {
        "checkpoint_id",
        "__pregel_x",
        "langgraph_auth_user",
    }
    assert runtime_configurable(None) == {}
    assert runtime_configurable({"configurable": 5}) == {}


@pytest.mark.parametrize("obj", [None, {}, RunConfig()])
def test_nothing_from_a_trusted_caller_is_the_empty_config(obj: Any) -> None:
    assert RunConfig.trusted(obj) == (RunConfig(), [])


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ({"bogus": 1}, "config.bogus"),
        ({"max_concurrency": "a"}, "config.max_concurrency"),
        ({"configurable": {"x": math.nan}}, "config.configurable.x"),
        ({"callbacks": ["nope"]}, "config.callbacks.0"),
        ({"callbacks": object()}, "config.callbacks"),
        ([], "config"),
    ],
)
def test_the_other_rules_hold_for_a_trusted_caller_too(obj: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.trusted(obj)
    assert caught.value.field == field
