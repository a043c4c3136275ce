"""How a training ends: promoted, kept, rejected, or waiting for a person; and never for noise."""

from __future__ import annotations

import asyncio
import random
import re
import statistics
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from rule_task import PROMPTS, Target, Teacher, dataset, trained

from orcheo_agentensor import (
    Budget,
    Reflective,
    Store,
    TrainingResult,
    atrain,
    bind_evaluator,
    get_prompt,
)
from orcheo_agentensor.errors import BadInput, ConfigError, RunFailed
from orcheo_agentensor.optimizers import ProposalRequest


@pytest.mark.requirement("training.improves")
async def test_promoted_with_the_gain_and_its_interval() -> None:
    async with Store.from_url(None) as store:
        result = await trained(
            dataset=dataset(holdout=40), promote="auto", store=store, workflow_id="w"
        )
        production = await store.aliases.resolve("w", "production")
    assert result.decision.status == "promoted"
    assert production == result.best.config_version
    assert result.holdout is not None
    assert (result.holdout["gain"], result.holdout["ci95"]) == (1.0, [1.0, 1.0])
    assert result.holdout["n"] == 40
    assert result.holdout["p_value"] < 0.001
    said = "; ".join(result.decision.reasons)
    assert "holdout gain +1.0000 on 40 cases" in said
    assert "'production' moved from nothing to version 2" in said


async def test_kept_where_the_gain_could_be_chance() -> None:
    """Of 40 held-out cases two are won: that happens by itself."""

    async def target(inputs: dict[str, Any]) -> dict[str, Any]:
        right = inputs["split"] != "holdout" or inputs["i"] < 2
        score = float(right and "R0" in get_prompt("planner"))
        return {"score": score, "feedback": "needs R0 in planner"}

    result = await trained(
        target,
        dataset=dataset(rules=1, holdout=40),
        prompts={"planner": "Plan."},
        promote="auto",
    )
    assert result.best.metrics["objective"] == 1.0
    assert result.decision.status == "kept"
    assert "+0.0500 is not significant (p = 0.5" in result.decision.reasons[0]
    assert result.holdout is not None
    low, high = result.holdout["ci95"]
    assert low <= 0.05 <= high


@pytest.mark.requirement("guardrail.regression")
async def test_rejected_where_a_single_evaluator_falls() -> None:
    """The objective rises on holdout; politeness falls there."""

    def right(outputs: dict[str, Any]) -> dict[str, Any]:
        return {"key": "right", "score": outputs["score"], "comment": outputs["feedback"]}

    def polite(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        rude = inputs["split"] == "holdout" and outputs["score"] == 1 and inputs["i"] % 4 == 0
        return {"key": "polite", "score": 0.0 if rude else 1.0}

    async with Store.from_url(None) as store:
        result = await trained(
            dataset=dataset(holdout=40),
            evaluators=[right, polite],
            promote="auto",
            store=store,
            workflow_id="w",
        )
        assert await store.aliases.resolve("w", "production") is None
    assert result.holdout is not None
    assert result.holdout["gain"] > 0.3
    assert result.decision.status == "rejected"
    assert result.decision.reasons == (
        "polite: 0.7500 on holdout is below 0.9800 (-2 % guardrail)",
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"approve": True, "actor": "ann", "reason": "reads well"}, "promoted"),
        ({"approve": False, "actor": "bob", "reason": "too terse"}, "kept"),
    ],
)
@pytest.mark.requirement("promotion.person")
async def test_awaiting_approval_shows_the_numbers_and_takes_an_answer(
    answer: dict[str, Any], status: str
) -> None:
    events: list[dict[str, Any]] = []
    async with Store.from_url(None) as store:
        job: dict[str, Any] = {
            "promote": "ask",
            "dataset": dataset(holdout=40),
            "run_id": "r",
            "store": store,
            "workflow_id": "w",
        }
        waiting = await trained(on_event=events.append, **job)
        assert (waiting.status, waiting.decision.status) == ("awaiting_approval",) * 2
        assert "holdout gain +1.0000" in waiting.decision.reasons[0]
        assert waiting.holdout is not None
        assert waiting.holdout["ci95"] == [1.0, 1.0]
        assert (await store.runs.get("r")).status == "paused"
        assert await store.aliases.resolve("w", "production") is None
        said = [event for event in events if event["type"] == "decision"]
        assert [event["status"] for event in said] == ["awaiting_approval"]
        target = Target()
        result = await trained(target, answer=answer, **job)
        assert target.calls == []  # deciding runs nothing
        assert result.decision.status == status
        assert any(
            f"by {answer['actor']}: {answer['reason']}" in reason
            for reason in result.decision.reasons
        )


@pytest.mark.parametrize("wrong", [{"approved": True}, "yes", {"approve": "true"}, 7, {}])
async def test_what_is_no_answer_is_asked_again_and_told_once(wrong: Any) -> None:
    events: list[dict[str, Any]] = []
    async with Store.from_url(None) as store:
        job: dict[str, Any] = {
            "promote": "ask",
            "dataset": dataset(holdout=40),
            "run_id": "r",
            "store": store,
            "on_event": events.append,
        }
        await trained(**job)
        again = await trained(answer=wrong, **job)
        assert again.status == "awaiting_approval"
        assert (await store.runs.get("r")).status == "paused"
        said = [event["status"] for event in events if event["type"] == "decision"]
        assert said == ["awaiting_approval"]
        done = await trained(answer={"approve": True, "actor": "ann", "reason": "ok"}, **job)
        assert done.decision.status == "promoted"


@pytest.mark.requirement("promotion.person")
async def test_a_person_is_asked_about_a_breach_and_may_promote_all_the_same() -> None:
    async with Store.from_url(None) as store:
        job: dict[str, Any] = {
            "promote": "ask",
            "dataset": dataset(holdout=40),
            "run_id": "r",
            "store": store,
            "guardrail": {"cost": {"ratio": 1.0}, "latency": "off"},
        }
        waiting = await trained(Unpriced(), **job)
        assert waiting.status == "awaiting_approval"
        assert waiting.decision.reasons[0] == "cost: is not known, so its guardrail cannot be kept"
        answer = {"approve": True, "actor": "ann", "reason": "worth it"}
        done = await trained(Unpriced(), answer=answer, **job)
        assert done.decision.status == "promoted"


class Unpriced(Target):
    """Calls a model whose price nobody knows."""

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        await FakeListChatModel(responses=["ok"]).ainvoke("hi")
        return await super().__call__(inputs)


async def test_baseline_and_best_are_measured_in_one_pass() -> None:
    target = Target()
    await trained(target, dataset=dataset(holdout=40), limits={"concurrency": 2})
    measured = [texts for texts, case in target.calls if case.startswith("holdout")]
    first = measured[:20]
    assert len(measured) == 80
    assert len(set(first)) == 2
    assert min(first.count(texts) for texts in set(first)) >= 5


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"latency": {"p95": 2}}, {"latency": "on"}, {"min_ratio": 2}, {"x": 1}]
)
async def test_a_guardrail_of_a_wrong_form_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^atrain\(\): guardrail"):
        await trained(guardrail=wrong)


class Restless(Teacher):
    """Every edit is another text that changes nothing."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        return {c.name: f"{c.text.split(' #')[0]} #{request.seed}" for c in request.components}


async def flipped(seed: int) -> TrainingResult:
    """A training on a metric that is a coin flip, fixed by the texts and the case."""

    async def target(inputs: dict[str, Any]) -> dict[str, Any]:
        key = (seed, get_prompt("planner"), inputs["split"], inputs["i"])
        return {"score": float(random.Random(repr(key)).random() < 0.6)}

    async def score(outputs: dict[str, Any]) -> Any:
        return outputs["score"]

    return await atrain(
        target,
        prompts={"planner": PROMPTS["planner"]},
        dataset=dataset(train=10, validation=8, holdout=20),
        evaluators=[score],
        optimizer=Reflective(minibatch=5, proposer=Restless()),
        budget=Budget(rollouts=2 * 20 + 50),
        promote="auto",
        seed=seed,
    )


@pytest.mark.requirement("promotion.noise")
async def test_noise_is_not_promoted() -> None:
    results = await asyncio.gather(*(flipped(seed) for seed in range(30)))
    gains = [result.holdout["gain"] for result in results if result.holdout is not None]
    assert len(gains) == 30
    assert max(result.usage.rollouts for result in results) <= 90
    assert any(gains)  # there were candidates to be fooled by
    assert sum(result.decision.status == "promoted" for result in results) <= 2
    error = statistics.stdev(gains) / len(gains) ** 0.5
    assert abs(statistics.fmean(gains)) <= 2 * error


async def test_a_decision_tells_of_holdout_cases_that_the_search_saw() -> None:
    copies = [
        {**case, "id": f"copy-{case['id']}", "split": "holdout"}
        for case in dataset()
        if case["split"] == "train"
    ]
    result = await trained(dataset=[*dataset(), *copies])
    told = [reason for reason in result.decision.reasons if "the search saw" in reason]
    assert len(told) == 1
    assert told[0].startswith("12 of 20 holdout cases have the inputs of cases")
    assert told[0].endswith("they are left out")
    assert result.holdout is not None
    assert result.holdout["n"] == 8
    clean = await trained()
    assert not any("the search saw" in reason for reason in clean.decision.reasons)


async def test_a_baseline_that_crashes_everywhere_proves_no_gain_and_breaks_no_guardrail() -> None:
    prompts = {"planner": "Plan. CRASH0 CRASH2", "writer": "Write. CRASH1 CRASH3"}
    result = await trained(prompts=prompts, promote="auto")
    assert result.best.metrics["objective"] == 1.0
    assert result.decision.status == "kept"
    assert "the baseline could be scored on 0.000 of the holdout" in result.decision.reasons[0]


async def test_a_scale_that_is_not_declared_is_not_silently_perfect() -> None:
    """Scores of 1 to 5 that all begin at 1 look like full marks."""

    def graded(outputs: dict[str, Any]) -> dict[str, Any]:
        return {"score": 1 + 4 * outputs["score"], "comment": outputs["feedback"]}

    silent = await trained(evaluators=[graded])
    assert silent.decision.stopped is not None
    assert "has to be given its `scale`" in silent.decision.stopped
    told = await trained(evaluators=[bind_evaluator(graded, scale=(1, 5))])
    assert told.baseline.metrics["objective"] == 0.0
    assert told.best.metrics["objective"] == 1.0
    assert told.decision.stopped == "the validation objective is 1: nothing can beat it"


async def test_labels_alone_are_refused_before_they_cost_a_search() -> None:
    target = Target()

    def verdict(outputs: dict[str, Any]) -> str:
        return "good" if outputs["score"] else "bad"

    with pytest.raises(BadInput, match="'verdict' gave labels and no score"):
        await trained(target, evaluators=[verdict])
    assert len(target.calls) == 4


async def test_a_result_says_that_every_proposal_was_refused_and_why() -> None:
    class Chatty:
        async def propose(self, request: ProposalRequest) -> Any:
            return "Plan. R0"

    result = await trained(proposer=Chatty())
    assert result.decision.reasons[-1] == (
        "every proposal was refused, the last one: the proposer returned str, not a mapping"
    )


async def test_a_result_without_a_gain_says_that_the_last_proposals_were_refused() -> None:
    class SoonVerbose:
        def __init__(self) -> None:
            self.asked = 0

        async def propose(self, request: ProposalRequest) -> Any:
            self.asked += 1
            more = "Rx" if self.asked == 1 else "and so on " * 1_000
            return {one.name: f"{one.text} {more}" for one in request.components}

    result = await trained(proposer=SoonVerbose())
    assert result.decision.status == "kept"
    told = result.decision.reasons[-1]
    assert re.match(
        r"the last \d+ proposals were refused, the newest one: .* over the cap of", told
    )


async def test_a_proposer_that_is_not_async_is_told_so_at_its_first_call() -> None:
    class Plain:
        def propose(self, request: ProposalRequest) -> Any:
            return {}

    with pytest.raises(RunFailed, match="'Plain' must have async propose"):
        await trained(proposer=Plain())


async def test_a_mapping_that_breaks_while_it_is_read_is_a_proposer_that_broke() -> None:
    class Broken(dict[str, str]):
        def keys(self) -> Any:
            raise ValueError("no keys today")

    class OnceBroken(Teacher):
        async def propose(self, request: ProposalRequest) -> dict[str, str]:
            texts = await super().propose(request)
            return Broken(texts) if len(self.requests) == 1 else texts

    assert (await trained(proposer=OnceBroken())).best.metrics["objective"] == 1.0


async def test_a_target_may_change_its_inputs() -> None:
    plain = Target()

    async def greedy(inputs: dict[str, Any]) -> dict[str, Any]:
        result = await plain(dict(inputs))
        inputs.clear()
        return result

    assert (await trained(greedy)).best.metrics["objective"] == 1.0
