"""A loop by hand over a workflow of two prompts: forward, backward, step, zero_grad."""

from __future__ import annotations

import re
from typing import Any, TypedDict

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import START, StateGraph

from orcheo_agentensor import (
    BadInput,
    LLMJudge,
    Reflective,
    TextGrad,
    TextTensor,
    abackward,
    aevaluate,
    astep,
    atrain,
    get_prompt,
)
from orcheo_agentensor.testing import RuleChatModel

CASES = [{"id": topic, "inputs": {"topic": topic}} for topic in ("cats", "trains", "rain")]
RUBRIC = "The output should be in Chinese"
CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Joke(TypedDict, total=False):
    topic: str
    draft: str
    answer: str


def speak(messages: list[BaseMessage]) -> str:
    """Simulated: writes Chinese where its instructions say so."""
    system, user = messages[0].text, messages[-1].text
    return "从前有一只猫" if "in Chinese" in system else f"Once there was {user}."


def judge(messages: list[BaseMessage]) -> str:
    """Simulated: looks for Chinese characters in the output that it is shown."""
    is_chinese = CHINESE.search(messages[-1].text) is not None
    reason = "fine" if is_chinese else "it should be in Chinese"
    return f'{{"reasoning": "{reason}", "score": {1 if is_chinese else 0}}}'


def workflow() -> Any:
    model = RuleChatModel(rule=speak)

    async def writer(state: Joke) -> dict[str, Any]:
        reply = await model.ainvoke([("system", get_prompt("writer")), ("user", state["topic"])])
        return {"draft": reply.text}

    async def proofreader(state: Joke) -> dict[str, Any]:
        reply = await model.ainvoke(
            [("system", get_prompt("proofreader")), ("user", state["draft"])]
        )
        return {"answer": reply.text}

    graph = StateGraph(Joke)
    graph.add_node("writer", writer)
    graph.add_node("proofreader", proofreader)
    graph.add_edge(START, "writer")
    graph.add_edge("writer", "proofreader")
    return graph


class Obedient:
    """Simulated: adds to each prompt what its feedback asks for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def propose(self, request: Any) -> dict[str, str]:
        self.asked += [component.name for component in request.components]
        return {
            component.name: f"{component.text} Write in Chinese."
            for component in request.components
            if any("in Chinese" in str(gradient) for gradient in component.feedback)
        }


@pytest.mark.requirement("training.by-hand")
async def test_a_loop_by_hand_makes_the_joke_writer_write_in_chinese() -> None:
    prompts = {
        "writer": TextTensor("Write a joke.", requires_grad=False),
        "proofreader": TextTensor("Correct the joke."),
        "unread": TextTensor("Nobody reads me."),
    }
    proposer, scores = Obedient(), []
    rubric = LLMJudge(rubric=RUBRIC, model=RuleChatModel(rule=judge))
    for _epoch in range(2):
        report = await aevaluate(
            workflow(), dataset=CASES, evaluators=[rubric], prompts=prompts, tape=True
        )
        scores.append(report.objective)
        await abackward(report, prompts)
        learnt = {name: len(tensor.gradients) for name, tensor in prompts.items()}
        await astep(prompts, optimizer=TextGrad(proposer=proposer))
        for tensor in prompts.values():
            tensor.zero_grad()
    assert scores == [0.0, 1.0]
    assert learnt == {"writer": 0, "proofreader": 3, "unread": 0}
    assert proposer.asked == ["proofreader", "proofreader"]
    assert prompts["proofreader"].text == "Correct the joke. Write in Chinese."
    assert prompts["writer"].text == "Write a joke."


async def test_a_critic_is_asked_along_the_edges_of_the_tape() -> None:
    asked: list[str] = []

    def critic(messages: list[BaseMessage]) -> str:
        asked.append(messages[0].text.split("should change in ")[1].split(" so that")[0])
        return "say that it is in Chinese"

    prompts = {name: TextTensor("Work.") for name in ("writer", "proofreader")}
    rubric = LLMJudge(rubric=RUBRIC, model=RuleChatModel(rule=judge))
    report = await aevaluate(
        workflow(), dataset=CASES[:1], evaluators=[rubric], prompts=prompts, tape=True
    )
    await abackward(report, prompts, model=RuleChatModel(rule=critic))
    assert asked == ["prompt 'proofreader'", "node 'writer'", "prompt 'writer'"]
    assert str(prompts["writer"].gradients[0]) == "say that it is in Chinese"


async def test_a_report_without_a_tape_is_refused_with_what_to_do() -> None:
    rubric = LLMJudge(rubric=RUBRIC, model=RuleChatModel(rule=judge))
    prompts = {name: TextTensor("Work.") for name in ("writer", "proofreader")}
    report = await aevaluate(workflow(), dataset=CASES, evaluators=[rubric], prompts=prompts)
    with pytest.raises(BadInput, match="tape=True"):
        await abackward(report, prompts)


@pytest.mark.requirement("training.model")
async def test_each_prompt_is_rewritten_by_the_model_that_it_names() -> None:
    def rewriting(who: str) -> Any:
        def rule(messages: list[BaseMessage]) -> str:
            asked.setdefault(who, []).append(messages[-1].text)
            name = re.findall(r"# Prompt '(\w+)'", messages[-1].text)[0]
            return f'{{"{name}": "{who}: work in Chinese"}}'

        return RuleChatModel(rule=rule)

    asked: dict[str, list[str]] = {}
    prompts = {
        "writer": TextTensor("Write a joke.", model=rewriting("own")),
        "proofreader": TextTensor("Correct the joke."),
    }
    result = await atrain(
        workflow(),
        prompts=prompts,
        dataset=CASES,
        evaluators=[LLMJudge(rubric=RUBRIC, model=RuleChatModel(rule=judge))],
        optimizer=Reflective(model=rewriting("shared")),
    )
    assert result.best.metrics["objective"] == 1.0
    texts = {name: tensor.text for name, tensor in result.best.prompts.items()}
    assert texts == {"writer": "own: work in Chinese", "proofreader": "shared: work in Chinese"}
    assert all("# Prompt 'proofreader'" not in text for text in asked["own"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "nobody:nothing"}, "prompts.writer.model"),
        ({"model": 3}, "must name a chat model"),
        ({"model_kwargs": {"base_url": "http://there"}}, "model_kwargs.base_url"),
    ],
)
async def test_a_model_that_cannot_be_had_is_refused_by_the_prompts_name(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        await atrain(
            workflow(),
            prompts={"writer": {"text": "Write.", **wrong}, "proofreader": "Correct."},
            dataset=CASES,
            evaluators=["exact_match"],
            optimizer=TextGrad(proposer=Obedient()),
        )
