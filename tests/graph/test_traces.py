"""Every call of a run says in its metadata and tags which case, run and candidate it was for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.tracers.context import register_configure_hook

from orcheo_agentensor import Budget, LLMJudge, TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.storage import Store
from orcheo_agentensor.testing import SimulatedChatModel


class Traces(BaseCallbackHandler):
    """Keeps the metadata and tags of each model call, by the phase that it names."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, Any]]] = {}

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, metadata: Any = None, tags: Any = None, **_: Any
    ) -> None:
        ours = {key: value for key, value in metadata.items() if key.startswith("agentensor_")}
        assert {f"{key}:{value}" for key, value in ours.items()} <= set(tags)
        self.found.setdefault(ours["agentensor_phase"], []).append(ours)


_traces: ContextVar[Traces | None] = ContextVar("traces", default=None)
register_configure_hook(_traces, inheritable=True)


class Model(SimulatedChatModel):
    said: Any = "a reply"

    def reply(self, messages: list[BaseMessage]) -> Any:
        return self.said


async def target(inputs: dict[str, str]) -> str:
    reply = await Model().ainvoke(get_prompt("p") + inputs["text"])
    return str(reply.text)


def cases(*splits: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}-{n}", "split": split, "inputs": {"text": f"{split} {n}"}}
        for split in splits
        for n in range(3)
    ]


@pytest.mark.requirement("config.traced")
async def test_calls_of_the_target_and_of_judges_lead_to_their_case() -> None:
    traces = Traces()
    token = _traces.set(traces)
    try:
        report = await aevaluate(
            target,
            dataset=cases("test"),
            evaluators=[
                LLMJudge(rubric="Is it kind?", model=Model(said={"score": 1, "reasoning": "kind"}))
            ],
            prompts={"p": "Say: "},
            replicates=2,
            run_id="traced",
        )
    finally:
        _traces.reset(token)
    assert report.objective == 1.0
    calls = traces.found["evaluation"]
    assert {call["agentensor_run_id"] for call in calls} == {"traced"}
    assert len({call["agentensor_candidate"] for call in calls}) == 1
    places = [(call["agentensor_case_id"], call["agentensor_replicate"]) for call in calls]
    # One call of the target and one of the judge for each.
    assert sorted(places) == sorted([(f"test-{n}", r) for n in range(3) for r in range(2)] * 2)


async def test_calls_of_critic_and_proposer_lead_to_their_candidate() -> None:
    traces = Traces()
    token = _traces.set(traces)
    try:
        async with Store.from_url(None) as store:
            await atrain(
                target,
                prompts={"p": "Say: "},
                dataset=cases("train", "validation"),
                evaluators=[lambda outputs: 0.0],
                optimizer=TextGrad(model=Model()),
                budget=Budget(rollouts=24),
                run_id="traced",
                config={"metadata": {"team": "x"}},
                store=store,
            )
            record = await store.runs.get("traced")
    finally:
        _traces.reset(token)
    assert {"train", "validation", "proposal", "criticism"} <= set(traces.found)
    for phase, calls in traces.found.items():
        for call in calls:
            assert call["agentensor_run_id"] == "traced"
            assert call["agentensor_candidate"]
            assert ("agentensor_case_id" in call) == (phase != "proposal")
    assert record.config["metadata"] == {"team": "x"}
    assert "tags" not in record.config
