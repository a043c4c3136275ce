"""The report and the pages in a real browser: `AGENTENSOR_SCREENSHOTS=FOLDER` runs this and keeps
what it sees."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner

from orcheo_agentensor import Store, TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.cli.app import app

FOLDER = os.environ.get("AGENTENSOR_SCREENSHOTS")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"

pytestmark = pytest.mark.skipif(
    not (FOLDER and CHROMIUM), reason="needs AGENTENSOR_SCREENSHOTS=FOLDER and a Chromium"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The store of a few runs."""

    def target(inputs: Any, config: Any) -> Any:
        if inputs["n"] % 7 == 0:
            raise ValueError(HOSTILE)
        return f"{get_prompt('tone', config)} {HOSTILE}"

    class Teacher:
        async def propose(self, request: Any) -> dict[str, str]:
            return {one.name: f"{one.text} kindly {HOSTILE}" for one in request.components}

    def tone(outputs: Any) -> dict[str, Any]:
        return {"key": "tone", "score": float("kindly" in str(outputs)), "comment": HOSTILE}

    found = f"sqlite:///{tmp_path_factory.mktemp('pages') / 'pages.db'}"
    cases = [
        {"id": f"{split} {n}", "inputs": {"n": n, "q": HOSTILE}, "split": split}
        for split in ("train", "validation", "holdout")
        for n in range(12)
    ]

    async def fill() -> None:
        async with Store.from_url(found) as store:
            settings: Any = {"dataset": cases, "evaluators": [tone], "store": store}
            settings |= {"limits": {"retries": 0}, "min_coverage": 0.0, "workflow_id": "w"}
            for run_id, text in (("before", "say"), ("after", "say kindly")):
                await aevaluate(target, prompts={"tone": text}, run_id=run_id, **settings)
            await atrain(
                target,
                prompts={"tone": "say"},
                optimizer=TextGrad(proposer=Teacher()),
                run_id="trained",
                budget={"rollouts": 200},
                **settings,
            )

    asyncio.run(fill())
    return found


@pytest.fixture(scope="module")
def address(url: str) -> Iterator[str]:
    """Where the pages of the store are served, in a thread."""
    from orcheo_agentensor.server.local import create_view

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    pages = create_view(Store.from_url(url), port=port, key="k")
    server = uvicorn.Server(uvicorn.Config(pages, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}/#key=k&to="
    server.should_exit = True
    thread.join()


def look(address: str, name: str, *options: str) -> str:
    """The page as the browser has drawn it; a picture of it stays in the folder."""
    assert FOLDER
    assert CHROMIUM
    Path(FOLDER).mkdir(parents=True, exist_ok=True)
    common = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    common += ["--virtual-time-budget=10000", *options]
    picture = Path(FOLDER).resolve() / f"{name}.png"
    subprocess.run([*common, f"--screenshot={picture}", address], check=True, capture_output=True)
    assert picture.stat().st_size > 5_000
    drawn = subprocess.run([*common, "--dump-dom", address], check=True, capture_output=True)
    return drawn.stdout.decode()


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("/", "Newest first"),
        ("/runs/after?show=failed", "executions"),
        ("/runs/trained", "Decision"),
        ("/runs/after/cases/holdout%25201", "Path through the nodes"),
        ("/runs/trained/lineage", "Candidates in order"),
        ("/compare?a=before&b=after", "were fixed"),
    ],
)
def test_the_pages_are_drawn_and_hostile_texts_stay_texts(
    address: str, page: str, told: str
) -> None:
    name = page.strip("/").partition("?")[0].replace("/", "-").replace("%", "") or "runs"
    to = page.replace("?", "%3F").replace("&", "%26").replace("=", "%3D")
    for size, width in (("", "1200,1400"), ("-phone", "400,1400")):
        drawn = look(f"{address}{to}", f"view-{name}{size}", f"--window-size={width}")
        assert told in drawn
        assert "[object" not in drawn
        assert "That did not work" not in drawn
        assert "<img" not in drawn
        assert drawn.count("<script") == 1


@pytest.mark.parametrize("sides", [["trained"], ["after"], ["before", "after"]])
def test_reports_are_drawn_for_screens_phones_and_the_dark(
    url: str, tmp_path: Path, sides: list[str]
) -> None:
    written = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", *sides, "-o", str(written), "--store", url])
    assert done.exit_code == 0, done.output
    name = f"report-{'-'.join(sides)}"
    for size, options in (
        ("", ["--window-size=1200,2400"]),
        ("-phone", ["--window-size=400,2400"]),
        ("-dark", ["--window-size=1200,2400", "--blink-settings=preferredColorScheme=0"]),
    ):
        drawn = look(written.as_uri(), name + size, *options)
        assert "<script" not in drawn
        assert "<img" not in drawn
