"""Prompts of content blocks: their texts train, their images stay and are stored once."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage
from langgraph.graph import START, StateGraph

from orcheo_agentensor import (
    AgentNode,
    Budget,
    ContentTensor,
    MaxSteps,
    RunConfig,
    Store,
    TextGrad,
    TrainablePrompt,
    TrainingResult,
    aevaluate,
    atrain,
    configure,
    evaluate,
    get_prompt,
)
from orcheo_agentensor.errors import BadInput, ConfigError
from orcheo_agentensor.nodes import State
from orcheo_agentensor.testing import RuleChatModel

PNG = (
    b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I4sII5B", 13, b"IHDR", 640, 480, 8, 2, 0, 0, 0)
    + bytes(n * n % 251 for n in range(1_400_000))
)
BASE64 = base64.b64encode(PNG).decode()
IMAGE = {"type": "image", "base64": BASE64, "mime_type": "image/png"}
LOOK = ContentTensor(blocks=[{"type": "text", "text": "Like this: "}, IMAGE])
LABEL = LOOK.labels[0]
SMALL = ContentTensor(
    blocks=[{"type": "text", "text": "Our logo: "}, {**IMAGE, "base64": BASE64[:2_000]}]
)


def look(inputs: Any) -> dict[str, Any]:
    """Says what it was given to look at, and does so kindly where it is told to."""
    text, image, *_rest = get_prompt("look").content
    assert isinstance(text, dict)
    assert isinstance(image, dict)
    return {"saw": image["base64"] == BASE64, "kind": "kindly" in get_prompt("look")}


def kind(outputs: Any) -> dict[str, Any]:
    return {"score": outputs["saw"] and outputs["kind"], "comment": "say it kindly"}


class Writer:
    """Loses the image first, and does as it is told then."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def propose(self, request: Any) -> dict[str, str]:
        (component,) = request.components
        self.asked.append(component)
        if len(self.asked) == 1:
            return {"look": "Look kindly."}
        return {"look": f"{component.text} kindly"}


async def trained(store: str, prompt: Any = LOOK, target: Any = look, **given: Any) -> Any:
    given.setdefault("optimizer", TextGrad(proposer=Writer()))
    return await atrain(
        target,
        prompts={"look": prompt},
        dataset=[{"id": f"c{n}", "inputs": n} for n in range(4)],
        evaluators=[kind],
        stop=[MaxSteps(3)],
        budget=Budget(rollouts=60),
        workflow_id="look",
        run_id="r",
        store=store,
        **given,
    )


@pytest.mark.requirement("config.content")
async def test_a_training_changes_the_text_around_an_image_that_is_stored_once(
    tmp_path: Path,
) -> None:
    writer = Writer()
    url = f"sqlite:///{tmp_path}/s.db"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result: TrainingResult = await trained(url, optimizer=TextGrad(proposer=writer))
        # Nothing but its record and its history tells the run what to go on with.
        again = await trained(url, {"type": "ContentTensor", "blocks": LOOK.blocks})
    assert [one.text for one in writer.asked] == [f"Like this: {LABEL}"] * 2
    assert "must keep the labels of images" in writer.asked[1].history[-1].reason
    best = result.best.prompts["look"]
    assert best.text == again.best.prompts["look"].text == f"Like this: {LABEL} kindly"
    assert isinstance(best, ContentTensor)
    text, image, added = best.blocks
    assert (text, added["text"]) == (LOOK.blocks[0], " kindly")
    assert image["base64"].startswith("agentensor-media:")
    assert len(json.dumps(result.best.runnable_config)) < 1_000
    assert (tmp_path / "s.db").stat().st_size < 1.5 * len(PNG)
    with sqlite3.connect(tmp_path / "s.langgraph.db") as saved:
        for column, table in (("checkpoint", "checkpoints"), ("value", "writes")):
            largest = saved.execute(f"SELECT max(length({column})) FROM {table}")
            assert 0 < largest.fetchone()[0] < 20_000

    builder = StateGraph(State).add_edge(START, "look")
    builder = builder.add_node("look", lambda state: {"results": look(state["inputs"])})
    graph = configure(builder, workflow_id="look", store=url)
    use = {"configurable": {"agentensor": {"use": "best"}}}
    found = await graph.ainvoke({"inputs": {}}, use)
    assert found["results"] == {"saw": True, "kind": True}
    with pytest.raises(ConfigError, match="media that are not at hand"):
        await builder.compile().ainvoke({"inputs": {}}, result.best.runnable_config)


@pytest.mark.requirement("config.content")
async def test_a_run_that_was_cut_off_goes_on_with_the_stored_image(tmp_path: Path) -> None:
    url, calls, cut = f"sqlite:///{tmp_path}/s.db", list[int](), asyncio.Event()

    async def cut_off(inputs: int) -> dict[str, Any]:
        calls.append(inputs)
        if len(calls) == 5:
            cut.set()
            await asyncio.Event().wait()
        return look(inputs)

    task = asyncio.ensure_future(trained(url, target=cut_off))
    await cut.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with Store.from_url(url) as store:
        record = await store.runs.get("r")
        assert len(json.dumps(record.job)) < 5_000
        stored = record.job["job"]["prompts"]["look"]
    result = await trained(url, stored, target=cut_off)
    assert result.best.prompts["look"].text.endswith("kindly")
    assert len(calls) == len({*calls}) * 2 + 1  # each of two texts on each case, and the cut one


@pytest.mark.requirement("config.content")
def test_templates_agents_and_middleware_send_the_blocks() -> None:
    sent: list[BaseMessage] = []

    def rule(messages: list[BaseMessage]) -> str:
        sent[:] = messages
        return "ok"

    model, reference = RuleChatModel(rule=rule), "{{config.prompts.look}}"
    fields: dict[str, Any] = {
        "system": {"system_prompt": reference, "user_prompt": "x"},
        "user": {"user_prompt": reference},
        "message": {"messages": [{"role": "user", "content": reference}]},
        "text": {"user_prompt": f"See {reference}"},
    }
    agent = create_agent(model, middleware=[TrainablePrompt("look", default="Look.")])
    graphs: dict[str, Any] = {
        name: StateGraph(State)
        .add_node("n", AgentNode(name="n", model=model, **given))
        .add_edge(START, "n")
        for name, given in fields.items()
    }
    for name, graph in {**graphs, "agent": agent}.items():
        served = configure(graph, workflow_id=name, defaults={"prompts": {"look": LOOK}})
        asyncio.run(served.ainvoke({"messages": [("user", "hi")]}))
        text = name == "text"
        assert sent[0].content == (f"See {LOOK.text}" if text else LOOK.blocks), name
        asyncio.run(served.ainvoke({"messages": [("user", "hi")]}, {"prompts": {"look": SMALL}}))
        assert sent[0].content == (f"See {SMALL.text}" if text else SMALL.blocks), name
        other: Any = {"prompts": {"look": f"{LABEL} again"}}
        asyncio.run(served.ainvoke({"messages": [("user", "hi")]}, other))
        assert text or sent[0].content == [IMAGE, {"type": "text", "text": " again"}]


async def test_jobs_and_configure_read_the_file_of_an_image_where_that_is_allowed(
    tmp_path: Path,
) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    named = {"type": "image", "path": str(tmp_path / "cat.png")}
    prompt = {"type": "ContentTensor", "blocks": [{"type": "text", "text": "kindly"}, named]}
    job: Any = {"dataset": [{"inputs": 1}], "evaluators": [kind], "prompts": {"look": prompt}}
    with pytest.raises(ConfigError, match=r"prompts.look.blocks: .* outside the folders"):
        await aevaluate(look, **job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTENSOR_ALLOWED_FOLDERS", str(tmp_path))
        assert (await aevaluate(look, **job)).objective == 1.0
        served = configure(
            StateGraph(State)
            .add_node("n", lambda state: {"results": look(state)})
            .add_edge(START, "n"),
            workflow_id="w",
            defaults={"configurable": {"prompts": {"look": prompt}}},
        )
    assert [part async for part in served.astream({}, stream_mode="updates")] == [
        {"n": {"results": {"saw": True, "kind": True}}}
    ]
    with pytest.raises(ConfigError, match=r"prompts.look.blocks.1: .* names a file"):
        await served.ainvoke({}, {"configurable": {"prompts": {"look": prompt}}})


def test_the_json_form_the_merge_and_the_schema_of_a_prompt_with_blocks() -> None:
    written = LOOK.to_json()
    assert RunConfig.trusted({"prompts": {"look": SMALL}})[0].prompts["look"] == SMALL
    assert ContentTensor(**json.loads(json.dumps(written))) == LOOK
    stored = RunConfig.parse({"prompts": {"look": SMALL.to_json()}}).to_json()
    assert stored["configurable"]["prompts"]["look"] == SMALL.to_json()
    changed = SMALL.with_text(f"{SMALL.labels[0]} is our logo")
    assert [one.get("text") for one in changed.blocks] == [None, " is our logo"]
    changed.text = SMALL.text
    assert changed == SMALL
    changed.blocks = [{"type": "text", "text": "none"}]
    assert changed.text == "none"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"blocks": []}, "blocks: .* at least one block"),
        ({"blocks": [{"type": "table"}]}, "blocks.0: .* a block of an image, audio"),
        ({"blocks": SMALL.blocks, "text": "x"}, "text: 'x' must be that of the blocks"),
        ({"blocks": SMALL.blocks, "bind": "context.system"}, "bind: .* place that takes text"),
        ({"type": "ContentTensor", "text": "x"}, "blocks: None must be given"),
        (
            {"blocks": [{"type": "text", "text": SMALL.text}, *SMALL.blocks]},
            "blocks: .* label of a medium as text",
        ),
    ],
)
def test_a_prompt_with_wrong_blocks_is_refused_by_name(prompt: Any, message: str) -> None:
    with pytest.raises(BadInput, match=rf"prompts\.look\.{message}"):
        evaluate(look, dataset=[{"inputs": 1}], evaluators=[kind], prompts={"look": prompt})


def test_a_text_without_the_labels_takes_no_place_of_blocks() -> None:
    builder = StateGraph(State).add_node("n", lambda state: {"results": look(state)})
    served = configure(
        builder.add_edge(START, "n"), workflow_id="w", defaults={"prompts": {"look": LOOK}}
    )
    with pytest.raises(ConfigError, match=r"prompts.look.text: 'Look.' must be .* keeps these"):
        served.invoke({}, {"prompts": {"look": "Look."}})
