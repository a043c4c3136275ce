"""The budget meter: whatever happens in whatever order, nothing is overshot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from orcheo_agentensor.errors import BudgetExhausted, BudgetTooSmall
from orcheo_agentensor.training.budget import (
    Budget,
    BudgetMeter,
    check_budget,
    default_budget,
    required_rollouts,
)
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, Usage, UsageRecorder, bound

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def call(tokens: int = 0, cost: float | None = 0.0) -> Usage:
    return Usage(calls=1, input_tokens=tokens, cost=cost)


def granted(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except BudgetExhausted:
        return False
    return True


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["rollout", "aside", "call", "end call", "end rollout", "resume"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=120,
)


@given(
    ACTIONS,
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 80),
    st.none() | st.floats(0, 8),
    st.integers(0, 4),
)
def test_nothing_is_overshot_whatever_is_asked_for_in_whatever_order(
    actions: list[tuple[str, int, int]],
    rollouts: int | None,
    calls: int | None,
    tokens: int | None,
    cost: float | None,
    aside: int,
) -> None:
    """Each call really takes at most its bound; `made` counts calls as they begin."""
    budget = Budget(rollouts=rollouts, calls=calls, tokens=tokens, cost=cost)
    meter = BudgetMeter(budget, set_aside=aside)
    begun = 0
    running: list[tuple[Any, list[Usage]]] = []  # view, what its calls took
    flying: list[tuple[tuple[Any, list[Usage]], Usage, Usage]] = []
    made = spent_tokens = 0
    spent_cost = 0.0

    def finish(one: tuple[Any, list[Usage]]) -> None:
        nonlocal spent_tokens, spent_cost
        for entry in [entry for entry in flying if entry[0] is one]:  # cut off: its most counts
            end(entry, entry[1])
        one[0].spent(sum(one[1], ONE_ROLLOUT))

    def end(entry: Any, used: Usage) -> None:
        nonlocal spent_tokens, spent_cost
        flying.remove(entry)
        entry[0][0].call_ended(entry[1], used)
        entry[0][1].append(used)
        spent_tokens += used.tokens
        spent_cost += used.cost or 0.0

    for action, a, b in actions:
        if action in ("rollout", "aside"):
            view = meter if action == "rollout" else meter.aside
            if granted(view.reserve_rollout):
                begun += 1
                running.append((view, []))
        elif action == "call" and running:
            one = running[a % len(running)]
            most = call(b, b / 4)
            if granted(lambda one=one, most=most: one[0].call_started(lambda: most)):
                made += 1
                bounded = tokens is not None or cost is not None
                flying.append((one, most if bounded else call(), call(min(a, b), min(a, b) / 4)))
        elif action == "end call" and flying:
            entry = flying[a % len(flying)]
            end(entry, entry[2])
        elif action == "end rollout" and running:
            one = running.pop(a % len(running))
            finish(one)
        elif action == "resume":
            for one in running:
                finish(one)
            running = []
            meter = BudgetMeter(budget, spent=meter.usage, set_aside=a % 5)
        assert rollouts is None or begun <= rollouts
        assert calls is None or made <= calls
        assert tokens is None or spent_tokens <= tokens
        assert cost is None or spent_cost <= cost * (1 + 1e-6)
    for one in running:
        finish(one)
    assert (meter.usage.rollouts, meter.usage.calls) == (begun, made)


@given(st.integers(1, 30), st.integers(0, 30))
def test_what_is_set_aside_is_left_whatever_the_search_takes(rollouts: int, aside: int) -> None:
    meter = BudgetMeter(Budget(rollouts=rollouts), set_aside=min(aside, rollouts))
    while granted(meter.reserve_rollout):
        pass
    assert sum(granted(meter.aside.reserve_rollout) for _ in range(rollouts)) == min(
        aside, rollouts
    )


@given(st.integers(0, 5), st.integers(1, 4), st.integers(2, 60))
def test_the_calls_of_what_is_set_aside_are_left_where_rollouts_are_alike(
    aside: int, each: int, calls: int
) -> None:
    meter = BudgetMeter(Budget(calls=calls), set_aside=aside)

    def rollout(view: Any) -> bool:
        if not granted(view.reserve_rollout):
            return False
        for n in range(each):
            if not granted(lambda: view.call_started(call)):
                view.spent(ONE_ROLLOUT + Usage(calls=n))
                return False
            view.call_ended(call(), call())
        view.spent(ONE_ROLLOUT + Usage(calls=each))
        return True

    while rollout(meter):
        pass
    done = sum(rollout(meter.aside) for _ in range(aside))
    # The very first is begun before anything is known of what one takes.
    assert done == aside or each * (1 + aside) > calls


def test_a_further_attempt_does_not_take_the_first_one_of_another_case() -> None:
    meter = BudgetMeter(Budget(rollouts=5), set_aside=3)
    assert granted(lambda: meter.aside.reserve_rollout())
    assert [granted(lambda: meter.aside.reserve_rollout(again=True)) for _ in range(3)] == [
        True,
        True,
        False,
    ]
    meter.aside.return_rollout(again=True)  # a server refused it
    assert granted(lambda: meter.aside.reserve_rollout(again=True))
    assert [granted(lambda: meter.aside.reserve_rollout()) for _ in range(3)] == [True, True, False]


def test_after_the_deadline_only_what_is_set_aside_goes_on() -> None:
    now = NOW
    meter = BudgetMeter(Budget(), set_aside=2, clock=lambda: now)
    meter.end_at(NOW + timedelta(seconds=5), reason="5 s have passed")
    meter.reserve_rollout()
    now = NOW + timedelta(seconds=5)
    for late in (meter.reserve_rollout, meter.require_call):
        with pytest.raises(BudgetExhausted, match="5 s have passed"):
            late()
    meter.call_started(call)  # of the rollout that had begun
    meter.aside.reserve_rollout()
    meter.release()
    meter.reserve_rollout()
    meter.halt("enough")
    with pytest.raises(BudgetExhausted, match="enough"):
        meter.reserve_rollout()


def test_a_proposers_calls_do_not_make_the_holdout_dear() -> None:
    meter = BudgetMeter(Budget(calls=3), set_aside=4)
    meter.reserve_rollout()
    meter.spent(ONE_ROLLOUT)
    for _ in range(3):
        meter.require_call()
        meter.call_ended(meter.call_started(call), call())
        meter.spent(call(), asked=True)
    with pytest.raises(BudgetExhausted, match=r"the budget of 3 model calls is spent$"):
        meter.require_call()
    for _ in range(4):
        meter.aside.reserve_rollout()
        meter.aside.spent(ONE_ROLLOUT)
    again = BudgetMeter(Budget(calls=3), spent=meter.usage, asked=Usage(calls=3), set_aside=1)
    again.aside.reserve_rollout()


def test_a_budget_that_cannot_pay_for_what_is_set_aside_says_what_it_would_take() -> None:
    meter = BudgetMeter(Budget(calls=30), set_aside=20)
    for _ in range(5):
        meter.aside.reserve_rollout()
        for _ in range(2):
            meter.aside.call_ended(meter.aside.call_started(call), call())
        meter.aside.spent(ONE_ROLLOUT + Usage(calls=2))
    with pytest.raises(BudgetExhausted, match=r"is too small: .* about 40, at 2 per rollout"):
        meter.aside.reserve_rollout()


def test_a_budget_in_money_ends_where_no_price_is_known() -> None:
    meter = BudgetMeter(Budget(cost=1.0))
    meter.reserve_rollout()
    meter.call_ended(meter.call_started(call), call(5, None))
    with pytest.raises(BudgetExhausted, match=r"price of a model .* not known"):
        meter.call_started(call)


@pytest.mark.parametrize("replicates", [1, 3])
def test_a_budget_one_too_small_is_refused_with_the_number_it_takes(replicates: int) -> None:
    sizes = {"validation": 4, "holdout": 5, "replicates": replicates}
    least = required_rollouts(**sizes)
    assert least == 14 * replicates + 1
    for given_rollouts in (0, 1, least - 1):
        with pytest.raises(BudgetTooSmall, match=f"must be at least {least}$"):
            check_budget(Budget(rollouts=given_rollouts), **sizes)
    check_budget(Budget(rollouts=least), **sizes)
    check_budget(Budget(), **sizes)
    computed = default_budget(train=6, minibatch=3, **sizes)
    check_budget(computed, **sizes)
    assert computed.rollouts == replicates * (14 + 20 * 6 + 40)


def test_a_recorder_refuses_for_good_and_settles_what_is_left_behind() -> None:
    meter = BudgetMeter(Budget(calls=2))
    recorder = UsageRecorder(meter)
    first, second = uuid4(), uuid4()
    with recorder:
        recorder.on_chat_model_start({}, [[HumanMessage("?")]], run_id=first)
        recorder.on_llm_start({}, ["?"], run_id=second)
        recorder.on_llm_error(ValueError("broken"), run_id=second)
        for _ in range(2):
            with pytest.raises(BudgetExhausted):
                recorder.on_chat_model_start({}, [[HumanMessage("?")]], run_id=uuid4())
    assert recorder.total == Usage(calls=2)  # the one in flight was cut off
    recorder.on_llm_error(ValueError("too late"), run_id=first)
    assert recorder.total == Usage(calls=2)
    assert isinstance(recorder.refused, BudgetExhausted)
    meter.spent(recorder.total)
    assert meter.usage.calls == 2


def test_a_call_from_what_has_ended_is_refused_under_a_budget() -> None:
    recorder = UsageRecorder(BudgetMeter(Budget()))
    with recorder:
        pass
    with pytest.raises(BudgetExhausted, match="has ended"):
        recorder.on_llm_start({}, ["?"], run_id=uuid4())
    assert recorder.total == NOTHING


@given(st.text(), st.integers(1, 500))
def test_a_call_is_bounded_by_the_bytes_it_sends_and_its_own_cap(text: str, cap: int) -> None:
    message = HumanMessage(text)
    for params, metadata in (
        ({"max_tokens": cap}, {}),
        ({"max_completion_tokens": cap}, {}),
        ({}, {"ls_max_tokens": cap}),
    ):
        most = bound([message], params, metadata)
        assert most.input_tokens >= len(text.encode("utf-8", "replace"))
        assert most.output_tokens == cap
    priced = bound([message], {"model": "gpt-4o", "max_tokens": cap}, {})
    assert (priced.cost or 0.0) > 0.0
