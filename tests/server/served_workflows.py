"""Workflows, evaluators and a proposer that the test server's jobs name by `served_workflows:…`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import get_prompt
from orcheo_agentensor.optimizers import ProposalRequest

KINDS = ("refund", "card", "login", "transfer")


class Request(TypedDict):
    """A case of a kind; one with `after` is answered once that file is there."""

    kind: str
    after: NotRequired[str]


class Reply(TypedDict):
    answer: str


class ClerkState(Request, Reply):
    pass


def answer_to(kind: str, skills: str) -> str:
    """What a clerk with these skills answers."""
    return kind if kind in skills.split() else "unknown"


def create_clerk() -> StateGraph[ClerkState, None, Request, Reply]:
    """A graph that can handle the kinds named in the prompt `skills`."""

    async def handle(state: ClerkState, config: RunnableConfig) -> dict[str, str]:
        # A file, because the test that opens the gate is in another process.
        while "after" in state and not os.path.exists(state["after"]):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        return {"answer": answer_to(state["kind"], get_prompt("skills", config))}

    graph = StateGraph(ClerkState, input_schema=Request, output_schema=Reply)
    graph.add_node("handle", handle)
    graph.add_edge(START, "handle")
    graph.add_edge("handle", END)
    return graph


clerk = create_clerk()


def blocking_clerk(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, str]:
    """The same as a sync function that blocks its thread."""
    time.sleep(0.02)
    return {"answer": answer_to(inputs["kind"], get_prompt("skills", config))}


def right(outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any]) -> dict[str, Any]:
    """1.0 for the expected answer."""
    found = outputs["answer"] == reference_outputs["answer"]
    wanted = reference_outputs["answer"]
    return {"key": "right", "score": float(found), "comment": "" if found else f"learn {wanted}"}


class Tutor:
    """Adds the first skill that the feedback finds lacking."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        """One more word."""
        texts = {}
        for component in request.components:
            lacking = sorted(
                str(record.expected_output["answer"])
                for record in component.feedback
                if record.score is not None and record.score < 1.0
            )
            if lacking:
                texts[component.name] = f"{component.text} {lacking[0]}"
        return texts


def cases(
    split: str, count: int, *, free: int = 0, after: Path | None = None
) -> list[dict[str, Any]]:
    """`count` cases of a split, one kind after the other; where a file is given, all but the first
    `free` wait for it."""
    return [
        {
            "id": f"{split}-{number}",
            "inputs": {"kind": KINDS[number % len(KINDS)], "split": split}
            | ({"after": str(after)} if after is not None and number >= free else {}),
            "expected_output": {"answer": KINDS[number % len(KINDS)]},
            "split": split,
        }
        for number in range(count)
    ]
