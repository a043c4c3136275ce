"""Errors are judged and told by their innermost cause, of targets, judges and proposers."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from langchain_core.exceptions import ModelConnectionError
from rule_task import Target, Teacher, trained

from orcheo_agentensor import Limits, Reflective, Store, aevaluate, atrain, get_prompt
from orcheo_agentensor.errors import RunFailed, RunPaused

REQUEST = httpx.Request("POST", "http://127.0.0.1:9/v1")
CASES = [{"id": str(n), "inputs": {"n": n}, "expected_output": n} for n in range(4)]


class AnthropicConnectionError(ModelConnectionError):
    """As an integration makes it: langchain-core's class is in its MRO."""


def wrapped(error: BaseException) -> Exception:
    made = RuntimeError("the node failed")
    made.__cause__ = error
    return made


LOST: dict[str, Any] = {
    "group": lambda: ExceptionGroup("unhandled errors", [ConnectionResetError("reset by peer")]),
    "raised from": lambda: wrapped(ConnectionResetError("reset by peer")),
    "both": lambda: wrapped(ExceptionGroup("errors", [wrapped(TimeoutError("too late"))])),
    "openai": lambda: openai.APIConnectionError(request=REQUEST),
    "openai timeout": lambda: openai.APITimeoutError(request=REQUEST),
    "langchain": lambda: AnthropicConnectionError("no route"),
}


class Once:
    """Raises an error at its first call alone."""

    def __init__(self, form: str) -> None:
        self.form, self.calls = form, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise LOST[self.form]()


@pytest.mark.parametrize("form", LOST)
async def test_a_lost_connection_of_target_or_judge_is_tried_again(form: str) -> None:
    target_trouble, judge_trouble = Once(form), Once(form)

    async def target(inputs: dict[str, Any]) -> Any:
        target_trouble()
        return inputs["n"]

    async def judge(outputs: Any) -> float:
        judge_trouble()
        return 1.0

    report = await aevaluate(target, dataset=CASES[:1], evaluators=[judge])
    assert (report.objective, report.coverage) == (1.0, 1.0)
    assert (target_trouble.calls, judge_trouble.calls) == (2, 2)


@pytest.mark.parametrize("form", LOST)
async def test_a_lost_connection_of_a_proposer_is_tried_again(form: str) -> None:
    trouble = Once(form)

    class Proposer(Teacher):
        async def propose(self, request: Any) -> dict[str, str]:
            trouble()
            return await super().propose(request)

    result = await trained(proposer=Proposer())
    assert result.best.metrics["objective"] == 1.0


async def test_the_reason_is_the_innermost_cause() -> None:
    async def target(inputs: dict[str, Any]) -> Any:
        try:
            raise ExceptionGroup("unhandled", [KeyError("city")])
        except ExceptionGroup as group:
            raise RuntimeError("the tool failed") from group

    report = await aevaluate(target, dataset=CASES, evaluators=["exact_match"])
    reason = "KeyError: 'city' (raised as RuntimeError: the tool failed)"
    assert {case.failure.reason for case in report.cases} == {reason}
    assert report.summary["warnings"] == [
        f"nothing could be scored: all 4 cases failed with {reason}"
    ]


def locked_out() -> Exception:
    response = httpx.Response(401, request=REQUEST)
    return openai.AuthenticationError("Incorrect API key provided", response=response, body=None)


@pytest.mark.parametrize("error", [locked_out, LOST["openai"]])
async def test_what_no_prompt_can_mend_ends_a_training_and_is_the_reason(error: Any) -> None:
    class Broken(Target):
        def judge(self, texts: Any, rule: int) -> Any:
            raise error()

    target, store = Broken(), Store.from_url(None)
    with pytest.raises(RunPaused, match=r"in a row|the baseline could not be scored") as paused:
        await trained(target, limits=Limits(retries=0), store=store, run_id="r")
    assert str(error()) in paused.value.message
    assert len(target.calls) <= 4
    assert (await store.runs.get("r")).status == "interrupted"
    assert await store.checkpoints.list_workflows() == []  # no version


async def test_a_target_that_always_breaks_is_the_reason_of_the_decision() -> None:
    async def target(inputs: dict[str, Any]) -> Any:
        raise ValueError(f"cannot parse {get_prompt('task')}")

    store = Store.from_url(None)
    with pytest.raises(RunFailed) as failed:
        await atrain(
            target,
            prompts={"task": "x"},
            dataset=CASES,
            evaluators=["exact_match"],
            optimizer=Reflective(proposer=Teacher()),
            store=store,
        )
    assert failed.value.message == (
        "the baseline could not be scored: all 4 cases failed with ValueError: cannot parse x"
    )
    assert await store.checkpoints.list_workflows() == []


async def test_a_run_that_reuses_another_tries_again_what_failed_in_passing() -> None:
    calls: list[int] = []
    outage = [True]

    async def target(inputs: dict[str, Any]) -> Any:
        calls.append(inputs["n"])
        if outage[0] and inputs["n"] == 1:
            raise openai.APIConnectionError(request=REQUEST)
        if inputs["n"] == 2:
            raise ValueError("always")
        return inputs["n"]

    async def judge(ctx: Any) -> float:
        if outage[0] and ctx.output == 3:
            raise ConnectionResetError
        return 1.0

    async with Store.from_url(None) as store:
        job: dict[str, Any] = {
            "dataset": CASES,
            "evaluators": [judge],
            "limits": Limits(retries=0),
            "store": store,
            "workflow_id": "w",
        }
        first = await aevaluate(target, **job)
        assert first.coverage == 0.25
        calls.clear()
        outage[0] = False
        second = await aevaluate(target, reuse=first.run_id, **job)
    assert calls == [1]
    assert second.coverage == 0.75
