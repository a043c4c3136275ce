"""Conversations: scripted and simulated users, one thread for each case, blame by turn."""

from __future__ import annotations

import operator
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph, add_messages
from typing_extensions import TypedDict

from orcheo_agentensor import (
    BadInput,
    Budget,
    Conversation,
    EachTurn,
    MaxSteps,
    RandomSearch,
    Store,
    aevaluate,
    atrain,
    get_prompt,
)
from orcheo_agentensor.errors import DatasetError
from orcheo_agentensor.testing import RuleChatModel

pytestmark = pytest.mark.requirement("evaluation.conversations")


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    asked: Annotated[int, operator.add]
    customer: str


def answer(state: Chat) -> Chat:
    said = [one.text for one in state["messages"] if one.type == "human"]
    text = f"{state.get('customer', 'nobody')}: {' | '.join(said)}"
    return {"messages": [AIMessage(text)], "asked": 1}


def chat(checkpointer: Any = None) -> Any:
    builder = StateGraph(Chat)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=checkpointer)


async def told(target: Any, cases: list[dict[str, Any]], **settings: Any) -> list[Any]:
    """The outputs of cases."""
    report = await aevaluate(target, dataset=cases, evaluators=[lambda outputs: True], **settings)
    assert [case.failure for case in report.cases] == [None] * len(cases)
    return [case.output for case in report.cases]


@pytest.mark.parametrize("form", ["graph", "graph with a saver", "function around it"])
async def test_a_graph_keeps_its_thread_over_the_turns_of_a_case_and_no_longer(form: str) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    saver = InMemorySaver()
    graph = chat(saver if form == "graph with a saver" else None)

    async def around(inputs: Any, config: Any) -> Any:
        return await graph.ainvoke(inputs, config)

    target = around if form == "function around it" else graph
    cases = [
        {"id": "a", "inputs": {"customer": "Ada"}, "turns": ["one", "two"]},
        {"id": "b", "turns": ["three"]},
    ]
    first, second = await told(target, cases, limits={"concurrency": 1})
    assert first["turns"] == [
        {"user": "one", "reply": "Ada: one"},
        {"user": "two", "reply": "Ada: one | two"},
    ]
    assert [one["role"] for one in first["messages"]] == ["user", "assistant"] * 2
    assert first["state"] == {"asked": 2, "customer": "Ada"}
    assert first["ended"] == second["ended"] == "script"
    assert second["turns"] == [{"user": "three", "reply": "nobody: three"}]
    assert not list(saver.list(None))


async def test_a_function_gets_all_that_was_said_and_one_with_a_thread_the_message_alone() -> None:
    heard: list[Any] = []

    def whole(inputs: Any) -> str:
        heard.append([one["content"] for one in inputs["messages"]])
        return f"reply {len(heard)}"

    threads = set()

    def app(message: Any, *, thread_id: str) -> Any:
        threads.add(thread_id)
        return {"role": "assistant", "content": f"to {message['content']}"}

    await told(whole, [{"turns": ["a", "b"]}])
    assert heard == [["a"], ["a", "reply 1", "b"]]
    (output,) = await told(app, [{"turns": ["a", "b"]}])
    assert [turn["reply"] for turn in output["turns"]] == ["to a", "to b"]
    assert len(threads) == 1


@pytest.mark.parametrize(
    ("options", "ended", "turns"),
    [
        ({"max_turns": 3}, "max_turns", 3),
        ({"stop": lambda trajectory, turn_counter: turn_counter == 2}, "stop", 2),
        ({"stop_words": ("m1",)}, "stop", 2),
    ],
)
async def test_a_simulated_user_talks_until_a_limit_or_a_rule(
    options: Any, ended: str, turns: int
) -> None:
    seen: list[Any] = []

    def user(trajectory: Any, *, turn_counter: int, **_: Any) -> Any:
        seen.append((turn_counter, len(trajectory)))
        return {"role": "user", "content": f"m{turn_counter}"}

    target = Conversation(chat(), user=user, **options)
    (output,) = await told(target, [{"inputs": {"customer": "Bo"}}])
    assert output["ended"] == ended
    assert [turn["user"] for turn in output["turns"]] == [f"m{n}" for n in range(turns)]
    assert seen == [(n, 2 * n) for n in range(turns)]


async def test_a_model_plays_a_persona_and_its_calls_are_counted_and_made_once() -> None:
    asked: list[str] = []

    def play(messages: Any) -> str:
        asked.append(messages[0].text)
        return "[END]" if "I need: refund" in messages[-1].text else "refund"

    def clerk(inputs: Any) -> str:
        return f"I need: {inputs['messages'][-1]['content']}"

    target = Conversation(clerk, model=RuleChatModel(rule=play), persona="an angry customer")
    store = Store.from_url(None)
    cases = [{"id": "a", "inputs": {"goal": "money back", "opening": "Hey"}}]
    settings = {"dataset": cases, "evaluators": [lambda outputs: True], "store": store}
    report = await aevaluate(target, run_id="r", **settings)
    output = report.cases[0].output
    assert [turn["user"] for turn in output["turns"]] == ["Hey", "refund"]
    assert output["ended"] == "user"
    assert "an angry customer" in asked[0]
    assert "money back" in asked[0]
    assert report.usage.calls == len(asked) == 2
    again = await aevaluate(target, run_id="r", **settings)
    assert again.cases[0].output == output
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"id": "x", "conversation": True, "inputs": {}}, "case 'x': has no `turns`, and nobody"),
        ({"id": "x", "turns": []}, "case 'x': turns: must be a list of what the user says"),
        ({"id": "x", "turns": ["a", 3]}, "case 'x': turns: must be a list of what the user says"),
        ({"id": "x", "inputs": "text", "turns": ["a"]}, "turns: .* stands beside `inputs`"),
    ],
)
async def test_a_conversation_without_a_user_is_named_before_anything_is_run(
    case: Any, message: str
) -> None:
    called: list[Any] = []
    with pytest.raises(DatasetError, match=message):
        await aevaluate(called.append, dataset=[case], evaluators=["exact_match"])
    assert not called


async def test_an_unknown_option_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match=r"conversation\.max_turn: 3 is not known; there are: user,"):
        Conversation(chat(), max_turn=3)


async def test_each_turn_is_scored_and_named() -> None:
    turns = [{"user": "one", "expected": "nobody: one"}, {"user": "two", "expected": "no"}, "three"]
    report = await aevaluate(
        chat(),
        dataset=[{"turns": turns}],
        evaluators=[EachTurn(evaluator="exact_match"), {"type": "each_turn", "name": "any",
                    "evaluator": {"type": "contains", "value": "two"}}],
    )  # fmt: skip
    (case,) = report.cases
    assert case.scores == {"each_turn": 0.5, "any": pytest.approx(2 / 3)}
    assert case.reasons["each_turn"] == "turn 2: expected 'no', got 'nobody: one | two'"
    assert case.reasons["any"].startswith("turn 1: ")


async def test_a_training_blames_the_turn() -> None:
    def target(inputs: Any) -> str:
        second = len(inputs["messages"]) > 1
        return get_prompt("close") if second else get_prompt("greet")

    requests: list[Any] = []

    class Proposer:
        async def propose(self, request: Any) -> dict[str, str]:
            requests.append(request)
            return {one.name: "Goodbye" for one in request.components}

    turns = [{"user": "hi", "expected": "Hello"}, {"user": "bye", "expected": "Goodbye"}]
    result = await atrain(
        target,
        prompts={"greet": "Hello", "close": "Farewell"},
        dataset=[{"id": f"c{n}", "turns": turns} for n in range(4)],
        evaluators=[EachTurn(evaluator="exact_match")],
        optimizer=RandomSearch(proposer=Proposer()),
        stop=[MaxSteps(1)],
        budget=Budget(rollouts=60),
    )
    feedback = {
        one.name: {record.feedback for record in one.feedback} for one in requests[0].components
    }
    assert feedback["close"] == {"turn 2: each_turn: 0.5 (expected 'Goodbye', got 'Farewell')"}
    assert "greet" not in feedback
    assert result.best.prompts["close"].text == "Goodbye"
