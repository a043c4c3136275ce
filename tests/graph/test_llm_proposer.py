"""What the built-in proposer shows a chat model, and what it makes of the replies."""

from __future__ import annotations

import base64
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field
from rule_task import NAMES, Target, dataset, done

from orcheo_agentensor import (
    BadInput,
    Dataset,
    FeedbackRecord,
    Limits,
    MaxSteps,
    RandomSearch,
    Reflective,
    Store,
    TextGrad,
    TextTensor,
    astep,
    atrain,
    get_prompt,
)
from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.optimizers import LLMProposer
from orcheo_agentensor.testing import RuleChatModel, ScriptedChatModel

MAX_CHARS = 80_000  # shown of all cases together


async def asked(*records: FeedbackRecord, prompts: int = 1) -> str:
    """What the model is asked where each of some prompts got these gradients."""
    tensors = {f"p{n}": TextTensor("Answer.") for n in range(prompts)}
    for tensor in tensors.values():
        for one in records:
            tensor.backward(one)
    model = ScriptedChatModel(replies=[dict.fromkeys(tensors, "Answer well.")])
    assert await astep(tensors, optimizer=TextGrad(model=model)) == {}
    assert {tensor.text for tensor in tensors.values()} == {"Answer well."}
    return str(model.calls[0][-1].text)


def record(number: int = 0, **fields: Any) -> FeedbackRecord:
    given: dict[str, Any] = {"feedback": f"wrong {number}", "case_id": f"c{number}", "score": 0.0}
    return FeedbackRecord(**{**given, **fields})


async def test_of_long_inputs_the_middle_goes_and_all_else_is_seen() -> None:
    text = await asked(
        record(
            inputs={"document": "BEGIN " + "word " * 20_000 + " QUESTION?"},
            output="THE OUTPUT",
            expected_output="THE EXPECTED",
            feedback="THE FEEDBACK " + "x" * 6_000 + " END",
        )
    )
    order = [text.index(one) for one in ("THE FEEDBACK", "THE OUTPUT", "THE EXPECTED", "BEGIN")]
    assert order == sorted(order)
    assert "QUESTION?" in text
    assert " END" in text
    assert text.count("characters left out") == 2
    assert len(text) < 20_000


async def test_media_are_a_label() -> None:
    image = base64.b64encode(bytes(range(256)) * 40).decode()
    block = {"type": "image", "mime_type": "image/png", "base64": image}
    text = await asked(record(inputs=[block, f"data:image/jpeg;base64,{image}"], output="fine"))
    assert image[:60] not in text
    assert "inputs: [image/png 10.2 kB sha256 e96760a8][image/jpeg 10.2 kB sha256 e96760a8]" in text


async def test_a_hundred_cases_of_every_kind_are_seen_with_solved_ones_among_them() -> None:
    failed = [record(n, feedback="too long" if n < 190 else "too short") for n in range(200)]
    solved = [record(n, score=1.0, feedback="ok", output="SOLVED") for n in range(200, 230)]
    text = await asked(*failed, *solved)
    assert text.count("## Case, score") == 100
    assert text.count("SOLVED") == 25
    assert text.count("too short") == 10
    assert "130 more cases are left out" in text


@pytest.mark.parametrize("prompts", [1, 3])
async def test_all_cases_together_stay_within_the_budget(prompts: int) -> None:
    long = [record(n, inputs="in " * 5_000, output=f"out{n} " * 900) for n in range(150)]
    text = await asked(*long, record(151, score=1.0, output="SOLVED"), prompts=prompts)
    assert MAX_CHARS * 0.5 < len(text) < MAX_CHARS * 1.4
    assert text.count("SOLVED") == prompts


class LengthError(Exception):
    """As OpenAI's client raises it."""

    completion = SimpleNamespace(choices=[SimpleNamespace(finish_reason="length")], usage=None)


CUT = [
    AIMessage("{", response_metadata={"finish_reason": "length"}),
    AIMessage("{", response_metadata={"stop_reason": "max_tokens"}),
    AIMessage("{", response_metadata={"finish_reason": "MAX_TOKENS"}),
    AIMessage("{", response_metadata={"incomplete_details": {"reason": "max_output_tokens"}}),
    LengthError("cut"),
]


@pytest.mark.parametrize("optimizer", [TextGrad, RandomSearch])
async def test_a_truncated_reply_asks_for_less_and_never_ends_the_run(optimizer: Any) -> None:
    replies, seen = [*CUT, *CUT], []
    events: list[Any] = []

    def rule(messages: list[BaseMessage]) -> Any:
        seen.append(str(messages[-1].text))
        return replies[len(seen) - 1]

    await atrain(
        Target(),
        prompts=dict.fromkeys(NAMES, "Go."),
        dataset=dataset(),
        evaluators=[done],
        optimizer=optimizer(minibatch=4, proposer=LLMProposer(RuleChatModel(rule=rule))),
        stop=[MaxSteps(6)],
        on_event=events.append,
    )
    refused = [e for e in events if e["type"] == "proposal_rejected"]
    assert len(refused) == 6
    assert all("cut off" in event["reason"] for event in refused)
    assert [text.count("# Prompt ") for text in seen[:3]] == [2, 1, 1]
    assert "much shorter" not in seen[0]
    assert "much shorter" in seen[1]
    assert "Length cap: 4000" in seen[0]
    assert "Length cap: 1000" in seen[2]


async def test_the_schema_is_keyed_by_the_names_of_the_prompts_and_bounds_what_is_written() -> None:
    bound: list[Any] = []

    class Watching(ScriptedChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            bound.extend(convert_to_openai_tool(tool) for tool in tools)
            return super().bind_tools(tools, **kwargs)

    tensors = {name: TextTensor("Go.") for name in NAMES}
    for tensor in tensors.values():
        tensor.backward("go on")
    replies = [{NAMES[0]: "Plan well.", "other": "no"}]
    await astep(tensors, optimizer=TextGrad(model=Watching(replies=replies)))
    parameters = bound[0]["function"]["parameters"]
    assert sorted(parameters["properties"]) == sorted(parameters["required"]) == sorted(NAMES)
    change = parameters["properties"][NAMES[0]]["properties"]
    edit = change["edits"]["items"]["properties"]
    assert [change["why"]["maxLength"], change["edits"]["maxItems"]] == [500, 16]
    assert [edit["line"]["maxLength"], edit["text"]["maxLength"]] == [len("Go."), 2_000]
    assert [tensors[name].text for name in NAMES] == ["Plan well.", "Go."]


async def test_a_reply_without_a_prompt_is_refused() -> None:
    tensor = TextTensor("Go.")
    tensor.backward("go on")
    model = ScriptedChatModel(replies=["no JSON at all"])
    refused = await astep({"p": tensor}, optimizer=TextGrad(model=model))
    assert "does not have the form asked for" in refused["p"]


class Window(ScriptedChatModel):
    """A simulated model that refuses a request of more characters than its window holds."""

    window: int
    refused: list[int] = Field(default_factory=list)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        length = sum(len(message.text) for message in messages)
        if length > self.window:
            self.refused.append(length)
            raise ValueError("400: request (9999 tokens) exceeds the available context size")
        return await super()._agenerate(messages, *args, **kwargs)


def taught() -> dict[str, TextTensor]:
    tensor = TextTensor("Answer.")
    for n in range(100):
        tensor.backward(record(n, inputs="word " * 400))
    return {"p": tensor}


async def test_a_request_beyond_the_models_window_is_made_again_with_fewer_records() -> None:
    whole = ScriptedChatModel(replies=[{"p": "Answer well."}])
    await astep(taught(), optimizer=TextGrad(model=whole))
    length = sum(len(message.text) for message in whole.calls[0])
    tensors = taught()
    model = Window(replies=[{"p": "Answer well."}], window=length * 2 // 3)
    assert await astep(tensors, optimizer=TextGrad(model=model)) == {}
    assert (tensors["p"].text, model.refused) == ("Answer well.", [length])
    told = Window(
        replies=[{"p": "Answer well."}],
        window=length * 2 // 3,
        profile={"max_input_tokens": length // 4},  # in so many tokens
    )
    assert await astep(taught(), optimizer=TextGrad(model=told)) == {}
    assert told.refused == []


async def test_a_prompt_that_fits_no_window_is_refused_with_the_models_own_words() -> None:
    tensors = {"p": TextTensor("Answer. " * 500)}
    tensors["p"].backward(record())
    model = Window(replies=[{"p": "x"}], window=1_000)
    with pytest.raises(ValueError, match="exceeds the available context size"):
        await astep(tensors, optimizer=TextGrad(model=model))
    assert 0 < len(model.refused) <= 3


KEY = "sk-proj-" + "a1B2c3D4" * 6


def job(model: Any, **changes: Any) -> dict[str, Any]:
    return {
        "prompts": dict.fromkeys(NAMES, "Go."),
        "dataset": Dataset.from_cases(
            [{"id": c["id"], "split": c["split"], "inputs": c["inputs"]} for c in dataset()],
            metadata={"domain": "letters of a bank", "rubric": "x" * 9_000, "token": KEY},
        ),
        "evaluators": [done],
        "optimizer": TextGrad(minibatch=4, proposer=LLMProposer(model)),
        "stop": [MaxSteps(2)],
        **changes,
    }


async def test_the_task_the_metadata_and_what_was_refused_are_shown() -> None:
    seen: list[str] = []

    def rule(messages: list[BaseMessage]) -> Any:
        seen.append(str(messages[-1].text))
        edit = {"op": "append", "text": "I know <think>nothing</think>"}
        return {name: {"why": "nothing is known", "edits": [edit]} for name in NAMES}

    task = f"Sort the letters of a bank. Key: {KEY} </data> {'y' * 9_000}"
    await atrain(Target(), task=task, **job(RuleChatModel(rule=rule)))
    first, second = seen
    assert "# What the workflow is for\n<data>\nSort the letters of a bank." in first
    assert '# About the dataset\n<data>\n{"domain": "letters of a bank"' in first
    assert KEY not in first
    assert first.count("characters left out") == 2
    assert first.count("</data>") == first.count("<data>")
    assert len(first) < 20_000
    assert "Past edit" not in first
    told = "## Past edit, not kept (holds reasoning around the text: '<think>')"
    assert second.count(told) == 2
    assert second.count("Why it was made: nothing is known") == 2


async def test_a_window_that_holds_no_case_is_refused_at_load_with_numbers() -> None:
    target = Target()
    model = ScriptedChatModel(replies=[], profile={"max_input_tokens": 400})
    told = (
        r"optimizer\.model: 'simulated' has a window of 400 tokens, about 1600 characters; a "
        r"request takes \d+: 8 for the prompts, \d+ for what to do with them, and 1000 for a case"
    )
    with pytest.raises(BadInput, match=told):
        await atrain(target, **job(model, prompts={"planner": "Go.", "writer": "Write"[:1]}))
    own = {"planner": TextTensor("Go. " * 500, model=model), "writer": "Go."}
    with pytest.raises(BadInput, match=r"a request takes \d+: 2000 for the prompts"):
        await atrain(target, **job(ScriptedChatModel(replies=[]), prompts=own))
    assert target.calls == []


async def test_more_cases_than_a_request_holds_are_looked_at_in_groups_where_asked() -> None:
    seen: list[str] = []

    def rule(messages: list[BaseMessage]) -> Any:
        text = str(messages[-1].text)
        seen.append(text)
        if not text.startswith("Say what you find"):
            return {"p": "Answer well."}
        if len(seen) == 3:
            raise ValueError("a lost group")
        return {"p": [f"FOUND {len(seen)}", "x" * 9_000, *["more"] * 9], "q": ["nothing"]}

    tensors = {"p": TextTensor("Answer.")}
    for n in range(144):
        tensors["p"].backward(record(n, score=float(n >= 100)))
    model = RuleChatModel(rule=rule)
    assert await astep(tensors, optimizer=Reflective(model=model, groups=True)) == {}
    *groups, last = seen
    assert [text.count("## Case, score") for text in groups] == [12] * 12
    assert {text.count("## Case, score 0.0") for text in groups} == {8, 9}
    assert last.count("FOUND") == 11  # one group was lost
    assert last.count("- ") == 11 * 5
    assert "## Findings over all 144 cases, in groups" in last
    assert last.count("## Case, score") == 20
    assert len(last) < 30_000
    seen.clear()
    tensors["p"].text = "Answer."
    assert await astep(tensors, optimizer=Reflective(model=model)) == {}
    assert len(seen) == 1


async def test_a_proposal_that_broke_off_after_its_groups_pays_for_them_once() -> None:
    asked_for: Counter[str] = Counter()

    def rule(messages: list[BaseMessage]) -> Any:
        text = str(messages[-1].text)
        asked_for[text] += 1
        if text.startswith("Say what you find"):
            return {"p": [f"FOUND {len(asked_for)}"]}
        if asked_for[text] == 1:
            raise ConnectionError("the service went away")
        return {"p": "Well."}

    async def target(inputs: dict[str, Any]) -> str:
        return get_prompt("p")

    cases = [
        {"split": split, "inputs": {"in": split, "text": f"{n} " * 300}, "expected_output": "Well."}
        for split, number in (("train", 25), ("validation", 2))
        for n in range(number)
    ]
    model = RuleChatModel(rule=rule, profile={"max_input_tokens": 4_000})
    job: dict[str, Any] = {
        "prompts": {"p": "Answer."},
        "dataset": cases,
        "evaluators": ["exact_match"],
        "optimizer": Reflective(model=model, groups=True, minibatch=25),
        "stop": [MaxSteps(1)],
        "limits": Limits(retries=0),
        "run_id": "once",
    }
    async with Store.from_url(None) as store:
        with pytest.raises(RunFailed, match="the service went away"):
            await atrain(target, **job, store=store)
        assert [*asked_for.values()] == [1] * 6  # √25 groups, and the new text, which broke off
        result = await atrain(target, **job, store=store)
    assert [*asked_for.values()] == [1] * 5 + [2]
    assert result.best.prompts["p"].text == "Well."
    assert result.usage.calls == sum(asked_for.values())
