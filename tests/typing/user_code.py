"""User code as type checkers see it: a line marked `refused` has to be one, and no other may be.

`test_typing.py` runs mypy and pyright over this file; nothing here is executed.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from orcheo_agentensor import (
    Budget,
    Case,
    Dataset,
    DatasetLike,
    EvaluatorContext,
    EvaluatorLike,
    ExactMatch,
    Limits,
    PromptLike,
    Reflective,
    Target,
    TargetScore,
    TextTensor,
    aevaluate,
    atrain,
    evaluate,
    train,
)

cases = [{"id": "a", "inputs": {"text": "hi"}, "expected_output": "HI"}]
dataset = Dataset.from_cases(cases)


def shout(inputs: dict[str, Any]) -> str:
    return str(inputs["text"]).upper()


async def shout_later(inputs: dict[str, Any], config: Any) -> str:
    return shout(inputs)


def long_enough(outputs: dict[str, Any]) -> bool:
    return len(outputs["output"]) > 1


class Loud:
    def evaluate(self, ctx: EvaluatorContext) -> float:
        return float(str(ctx.output).isupper())


graph = StateGraph(MessagesState)
graph.add_edge(START, "__end__")

targets: list[Target] = [shout, shout_later, graph, graph.compile(), RunnableLambda(shout), "a:b"]
datasets: list[DatasetLike] = [cases, dataset, "cases.jsonl", {"path": "cases.jsonl"}]
evaluators: list[EvaluatorLike] = ["exact_match", ExactMatch(), long_enough, Loud()]
prompts: dict[str, PromptLike] = {"a": "text", "b": TextTensor("text"), "c": {"text": "text"}}

report = evaluate(shout, dataset=cases, evaluators=evaluators, limits=Limits(concurrency=2))
mean: float | None = report.scores["exact_match"].mean
passed: float | None = report.scores["exact_match"].pass_rate
finished: bool = report.status == "finished"
slow: float | None = report.latency.p95
reason: str = report.cases[0].reasons["exact_match"]
first_case: Case | None = report.cases[0].case

result = train(
    shout,
    prompts=prompts,
    dataset=dataset,
    evaluators=[ExactMatch()],
    optimizer=Reflective(model="openai:gpt-5-mini"),
    budget=Budget(rollouts=100),
    stop=[TargetScore(1.0)],
    promote="ask",
)
version: int = result.best.config_version
decided: bool = result.decision.status == "promoted"


async def in_a_loop() -> float | None:
    await atrain(shout, prompts=prompts, dataset=cases, evaluators=["exact_match"])
    return (await aevaluate(shout_later, dataset=cases, evaluators=["exact_match"])).objective


evaluate(shout, datset=cases, evaluators=["exact_match"])  # refused
evaluate(shout, dataset=ExactMatch(), evaluators=["exact_match"])  # refused
evaluate(shout, dataset=cases, evaluators=dataset)  # refused
evaluate(shout, dataset=cases, evaluators=[dataset])  # refused
evaluate(5, dataset=cases, evaluators=["exact_match"])  # refused
evaluate(shout, dataset=cases, evaluators=["exact_match"], replicates="3")  # refused
evaluate(shout, dataset=cases, evaluators=["exact_match"], prompts={"a": 3})  # refused
train(shout, prompts=prompts, dataset=cases, evaluators=["exact_match"], promote="yes")  # refused
train(shout, prompts=prompts, dataset=cases, evaluators=["exact_match"], optimizer=3)  # refused
never: bool = report.status == "done"  # refused by mypy
average = report.scores["exact_match"].average  # refused
neither: bool = result.decision.status == "accepted"  # refused by mypy
