"""A case that takes the process down is found and set aside; a budget holds over every death."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from processes import start, until

from orcheo_agentensor import Limits, aevaluate
from orcheo_agentensor.storage import Store

CASES = 20
PREAMBLE = """
import ctypes, os, signal, time
from orcheo_agentensor import *

def note(text):
    with open(os.environ["PAID"], "a") as log:
        log.write(text + "\\n")

def take_down(how):
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""
EVALUATION = (
    PREAMBLE
    + """
async def target(inputs):
    note(str(inputs))
    await asyncio.sleep(0.001)
    if inputs == 7 and "JUDGE" not in os.environ:
        take_down(os.environ["HOW"])
    return inputs

def same(ctx):
    if ctx.output == 7 and "JUDGE" in os.environ:
        note("judged")
        take_down(os.environ["HOW"])
    return ctx.output == ctx.expected_output

report = evaluate(
    target,
    dataset=[{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(20)],
    evaluators=[same],
    limits=Limits(concurrency=4, isolate="ISOLATE" in os.environ),
    min_coverage=0,
    store=URL,
    run_id="r",
)
for case in report.cases:
    if case.failure is not None:
        print(case.case_id, case.failure.kind, case.failure.reason)
print(report.scores["same"].n)
"""
)


def paid(log: Path) -> Counter[str]:
    return Counter(log.read_text().split())


@pytest.mark.parametrize(
    ("how", "store_url"),
    [("exit", "sqlite"), ("segfault", "sqlite"), ("exit", "postgresql")],
    indirect=["store_url"],
)
def test_a_case_that_takes_the_process_down_is_set_aside_at_the_third_start(
    how: str, store_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "paid"
    for attempt in (1, 2, 3):
        process = start(EVALUATION, store_url, PAID=str(log), HOW=how)
        told, errors = process.communicate()
        if attempt < 3:
            assert process.returncode != 0
            assert told == ""
    assert process.returncode == 0, errors
    failed, scored = told.splitlines()
    assert failed.startswith("c7 process_died it took its process down, which ")
    assert int(scored) == CASES - 1
    calls = paid(log)
    assert calls.pop("7") == 3
    assert sum(calls.values()) <= CASES - 1 + 8  # what was in flight at the first death
    assert errors == ""


def test_an_evaluator_that_takes_the_process_down_is_set_aside_at_the_third_start(
    tmp_path: Path,
) -> None:
    url, log = f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "paid"
    for _ in range(3):
        process = start(EVALUATION, url, PAID=str(log), HOW="exit", JUDGE="1")
        told, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert told.splitlines() == [
        "c7 process_died it took its process down, which exited with 3",
        "19",
    ]
    calls = paid(log)
    assert calls.pop("judged") == 3
    assert calls["7"] <= 2  # alone, its rollout is recorded before it is scored
    assert sum(calls.values()) <= CASES + 8


def test_isolated_targets_may_die(store_url: str, tmp_path: Path) -> None:
    process = start(EVALUATION, store_url, PAID=str(tmp_path / "paid"), HOW="exit", ISOLATE="1")
    told, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert told.splitlines() == [
        "c7 process_died it took its process down, which exited with 3",
        "19",
    ]
    assert set(paid(tmp_path / "paid").values()) == {1}


async def test_isolated_targets_that_never_end_are_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "perf_counter", time.monotonic)  # the time goes by here

    async def target(inputs: int) -> int:
        while inputs == 2:  # not even the interpreter's lock is given back for long
            pass
        return inputs

    cases = [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(4)]
    report = await aevaluate(
        target,
        dataset=cases,
        evaluators=["exact_match"],
        limits=Limits(isolate=True, case_timeout=0.5, retries=0),
        min_coverage=0,
    )
    assert [case.case_id for case in report.cases if case.failure is not None] == ["c2"]
    assert report.cases[2].failure.kind == "timeout"
    assert report.cases[2].latency_ms >= 500


TRAINING = (
    PREAMBLE
    + """
from rule_task import PROMPTS, Target, Teacher, dataset, done

async def hook(inputs):
    note("rollout")
    await asyncio.sleep(0.004)

train(
    Target(hook=hook),
    prompts=PROMPTS,
    dataset=dataset(train=8, validation=6, holdout=6),
    evaluators=[done],
    optimizer=Reflective(minibatch=4, proposer=Teacher()),
    budget=Budget(rollouts=42),
    limits=Limits(concurrency=4),
    store=URL,
    run_id="r",
    workflow_id="w",
)
"""
)


def test_a_budget_holds_over_kills(store_url: str, tmp_path: Path) -> None:
    log = tmp_path / "paid"
    log.touch()
    for number in range(4):
        process = start(TRAINING, store_url, PAID=str(log))
        if number < 3:
            before = paid(log)["rollout"]
            until(lambda: paid(log)["rollout"] >= before + 5 or process.poll() is not None)  # noqa: B023
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert 0 < paid(log)["rollout"] <= 42


async def test_what_was_in_flight_is_known_and_forgotten_when_it_is_done(store: Store) -> None:
    begun = asyncio.Event()

    async def target(inputs: int) -> int:
        if inputs == 3:
            begun.set()
            await asyncio.Event().wait()
        return inputs

    given: dict[str, Any] = {
        "dataset": [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(8)],
        "evaluators": ["exact_match"],
        "limits": Limits(concurrency=2),
        "store": store,
        "run_id": "r",
    }
    running = asyncio.ensure_future(aevaluate(target, **given))
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    lease = await store.runs.acquire("r")
    async with store.ledger("r", lease=lease) as ledger:
        assert ledger.noted == {}  # it was stopped in good order: nobody is suspected
