"""Keys of a config that pass for others, or that are not a caller's to set, are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor import RunConfig, create_evaluation_graph
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.identity import Identity

KEYS = {
    "langgraph_auth_user": "reserved", "langgraph_auth_permissions": "reserved",
    "langgraph_request_id": "reserved", "checkpoint_id": "reserved", "__pregel_runtime": "reserved",
    "lc": "reserved", " user_id": "space", "user_id ": "space", "\tmodel": "space",
    "user\u200bid": "cannot be seen", "model\u202e": "cannot be seen",
    "us\u00ader": "cannot be seen",
    "\u0430gentensor": "looks like 'agentensor'", "prоmpts": "looks like 'prompts'",
    "thread_іd": "looks like 'thread_id'", "ｍｏｄｅｌ": "looks like 'model'",
    "𝗆odel": "looks like 'model'", "uѕer_id": "looks like 'user_id'", "tοne": "looks like 'tone'",
}  # fmt: skip
FINE = [
    "вопрос",
    "температура",
    "größe",
    "質問",
    "my key",
    "user_id",
    "session_id",
    "naïve",
    "метка",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_misleading_key_is_refused_wherever_it_stands(key: str) -> None:
    everywhere = key not in ("checkpoint_id",) and not key.startswith("langgraph_")
    places: list[dict[str, Any]] = [{"configurable": {key: 1}}]
    if everywhere:
        places += [{"metadata": {key: 1}}, {"configurable": {"a": [{"b": {key: 1}}]}}]
    for given in places:
        with pytest.raises(ConfigError, match=KEYS[key]):
            RunConfig.parse(given)
    with pytest.raises(ConfigError):
        RunConfig.parse({key: 1})


@pytest.mark.parametrize("key", FINE)
def test_a_key_in_any_language_is_taken(key: str) -> None:
    assert RunConfig.parse({"configurable": {key: {key: 1}}}).configurable == {key: {key: 1}}


async def test_nobody_runs_as_another_user() -> None:
    graph = create_evaluation_graph(lambda inputs: inputs)
    job = {"dataset": [{"inputs": 1}], "evaluators": ["exact_match"]}
    for caller, user, may in (("ana", "ben", False), ("ana", "ana", True), (None, "ben", True)):
        config = {"configurable": {"user_id": user}}
        checking = graph.check_job({**job, "config": config}, caller=Identity(name=caller))
        if may:
            assert (await checking).config.configurable["user_id"] == user
            continue
        with pytest.raises(ConfigError) as caught:
            await checking
        assert caught.value.problems == [
            {
                "field": "job.config.configurable.user_id",
                "value": "'ben'",
                "rule": "must be your own identity, or left out",
            }
        ]
