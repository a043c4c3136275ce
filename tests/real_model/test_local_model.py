"""Evaluation and training with a small real language model, and the server's own counts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.tools import tool

from orcheo_agentensor import Limits, LLMJudge, MaxSteps, TextGrad, TrainablePrompt, atrain

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "local_model"
WORTH = {"rude": 0.0, "plain": 0.5, "polite": 1.0}
Counted = Callable[[], dict[str, int]]

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.timeout(1_200),
    pytest.mark.asyncio(loop_scope="module"),  # the client's connections belong to it
]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the example."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield __import__("names")
    sys.modules.pop("names", None)


@pytest.mark.parametrize("file", ["train.yaml", "demos.yaml"])
async def test_worked_examples_teach_the_model_how_a_register_writes_names(
    file: str, names: Any, served: Counted
) -> None:
    job = yaml.safe_load((EXAMPLE / file).read_text("utf-8"))
    if "proposer" in job["optimizer"]:
        job["optimizer"]["proposer"] = names.WorkedExamples()
    result = await atrain(
        names.graph,
        prompts=job["prompts"],
        dataset=EXAMPLE / "names.csv",
        evaluators=job["evaluators"],
        optimizer=job["optimizer"],
        budget=job["budget"],
        limits=Limits(concurrency=2, case_timeout=300),
        promote="auto",
    )
    assert result.decision.status == "promoted"
    assert result.holdout["ci95"][0] > 0
    used = result.usage
    assert (used.rollouts, used.unreported_calls) == (used.calls, 0)
    assert {"read": used.input_tokens, "written": used.output_tokens} == served()


@tool
def queue_of(product: str) -> str:
    """The queue of a product: card, app or loan."""
    return f"the {product} team"


async def test_agent_judge_proposer_and_critic_count_what_the_server_counts(
    served: Counted,
) -> None:
    """So small a model judges at random; what it is asked, and what that took, is what counts."""
    model = init_chat_model("openai:smollm2", temperature=0, max_tokens=200, timeout=600)
    brief = init_chat_model("openai:smollm2", temperature=0, max_tokens=16, timeout=600)
    agent = create_agent(brief, tools=[queue_of], middleware=[TrainablePrompt("triage")])
    judge = LLMJudge(name="polite", rubric="The reply is polite.", model=model, choices=WORTH)
    texts = ["my card is lost", "the app does not start", "a loan for a car", "hello"]
    cases: list[dict[str, Any]] = [
        {"inputs": {"messages": [{"role": "user", "content": text}]}, "split": split}
        for text, split in zip(texts, ("train", "validation") * 2, strict=True)
    ]
    result = await atrain(
        agent,
        prompts={"triage": "Reply to the customer in one short sentence."},
        dataset=cases,
        evaluators=[judge],
        optimizer=TextGrad(model=model, minibatch=2),
        stop=[MaxSteps(1)],
        limits=Limits(concurrency=2, case_timeout=600),
        min_coverage=0.0,
    )
    used = result.usage
    assert used.unreported_calls == 0
    assert {"read": used.input_tokens, "written": used.output_tokens} == served()
    assert used.calls > used.rollouts
