"""Images, sound and files of cases: blocks for models that see, short labels for all others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, StateGraph
from typer.testing import CliRunner

from orcheo_agentensor import (
    Budget,
    Dataset,
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
from orcheo_agentensor.errors import DatasetError
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
    page = report.read_text()
    assert LABEL in page
    assert page.count(b64(PNG)[:60]) == 1  # once for all cases
    assert page.count(f'class="picture p{DIGEST}') == 3


def png(size: int = 1_300_000) -> bytes:
    """A picture that cannot be packed."""
    return PNG[:33] + bytes(n * n % 251 for n in range(size))


def cases_with(block: Any, count: int = 5) -> list[dict[str, Any]]:
    return [
        {"id": f"c{n}", "inputs": {"messages": [{"role": "user", "content": [block]}]}}
        for n in range(count)
    ]


FORMS_OF_A_PATH: dict[str, Any] = {
    "path": {"type": "image", "path": "cat.png"},
    "url": {"type": "image", "url": "cat.png"},
    "OpenAI": {"type": "image_url", "image_url": {"url": "cat.png"}},
}


@pytest.mark.requirement("dataset.media")
@pytest.mark.parametrize("form", FORMS_OF_A_PATH)
async def test_an_image_reaches_target_and_evaluators_and_is_stored_once(
    form: str, tmp_path: Path
) -> None:
    picture = png()
    (tmp_path / "cat.png").write_bytes(picture)
    data = tmp_path / "cases.jsonl"
    cases = cases_with(FORMS_OF_A_PATH[form])
    data.write_text("".join(json.dumps(case) + "\n" for case in cases))
    seen: list[str] = []

    def of(value: Any) -> str:
        (block,) = value["messages"][0]["content"]
        inner = block.get("image_url") or {}
        return str(block.get("base64") or inner["url"].removeprefix("data:image/png;base64,"))

    def target(inputs: Any) -> Any:
        seen.append(of(inputs))
        return inputs

    def look(inputs: Any, outputs: Any) -> bool:
        return of(inputs) == of(outputs) == b64(picture)

    url = f"sqlite:///{tmp_path}/store.db"
    async with Store.from_url(url) as store:
        report = await aevaluate(
            target, dataset=data, evaluators=[look], store=store, limits={"concurrency": 1}
        )
        again = await aevaluate(
            target,
            dataset={"id": "cases", "version": report.manifest["dataset"]["version"]},
            evaluators=[look],
            store=store,
        )
    assert report.scores["look"].mean == again.scores["look"].mean == 1.0
    assert seen == [b64(picture)] * 10
    files = [one for one in os.scandir(tmp_path) if one.name.startswith("store.db")]
    assert sum(file.stat().st_size for file in files) < 1_600_000
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.requirement("dataset.media")
def test_a_dataset_is_the_same_however_its_image_is_given(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    files = {
        "path": {"type": "image", "path": "cat.png"},
        "base64": {"type": "image", "base64": b64(PNG), "mime_type": "image/png"},
    }
    versions = set()
    for name, block in files.items():
        data = tmp_path / f"{name}.jsonl"
        data.write_text(json.dumps(cases_with(block, 1)[0]))
        versions.add(Dataset.load(data).version)
    assert len(versions) == 1


@pytest.mark.requirement("dataset.media")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "image", "path": "dog.png"}, r"'dog.png' is not there \(looked for .*dog.png\)"),
        (
            {"type": "image", "path": "../out.png"},
            "is outside the folders that media are read from",
        ),
        ({"type": "image", "path": "/etc/passwd"}, "is outside the folders"),
        ({"type": "image", "path": "link.png"}, "is outside the folders"),
        ({"type": "audio", "path": "cat.png"}, "is image/png, and the block is of type 'audio'"),
        ({"type": "image", "path": "text.png"}, "is not image/png, as its name says: it begins"),
        (
            {"type": "image", "path": "cat.png", "mime_type": "image/gif"},
            "is image/png, and the block says image/gif",
        ),
        ({"type": "image", "path": "empty.png"}, "is empty"),
        ({"type": "image", "path": "folder"}, "cannot be read|is not a regular file"),
    ],
)
async def test_a_bad_medium_is_named_with_its_line_before_anything_is_run(
    block: Any, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    (folder / "folder").mkdir(parents=True)
    (folder / "cat.png").write_bytes(PNG)
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").touch()
    (tmp_path / "out.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    data = folder / "cases.jsonl"
    data.write_text("\n" + json.dumps({"inputs": {"photo": [block]}}))
    called: list[Any] = []
    place = r"cases.jsonl:2: inputs.photo.0.path: "
    with pytest.raises(DatasetError, match=f"{place}.*({message})"):
        await aevaluate(called.append, dataset=data, evaluators=["exact_match"])
    assert not called


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200 if self.path == "/cat.png" else 404)
        self.end_headers()
        self.wfile.write(PNG)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.requirement("dataset.media")
async def test_a_url_is_fetched_once_where_its_host_is_allowed_and_stays_a_url_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    server.asked = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/cat.png"
    got: list[Any] = []

    def target(inputs: Any) -> str:
        got.append(inputs["messages"][0]["content"][0])
        return "cat"

    try:
        cases = cases_with({"type": "image", "url": url}, 3)
        report = await aevaluate(target, dataset=cases, evaluators=[lambda outputs: True])
        assert server.asked == 0  # type: ignore[attr-defined]
        assert got == [{"type": "image", "url": url}] * 3
        assert any("media of the cases are on 127.0.0.1" in one for one in report.warnings)
        monkeypatch.setenv("AGENTENSOR_ALLOWED_HOSTS", f"127.0.0.1:{server.server_port}")
        report = await aevaluate(target, dataset=cases, evaluators=[lambda outputs: True])
        assert server.asked == 1  # type: ignore[attr-defined]
        assert got[3:] == [BLOCK] * 3
        assert report.warnings == ()
        cases = cases_with({"type": "image", "url": url.replace("cat", "dog")}, 1)
        with pytest.raises(DatasetError, match=r"dog\.png' was answered with HTTP 404"):
            await aevaluate(target, dataset=cases, evaluators=[lambda outputs: True])
    finally:
        server.shutdown()
        server.server_close()


async def test_a_reference_to_what_the_store_lacks_is_named_before_anything_is_run() -> None:
    lost = f"agentensor-media:{'0' * 64}:12:image/png"
    called: list[Any] = []
    with pytest.raises(DatasetError, match=f"does not hold \\(sha256 {'0' * 64}\\)"):
        await aevaluate(
            called.append,
            dataset=cases_with({"type": "image", "base64": lost}, 1),
            evaluators=["exact_match"],
        )
    assert not called


def test_a_part_of_a_dataset_holds_its_images_again(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    data, part = tmp_path / "cases.jsonl", tmp_path / "out" / "part.jsonl"
    part.parent.mkdir()
    cases = cases_with({"type": "image", "path": "cat.png"})
    data.write_text("".join(json.dumps(case) + "\n" for case in cases))
    command = ["dataset", "sample", str(data), "--cases", "2", "-o", str(part)]
    cli = CliRunner().invoke(app, command)
    assert cli.exit_code == 0, cli.output
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    assert [one["inputs"]["messages"][0]["content"] for one in lines] == [[BLOCK]] * 2
