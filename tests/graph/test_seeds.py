"""Targets and judges read the seed of their rollout, and models that take one are given it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import START, StateGraph

from orcheo_agentensor import (
    AgentNode,
    Budget,
    EvaluatorContext,
    LLMJudge,
    TextGrad,
    aevaluate,
    atrain,
    get_prompt,
    get_seed,
)
from orcheo_agentensor.nodes import State
from orcheo_agentensor.storage import Store
from orcheo_agentensor.testing import SimulatedChatModel

CASES = [{"id": f"c{n}", "inputs": {"text": str(n)}} for n in range(4)]


class Sampled(SimulatedChatModel):
    """A model that takes a seed, and says which."""

    seed: int | None = None
    structured: bool = False

    def reply(self, messages: list[BaseMessage]) -> Any:
        said = str(self.seed)
        return {"score": 1, "reasoning": said} if self.structured else said


def drawn(inputs: Any) -> int | None:
    return get_seed()


async def seeds_of(target: Any, **job: Any) -> list[Any]:
    report = await aevaluate(target, dataset=CASES, evaluators=[lambda outputs: 1.0], **job)
    return [case.output for case in report.cases]


@pytest.mark.requirement("config.seed")
async def test_a_seed_follows_from_the_jobs_seed_the_case_and_nothing_else() -> None:
    seven = await seeds_of(drawn, seed=7)
    assert len({*seven}) == len(CASES)
    assert all(0 <= seed < 2**31 for seed in seven)
    assert await seeds_of(drawn, seed=7, prompts={"p": "other"}, run_id="x") == seven
    assert await seeds_of(drawn, seed=8) != seven
    assert get_seed() is None


async def test_replicates_have_seeds_of_their_own_that_a_judge_shares(store: Store) -> None:
    judged: list[tuple[Any, Any]] = []

    def judge(ctx: EvaluatorContext) -> float:
        judged.append((ctx.output, get_seed()))
        return 1.0

    await aevaluate(drawn, dataset=CASES, evaluators=[judge], replicates=3, store=store)
    assert len(judged) == len({*judged}) == 12
    assert all(target == own for target, own in judged)


@pytest.mark.requirement("config.seed")
async def test_models_that_take_a_seed_are_given_one_and_keep_their_own() -> None:
    graph = StateGraph(State)
    graph.add_node("ask", AgentNode(name="ask", model=Sampled(), user_prompt="hi"))
    graph.add_edge(START, "ask")
    given = [one["results"]["ask"] for one in await seeds_of(graph, seed=3)]
    assert given == [str(seed) for seed in await seeds_of(drawn, seed=3)]
    graph = StateGraph(State)
    graph.add_node("ask", AgentNode(name="ask", model=Sampled(seed=5), user_prompt="hi"))
    graph.add_edge(START, "ask")
    assert {one["results"]["ask"] for one in await seeds_of(graph, seed=3)} == {"5"}


async def test_each_vote_of_a_judge_is_another_draw() -> None:
    judge = LLMJudge(rubric="Is it kind?", model=Sampled(structured=True), votes=1)
    report = await aevaluate(drawn, dataset=CASES, evaluators=[judge], seed=3)
    reasons = [case.reasons["llm_judge"] for case in report.cases]
    assert reasons == [str(case.output) for case in report.cases]
    seen: list[int | None] = []

    class Watched(Sampled):
        def reply(self, messages: list[BaseMessage]) -> Any:
            seen.append(self.seed)
            return super().reply(messages)

    judge = LLMJudge(rubric="Is it kind?", model=Watched(structured=True), votes=3)
    await aevaluate(drawn, dataset=CASES, evaluators=[judge], seed=3)
    assert len(seen) == len({*seen}) == 3 * len(CASES)
    assert None not in seen


@pytest.mark.requirement("config.seed")
async def test_a_noisy_target_is_compared_on_equal_draws_and_measured_again_exactly() -> None:
    """Baseline and candidate draw alike, and re-evaluating a version reproduces its metrics."""

    def noisy(inputs: Any) -> float:
        luck = random.Random(get_seed()).random()
        return luck + (0.5 if "well" in str(get_prompt("p")) else 0.0)

    class Better:
        async def propose(self, request: Any) -> dict[str, str]:
            return {component.name: "do well" for component in request.components}

    def score(ctx: EvaluatorContext) -> float:
        return float(ctx.output) / 2

    cases = [
        {"id": f"{split}{n}", "split": split, "inputs": f"{split}{n}"}
        for split in ("train", "validation", "holdout")
        for n in range(8)
    ]
    async with Store.from_url(None) as store:
        result = await atrain(
            noisy,
            prompts={"p": "do"},
            dataset=cases,
            evaluators=[score],
            optimizer=TextGrad(proposer=Better()),
            budget=Budget(rollouts=60),
            seed=11,
            store=store,
            workflow_id="noisy",
        )
        assert result.holdout is not None
        # Without equal draws the interval would be wide.
        assert [round(end, 9) for end in result.holdout["ci95"]] == [0.25, 0.25]
        again = await aevaluate(
            noisy,
            dataset=[case for case in cases if case["split"] == "validation"],
            evaluators=[score],
            prompts=result.best.prompts,
            seed=11,
        )
        assert again.objective == result.best.metrics["objective"]
