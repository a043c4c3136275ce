"""Keys of the environment go to the hosts that they are for, and jobs name allowed models only."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import respx

from orcheo_agentensor import Settings, aevaluate, atrain
from orcheo_agentensor.errors import AgentensorError, BadInput
from orcheo_agentensor.evaluation import create_evaluation_graph
from orcheo_agentensor.identity import Identity

HOSTS = ("agents.example", "other.example", "127.0.0.1:2024")
BOUND = ("agents.example=CLERK_KEY", "127.0.0.1:2024=LOCAL_KEY")
CASES = [{"inputs": 1}]
PROPOSER = "orcheo_agentensor.demo.proposer:LexicalProposer"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLERK_KEY", "LOCAL_KEY", "AWS_SECRET_ACCESS_KEY", "HOME"):
        monkeypatch.setenv(name, "canary-7f3a")


def settings() -> Settings:
    return Settings(allowed_hosts=HOSTS, host_keys=BOUND)


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://agents.example", "AWS_SECRET_ACCESS_KEY"),
        ("https://agents.example", "LOCAL_KEY"),
        ("https://agents.example", "HOME"),
        ("https://other.example", "CLERK_KEY"),
        ("http://127.0.0.1:2024", "CLERK_KEY"),
        (["https://agents.example", "https://other.example"], "CLERK_KEY"),
    ],
)
async def test_a_variable_that_is_not_bound_to_the_host_is_never_sent(
    url: Any, variable: str
) -> None:
    where = {"url": url, "assistant": "clerk", "api_key_env": variable}
    with respx.mock(assert_all_called=False) as router:
        anything = router.route().respond(500)
        for attempt in (
            lambda: aevaluate(
                where, dataset=CASES, evaluators=["exact_match"], settings=settings()
            ),
            lambda: atrain(
                lambda inputs: inputs,
                dataset=CASES,
                evaluators=["exact_match"],
                prompts={"p": "a"},
                optimizer={"name": "reflective", "proposer": PROPOSER},
                publish=where,
                settings=settings(),
            ),
        ):
            with pytest.raises(BadInput, match="AGENTENSOR_HOST_KEYS") as caught:
                await attempt()
            assert "canary" not in str(caught.value)
        assert anything.call_count == 0


async def test_a_bound_variable_reaches_its_host() -> None:
    where = {"url": "https://agents.example", "assistant": "clerk", "api_key_env": "CLERK_KEY"}
    with respx.mock(assert_all_called=False) as router:
        asked = router.route().mock(return_value=httpx.Response(401))
        with pytest.raises(BadInput):
            await aevaluate(where, dataset=CASES, evaluators=["exact_match"], settings=settings())
    assert {call.request.headers["x-api-key"] for call in asked.calls} == {"canary-7f3a"}


JUDGE = {"type": "llm_judge", "rubric": "kind?"}


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluators": [{**JUDGE, "model": "openai:gpt-9"}]},
        {"evaluators": ["exact_match", {"entrypoint": "m:E", "params": {"model": "openai:gpt-9"}}]},
        {"config": {"configurable": {"node_overrides": {"n": {"model": "openai:gpt-9"}}}}},
    ],
)
@pytest.mark.parametrize(
    ("caller", "listed", "model", "may"),
    [
        (None, None, None, True),
        ("ana", None, None, False),
        ("ana", None, "openai:gpt-9", True),
        ("ana", ("openai:gpt-9",), None, True),
        ("ana", ("openai:*",), None, True),
        ("ana", ("anthropic:*", "openai:gpt-9-mini"), None, False),
        (None, ("anthropic:*",), None, False),
    ],
)
async def test_a_job_names_only_models_that_the_operator_allows(
    changes: Any, caller: str | None, listed: Any, model: str | None, may: bool
) -> None:
    graph = create_evaluation_graph(
        lambda inputs: inputs, settings=Settings(allowed_models=listed, model=model)
    )
    job = {"dataset": CASES, "evaluators": ["exact_match"], **changes}
    said = ""
    try:  # what a machine without that model's package or node says of it does not matter here
        await graph.check_job(job, caller=Identity(name=caller))
    except AgentensorError as error:
        said = str(error)
    assert ("AGENTENSOR_ALLOWED_MODELS" in said) is not may
