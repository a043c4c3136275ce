"""Budgets of rollouts, calls and tokens through `atrain`, counted inside a simulated model."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage
from pydantic import PrivateAttr

from orcheo_agentensor import (
    Budget,
    Limits,
    LLMJudge,
    RandomSearch,
    Reflective,
    TrainingResult,
    aevaluate,
    atrain,
    get_prompt,
    train,
)
from orcheo_agentensor.errors import BudgetExhausted, BudgetTooSmall
from orcheo_agentensor.optimizers import ProposalRequest
from orcheo_agentensor.storage import Store
from orcheo_agentensor.testing import RuleChatModel, SimulatedChatModel, count_tokens

CASES = [
    {"id": f"{split}{i}", "split": split, "inputs": {"i": i}}
    for split, count in (("train", 6), ("validation", 4), ("holdout", 5))
    for i in range(count)
]


class Counting(SimulatedChatModel):
    """Counts what it was asked and what it answered."""

    max_tokens: int = 8
    _calls: int = PrivateAttr(default=0)
    _tokens: int = PrivateAttr(default=0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def reply(self, messages: list[BaseMessage]) -> str:
        text = "a reply of words" + " and more" * (self._calls % 3)
        with self._lock:
            self._calls += 1
            self._tokens += count_tokens(text) + sum(count_tokens(m.text) for m in messages)
        return text


class Proposing:
    """Asks a model, and has a new text whatever it says."""

    def __init__(self, model: Any) -> None:
        self.model = model

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        try:
            await self.model.ainvoke("a better one?")
        except Exception:  # noqa: BLE001 - as careless as can be
            return {c.name: "careless" for c in request.components}
        return {c.name: f"{c.text} {request.seed}" for c in request.components}


def careless(model: Any, calls: int, *, threaded: bool = False) -> Any:
    """A target that catches everything and asks again."""

    async def target(inputs: dict[str, int]) -> dict[str, str]:
        said = ""
        for n in range(calls + inputs["i"] % 2):
            try:
                said = (await model.ainvoke(f"{get_prompt('p')} {n}")).text
            except Exception:  # noqa: BLE001 - as careless as can be
                said = "never mind"
        return {"said": said}

    def in_thread(inputs: dict[str, int]) -> dict[str, str]:
        said = ""
        for n in range(calls):
            try:
                said = model.invoke(f"{get_prompt('p')} {n}").text
            except Exception:  # noqa: BLE001 - as careless as can be
                said = "never mind"
        return {"said": said}

    return in_thread if threaded else target


async def trained(target: Any, model: Any, **job: Any) -> TrainingResult:
    return await atrain(
        target,
        **{
            "prompts": {"p": "Do."},
            "dataset": CASES,
            "evaluators": [lambda outputs: 0.9 * ("more" in outputs["said"])],
            "optimizer": RandomSearch(proposer=Proposing(model), parallel=3),
            "limits": Limits(concurrency=5),
            **job,
        },
    )


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("calls", [45, 58, 90])
@pytest.mark.requirement("training.budget")
async def test_model_calls_are_never_overshot(calls: int, threaded: bool) -> None:
    model = Counting(latency=0.001)
    target = careless(model, 2, threaded=threaded)
    result = await trained(target, model, budget=Budget(calls=calls))
    assert result.usage.calls == model._calls <= calls
    assert "model calls" in (result.decision.stopped or "")
    assert result.summary["n_target_failed"] == 0


@pytest.mark.requirement("training.budget")
async def test_tokens_are_never_overshot_where_the_model_has_a_cap() -> None:
    for tokens in (1_200, 1_500, 2_000):
        model = Counting(latency=0.001)
        result = await trained(careless(model, 2), model, budget=Budget(tokens=tokens))
        assert result.usage.tokens == model._tokens <= tokens
        assert "tokens" in (result.decision.stopped or "")


async def test_the_calls_of_a_judge_are_reserved_as_well() -> None:
    model = Counting()
    judge = RuleChatModel(
        rule=lambda messages: (model.reply(messages), {"reasoning": "", "score": 1})[1]
    )
    job: dict[str, Any] = {
        "evaluators": [LLMJudge(rubric="good?", model=judge)],
        "budget": Budget(calls=60),
    }
    result = await trained(careless(model, 1), model, **job)
    assert result.usage.calls == model._calls <= 60
    assert result.summary["n_evaluator_failed"] == 0


async def test_a_refused_rollout_is_no_failure_and_is_paid_for() -> None:
    model = Counting()
    job: dict[str, Any] = {"budget": Budget(calls=2), "run_id": "r"}
    async with Store.from_url(None) as store:
        with pytest.raises(BudgetExhausted):
            await trained(careless(model, 3), model, store=store, **job)
        usage = await store.runs.usage("r")
        rows = await store.runs.case_rows("r")
    assert model._calls == usage.calls == 2
    assert usage.rollouts >= 1
    assert rows == []


@pytest.mark.parametrize("stop_at", [3, 20, 30])
async def test_what_was_cancelled_counts_over_a_resume(stop_at: int, tmp_path: Path) -> None:
    made: list[int] = []
    stuck = asyncio.Event()
    model = Counting()

    async def target(inputs: dict[str, int]) -> dict[str, str]:
        made.append(1)
        number = len(made)
        await model.ainvoke(get_prompt("p"))
        if number == stop_at:
            stuck.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return {"said": "more"}

    for budget in (Budget(rollouts=50), Budget(calls=48)):
        made.clear()
        stuck.clear()
        model._calls = 0
        job: dict[str, Any] = {
            "budget": budget,
            "run_id": "r",
            "store": f"sqlite:///{tmp_path}/{budget.rollouts}.db",
        }
        first = asyncio.ensure_future(trained(target, model, **job))
        await stuck.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        result = await trained(target, model, **job)
        assert len(made) <= (budget.rollouts or len(made))
        assert model._calls <= (budget.calls or model._calls)
        assert result.usage.rollouts <= len(made)


async def test_each_attempt_is_a_rollout_of_the_budget() -> None:
    made: list[int] = []

    async def target(inputs: dict[str, int]) -> dict[str, str]:
        made.append(1)
        if len(made) % 4 == 0:
            raise ConnectionError("lost")
        return {"said": get_prompt("p")}

    result = await trained(target, Counting(), budget=Budget(rollouts=20), limits=Limits(retries=2))
    assert len(made) == result.usage.rollouts <= 20


async def test_what_was_made_again_is_summed_over_the_whole_training(store: Store) -> None:
    made: list[int] = []

    async def target(inputs: dict[str, int]) -> dict[str, str]:
        made.append(1)
        if len(made) % 4 == 0:
            raise ConnectionError("lost")
        return {"said": get_prompt("p")}

    result = await trained(target, Counting(), limits=Limits(retries=2), store=store, run_id="r")
    rollouts = len(await store.runs.case_rows("r", limit=None))
    assert result.summary["retries"] == len(made) - rollouts > 0
    assert any(f"made again, for {rollouts} rollouts" in one for one in result.summary["warnings"])


async def test_a_call_cut_off_by_a_timeout_counts() -> None:
    model = Counting(latency=60.0)

    async def target(inputs: dict[str, int]) -> str:
        return str((await model.ainvoke("?")).text)

    report = await aevaluate(
        target,
        dataset=CASES[:2],
        evaluators=[{"type": "latency", "max_ms": 60_000}],
        limits=Limits(case_timeout=1, retries=0),
    )
    assert report.summary["n_target_failed"] == 2
    assert report.usage.calls == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_an_attempt_that_a_server_refused_is_no_rollout(status: int) -> None:
    class Refused(Exception):
        status_code = status

    taken: dict[Any, int] = {}

    async def target(inputs: str) -> str:
        taken[inputs] = taken.get(inputs, 0) + 1
        if taken[inputs] == 1:
            raise Refused
        return inputs

    cases = [{**case, "inputs": case["id"]} for case in CASES]
    report = await aevaluate(
        target, dataset=cases, evaluators=[lambda outputs: 1.0], limits=Limits(retries=1)
    )
    assert report.objective == 1.0
    assert report.usage.rollouts == len(CASES)
    assert sum(taken.values()) == 2 * len(CASES)


async def test_refused_attempts_leave_the_budget_of_rollouts_whole() -> None:
    class Refused(Exception):
        status_code = 429

    ran, refused = [0], [0]

    async def target(inputs: dict[str, int]) -> str:
        if (ran[0] + refused[0]) % 2:
            refused[0] += 1
            raise Refused
        ran[0] += 1
        return get_prompt("p")

    result = await atrain(
        target,
        prompts={"p": "a"},
        dataset=CASES,
        evaluators=[lambda ctx: min(1.0, len(ctx.output) / 100)],
        optimizer=RandomSearch(proposer=Longer()),
        budget=Budget(rollouts=40),
        limits=Limits(concurrency=1, retries=3),
    )
    assert refused[0] > 10
    assert ran[0] == result.usage.rollouts
    assert 20 < ran[0] <= 40
    assert result.best.prompts["p"].text != "a"


class Longer:
    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        return {one.name: f"{one.text} {request.seed}" for one in request.components}


class Learning:
    """Adds a word that some case of its feedback expects."""

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        texts = {}
        for component in request.components:
            missing = {str(one.expected_output) for one in component.feedback} - {
                *component.text.split()
            }
            texts[component.name] = " ".join([component.text, *sorted(missing)[:1]])
        return texts


@pytest.mark.parametrize("opening", [True, False])
@pytest.mark.requirement("training.budget")
async def test_further_attempts_leave_the_baseline_its_validation(
    opening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search spends all that it may, and every third execution is lost."""
    monkeypatch.setattr("orcheo_agentensor.evaluation.paid_calls.FIRST_BACKOFF", 0.0)
    made: list[int] = []

    async def target(inputs: dict[str, int]) -> int | None:
        made.append(1)
        if len(made) % 3 == 0:
            raise ConnectionError("lost")
        return inputs["i"] if str(inputs["i"]) in get_prompt("p").split() else None

    result = await atrain(
        target,
        prompts={"p": "Do."},
        dataset=[
            {"id": f"{split}{i}", "split": split, "inputs": {"i": i}, "expected_output": i}
            for split in ("train", "validation")
            for i in range(9)
        ],
        evaluators=["exact_match"],
        optimizer=Reflective(opening=opening, minibatch=3, proposer=Learning()),
        budget=Budget(rollouts=28),
        limits=Limits(retries=2, concurrency=1),
    )
    assert len(made) == result.usage.rollouts <= 28
    assert result.baseline.metrics["n_ok"] + result.baseline.metrics["n_target_failed"] == 9


@settings(max_examples=20)
@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(0, 9), st.integers(0, 4)),
    more=st.integers(-1, 30),
    opening=st.booleans(),
    minibatch=st.sampled_from([1, 3, "auto"]),
    concurrency=st.sampled_from([1, 8]),
)
@example(sizes=(12, 9, 0), more=14, opening=False, minibatch=2, concurrency=1)
@example(sizes=(12, 9, 3), more=14, opening=False, minibatch=2, concurrency=8)
@pytest.mark.requirement("training.budget")
def test_any_budget_of_rollouts_is_refused_at_the_start_or_kept_to_the_end(
    sizes: tuple[int, int, int],
    more: int,
    opening: bool,
    minibatch: Any,
    concurrency: int,
) -> None:
    """`more` is what a budget has beside the least that it takes."""
    made: list[int] = []

    async def target(inputs: dict[str, int]) -> int | None:
        made.append(1)
        kind = inputs["i"] % 3
        return kind if str(kind) in get_prompt("p").split() else None

    splits = ("train", "validation", "holdout")
    cases = [
        {"split": split, "inputs": {"i": i, "of": split}, "expected_output": i % 3}
        for split, size in zip(splits, sizes, strict=True)
        for i in range(size)
    ]
    least = (sizes[1] or sizes[0]) + 2 * sizes[2] + 1
    job: dict[str, Any] = {
        "prompts": {"p": "Do."},
        "dataset": cases,
        "evaluators": ["exact_match"],
        "optimizer": Reflective(opening=opening, minibatch=minibatch, proposer=Learning()),
        "budget": Budget(rollouts=least + more),
        "limits": Limits(concurrency=concurrency),
    }
    if more < 0:
        with pytest.raises(BudgetTooSmall, match=f"must be at least {least}"):
            train(target, **job)
        assert not made
        return
    result = train(target, **job)
    assert len(made) == result.usage.rollouts <= least + more
    assert result.best.metrics["complete"]
    assert (result.holdout is not None) == (sizes[2] > 0)
