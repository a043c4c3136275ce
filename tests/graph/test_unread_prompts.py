"""A prompt that no node reads is told: by name, as a warning, as the reason of a decision."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import Reflective, TextTensor, aevaluate, atrain, get_prompt

CASES = [
    {"id": f"{split}-{n}", "split": split, "inputs": {"text": str(n)}}
    for split in ("train", "validation", "holdout")
    for n in range(12)
]


class State(TypedDict, total=False):
    text: str
    answer: str


@dataclass
class Context:
    system_prompt: str = "Answer."
    retries: int = 3


def graph(node: Any, **schemas: Any) -> Any:
    builder = StateGraph(State, **schemas)
    builder.add_node("answer", node)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile()


def by_hand(state: State, config: RunnableConfig) -> Any:
    """Invokes a graph with prompts of its own in the place of those of the run."""

    def inner(state: State) -> Any:
        return {"answer": get_prompt("task", default="the default")}

    return graph(inner).invoke(state, {"configurable": {"prompts": {"house": "Be kind."}}})


def by_thread(state: State) -> Any:
    """Works in a thread that knows nothing of the run."""
    with ThreadPoolExecutor() as pool:
        return {"answer": pool.submit(get_prompt, "task", default="the default").result()}


def answered(outputs: Any) -> float:
    return float("X" in str(outputs))


class Teacher:
    async def propose(self, request: Any) -> dict[str, str]:
        return {component.name: component.text + " X" for component in request.components}


async def evaluated(target: Any, prompts: Any = None, **options: Any) -> Any:
    events: list[Any] = []
    report = await aevaluate(
        target,
        dataset=CASES[:4],
        evaluators=[answered],
        prompts={"task": "speak"} if prompts is None else prompts,
        on_event=events.append,
        **options,
    )
    warned = [event["message"] for event in events if event["type"] == "warning"]
    assert warned == list(report.summary.get("warnings", ()))
    return report


async def test_a_subgraph_with_its_own_configurable_is_told_by_the_prompt_and_the_node() -> None:
    report = await evaluated(graph(by_hand))
    assert report.summary["reads"] == {"task": False}
    (warning,) = report.summary["warnings"]
    assert "no node read the prompt 'task'" in warning
    assert "answer asked for it in a config without the run's prompts" in warning
    file = io.StringIO()
    report.print(file=file)
    assert "warning: no node read the prompt 'task'" in file.getvalue()


async def test_a_prompt_that_a_thread_without_the_config_asks_for_is_told() -> None:
    report = await evaluated(graph(by_thread))
    assert report.summary["reads"] == {"task": False}
    assert "read it by get_prompt('task')" in report.summary["warnings"][0]


async def test_the_places_of_the_context_and_the_config_are_offered() -> None:
    target = graph(lambda state: {"answer": "no"}, context_schema=Context)
    config = {"configurable": {"tone": "kind", "top": 3}}
    report = await evaluated(target, config=config)
    tone, top, warning = report.summary["warnings"]
    assert "reads 'tone'" in tone
    assert "reads 'top'" in top
    assert warning.endswith("it offers: context.system_prompt, configurable.tone")
    unread = {"task": TextTensor("speak", bind="configurable.sytem_prompt")}
    report = await evaluated(target, unread)
    assert "'task' (bound to configurable.sytem_prompt)" in report.summary["warnings"][0]


def from_config(state: State, config: RunnableConfig) -> Any:
    prompts = config["configurable"]["prompts"]
    return {"answer": prompts["task"]["text"]}


async def function(inputs: Any, config: Any) -> str:
    return str(config["configurable"]["prompts"]["task"]["text"])


@pytest.mark.parametrize("target", [graph(from_config), function])
async def test_a_prompt_read_from_the_config_by_hand_is_read(target: Any) -> None:
    report = await evaluated(target, {"task": "X"})
    assert (report.objective, report.summary["reads"]) == (1.0, {"task": True})
    assert "warnings" not in report.summary


async def test_a_prompt_of_a_rare_branch_is_found_and_evaluators_see_no_tape() -> None:
    seen = []

    async def branching(inputs: Any) -> str:
        return get_prompt("rare") if inputs["text"] == "3" else get_prompt("task")

    def watching(ctx: Any) -> float:
        seen.append(ctx.tape)
        return 1.0

    report = await aevaluate(
        branching,
        dataset=CASES[:4],
        evaluators=[watching],
        prompts={"task": "a", "rare": "b", "other": "c"},
    )
    assert report.summary["reads"] == {"task": True, "rare": True, "other": False}
    assert seen == [None] * 4


async def test_training_stops_after_the_first_minibatch_in_which_nothing_was_read() -> None:
    events: list[Any] = []
    result = await atrain(
        graph(by_hand),
        prompts={"task": "speak"},
        dataset=CASES,
        evaluators=[answered],
        optimizer=Reflective(proposer=Teacher(), minibatch=4),
        on_event=events.append,
    )
    assert result.usage.rollouts == 4
    (reason,) = result.decision.reasons
    assert "no node read the prompt 'task'" in reason
    assert result.decision.stopped == reason
    assert (result.decision.status, result.status) == ("kept", "missed_threshold")
    assert result.best.metrics["complete"] is False
    assert [event["message"] for event in events if event["type"] == "warning"] == [reason]


async def test_training_goes_on_where_one_of_the_prompts_is_read_and_tells_of_the_other() -> None:
    async def target(inputs: Any) -> str:
        return get_prompt("task")

    result = await atrain(
        target,
        prompts={"task": "speak", "other": "unused"},
        dataset=CASES,
        evaluators=[answered],
        optimizer=Reflective(proposer=Teacher(), minibatch=4),
    )
    assert result.best.prompts["task"].text == "speak X"
    assert result.summary["reads"] == {"task": True, "other": False}
    assert "no node read the prompt 'other'" in result.summary["warnings"][0]
