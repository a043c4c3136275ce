"""Another Agent Protocol server as remote target: aegra, which needs Python 3.12."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from aegra import PYTHON, serving
from clusters import cases, left_of
from langgraph_sdk import get_client

from orcheo_agentensor import (
    Settings,
    Store,
    TextGrad,
    aevaluate,
    apublish,
    arollback_publication,
    atrain,
)
from orcheo_agentensor.errors import TargetRefused
from orcheo_agentensor.optimizers import ProposalRequest

pytestmark = pytest.mark.cluster

SETTINGS = Settings(allowed_hosts=("127.0.0.1",))


class Tutor:
    """Adds the first skill that the feedback finds lacking."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        texts = {}
        for component in request.components:
            lacking = sorted(
                str(record.expected_output["answer"])
                for record in component.feedback
                if record.score is not None and record.score < 1.0
            )
            if lacking:
                texts[component.name] = f"{component.text} {lacking[0]}"
        return texts


def right(outputs: Any, reference_outputs: Any) -> float:
    return float(outputs["answer"] == reference_outputs["answer"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (PYTHON.parent.parent / ".aegra").exists():
        pytest.skip("aegra is not installed here: `make test-cluster` does it, with Python 3.12")
    folder = tmp_path_factory.mktemp("aegra")
    with serving(folder) as address:
        yield address
    assert left_of(folder) == []


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with get_client(url=url, api_key=None) as opened:
        yield opened


@pytest.fixture
async def store(tmp_path: Any) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


async def test_its_assistants_are_evaluated_and_no_run_is_repeated(url: str, client: Any) -> None:
    report = await aevaluate(
        {"url": url, "assistant": "clerk"},
        dataset=cases("test", 24),
        evaluators=[right],
        prompts={"skills": "card login"},
        limits={"concurrency": 8},
        settings=SETTINGS,
    )
    assert (report.summary["n_ok"], report.summary["objective"]) == (24, 0.5)
    assert (report.usage.rollouts, report.usage.calls) == (24, 48)
    assert report.usage.input_tokens == 24 * (1 + 3)
    assert await client.threads.search(limit=10) == []


async def test_what_goes_wrong_there_is_the_failure_of_its_case(url: str) -> None:
    report = await aevaluate(
        {"url": url, "assistant": "awkward"},
        dataset=[{"inputs": {"kind": "ask"}}, {"inputs": {"kind": "card"}}],
        evaluators=[right],
        limits={"retries": 0},
        settings=SETTINGS,
    )
    reasons = [case.target_failure.reason for case in report.cases if case.target_failure]
    assert "interrupt()" in reasons[0]
    assert "ValueError" in reasons[1]  # all that it tells of an exception


async def test_its_assistants_are_trained_with_tapes(url: str) -> None:
    result = await atrain(
        {"url": url, "assistant": "clerk"},
        prompts={"skills": "card"},
        dataset=[*cases("train", 8), *cases("validation", 8)],
        evaluators=[right],
        optimizer=TextGrad(proposer=Tutor()),
        stop=[{"type": "target_score", "score": 1.0}, {"type": "max_steps", "steps": 8}],
        settings=SETTINGS,
    )
    assert result.baseline.metrics["objective"] == 0.25
    assert result.best.metrics["objective"] == 1.0


async def test_versions_are_published_there_and_rolled_back(
    url: str, client: Any, store: Store
) -> None:
    made = await client.assistants.create("persona", name="greeter", context={"tone": "warm"})
    place: dict[str, Any] = {"url": url, "assistant": "greeter", "store": store}

    async def said() -> str:
        given = {"messages": [{"role": "user", "content": "hi"}]}
        found = await client.runs.wait(None, made["assistant_id"], input=given)
        return str(found["messages"][-1]["content"])

    for text in ("One.", "Two."):
        prompt = {"type": "TextTensor", "text": text, "requires_grad": True, "metadata": {}}
        saved = await store.checkpoints.save(
            workflow_id="greeting",
            runnable_config={"configurable": {"prompts": {"system_prompt": prompt}}},
            metrics={},
        )
        await apublish("greeting", saved.config_version, **place)
        assert await said() == f"{text} (warm)|hi"
    await arollback_publication("greeting", **place)
    assert await said() == "One. (warm)|hi"
    await arollback_publication("greeting", **place)
    assert await said() == "You are helpful. (warm)|hi"


async def test_a_second_assistant_that_is_set_the_same_is_refused_in_a_sentence(
    url: str, store: Store
) -> None:
    saved = await store.checkpoints.save(
        workflow_id="desk",
        runnable_config={
            "configurable": {
                "prompts": {
                    "skills": {
                        "type": "TextTensor",
                        "text": "refund",
                        "requires_grad": True,
                        "metadata": {},
                    }
                }
            }
        },
        metrics={},
    )
    place: dict[str, Any] = {"url": url, "create": True, "graph": "clerk", "store": store}
    await apublish("desk", saved.config_version, assistant="one", **place)
    with pytest.raises(TargetRefused, match=r"'other' cannot be made: the server takes no second"):
        await apublish("desk", saved.config_version, assistant="other", **place)
