"""What LangGraph's checkpoints hold: prompts, numbers and ids, and no more with every step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from orcheo_agentensor import (
    EvaluatorContext,
    MaxSteps,
    Store,
    TextGrad,
    create_evaluation_graph,
    create_training_graph,
    get_prompt,
)
from orcheo_agentensor.optimizers import ProposalRequest

STEPS = 20
MARK = "a long output that is nobody's business"


def make_cases(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"case-{number}", "inputs": {"n": number}, "metadata": {"note": "n" * 500}}
        for number in range(count)
    ]


async def target(inputs: dict[str, int], config: RunnableConfig) -> dict[str, Any]:
    return {"stars": get_prompt("main", config).count("*"), "text": MARK * 50}


def stars(ctx: EvaluatorContext) -> float:
    return float(ctx.output["stars"]) / 100


class OneMore:
    """Every rewrite is a little better."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        return {component.name: f"{component.text}*" for component in request.components}


async def checkpoint_sizes(path: Path) -> list[int]:
    """Bytes stored with each checkpoint, its writes included, oldest first."""
    query = """
        SELECT length(c.checkpoint) + length(c.metadata) + coalesce((
            SELECT sum(length(w.value)) FROM writes w
            WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
              AND w.checkpoint_id = c.checkpoint_id), 0)
        FROM checkpoints c ORDER BY c.checkpoint_id
    """
    async with aiosqlite.connect(path) as connection, connection.execute(query) as rows:
        return [row[0] async for row in rows]


async def everything(path: Path) -> bytes:
    """All that the saver has stored."""
    found = b""
    async with aiosqlite.connect(path) as connection:
        for query in ("SELECT checkpoint, metadata FROM checkpoints", "SELECT value FROM writes"):
            async with connection.execute(query) as rows:
                async for row in rows:
                    found += b"".join(v if isinstance(v, bytes) else v.encode() for v in row)
    return found


@pytest.mark.requirement("checkpoint.small")
async def test_bytes_per_training_step_are_flat_and_few(tmp_path: Path) -> None:
    path = tmp_path / "graph.db"
    graph = create_training_graph(
        target,
        dataset=make_cases(16),
        evaluators=[stars],
        prompts={"main": "p" * 1000, "other": "q" * 1000},
        optimizer=TextGrad(proposer=OneMore(), minibatch=4),
        store=Store.from_url(tmp_path / "side.db"),
    )
    job = {
        "stop": [MaxSteps(STEPS).model_dump()],
        "budget": {"rollouts": 100_000},
    }
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        compiled = graph.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        found = await compiled.ainvoke(job, config)
    assert found["status"] == "finished"
    assert found["best"]["objective"] == pytest.approx(STEPS / 100)

    sizes = await checkpoint_sizes(path)
    steps = [sum(pair) for pair in pairwise(sizes)][4::2]  # a step and the checkpoint after it
    assert len(steps) >= STEPS
    early, late = steps[5], steps[STEPS - 2]
    assert late <= early * 1.05
    assert max(steps[1 : STEPS - 1]) <= 32 * 1024


@pytest.mark.parametrize("count", [10, 300])
async def test_cases_and_outputs_are_not_in_the_state(tmp_path: Path, count: int) -> None:
    path = tmp_path / "graph.db"
    graph = create_evaluation_graph(
        target,
        dataset=make_cases(count),
        evaluators=[stars],
        prompts={"main": "***"},
        store=Store.from_url(tmp_path / "side.db"),
    )
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        config: Any = {"configurable": {"thread_id": "t"}}
        await graph.compile(checkpointer=saver).ainvoke({}, config)
    stored = await everything(path)
    assert MARK.encode() not in stored
    assert b"case-1" not in stored
    assert len(stored) < 16 * 1024


async def test_a_dataset_in_the_job_leaves_the_state_with_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "graph.db"
    graph = create_evaluation_graph(
        target, evaluators=[stars], prompts={"main": "*"}, store=Store.from_url(tmp_path / "s.db")
    )
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        config: Any = {"configurable": {"thread_id": "t"}}
        compiled = graph.compile(checkpointer=saver)
        await compiled.ainvoke({"dataset": make_cases(200)}, config)
        values = (await compiled.aget_state(config)).values
    assert values["dataset"]["id"] == "inline"
    assert set(values["dataset"]) == {"id", "version", "metadata_version"}
    sizes = await checkpoint_sizes(path)
    assert max(sizes[2:]) < 8 * 1024
