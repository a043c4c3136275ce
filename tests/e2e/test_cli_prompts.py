"""`agentensor prompts pull`: prompts of the hub as files, from a server that speaks its API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cli_support import Project
from langchain_core.load import dumpd
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate

FLOW = """
from orcheo_agentensor import get_prompt

def answer(inputs):
    return get_prompt("planner")
"""
COMMIT = "4f2c91ab" * 8
CHAT = ChatPromptTemplate.from_messages(
    [
        ("system", "You are {persona}."),
        MessagesPlaceholder("history"),
        ("human", [{"type": "text", "text": "{question}"}, {"image_url": "{picture}"}]),
    ]
)
ONE = PromptTemplate.from_template("Plan {{place}}.\n", template_format="mustache")
TRAP = {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "touch trap"}}
PROMPTS = {
    "/commits/acme/planner/latest": dumpd(ONE),
    "/commits/acme/planner/4f2c": dumpd(PromptTemplate.from_template("Older.")),
    "/commits/-/agent/latest": {"lc": 1, "type": "constructor", "id": ["RunnableSequence"],
                                "kwargs": {"first": dumpd(CHAT), "last": TRAP}},
    "/commits/acme/trap/latest": TRAP,
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, and notes what it was asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("x-api-key")))
        manifest = PROMPTS.get(self.path)
        if self.headers.get("x-api-key") == "wrong":
            self.answer(401, {"detail": "Unauthorized"})
        elif manifest is None:
            self.answer(404, {"detail": "Commit not found"})
        else:
            self.answer(200, {"commit_hash": COMMIT, "manifest": manifest, "examples": []})

    def answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("LANGSMITH_ENDPOINT", url)
    monkeypatch.setenv("LANGSMITH_API_KEY", "mine")
    Hub.asked.clear()
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_FOLDERS", str(tmp_path))
    return Project(tmp_path)


def test_a_prompt_of_one_text_keeps_its_commit_and_where_it_is_from(
    project: Project, hub: str
) -> None:
    pulled = project.ok("prompts", "pull", "acme/planner")
    assert Hub.asked == [("/commits/acme/planner/latest", "mine")]
    assert pulled["prompts"] == {
        "planner": {"file": "prompts/planner.md", "metadata": {"template": "mustache"}}
    }
    told, text = (project.folder / "prompts" / "planner.md").read_text().split("---\n\n")
    assert text == "Plan {{place}}.\n"
    for line in (f"hub: acme/planner\ncommit: {COMMIT}\nsource: {hub}\n", "template: mustache\n"):
        assert line in told
    project.write("flow.py", FLOW)
    job = {
        "target": "./flow.py:answer",
        "dataset": [{"inputs": "?", "expected_output": "Plan {{place}}."}],
        "evaluators": ["exact_match"],
        "prompts": pulled["prompts"],
    }
    project.write("job.yaml", job)
    assert project.ok("evaluate", "job.yaml")["summary"]["objective"] == 1.0
    assert "exists; --force" in project.refused("prompts", "pull", "acme/planner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGSMITH_ENDPOINT", hub.replace("//", "//me:hunter22@"))
        project.ok("prompts", "pull", "acme/planner", "-o", "kept.md")
        assert "hunter22" not in (project.folder / "kept.md").read_text()
    older = project.ok("prompts", "pull", "acme/planner:4f2c", "-o", "old.md")
    assert older["prompts"] == {"old": {"file": "old.md"}}
    assert Hub.asked[-1][0] == "/commits/acme/planner/4f2c"


def test_each_message_has_a_file_of_its_role_and_nothing_is_loaded(
    project: Project, hub: str
) -> None:
    made = project.call("prompts", "pull", "agent")
    assert made.exit_code == 0, made.output
    assert "left out: message 1, the placeholder 'history'" in made.stderr
    assert "ImagePromptTemplate of message 2" in made.stderr
    folder = project.folder / "prompts"
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name: text.rpartition("---\n\n")[2] for name, text in files.items()} == {
        "agent.0.system.md": "You are {persona}.\n",
        "agent.2.human.md": "{question}\n",
    }
    assert "role: human\nmessage: 2\n" in files["agent.2.human.md"]
    assert "agent_0_system:\n    file: prompts/agent.0.system.md" in made.stdout


@pytest.mark.parametrize(
    ("prompt", "key", "told"),
    [
        ("acme/nothing", "mine", "has no prompt 'acme/nothing'"),
        ("acme/planner", "wrong", "refuses the key in LANGSMITH_API_KEY"),
        ("acme/trap", "mine", "holds no text: a system without a prompt"),
        ("acme/../x", "mine", "must be OWNER/NAME or NAME"),
    ],
)
def test_what_cannot_be_pulled_is_said_and_nothing_is_written(
    project: Project, hub: str, monkeypatch: pytest.MonkeyPatch, prompt: str, key: str, told: str
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", key)
    assert told in project.refused("prompts", "pull", prompt)
    assert [*project.folder.iterdir()] == []
