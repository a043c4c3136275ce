"""Images, sound and files of cases: blocks for models that see, short labels for all others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, StateGraph
from typer.testing import CliRunner

from orcheo_agentensor import (
    Budget,
    LLMJudge,
    MaxSteps,
    RandomSearch,
    Store,
    TextGrad,
    aevaluate,
    atrain,
    get_prompt,
)
from orcheo_agentensor.cli.app import app
from orcheo_agentensor.testing import RuleChatModel

MEGABYTE = bytes(range(256)) * 4_000
PNG = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", 640, 480, 8, 2, 0, 0, 0) + MEGABYTE
)
JPEG = b"\xff\xd8\xff\xe0\x00\x10" + b"JFIF" + bytes(10) + b"\xff\xc0\x00\x11\x08\x01\xe0\x02\x80"
GIF = b"GIF89a\x80\x02\xe0\x01"
WEBP = b"RIFF....WEBPVP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
WAV = b"RIFF....WAVE"
DIGEST = hashlib.sha256(PNG).hexdigest()[:8]
LABEL = f"[image/png 1.0 MB 640x480 sha256 {DIGEST}]"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


URL = f"data:image/png;base64,{b64(PNG)}"
BLOCK = {"type": "image", "base64": b64(PNG), "mime_type": "image/png"}
FORMS: dict[str, Any] = {
    "data URL": URL,
    "bare base64": {"photo": b64(PNG)},
    "OpenAI": [{"type": "image_url", "image_url": {"url": URL}}],
    "OpenAI responses": [{"type": "input_image", "image_url": URL}],
    "LangChain": [{"type": "text", "text": "see "}, BLOCK],
    "LangChain 0": [
        {"type": "image", "source_type": "base64", "data": b64(PNG), "mime_type": "image/png"}
    ],
    "Anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": b64(PNG)},
    },
    "Google": [{"inline_data": {"mime_type": "image/png", "data": b64(PNG)}}],
    "message": {"messages": [{"role": "user", "content": [BLOCK]}]},
}


class Judge:
    """A simulated judge that keeps what it was asked."""

    def __init__(self, **fields: Any) -> None:
        self.asked: list[BaseMessage] = []
        self.model = RuleChatModel(rule=self._rule, **fields)

    def _rule(self, messages: list[BaseMessage]) -> dict[str, Any]:
        self.asked.append(messages[-1])
        return {"reasoning": "fine", "score": 1}

    async def shown(self, value: Any, **options: Any) -> Any:
        """The content it was sent for a target that gives back its inputs."""
        judge = LLMJudge(name="grade", rubric="r", model=self.model, **options)
        report = await aevaluate(
            lambda inputs: {"got": inputs}, dataset=[{"inputs": value}], evaluators=[judge]
        )
        assert report.scores["grade"].mean == 1.0
        return self.asked[-1].content


@pytest.mark.requirement("evaluation.media")
@pytest.mark.parametrize("form", FORMS)
async def test_a_judge_gets_an_image_of_any_form_as_one_block_and_no_base64(form: str) -> None:
    text, image = await Judge().shown(FORMS[form])
    assert image == {"type": "image_url", "image_url": {"url": URL}}
    assert text["text"].count("[image 1]") == 2  # in the inputs and in the output
    assert len(text["text"]) < 400


@pytest.mark.requirement("evaluation.media")
@pytest.mark.parametrize("form", FORMS)
async def test_a_judge_that_does_not_see_gets_a_label(form: str) -> None:
    text = await Judge(profile={"image_inputs": False}).shown(FORMS[form])
    assert text.count(LABEL) == 2
    assert len(text) < 500


async def test_what_is_told_goes_over_the_profile_of_a_model() -> None:
    assert isinstance(await Judge(profile={"image_inputs": True}).shown(URL, sees=False), str)
    assert isinstance(await Judge(profile={"image_inputs": False}).shown(URL, sees=True), list)


@pytest.mark.parametrize(
    ("block", "label"),
    [
        ({"type": "audio", "base64": b64(WAV), "mime_type": "audio/wav"}, "[audio/wav 12 B sha256"),
        (
            {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "wav"}},
            "[audio/wav 12 B sha256",
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": b64(b"%PDF-1.7")}},
            "[application/pdf a.pdf 8 B sha256",
        ),
        (
            {"type": "video", "url": "https://example.org/a.mp4"},
            "[video https://example.org/a.mp4]",
        ),
        ({"type": "image", "base64": b64(JPEG)}, "[image/jpeg 29 B 640x480 sha256"),
        ({"type": "image", "base64": b64(GIF)}, "[image/gif 10 B 640x480 sha256"),
        ({"type": "image", "base64": b64(WEBP)}, "[image/webp 30 B 640x480 sha256"),
    ],
)
async def test_other_media_are_labels_with_type_size_and_hash(block: Any, label: str) -> None:
    text = await Judge().shown([{"type": "text", "text": "listen "}, block], sees=False)
    assert f"listen {label}" in text


async def test_long_texts_that_are_no_media_are_judged_as_they_are() -> None:
    values = ["7" * 9_000, "ab" * 5_000, "Ab3" * 300, "data:image/png;base64,AAAA", "/tmp/a.png"]
    record = {"type": "file", "path": "/tmp/a.txt", "size": 3}
    text = await Judge().shown({"values": values, "record": record})
    assert json.dumps({"values": values, "record": record}) in text


class Trainee:
    """A simulated model that proposes and criticises, and keeps what it was asked."""

    def __init__(self, **fields: Any) -> None:
        self.proposals: list[BaseMessage] = []
        self.critiques: list[str] = []
        self.model = RuleChatModel(rule=self._rule, **fields)

    def _rule(self, messages: list[BaseMessage]) -> Any:
        if "improve the prompts" in messages[0].text:
            self.proposals.append(messages[-1])
            return {"look": "Look well."}
        self.critiques.append(messages[-1].text)
        return "Look closer."


class State(TypedDict, total=False):
    photo: Any
    said: str


def look(state: State) -> State:
    return {"said": "cat" if get_prompt("look") == "Look well." else "?"}


async def trained(optimizer: Any, store: Store | None = None) -> str:
    builder = StateGraph(State)
    builder.add_node("look", look)
    builder.add_edge(START, "look")
    builder.add_edge("look", END)
    result = await atrain(
        builder.compile(),
        prompts={"look": "Look."},
        dataset=[
            {"id": f"c{n}", "inputs": {"photo": [BLOCK]}, "expected_output": "cat"}
            for n in range(3)
        ],
        evaluators=[lambda outputs, inputs: {"score": outputs["said"] == "cat", "comment": URL}],
        optimizer=optimizer,
        stop=[MaxSteps(1)],
        budget=Budget(rollouts=60),
        store=store,
    )
    return str(result.run_id)


@pytest.mark.requirement("evaluation.media")
@pytest.mark.parametrize(
    ("fields", "sees", "blocks"),
    [
        ({}, None, 0),
        ({}, True, 1),
        ({"profile": {"image_inputs": True}}, None, 1),
        ({"profile": {"image_inputs": True}}, False, 0),
    ],
)
async def test_a_proposer_that_sees_gets_the_image_once_and_others_its_label(
    fields: Any, sees: bool | None, blocks: int
) -> None:
    model = Trainee(**fields)
    await trained(RandomSearch(model=model.model, sees=sees))
    content = model.proposals[0].content
    parts: list[Any] = [{"text": content}] if isinstance(content, str) else content
    assert len(parts) == 1 + blocks
    assert all(one == {"type": "image_url", "image_url": {"url": URL}} for one in parts[1:])
    text = parts[0]["text"]
    assert text.count('{"photo": "[image 1]"}' if blocks else f'{{"photo": "{LABEL}"}}') == 3
    assert text.count(f"({LABEL})") == 3  # the evaluator's comment
    assert len(text) < 3_000


@pytest.mark.requirement("evaluation.media")
async def test_a_critic_and_a_report_get_the_label(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    model = Trainee()
    run_id = await trained(TextGrad(model=model.model), store)
    assert model.critiques
    assert all(LABEL in one and len(one) < 1_500 for one in model.critiques)
    report = tmp_path / "report.html"
    for command in (["report", run_id, "-o", str(report)], ["runs", "show", run_id, "--cases"]):
        cli = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--store", store_url])
        assert cli.exit_code == 0
    assert "640x480" in cli.output
    assert b64(PNG)[:20] not in cli.output
    assert LABEL in report.read_text()
    assert b64(PNG)[:60] not in report.read_text()
