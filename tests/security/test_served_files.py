"""What is served as it stands in the repository is closed until somebody opens it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from dev_server import ROOT, Served, lay_out, running

CONFIGS = [
    *ROOT.glob("langgraph.json"),
    *(
        path
        for path in sorted(ROOT.glob("examples/*/langgraph.json"))
        if path.parent.name != "third_party_graph"  # as somebody else wrote it, without our routes
    ),
]
FOREIGN = {"origin": "https://evil.example"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_served_file_opens_itself(path: Path) -> None:
    config: dict[str, Any] = json.loads(path.read_text())
    assert config["http"]["cors"] == {"allow_origins": []}
    assert config["http"]["disable_webhooks"] is True
    assert "AGENTENSOR" not in json.dumps(config.get("env", {}))


def test_the_image_gets_postgresql_and_no_data() -> None:
    needed = json.loads((ROOT / "langgraph.json").read_text())["dependencies"]
    assert any(one.startswith("psycopg[") for one in needed)
    assert any(one.startswith("langgraph-checkpoint-postgres") for one in needed)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".agentensor", ".venv*", ".langgraph_api", ".env", ".git"} <= set(ignored)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The open development server."""
    with running(lay_out(tmp_path_factory.mktemp("opened"))) as server:
        yield server


def test_a_page_of_another_site_cannot_drive_an_open_server(opened: Served) -> None:
    with httpx.Client(base_url=opened.url, timeout=None) as client:
        preflight = client.options(
            "/threads", headers={**FOREIGN, "access-control-request-method": "POST"}
        )
        assert "access-control-allow-origin" not in preflight.headers
        assert "access-control-allow-origin" not in client.get("/info", headers=FOREIGN).headers
        job = {"assistant_id": "support_triage", "input": {"ticket": "x"}}
        for path in (
            "/threads",
            "/runs/wait",
            "/assistants",
            "/agentensor/v1/runs",
            "/store/items",
        ):
            for kind in (
                "text/plain",
                "application/json",
            ):  # the first needs no leave of the server
                headers = {**FOREIGN, "content-type": kind}
                answer = client.post(path, content=json.dumps(job), headers=headers)
                assert answer.status_code == 403, path
        assert client.post("/threads/search", json={}).json() == []
        own = {"origin": opened.url}
        assert client.post("/threads", json={}, headers=own).is_success
        hook = {**job, "webhook": "http://127.0.0.1:9/"}
        assert client.post("/runs/wait", json=hook).status_code in (200, 422)


async def test_neither_can_its_websocket(opened: Served) -> None:
    """Browsers ask no leave for these."""
    import asyncio

    host, port = opened.url.removeprefix("http://").split(":")
    answers = []
    for origin in ("https://evil.example", opened.url):
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [
            "GET /threads/00000000-0000-0000-0000-000000000000/stream/events HTTP/1.1",
            f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Origin: {origin}", "", "",
        ]  # fmt: skip
        writer.write("\r\n".join(lines).encode())
        answers.append((await reader.readline()).split()[1])
        writer.close()
    assert answers[0] == b"403"
    assert answers[1] != b"403"
