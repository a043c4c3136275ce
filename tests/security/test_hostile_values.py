"""Values that are no JSON, or too much of it, at every place of a job: a typed refusal each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from orcheo_agentensor import RunConfig, aevaluate, atrain, configure
from orcheo_agentensor.errors import AgentensorError

PROPOSER = "orcheo_agentensor.demo.proposer:LexicalProposer"
TRIAGE = "orcheo_agentensor.demo.workflow:create_support_triage"
BASE: dict[str, Any] = {
    "target": lambda inputs: inputs,
    "dataset": [{"inputs": 1}],
    "evaluators": ["exact_match"],
}
TRAIN = {**BASE, "prompts": {"p": "x"}, "optimizer": {"name": "reflective", "proposer": PROPOSER}}


def nested(depth: int, kind: type) -> Any:
    """A value inside so many lists or objects."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


CYCLE: dict[str, Any] = {}
CYCLE["a"] = CYCLE
VALUES = {
    "10 to the 5000th": 10**5000,
    "the same inside": {"x": {"y": [-(10**5000)]}},
    "a key that is a number": {1: 2},
    "keys of two kinds": {1: 2, "a": 3},
    "a key that is a tuple": {(1, 2): 3},
    "3,000 objects": nested(3_000, dict),
    "3,000 lists": nested(3_000, list),
    "one that holds itself": CYCLE,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "bytes": b"x",
    "a set": {1},
    "an object": object(),
    "a complex number": 1j,
    "a lone surrogate": "\ud800",
    "NUL": "\0",
}


def doors(v: Any) -> dict[str, Callable[[], Any]]:
    """Every place of a job, and of a config, with the value in it."""
    return {
        "config": lambda: aevaluate(**{**BASE, "config": v}),
        "configurable": lambda: aevaluate(**{**BASE, "config": {"configurable": {"x": v}}}),
        "metadata": lambda: aevaluate(**{**BASE, "config": {"metadata": v}}),
        "tags": lambda: aevaluate(**{**BASE, "config": {"tags": [v]}}),
        "reclimit": lambda: aevaluate(**{**BASE, "config": {"recursion_limit": v}}),
        "use": lambda: aevaluate(
            **{**BASE, "config": {"configurable": {"agentensor": {"use": v}}}}
        ),
        "node_overrides": lambda: aevaluate(
            **{**BASE, "config": {"configurable": {"node_overrides": {"n": v}}}}
        ),
        "dataset": lambda: aevaluate(**{**BASE, "dataset": v}),
        "case": lambda: aevaluate(**{**BASE, "dataset": [v]}),
        "inputs": lambda: aevaluate(**{**BASE, "dataset": [{"inputs": v}]}),
        "expected": lambda: aevaluate(**{**BASE, "dataset": [{"inputs": 1, "expected_output": v}]}),
        "casemeta": lambda: aevaluate(**{**BASE, "dataset": [{"inputs": 1, "metadata": v}]}),
        "dspath": lambda: aevaluate(**{**BASE, "dataset": {"path": v}}),
        "dssplits": lambda: aevaluate(
            **{**BASE, "dataset": {"cases": [{"inputs": 1}], "splits": v}}
        ),
        "dsmeta": lambda: aevaluate(
            **{**BASE, "dataset": {"cases": [{"inputs": 1}], "metadata": v}}
        ),
        "evaluators": lambda: aevaluate(**{**BASE, "evaluators": [v]}),
        "evalparam": lambda: aevaluate(
            **{**BASE, "evaluators": [{"type": "contains", "value": v}]}
        ),
        "schema": lambda: aevaluate(
            **{**BASE, "evaluators": [{"type": "json_schema", "schema": v}]}
        ),
        "schema2": lambda: aevaluate(
            **{**BASE, "evaluators": [{"type": "json_schema", "schema": {"const": v}}]}
        ),
        "weight": lambda: aevaluate(
            **{**BASE, "evaluators": [{"type": "exact_match", "weight": v}]}
        ),
        "prompts": lambda: aevaluate(**{**BASE, "prompts": v}),
        "prompt": lambda: aevaluate(**{**BASE, "prompts": {"p": v}}),
        "promptmeta": lambda: aevaluate(
            **{**BASE, "prompts": {"p": {"type": "TextTensor", "text": "x", "metadata": v}}}
        ),
        "limits": lambda: aevaluate(**{**BASE, "limits": v}),
        "conc": lambda: aevaluate(**{**BASE, "limits": {"concurrency": v}}),
        "timeout": lambda: aevaluate(**{**BASE, "limits": {"case_timeout": v}}),
        "target": lambda: aevaluate(**{**BASE, "target": v}),
        "targetout": lambda: aevaluate(**{**BASE, "target": {"entrypoint": TRIAGE, "output": v}}),
        "run_id": lambda: aevaluate(**{**BASE, "run_id": v}),
        "optimizer": lambda: atrain(**{**BASE, "prompts": {"p": "x"}, "optimizer": v}),
        "optparam": lambda: atrain(
            **{
                **BASE,
                "prompts": {"p": "x"},
                "optimizer": {"name": "reflective", "proposer": PROPOSER, "seed": v},
            }
        ),
        "budget": lambda: atrain(**{**TRAIN, "budget": {"rollouts": v}}),
        "stop": lambda: atrain(**{**TRAIN, "stop": [v]}),
        "guardrail": lambda: atrain(**{**TRAIN, "guardrail": {"alpha": v}}),
        "output": lambda: aevaluate(**{**BASE, "target": lambda inputs: v}),
        "evalout": lambda: aevaluate(**{**BASE, "evaluators": [lambda outputs: v]}),
        "parse": lambda: asyncio.to_thread(RunConfig.parse, {"configurable": {"x": v}}),
        "parsekey": lambda: asyncio.to_thread(
            RunConfig.parse, {v: 1} if isinstance(v, (int, str, bytes)) else {"x": v}
        ),
        "configure": lambda: configure(RunnableLambda(lambda x: x), workflow_id="w").ainvoke(
            1, {"configurable": {"x": v}, "metadata": {"y": v}}
        ),
        "defaults": lambda: asyncio.to_thread(
            lambda: configure(
                RunnableLambda(lambda x: x), workflow_id="w", defaults={"configurable": v}
            )
        ),
    }


@pytest.mark.parametrize("name", VALUES)
async def test_no_value_breaks_what_reads_it(name: str) -> None:
    told = []
    for attempt in doors(VALUES[name]).values():
        try:
            await attempt()
        except AgentensorError as error:
            told.append(len(str(error)))
    assert len(told) >= 20
    assert max(told) < 20_000
